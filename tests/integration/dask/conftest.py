import asyncio
import contextlib
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from distributed.security import Security

from dask_offload.comm import Reach, set_reach
from dask_offload.tls import ClusterAuthority
from offload_relay.agent.config import AgentConfig
from offload_relay.agent.dial import LoopbackPort
from offload_relay.agent.link import Link
from tests.support.clusterkit import ClusterKit, environment, settings
from tests.support.relaykit import Kit
from tests.support.waiting import scaled


@pytest.fixture
async def kit(tmp_path):
    kit = Kit(tmp_path)
    await kit.start()
    yield kit
    await kit.close()


@pytest.fixture(scope="session")
def authority():
    return ClusterAuthority("c7")


def security(authority, reach=None):
    """Return a Security object for all roles of one process."""
    credential = authority.issue("test", timedelta(hours=1))
    roles = {
        f"tls_{role}_{what}": getattr(credential, what)
        for role in ("client", "scheduler", "worker")
        for what in ("cert", "key")
    }
    extra = {"relay": reach} if reach else {}
    return Security(
        require_encryption=True, tls_ca_file=credential.ca, extra_conn_args=extra, **roles
    )


class Route:
    """How a connector reaches a listener: `listen`, and the arguments of both sides."""

    def __init__(self, listen, listen_args, connect_args):
        self.listen = listen
        self.listen_args = listen_args
        self.connect_args = connect_args


@pytest.fixture(params=["direct", "relay"])
async def route(request, kit, authority):
    """A way from a connector to a listener: within reach, or through a real relay and agent."""
    reach = Reach("hub", dial=f"127.0.0.1:{kit.ports[1]}", token=kit.token())
    ours = security(authority, reach)
    args = ours.get_listen_args("worker"), ours.get_connection_args("client")
    if request.param == "direct":
        yield Route("relay://127.0.0.1.hub:0", *args)
        return
    config = AgentConfig(kit.url, kit.token("agent"), "c7-1", "j1.local.c7", [], 600)
    link = Link(config, {}, lambda reason: pytest.fail(f"gone: {reason}"))
    port = LoopbackPort(link)
    await port.start()
    running = asyncio.create_task(link.run())
    set_reach(Reach("j1.local.c7", dial=port.address, token=port.secret, register=True))
    yield Route("relay://127.0.0.1.j1.local.c7:0", *args)
    set_reach(None)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await port.stop()


@pytest.fixture
def clusters(monkeypatch):
    """Start real clusters with `clusters.start(...)`; nothing may be left of them at the end."""
    with tempfile.TemporaryDirectory(prefix="offload-") as folder:
        place = Path(folder)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        kit = ClusterKit(place)
        with settings(owner_grace=f"{scaled(3)}s", relay_grace=f"{scaled(8)}s"):
            try:
                yield kit
            finally:
                kit.close()
                show_logs(place)
        kit.nothing_left()


def show_logs(place):
    """Print the logs of every process; pytest shows them for a test that fails."""
    for path in sorted([*place.glob("run/*/*.log"), *place.glob("site/jobs/*/std*")]):
        with contextlib.suppress(OSError):
            print(f"--- {path.relative_to(place)}\n{path.read_text(errors='replace')[-4000:]}")
