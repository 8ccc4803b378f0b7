"""Fixtures that bring up a real virtual node, and what is used with it, once for all tests of a run."""

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from tests.support.clusterkit import environment, settings
from tests.support.hubkit import PROXY, free_ports
from tests.support.labimage import make_dask_image, make_lab_image
from tests.support.relayprocess import RelayProcess
from tests.support.testbedkit import why_not
from tests.support.tiers import lacking
from tests.support.virtualkit import VirtualHub, VirtualKit, VirtualSite
from tests.support.waiting import scaled

__all__ = ["hpc", "show", "virtual_backend", "virtual_hub", "virtual_image", "virtual_site"]

_PORTS = (
    *("API_PORT", "ETCD_PORT", "ETCD_PEER_PORT", "SLURMCTLD_PORT"),
    *("INTERLINK_PORT", "KUBELET_PORT"),
)


@pytest.fixture(scope="session")
def virtual_site(request, tmp_path_factory):
    """Lend a site: the running one that OFFLOAD_TEST_INTERLINK names, or one of its own."""
    running = os.environ.get("OFFLOAD_TEST_INTERLINK")
    if running:
        one = VirtualSite(Path(running))
    elif reason := why_not("go", "curl", "openssl"):
        lacking(request.config, "interlink", reason)
    else:
        ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
        one = VirtualSite(
            tmp_path_factory.mktemp("interlink"), **ports, SLURMD_PORT=str(_port_for_two())
        )
    try:
        one.up()
        yield one
    finally:
        if not running:
            one.down(purge=True)


def _port_for_two():
    """Return a free port whose successor is free as well: each node of Slurm has the next one."""
    for port in free_ports(20):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port
    raise RuntimeError("no two free ports in a row")


@pytest.fixture(scope="session")
def virtual_image(virtual_site):
    """Make the image with this environment's Dask, and return its path."""
    return make_dask_image(virtual_site)


@pytest.fixture
def hpc(virtual_site, virtual_image, monkeypatch):
    """Start clusters at the site as a person with a kubeconfig: `hpc.start(...)`."""
    virtual_site.up()
    with tempfile.TemporaryDirectory(prefix="offload-") as folder:
        place = Path(folder)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KUBECONFIG", virtual_site.env["KUBECONFIG"])
        graces = settings(owner_grace=f"{scaled(15)}s", relay_grace=f"{scaled(10)}s")
        with RelayProcess(place) as relay, graces:
            kit = VirtualKit(place, virtual_site, relay, virtual_image)
            try:
                yield kit
            finally:
                kit.close()
                show(virtual_site, [*place.glob("run/*/*.log"), relay.log])
        kit.nothing_left()


@pytest.fixture
async def virtual_backend(virtual_site, monkeypatch):
    virtual_site.up()
    monkeypatch.setenv("KUBECONFIG", virtual_site.env["KUBECONFIG"])
    async with virtual_site.backend() as backend:
        yield backend
    show(virtual_site, [])


@pytest.fixture(scope="module")
def virtual_hub(request, virtual_site):
    """Lend a hub with the offload service, whose only site is the virtual one."""
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    virtual_site.up()
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = VirtualHub(place, virtual_site, make_lab_image(virtual_site))
    try:
        kit.start()
        yield kit
    finally:
        show(virtual_site, [])
        for name in ("hub", "relay"):
            print(f"--- {name}\n{kit.log(name)[-8000:]}")
        try:
            kit.close()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def show(site, logs):
    for path in [*logs, *site.state.glob("log/*.log"), *site.state.glob("slurm/jobs/*/*.out")]:
        with contextlib.suppress(OSError):
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}")
