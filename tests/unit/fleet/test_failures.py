"""What fails in a fleet, and when the refill stops and starts again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from offload_sites.fleet_failures import Failures, failure_of
from offload_sites.fleet_plan import FleetJob, Policy
from offload_sites.jobs import AgentState, AgentStatus, JobState, JobStatus

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
POLICY = Policy(workers_per_job=8)
HERE = AgentStatus(AgentState.CONNECTED, NOW)


def job(number, state=JobState.RUNNING, agent=HERE, **changes):
    if state is not JobState.RUNNING:
        agent = AgentStatus()
    return FleetJob(
        key=f"c7-{number}",
        site="naples",
        workers=8,
        submitted=NOW + timedelta(seconds=number),
        status=JobStatus(state, since=NOW),
        agent=agent,
        **changes,
    )


def after(*jobs, now=NOW):
    """Return what is known once these jobs have been seen."""
    failures = Failures({"naples": POLICY, "rome": POLICY})
    failures.look(jobs, now, NOW)
    return failures


def later(**delta):
    return NOW + timedelta(**delta)


def test_a_silent_site_changes_nothing_that_is_known():
    before = job(1, JobState.QUEUED)
    seen = before.seen(JobStatus(JobState.UNKNOWN, "no answer since 12:00"))
    assert seen.status == before.status
    assert seen.silent == "no answer since 12:00"
    assert seen.seen(before.status).silent == ""
    assert failure_of(seen, later(days=3), POLICY) is None


def test_a_job_whose_walltime_is_over_is_no_failure():
    assert failure_of(job(1, JobState.TIMED_OUT), NOW, POLICY) is None


def test_a_job_that_we_ended_is_no_failure():
    assert failure_of(job(1, JobState.CANCELED, leaving="no longer wanted"), NOW, POLICY) is None


def test_the_agents_last_words_say_more_than_the_site():
    failed = replace(
        job(1, JobState.FAILED),
        status=JobStatus(JobState.FAILED, "exit code 78"),
        agent=AgentStatus(AgentState.LOST, NOW, "the image has no distributed", "choose another"),
    )
    failure = failure_of(failed, NOW, POLICY)
    assert (failure.reason, failure.hint) == ("the image has no distributed", "choose another")
    assert failure.early


def test_a_held_job_is_left_alone_for_a_while():
    held = job(1, JobState.HELD)
    assert failure_of(held, later(minutes=4), POLICY) is None
    assert "held by the site" in failure_of(held, later(minutes=6), POLICY).reason


def test_a_job_that_runs_without_an_agent_is_given_up_after_a_while():
    starting = job(1, agent=AgentStatus())
    assert failure_of(starting, later(minutes=9), POLICY) is None
    assert (
        "agent has not come within 10 min" in failure_of(starting, later(minutes=11), POLICY).reason
    )


def test_a_lost_agent_may_come_back_for_a_while():
    lost = job(1, agent=AgentStatus(AgentState.LOST, NOW), connected=NOW)
    assert failure_of(lost, later(minutes=9), POLICY) is None
    assert "did not come back" in failure_of(lost, later(minutes=11), POLICY).reason


def test_time_in_which_the_relay_was_silent_counts_against_no_agent():
    starting = job(1, agent=AgentStatus())
    lost = job(1, agent=AgentStatus(AgentState.LOST, NOW), connected=NOW)
    for one in (starting, lost):
        assert failure_of(one, later(hours=5), POLICY, heard_since=later(hours=5)) is None
        early, late = later(hours=5, minutes=9), later(hours=5, minutes=11)
        assert failure_of(one, early, POLICY, heard_since=later(hours=5)) is None
        assert failure_of(one, late, POLICY, heard_since=later(hours=5)) is not None


def test_a_job_that_worked_for_long_is_a_loss_and_no_start_failure():
    ended = job(1, JobState.FAILED, connected=NOW - timedelta(hours=1))
    assert not failure_of(ended, NOW, POLICY).early


@pytest.mark.parametrize(
    "taken",
    [
        {"status": JobStatus(JobState.CANCELED, "it was removed by the site")},
        {
            "status": JobStatus(JobState.FAILED, "the command ended with exit code 143"),
            "agent": AgentStatus(AgentState.LOST, NOW, "ended (signal 15)", exit_code=143),
        },
    ],
)
def test_jobs_that_their_site_takes_away_at_once_are_losses_and_do_not_stop_the_refill(taken):
    failures = after(*[replace(job(n), connected=NOW, **taken) for n in range(3)])
    assert len(failures.all) == 3
    assert not any(one.early for one in failures.all)
    assert failures.stopped("naples") == failures.spent(NOW, 3) == ""


def failed(number, reason="image not found", connected=None):
    return replace(
        job(number, connected=connected), status=JobStatus(JobState.FAILED, reason, since=NOW)
    )


def test_a_failure_is_noted_once():
    failures = after(failed(1), failed(2))
    assert failures.look([failed(1), failed(2), failed(3)], NOW, NOW) == [failures.all[2]]
    assert [one.key for one in failures.all] == ["c7-1", "c7-2", "c7-3"]


def test_three_jobs_that_fail_in_the_same_way_stop_the_refill_at_their_site():
    assert after(failed(1), failed(2)).stopped("naples") == ""
    failures = after(failed(1), failed(2), failed(3))
    assert failures.stopped("rome") == ""
    assert failures.stopped("naples") == (
        "3 jobs failed in the same way at naples: image not found; "
        "another one is sent 10 min after the last"
    )


def test_numbers_that_differ_make_no_other_way_to_fail():
    jobs = [failed(n, f"node wn-{n}-12 does not see /cvmfs (job 51{n}.0)") for n in range(3)]
    assert after(*jobs).stopped("naples")


def test_jobs_that_fail_in_different_ways_go_on_within_the_budget():
    jobs = [failed(n, reason) for n, reason in enumerate(["a", "b", "c", "d"])]
    failures = after(*jobs)
    assert failures.stopped("naples") == failures.spent(NOW, 1) == ""
    failures = after(*jobs, failed(5, "e"), failed(6, "f"))
    assert failures.stopped("naples") == ""
    assert "within an hour" in failures.spent(NOW, 1)


def test_losses_of_last_week_do_not_stop_the_refill():
    failures = after(*[failed(n, "evicted", connected=later(days=-1)) for n in range(50)])
    assert failures.spent(NOW, 1)
    assert failures.spent(later(minutes=90), 1) == ""


def test_failures_of_last_week_are_forgotten_but_a_few():
    failures = after(*[failed(n, connected=later(days=-1)) for n in range(300)])
    assert len(failures.all) == 300
    failures.look([], later(days=7), NOW)
    assert [one.key for one in failures.all] == [f"c7-{n}" for n in range(200, 300)]


def tries(failures, minutes, *, end=lambda failures, number, now: None, jobs=()):
    """Return the minutes at which one more job is sent; `end` tells how each of them ends."""
    sent = []
    for minute in range(minutes):
        if failures.try_again("naples", jobs, later(minutes=minute)):
            sent.append(minute)
            end(failures, 1000 + minute, later(minutes=minute))
    return sent


def test_one_more_job_is_sent_after_a_pause_that_grows_with_each_that_fails():
    failures = after(*[failed(number) for number in range(50)])

    def end(failures, number, now):
        failures.look([failed(number)], now, NOW)

    assert tries(failures, 300, end=end) == [10, 20, 40, 80, 140, 200, 260]
    assert failures.stopped("naples").endswith("another one is sent 1 h after the last")


@pytest.mark.parametrize(
    "end",
    [
        lambda failures, number, now: failures.look([failed(number, "x" * (number % 7))], now, NOW),
        lambda failures, number, now: failures.look([job(number, JobState.CANCELED)], now, NOW),
        lambda failures, number, now: failures.look([job(number, JobState.TIMED_OUT)], now, NOW),
    ],
)
def test_however_a_try_ends_the_next_one_is_not_at_once(end):
    failures = after(failed(1), failed(2), failed(3))
    assert tries(failures, 300, end=end) == [10, 20, 40, 80, 140, 200, 260]


def test_nothing_is_tried_before_three_have_failed_or_while_another_is_on_its_way():
    assert tries(after(failed(1), failed(2)), 60 * 24) == []
    works, waits = job(4, connected=NOW), job(5, JobState.QUEUED)
    comes = job(5, connected=later(minutes=11))
    for jobs, sent in (
        ([works, failed(1)], True),
        ([works, waits], False),
        ([works, comes], False),
        ([works, replace(waits, site="rome")], True),
    ):
        failures = after(failed(1), failed(2), failed(3))
        assert failures.try_again("naples", jobs, later(minutes=11)) is sent


def test_a_job_that_started_later_and_works_ends_the_stop_and_one_that_started_before_does_not():
    failures = after(failed(1), failed(2), failed(3), now=later(minutes=1))
    failures.look([job(4, connected=NOW)], later(minutes=30), NOW)
    assert failures.stopped("naples")
    comes = job(5, connected=later(minutes=30))
    failures.look([comes], later(minutes=30), NOW)
    assert failures.stopped("naples")
    failures.look([comes], later(minutes=32), NOW)
    assert failures.stopped("naples") == ""
    assert len(failures.all) == 3


def test_a_job_that_works_elsewhere_says_nothing_of_a_site():
    failures = after(failed(1), failed(2), failed(3))
    failures.look([replace(job(4, connected=later(minutes=30)), site="rome")], later(hours=1), NOW)
    assert failures.stopped("naples")


def test_what_failed_in_an_earlier_life_failed_when_it_did():
    known = [failed(n) for n in (1, 2, 3)]
    failures = Failures({"naples": POLICY}, known)
    assert [one.when for one in failures.all] == [NOW] * 3
    assert failures.stopped("naples")
    failures.look([*known, job(4, connected=later(minutes=5))], later(minutes=30), NOW)
    assert failures.stopped("naples") == ""
