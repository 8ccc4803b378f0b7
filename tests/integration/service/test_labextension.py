"""dask-labextension's panel starts, scales and ends clusters, in the loop of the Jupyter server."""

import asyncio
import time

import dask.config
import pytest
from dask_labextension.manager import DaskClusterManager
from distributed import Client
from tornado.ioloop import IOLoop

from tests.support.clusterkit import TIMEOUT_S
from tests.support.waiting import eventually, scaled

# As docs/howto/dask-panel.md says.
FACTORY = {
    "labextension.factory.module": "dask_offload",
    "labextension.factory.class": "OffloadCluster",
    "labextension.factory.args": [],
    "labextension.factory.kwargs": {"quiet": True},
    "labextension.default": {"workers": None, "adapt": None},
    "labextension.initial": [],
}


async def stalls(longest):
    """Note the longest time for which the event loop did nothing else."""
    while True:
        began_s = time.monotonic()
        await asyncio.sleep(0.01)
        longest[0] = max(longest[0], time.monotonic() - began_s)


@pytest.mark.parametrize("form", ["service", "direct"])
def test_the_panel_makes_scales_and_ends_a_cluster_and_the_server_stays_awake(kit, form, tmp_path):
    import dask_offload.cluster  # noqa: F401  # the first import takes a second, once

    async def panel():
        manager = await DaskClusterManager()
        longest = [0.0]
        watcher = asyncio.create_task(stalls(longest))
        model = await manager.start_cluster()
        name = model["id"]
        assert model["workers"] == 0
        assert model["scheduler_address"].startswith("relay://")
        assert model["dashboard_link"].endswith("/status")
        await manager.scale_cluster(name, 2)
        await eventually(lambda: manager.get_cluster(name)["workers"] == 2, within_s=60)
        shown = manager.get_cluster(name)
        assert (shown["cores"], shown["memory"]) == (
            2,
            "2.00 GiB" if form == "service" else "4.00 GiB",
        )
        adapted = manager.adapt_cluster(name, 1, 3)
        assert adapted["adapt"] == {"minimum": 1, "maximum": 3}
        # What the panel puts into a notebook.
        async with Client(model["scheduler_address"], asynchronous=True) as client:
            assert await client.submit(sum, [1, 2, 3]) == 6
        await manager.close_cluster(name)
        assert manager.list_clusters() == []
        watcher.cancel()
        return longest[0]

    async def main():
        IOLoop.current()
        return await asyncio.wait_for(panel(), TIMEOUT_S * 2)

    with dask.config.set(FACTORY):
        if form == "service":
            with kit.session(kit.alice, JUPYTERHUB_SERVICE_PREFIX="/user/alice/"):
                longest_s = asyncio.run(main())
        else:
            with kit.session("", OFFLOAD_SERVICE_URL=""):
                longest_s = asyncio.run(main())
    assert longest_s < scaled(0.5)


def test_a_client_that_knows_only_the_address_reaches_ones_own_cluster_and_no_other(kit):
    with kit.cluster(kit.alice, 1) as cluster:
        cluster.wait_for_workers(1, timeout=TIMEOUT_S)
        with kit.session(kit.alice), Client(cluster.scheduler_address) as client:
            assert client.submit(sum, [1, 2]).result() == 3
        with kit.session(kit.alice), pytest.raises(OSError, match="wants a certificate"):
            Client("relay://127.0.0.1.hub:1", timeout="2s")
