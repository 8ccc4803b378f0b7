"""Fixtures that bring up an HTCondor pool once for all tests of a run."""

import os
from pathlib import Path

import pytest

from tests.support.condorkit import Pool, free_port, why_not
from tests.support.tiers import lacking


@pytest.fixture(scope="session")
def pool(request, tmp_path_factory):
    """Lend a pool: the running one that OFFLOAD_TEST_POOL names, or one of its own."""
    running = os.environ.get("OFFLOAD_TEST_POOL")
    if running:
        yield Pool(Path(running))
        return
    if reason := why_not():
        lacking(request.config, "htcondor", reason)
    ports = {name: str(free_port()) for name in ("CE_PORT", "POOL_PORT", "IAM_PORT")}
    one = Pool(tmp_path_factory.mktemp("pool"), **ports)
    try:
        one.up()
        yield one
    finally:
        one.down(purge=True)
