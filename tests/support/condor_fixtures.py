"""Fixtures that bring up an HTCondor pool, and what is used with it, once for all tests of a run."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.clusterkit import environment, settings
from tests.support.condorkit import Pool
from tests.support.farmkit import FarmKit
from tests.support.hubkit import free_ports
from tests.support.labimage import make_dask_image
from tests.support.relayprocess import RelayProcess
from tests.support.testbedkit import why_not
from tests.support.tiers import lacking
from tests.support.waiting import scaled

__all__ = ["dask_image", "farm", "pool"]


@pytest.fixture(scope="session")
def pool(request, tmp_path_factory):
    """Lend a pool: the running one that OFFLOAD_TEST_POOL names, or one of its own.

    Its image is `testbed/python:3.11`.
    """
    running = os.environ.get("OFFLOAD_TEST_POOL")
    if running:
        one = Pool(Path(running))
    elif reason := why_not():
        lacking(request.config, "htcondor", reason)
    else:
        names = ("CE_PORT", "POOL_PORT", "IAM_PORT")
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        one = Pool(tmp_path_factory.mktemp("pool"), **ports)
    try:
        one.up()
        one.make_image("testbed/python:3.11")
        yield one
    finally:
        if not running:
            one.down(purge=True)


@pytest.fixture(scope="session")
def dask_image(pool):
    """Make the image with this environment's Dask, and return its path."""
    return make_dask_image(pool)


@pytest.fixture
def farm(pool, dask_image, monkeypatch):
    """Start clusters on the pool as a person at a login node: `farm.start(...)`."""
    with tempfile.TemporaryDirectory(prefix="offload-") as folder:
        place = Path(folder)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("BEARER_TOKEN_FILE", str(pool.state / "tokens" / "alice"))
        graces = settings(owner_grace=f"{scaled(5)}s", relay_grace=f"{scaled(10)}s")
        with RelayProcess(place) as relay, graces:
            kit = FarmKit(place, pool, relay, dask_image)
            try:
                yield kit
            finally:
                kit.close()
                kit.show_logs()
        kit.nothing_left()
