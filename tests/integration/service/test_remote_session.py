"""A cluster whose notebook is itself in a job that can only dial out, with workers in other jobs."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from offload_relay.access import user_label
from offload_relay.agent.config import AgentConfig
from offload_relay.bundle import write_agent
from offload_relay.lease import Lease, sign
from tests.support.clusterkit import environment
from tests.support.waiting import eventually_sync, scaled

NOTEBOOK = """
import json, os, pathlib, sys
from dask_offload import OffloadCluster
from offload_sites.testing.waiting import eventually_sync
def square(x):
    return x * x
square.__module__ = "__main__"
with OffloadCluster(4, quiet=True) as cluster, cluster.get_client() as client:
    cluster.wait_for_workers(4, timeout=float(sys.argv[1]))
    found = {
        "scheduler": cluster.scheduler_address,
        "squares": client.gather(client.map(square, range(50))),
        # It comes with the next heartbeat.
        "carried": eventually_sync(cluster.bytes_through_relay, within_s=20),
    }
pathlib.Path("found.tmp").write_text(json.dumps(found))
os.rename("found.tmp", "found.json")
"""


@pytest.fixture
def session(kit):
    """Start a notebook as a job behind the relay; returns its folder."""
    folder = kit.place / "session"
    folder.mkdir()
    archive = write_agent(folder)
    domain = f"s1.{user_label('alice')}"
    net = f"j1.leonardo.{domain}"
    lease = Lease(
        role="agent",
        user="alice",
        domain=domain,
        expires=datetime.now(UTC) + timedelta(hours=1),
        job="s1-1",
        net=net,
        dial=(f"*.{user_label('alice')}",),
    )
    (folder / "notebook.py").write_text(NOTEBOOK)
    config = AgentConfig(
        relay=kit.relay_url,
        lease=sign(lease, kit.key.read_bytes()),
        job="s1-1",
        net=net,
        payload=["{python}", "notebook.py", str(scaled(60))],
        walltime_s=600,
        environment={
            **environment(kit.place),
            "OFFLOAD_SERVICE_URL": kit.url,
            "JUPYTERHUB_API_TOKEN": kit.alice,
            "JUPYTERHUB_USER": "alice",
        },
    )
    (folder / "agent.json").write_bytes(config.render())
    with (folder / "session.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(archive), "agent.json"], cwd=folder, stdout=log, stderr=log
        )
    yield folder
    process.terminate()
    process.wait(timeout=scaled(20))
    print((folder / "session.log").read_text())


def test_scheduler_and_workers_reach_one_another_through_the_relay_alone(kit, session):
    found = session / "found.json"
    eventually_sync(found.exists, within_s=90)
    answer = json.loads(found.read_text())
    assert answer["scheduler"].startswith(
        f"relay://127.0.0.1.j1.leonardo.s1.{user_label('alice')}:"
    )
    assert answer["squares"] == [x * x for x in range(50)]
    assert answer["carried"] > 0
