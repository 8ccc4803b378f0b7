"""A worker that is told to finish knows whether there is time to wait for those that take over."""

import pytest

from dask_offload.worker import spare_s
from offload_sites.jobs import AgentStatus

# Of a job of an hour that began at 0: the agent asks its payload to finish, and ends it.
TIMES = {"OFFLOAD_DRAINS_AT": "3475", "OFFLOAD_ENDS_AT": "3600"}


@pytest.mark.parametrize("environ", [TIMES, {"OFFLOAD_ENDS_AT": "3600"}, {}])
def test_long_before_the_end_it_hands_over_at_once(environ):
    assert spare_s(1000.0, environ) == 0


def test_near_the_end_it_leaves_half_a_minute_for_handing_over():
    assert spare_s(3475.0, TIMES) == pytest.approx(95)


def test_of_a_short_time_it_leaves_half():
    assert spare_s(3580.0, TIMES) == pytest.approx(10)


def test_after_the_end_it_does_not_wait():
    assert spare_s(3700.0, TIMES) == 0


@pytest.mark.parametrize("info", [None, [], {}, {"drain_after_s": "60"}, {"drain_after_s": -1}])
@pytest.mark.parametrize("more", [{}, {"drain_after_s": float("nan")}, {"drain_after_s": 1e300}])
def test_what_an_agent_tells_of_itself_may_be_anything(info, more):
    given = {**info, **more} if isinstance(info, dict) else info
    assert AgentStatus.from_entry({"state": "connected", "info": given}).drain_after_s is None


def test_an_agent_tells_when_its_payload_is_asked_to_finish():
    entry = {"state": "connected", "since_s": 5, "info": {"drain_after_s": 3475.0}}
    assert AgentStatus.from_entry(entry).drain_after_s == 3475
