"""Scaling at a time from several places, and what is known of it after the service was killed."""

import asyncio

import pytest

from offload_service.clusters import Clusters
from tests.support.servicedesk import Desk


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    async with Desk(tmp_path, monkeypatch) as desk:
        yield desk


async def test_clusters_that_are_scaled_at_a_time_are_no_more_than_one_user_may_have(desk):
    notebooks = [await desk.notebook() for _ in range(5)]
    answers = await asyncio.gather(
        *(one.call("POST", "/scale", {"workers": 50}) for one in notebooks)
    )
    assert sorted(status for status, _ in answers) == [200, 403, 403, 403, 403]
    status, found = await desk.call(desk.alice, "GET", "/clusters")
    assert status == 200
    assert sum(one["wanted"] for one in found) == 50


async def test_the_last_number_of_workers_is_what_a_restarted_service_goes_on_with(
    desk, monkeypatch
):
    clusters = []
    entered = Clusters.__aenter__

    async def enter(self):
        clusters.append(self)
        return await entered(self)

    monkeypatch.setattr(Clusters, "__aenter__", enter)
    await desk.stop()
    await desk.start()
    notebook = await desk.notebook()
    await notebook.scale(10)
    # Between two turns of its loop, which may wait for a slow site: down, and up again.
    (cluster,) = clusters[0].all()
    await cluster.stop()
    await notebook.scale(4)
    await notebook.scale(20)
    cluster.start()
    await notebook.beat()
    await desk.stop()
    await desk.start()
    (cluster,) = clusters[1].all()
    assert cluster.wanted == 20
