"""Which servers count as idle."""

import json
from datetime import timedelta

import pytest

from interlink_spawner.culling import Culler, idle_for, is_idle
from interlink_spawner.hub_services import CULLING_ROLE, culling_service
from interlink_spawner.spawner import InterLinkSpawner
from offload_sites.jobs import AgentState, JobState
from tests.support.sessionkit import NOW, agent, at, new_session, status

HOUR = timedelta(hours=1)


def server(session, *, pod=False):
    """Return what the hub says of a server, as far as it counts here: what a spawner has stored."""
    spawner = InterLinkSpawner(_mock=True)
    spawner._session, spawner.is_pod = session, pod
    return {"ready": True, "state": json.loads(json.dumps(spawner.get_state()))}


def session(*, ready=0.0, connected=0.0, state=AgentState.CONNECTED):
    """Return a session whose server is ready, and whose agent is as it is, since so many seconds."""
    return (
        new_session()
        .heard_site(status(JobState.RUNNING), NOW)
        .heard_agent(agent(state, since=at(connected)), at(connected))
        .answered(at(ready))
    )


def test_a_session_that_nobody_uses_is_idle_like_any_other_server():
    assert idle_for(HOUR, server(session()), at(7200)) == HOUR


def test_the_time_in_the_queue_is_not_idleness():
    """The hub counts from the request on: four hours of them in a queue."""
    came = session(ready=14_400, connected=14_390)
    assert idle_for(4 * HOUR, server(came), at(14_460)) == timedelta(minutes=1)


def test_a_session_whose_link_is_lost_is_never_idle():
    lost = session(connected=100, state=AgentState.LOST)
    assert idle_for(4 * HOUR, server(lost), at(14_400)) == timedelta(0)


def test_a_session_whose_link_is_back_has_all_of_the_time_again():
    back = session(connected=10_000)
    assert idle_for(4 * HOUR, server(back), at(10_060)) == timedelta(minutes=1)


@pytest.mark.parametrize(
    "other",
    [
        {"ready": True},
        {"ready": True, "state": None},
        {"ready": True, "state": {"pod_name": "jupyter-alice"}},
        server(None, pod=True),
        server(session(state=AgentState.LOST), pod=True),  # it has moved from a site to a pod
        {
            "ready": True,
            "state": {"offload": {"pod": False, "session": {"id": "of a later release"}}},
        },
    ],
)
def test_for_every_other_server_its_last_activity_counts(other):
    assert idle_for(HOUR, other, NOW) == HOUR


def test_a_server_is_stopped_from_the_limit_on_and_never_without_any_known_activity():
    pod = {"ready": True}
    assert is_idle(inactive=HOUR, inactive_limit=3600, server=pod)
    assert not is_idle(inactive=HOUR, inactive_limit=3601, server=pod)
    assert not is_idle(inactive=None, inactive_limit=1, server=pod)


def test_the_program_decides_by_this_rule():
    assert Culler().cull_arbiter_hook is is_idle


def test_the_hub_is_told_how_long_servers_may_be_idle_and_lets_the_program_see_jobs():
    service = culling_service(idle=timedelta(minutes=90))
    assert "--timeout=5400" in service["command"]
    assert CULLING_ROLE["services"] == [service["name"]]
    assert "admin:server_state" in CULLING_ROLE["scopes"]
