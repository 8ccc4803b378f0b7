"""A whole cluster whose workers are on nodes that can only dial out, over a network that is cut."""

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dask_offload import OffloadCluster
from offload_relay.protocol import Limits
from offload_relay.server import Relay, RelaySettings
from tests.support import nodes_site
from tests.support.clusterkit import TIMEOUT_S, environment, settings, wait_workers
from tests.support.netns import HUB_ADDRESS
from tests.support.processes import assert_no_process_below
from tests.support.waiting import eventually_sync, scaled

pytestmark = pytest.mark.netns

# Ten times as fast as the protocol's own: its minute takes six seconds.
LIMITS = Limits(heartbeat_s=scaled(2.0), lost_grace_s=scaled(15.0))

CATALOG = """
sites:
  far:
    kind: nodes
    title: Far away
    node: {{cpus: 2, memory: 64GiB}}
    max_walltime: 2h
    network: {network}
    directory: {place}/site
    networks: {networks}
images:
  here: {{title: This Python, python: current}}
profiles:
  far: {{title: Far, for: [workers], sites: [far], images: [here], resources: {{cpus: 1, memory: 1GiB}}}}
"""


@contextlib.contextmanager
def running_relay(sockets, key):
    """Run a relay in a thread."""
    loop = asyncio.new_event_loop()
    ready, ended = threading.Event(), asyncio.Event()

    async def serve():
        public, dial = sockets
        async with Relay(RelaySettings([key], public, dial, limits=LIMITS)):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert ready.wait(TIMEOUT_S)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


class FarClusters:
    """Starts clusters whose workers are on the nodes of `networks`."""

    def __init__(self, place, networks, relay):
        self.place = place
        self.networks = networks
        self.relay = relay

    def start(self, n_workers, network="job"):
        path = self.place / "catalog.yaml"
        names = self.networks.name("node1").removesuffix("-node1")
        path.write_text(CATALOG.format(network=network, place=self.place, networks=names))
        return OffloadCluster(n_workers, catalog=path, relay=self.relay, quiet=True)


@pytest.fixture
def clusters(networks, monkeypatch):
    with (
        tempfile.TemporaryDirectory(prefix="offload-") as folder,
        networks.entered("hub"),  # notebook, supervisor, scheduler and relay are all there
        socket.create_server((HUB_ADDRESS, 0), backlog=1024) as public,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as dial,
    ):
        place = Path(folder)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        plugins = nodes_site.install(place / "plugins")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([plugins, os.environ["PYTHONPATH"]]))
        key = place / "relay.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(32))
        relay = {
            "url": f"ws://{HUB_ADDRESS}:{public.getsockname()[1]}",
            "dial": f"127.0.0.1:{dial.getsockname()[1]}",
            "key_file": str(key),
        }
        with (
            running_relay((public, dial), key.read_bytes()),
            settings(owner_grace=f"{scaled(3)}s", relay_grace=f"{scaled(30)}s"),
        ):
            yield FarClusters(place, networks, relay)
            assert_no_process_below(place, within_s=30)


def slow_square(x):
    time.sleep(0.02)
    return x * x


def make(size):
    return np.arange(size, dtype="u1")


def total(array):
    return int(array.sum())


# As in a notebook, they travel whole: jobs have a clean environment and cannot import this file.
slow_square.__module__ = make.__module__ = total.__module__ = "__main__"


def addresses(client):
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def test_a_computation_ends_right_though_the_network_is_gone_for_a_minute(clusters):
    with clusters.start(4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        jobs = [job.key for job in cluster.jobs()]
        futures = client.map(slow_square, range(400))
        eventually_sync(lambda: sum(future.done() for future in futures) > 40)
        clusters.networks.cut()
        # The relay hears nothing more from the site, and lets go of its streams.
        eventually_sync(lambda: cluster.snapshot.count("lost") == 4, within_s=30)
        assert len(cluster.jobs()) == len(jobs)
        clusters.networks.heal()
        wait_workers(client, 4, within_s=30)
        assert client.gather(futures) == [x * x for x in range(400)]
        assert [job.key for job in cluster.jobs()] == jobs


@pytest.mark.parametrize("network", ["job", "site"])
def test_nodes_that_reach_one_another_exchange_data_without_the_relay(clusters, network):
    size = 20_000_000
    with clusters.start(2 * 2, network=network) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        workers = addresses(client)
        nodes = {name.partition("//")[2].rpartition(":")[0] for name in workers}
        assert len(nodes) == 2  # one host for each job, which is how Dask finds neighbours
        first, last = workers[0], workers[-1]
        made = client.submit(make, size, workers=[first])
        assert client.submit(total, made, workers=[last]).result() == total(make(size))
        carried = cluster.bytes_through_relay()
    if network == "site":
        assert carried < size / 10
        assert all(name.startswith("relay://10.98.1.1") for name in workers)
    else:
        assert carried > size  # closed off from one another, they use the relay, and it works


def test_a_big_array_comes_home_over_a_slow_link(clusters):
    with clusters.start(2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        clusters.networks.slow(mbit_per_s=50)
        back = client.submit(make, 10_000_000).result(timeout=TIMEOUT_S)
        assert back.nbytes == 10_000_000
        assert len(addresses(client)) == 2
