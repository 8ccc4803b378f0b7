"""Wanted against seen: what a fleet decides."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_sites.fleet_plan import (
    FleetJob,
    Plan,
    Policy,
    Word,
    decide,
    split_workers,
    word_of,
)
from offload_sites.jobs import AgentState, AgentStatus, JobState, JobStatus

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
POLICY = Policy(workers_per_job=8)
HERE = AgentStatus(AgentState.CONNECTED, NOW)


def job(number, state=JobState.RUNNING, workers=8, agent=HERE, **changes):
    if state is not JobState.RUNNING:
        agent = AgentStatus()
    return FleetJob(
        key=f"c7-{number}",
        site="naples",
        workers=workers,
        submitted=NOW + timedelta(seconds=number),
        status=JobStatus(state, since=NOW),
        agent=agent,
        **changes,
    )


def queued(number, workers=8):
    return job(number, JobState.QUEUED, workers)


@given(st.integers(-5, 5000), st.integers(1, 300))
def test_workers_are_split_into_as_few_and_as_equal_jobs_as_possible(count, most):
    sizes = split_workers(count, most)
    assert sum(sizes) == max(0, count)
    assert len(sizes) == -(-max(0, count) // most)
    assert max(sizes, default=0) <= most
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_two_hundred_workers_are_a_few_jobs():
    assert decide([], 200, replace(POLICY, workers_per_job=96)).submit == (67, 67, 66)


def test_what_is_coming_counts():
    jobs = [
        queued(1),
        job(2, JobState.UNKNOWN),
        job(3, JobState.HELD),
        job(4, agent=AgentStatus()),
        job(5, agent=AgentStatus(AgentState.LOST, NOW)),
    ]
    assert not decide(jobs, 40, POLICY)


@pytest.mark.parametrize("state", [s for s in JobState if s.ended])
def test_what_has_ended_is_replaced(state):
    assert decide([job(1, state)], 8, POLICY) == Plan(submit=(8,))


def test_what_is_leaving_is_replaced():
    assert decide([job(1, leaving="failed")], 8, POLICY) == Plan(submit=(8,))


def test_queued_jobs_go_first_the_newest_before_the_oldest_and_no_worker_is_disturbed():
    jobs = [job(1), queued(2), queued(3), job(4)]
    plan = decide(jobs, 24, POLICY)
    assert (plan.cancel, plan.release, dict(plan.trim)) == (("c7-3",), (), {})


def test_working_jobs_are_released_whole_the_idle_ones_first():
    jobs = [job(1), job(2), job(3)]
    plan = decide(jobs, 8, POLICY, idle_first=["c7-2", "c7-1"])
    assert plan.release == ("c7-2", "c7-1")
    assert plan.cancel == ()


def test_less_than_a_job_is_trimmed_from_one_job():
    assert dict(decide([job(1), job(2)], 13, POLICY).trim) == {"c7-1": 3}


def test_a_queued_job_keeps_its_place_when_only_a_part_of_it_is_not_needed():
    assert not decide([queued(1)], 5, POLICY)


def test_scaling_to_nothing_leaves_nothing():
    jobs = [job(1), queued(2), job(3, JobState.HELD), job(4, agent=AgentStatus())]
    plan = decide(jobs, 0, POLICY)
    assert {*plan.cancel, *plan.release} == {one.key for one in jobs}


states = st.sampled_from(list(JobState))
agents = st.sampled_from(list(AgentState)).map(lambda state: AgentStatus(state, NOW))


@st.composite
def fleets(draw):
    count = draw(st.integers(0, 8))
    return [
        replace(
            job(n, draw(states), draw(st.integers(0, 8))),
            agent=draw(agents),
            leaving=draw(st.sampled_from(["", "", "no longer wanted"])),
        )
        for n in range(count)
    ]


@given(fleets(), st.integers(0, 60), st.integers(1, 10))
def test_after_a_plan_the_workers_are_what_is_wanted_or_only_queued_ones_too_many(
    jobs, wanted, per_job
):
    plan = decide(jobs, wanted, replace(POLICY, workers_per_job=per_job))
    gone = {*plan.cancel, *plan.release}
    alive = [one for one in jobs if one.counts]
    assert gone <= {one.key for one in alive}
    left = [one for one in alive if one.key not in gone]
    count = sum(one.workers - plan.trim.get(one.key, 0) for one in left) + sum(plan.submit)
    assert count >= wanted
    assert not (plan.submit and gone)
    if count > wanted:
        assert not plan.submit
        smallest = min(one.workers for one in left if one.workers)
        assert count - wanted < smallest


@pytest.mark.parametrize(
    ("state", "agent", "word"),
    [
        (JobState.QUEUED, AgentState.ABSENT, Word.QUEUED),
        (JobState.HELD, AgentState.ABSENT, Word.HELD),
        (JobState.RUNNING, AgentState.ABSENT, Word.STARTING),
        (JobState.RUNNING, AgentState.CONNECTED, Word.WORKING),
        (JobState.QUEUED, AgentState.CONNECTED, Word.WORKING),
        (JobState.UNKNOWN, AgentState.CONNECTED, Word.WORKING),
        (JobState.RUNNING, AgentState.LOST, Word.LOST),
        (JobState.UNKNOWN, AgentState.ABSENT, Word.SUBMITTED),
        (JobState.FAILED, AgentState.LOST, Word.ENDED),
    ],
)
def test_one_word_tells_both_axes(state, agent, word):
    one = replace(job(1), status=JobStatus(state), agent=AgentStatus(agent))
    assert word_of(one) is word
