"""Orders for the notebook's side: given until they are carried out, and not once more."""

import asyncio
from datetime import UTC, datetime

import pytest

from offload_service.bodies import HeartbeatBody
from offload_service.notebook_side import NotebookSide

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def side():
    return NotebookSide(T0)


def beat(side, **fields):
    side.heard(HeartbeatBody(api=1, **fields), T0)


async def test_workers_are_to_be_let_go_until_the_other_side_says_it_has(side):
    task = asyncio.create_task(side.retire("c-1", 2))
    await asyncio.sleep(0)
    [[number, job, workers]] = side.orders()["retire"]
    assert (job, workers) == ("c-1", 2)
    beat(side)
    assert side.orders()["retire"] == [[number, "c-1", 2]]
    beat(side, retired=[number + 1])
    assert not task.done()
    beat(side, retired=[number])
    await task
    assert side.orders()["retire"] == []


async def test_an_order_that_nobody_waits_for_any_more_is_not_given(side):
    task = asyncio.create_task(side.retire("c-1", 2))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert side.orders()["retire"] == []


def test_bounds_are_handed_over_once(side):
    side.order((1, 4))
    order = side.orders()["order"]
    assert order["adapt"] == [1, 4]
    assert side.adaptive == (1, 4)
    beat(side, order=order["number"] - 1, adaptive=None)
    assert side.orders()["order"] == order
    beat(side, order=order["number"], adaptive=(1, 4))
    assert side.orders()["order"] is None
    side.order(None)
    assert side.orders()["order"]["number"] > order["number"]
    assert side.orders()["order"]["adapt"] is None


def test_jobs_with_the_least_to_do_go_first(side):
    beat(side, jobs={"a": (2, 5, 10), "b": (2, 0, 99), "c": (1, 0, 1)})
    assert side.idle_first() == ["c", "b", "a"]
    assert side.registered("a") == 2
    assert side.registered("nobody") == 0
