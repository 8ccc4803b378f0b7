"""How a session moves on, whatever is heard of it in whatever order; and that it can be stored."""

import json
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from interlink_spawner.session import Session, Stage, load_session
from offload_sites.jobs import AgentState, AgentStatus, JobHandle, JobState, JobStatus, Resources
from tests.support.sessionkit import NOW, agent, at, new_session, status


def test_a_new_session_is_submitted():
    session = new_session()
    assert session.stage is Stage.SUBMITTED
    assert session.queue_until == NOW + timedelta(hours=6)
    assert session.expires == NOW + timedelta(hours=14)


def test_each_stage_has_the_time_at_which_it_began():
    session = (
        new_session()
        .submitted(JobHandle("farm", "7"), at(1))
        .heard_site(status(JobState.QUEUED, since=at(1)), at(2))
        .heard_site(status(JobState.RUNNING, since=at(60)), at(62))
        .heard_agent(agent(AgentState.CONNECTED, since=at(70)), at(70))
        .answered(at(75))
    )
    assert session.stage is Stage.LAB
    assert session.marks == {
        Stage.SUBMITTED: NOW,
        Stage.QUEUED: at(1),
        Stage.STARTING: at(60),
        Stage.CONNECTED: at(70),
        Stage.LAB: at(70),
    }
    assert session.ready == at(75)
    assert session.ends_at == at(60) + timedelta(hours=8)


def test_an_agent_that_comes_before_the_site_speaks_counts():
    session = new_session().heard_agent(agent(AgentState.CONNECTED, since=at(9)), at(9))
    assert session.stage is Stage.LAB
    assert session.marks[Stage.STARTING] == at(9)
    late = session.heard_site(status(JobState.QUEUED, since=at(1)), at(10))
    assert late.stage is Stage.LAB


def test_silence_changes_nothing_but_that_it_is_silent():
    queued = new_session().heard_site(status(JobState.QUEUED, since=at(1)), at(2))
    silent = queued.heard_site(status(JobState.UNKNOWN, "no answer"), at(30))
    assert silent.status == queued.status
    assert silent.stage is Stage.QUEUED
    assert (silent.silent_since, silent.silence) == (at(30), "no answer")
    still = silent.heard_site(status(JobState.UNKNOWN, "no answer"), at(60))
    assert still.silent_since == at(30)
    again = still.heard_site(status(JobState.QUEUED, since=at(1)), at(90))
    assert again.silent_since is None
    assert again.heard == at(90)


def test_a_hold_is_a_stage_while_it_lasts():
    held = (
        new_session()
        .heard_site(status(JobState.QUEUED, since=at(1)), at(1))
        .heard_site(status(JobState.HELD, since=at(5)), at(6))
    )
    assert held.stage is Stage.HELD
    running = held.heard_site(status(JobState.RUNNING, since=at(9)), at(9))
    assert running.stage is Stage.STARTING
    assert Stage.HELD not in running.marks


def test_an_evicted_job_waits_again():
    session = (
        new_session()
        .heard_site(status(JobState.RUNNING, since=at(5)), at(5))
        .heard_site(status(JobState.QUEUED, since=at(9)), at(9))
    )
    assert session.stage is Stage.QUEUED
    assert session.marks[Stage.QUEUED] == at(9)


def test_a_site_whose_clock_is_wrong_dates_nothing():
    for since in (at(-3600), at(3600)):
        session = new_session().heard_site(status(JobState.QUEUED, since=since), at(2))
        assert session.marks[Stage.QUEUED] == at(2)


def test_it_has_ended_when_the_site_says_so_or_the_agent():
    session = new_session()
    assert not session.heard_site(status(JobState.UNKNOWN), at(1)).ended
    assert session.heard_site(status(JobState.FAILED), at(1)).ended
    assert session.heard_agent(agent(AgentState.LOST, ended="payload ended"), at(1)).ended
    assert not session.heard_agent(agent(AgentState.LOST), at(1)).ended


_SEEN = st.lists(
    st.tuples(
        st.sampled_from(list(JobState)), st.sampled_from(list(AgentState)), st.integers(0, 9)
    ),
    max_size=12,
)


@given(_SEEN)
def test_times_never_go_back_whatever_is_heard(seen):
    session, now = new_session(), 0
    for job, agent_state, pause in seen:
        now += pause
        session = session.heard_site(status(job, since=at(now - 20)), at(now))
        session = session.heard_agent(agent(agent_state, since=at(now - 1)), at(now))
        times = [session.marks[stage] for stage in Stage if stage in session.marks]
        assert times == sorted(times)
        assert times[-1] <= at(now)
        assert load_session(json.loads(json.dumps(session.dump()))) == session


def test_it_is_stored_as_json_and_found_again():
    session = (
        new_session()
        .submitted(JobHandle("farm", "12.0"), at(1))
        .heard_site(JobStatus(JobState.HELD, "why", "said", "hint", at(2), None, "wn-1"), at(3))
        .heard_agent(AgentStatus(AgentState.LOST, at(4), "", "", None), at(4))
    )
    assert load_session(json.loads(json.dumps(session.dump()))) == session


def test_what_another_release_has_stored_is_read_as_far_as_possible():
    stored = new_session().dump()
    assert load_session({**stored, "new_field": 1}) == new_session()
    for broken in ({}, None, [], {**stored, "asked": "yesterday"}, {**stored, "status": None}):
        assert load_session(broken) is None


def test_a_session_asks_for_what_its_resources_say():
    assert new_session().resources == Resources(4, 8 * 1024**3)
    assert isinstance(new_session(), Session)
