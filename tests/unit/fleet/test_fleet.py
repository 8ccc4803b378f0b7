"""The loop around the plan, on a fake site: nothing is doubled, nothing is forgotten."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from offload_sites.fleet import Fleet
from offload_sites.fleet_plan import FleetJob, Policy, Word, word_of
from offload_sites.jobs import AgentState, AgentStatus, JobSpec, JobState, JobStatus, Resources
from offload_sites.ledger_records import Waits
from offload_sites.testing import FakeSite


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 1, 12, tzinfo=UTC)

    def __call__(self):
        return self.now

    def tick(self, **delta):
        self.now += timedelta(**delta)


class Crew:
    """The layer above: remembers what it was asked, and retires at once."""

    def __init__(self):
        self.retired = []
        self.idle = []
        self.there = {}
        self.dismissed = []

    def prepare(self, site, workers, keys):
        spec = JobSpec(("work", str(workers)), Resources(workers), timedelta(hours=8))
        self.there |= dict.fromkeys(keys, workers)
        return spec, {key: {"lease": key.encode()} for key in keys}

    async def retire(self, job, workers):
        self.retired.append((job.key, workers))
        self.there[job.key] -= workers

    def registered(self, job):
        return self.there.get(job.key, 0)

    def idle_first(self):
        return self.idle

    async def dismiss(self, keys):
        self.dismissed += keys


class Stage:
    def __init__(self, **sites):
        self.clock = Clock()
        self.crew = Crew()
        self.sites = {name: FakeSite(name, self.clock, **kw) for name, kw in sites.items()}
        policies = {name: Policy(workers_per_job=4) for name in sites}
        self.fleet = Fleet("c7", self.sites, self.crew, policies, clock=self.clock)
        self.agents = {}
        self.heard = True

    @property
    def site(self):
        return next(iter(self.sites.values()))

    async def steps(self, count=4, **delta):
        for _ in range(count):
            self.clock.tick(**(delta or {"seconds": 2}))
            await self.fleet.step(self.agents, heard=self.heard)
            for _ in range(200):  # let the fleet's own tasks finish: the fake site never waits
                await asyncio.sleep(0)

    def connect(self, *keys):
        for key in keys:
            self.agents[key] = AgentStatus(AgentState.CONNECTED, self.clock())

    def words(self):
        return [word_of(job).value for job in self.fleet.jobs]

    def submits(self):
        return [call for call in self.site.calls if call.method == "submit"]

    async def working(self, workers):
        self.fleet.wanted = workers
        await self.steps()
        self.site.start(*[job.key for job in self.fleet.jobs])
        self.connect(*[job.key for job in self.fleet.jobs])
        await self.steps()
        assert set(self.words()) == {"working"}


@pytest.fixture
def stage():
    return Stage(naples={})


async def test_two_hundred_workers_of_equal_jobs_are_one_submission(stage):
    stage.fleet.wanted = 200
    await stage.steps()
    assert len(stage.submits()) == 1
    assert len(stage.site.jobs) == 50
    await stage.steps(10)
    assert len(stage.submits()) == 1


async def test_jobs_of_two_sizes_are_submitted_at_a_time_and_told_of_at_once(stage):
    told = []
    policies = {"naples": Policy(workers_per_job=96)}
    fleet = Fleet(
        "c7",
        stage.sites,
        stage.crew,
        policies,
        clock=stage.clock,
        changed=lambda: told.append(sum(bool(job.handle) for job in fleet.jobs)),
    )
    both, submit = asyncio.Event(), stage.site.submit
    asked = []

    async def slow(spec, jobs):
        asked.append(len(jobs))
        if len(asked) == 2:
            both.set()
        await both.wait()  # for ever, if the second one were to wait for the first
        return await submit(spec, jobs)

    stage.site.submit = slow
    fleet.wanted = 200
    await fleet.step({})
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0)
    assert sorted(asked) == [1, 2]
    assert told[-1] == 3


async def test_jobs_are_followed_from_queued_to_working_to_ended(stage):
    stage.fleet.wanted = 4
    await stage.steps()
    assert stage.words() == ["queued"]
    stage.site.start("c7-1")
    await stage.steps()
    assert stage.words() == ["starting"]
    stage.connect("c7-1")
    await stage.steps()
    assert stage.words() == ["working"]


async def test_a_job_that_dies_is_replaced(stage):
    await stage.working(8)
    stage.site.fail("c7-2", exit_code=-9, reason="killed by signal 9 (SIGKILL)")
    await stage.steps(30)
    assert stage.words() == ["working", "ended", "queued"]
    assert stage.fleet.snapshot().failures[0].reason == "killed by signal 9 (SIGKILL)"


async def test_jobs_whose_walltime_is_nearly_over_are_replaced_first_and_then_hand_over(stage):
    await stage.working(8)
    for key in ("c7-1", "c7-2"):
        stage.agents[key] = replace(stage.agents[key], drain_after_s=3600.0)
    await stage.steps(2, minutes=29)
    assert stage.words() == ["working", "working"]
    await stage.steps(1, minutes=5)
    stage.crew.there |= {"c7-3": 0, "c7-4": 0}
    await stage.steps(3)
    # Those that come are queued; nobody is there yet to take results.
    assert stage.words() == ["leaving", "leaving", "queued", "queued"]
    assert stage.fleet.jobs[0].leaving == "its walltime is nearly over"
    assert stage.crew.retired == []
    stage.site.start("c7-3")
    stage.connect("c7-3")
    stage.crew.there["c7-3"] = 4
    await stage.steps(3)
    assert sorted(stage.crew.retired) == [("c7-1", 4), ("c7-2", 4)]
    # They end by themselves: nobody cancels them, tells them to go, or counts a failure.
    assert not [call for call in stage.site.calls if call.method == "cancel"]
    assert stage.crew.dismissed == []
    for key in ("c7-1", "c7-2"):
        stage.site.time_out(key)
        del stage.agents[key]
    await stage.steps(10)
    assert stage.words() == ["ended", "ended", "working", "queued"]
    assert stage.fleet.snapshot().failures == ()


async def test_where_nobody_is_wanted_any_more_a_job_near_its_end_is_let_go_at_once(stage):
    await stage.working(4)
    stage.agents["c7-1"] = replace(stage.agents["c7-1"], drain_after_s=60.0)
    await stage.steps(1, minutes=2)
    stage.fleet.wanted = 0
    await stage.steps(3)
    assert stage.crew.retired == [("c7-1", 4)]
    assert stage.words() == ["leaving", "ended"]


async def test_three_equal_failures_stop_the_refill_until_retry(stage):
    stage.site.slots = 10
    stage.site.program = lambda site, job: site.fail(job.key, reason="no such image")
    stage.fleet.wanted = 4
    await stage.steps(60)
    assert len(stage.site.jobs) == 3
    assert stage.fleet.stopped.startswith("3 jobs failed in the same way at naples: no such image;")
    stage.site.program = None
    stage.fleet.retry()
    await stage.steps()
    assert stage.fleet.stopped == ""
    assert len(stage.site.jobs) == 4


async def test_one_job_finds_out_that_a_site_works_again_and_then_all_are_sent(stage):
    stage.site.slots = 10
    stage.site.program = lambda site, job: site.fail(job.key, reason="no such partition")
    stage.fleet.wanted = 16
    await stage.steps(200, seconds=10)  # 33 min: one is tried after 10 and one after 20
    assert len(stage.site.jobs) == 4 + 2
    assert stage.fleet.stopped.startswith("6 jobs failed in the same way at naples")
    stage.site.program = None
    await stage.steps(6, minutes=10)
    (key,) = (job.key for job in stage.fleet.jobs if not job.ended)
    stage.site.start(key)
    stage.connect(key)
    await stage.steps(10, seconds=10)
    assert stage.fleet.stopped == ""
    assert len([job for job in stage.fleet.jobs if job.counts]) == 4


async def test_a_site_where_jobs_fail_is_left_alone_while_another_takes_them():
    stage = Stage(naples={"slots": 10}, rome={"slots": 10})
    stage.sites["naples"].program = lambda site, job: site.fail(job.key, reason="no such image")
    stage.fleet.wanted = 16
    await stage.steps(30)
    assert stage.fleet.stopped == ""
    assert len(stage.sites["rome"].jobs) == 4
    stage.connect(*stage.sites["rome"].jobs)
    failed = len(stage.sites["naples"].jobs)
    await stage.steps(60, minutes=1)
    assert len(stage.sites["naples"].jobs) == failed


async def test_no_job_goes_to_a_silent_site_while_another_answers():
    stage = Stage(naples={}, rome={})
    silent, submit = asyncio.Event(), stage.sites["naples"].submit

    async def hang(spec, jobs):
        await silent.wait()
        return await submit(spec, jobs)

    stage.sites["naples"].break_next_submit(after=0)
    stage.fleet.wanted = 4
    await stage.steps(1)
    stage.sites["naples"].submit = hang
    await stage.steps(4, minutes=1)
    stage.fleet.wanted = 16
    await stage.steps(4, minutes=1)
    assert len(stage.sites["rome"].jobs) == 3
    silent.set()
    await stage.steps(4)
    assert len(stage.sites["naples"].jobs) == 1


async def test_workers_that_cannot_be_asked_to_end_keep_no_others_away(stage):
    async def retire(job, workers):
        raise OSError("the scheduler is gone")

    await stage.working(8)
    stage.crew.retire = retire
    stage.crew.there["c7-1"] = 9  # more than it is to have
    stage.fleet.wanted = 40
    await stage.steps(20)
    assert len(stage.site.jobs) == 10
    assert not stage.fleet.snapshot().troubles


async def test_of_more_jobs_than_a_site_takes_at_a_time_it_gets_some_and_more_later(stage):
    stage.site.slots, stage.site.most = 10, 3
    stage.fleet.wanted = 32  # eight jobs
    await stage.steps(10)
    assert 2 <= len(stage.site.jobs) <= 3
    assert "takes 3 jobs at a time" in stage.fleet.stopped
    await stage.steps(3, minutes=1)
    assert len(stage.site.jobs) == 3
    stage.fleet.wanted = 12
    await stage.steps(1)
    assert stage.fleet.stopped == ""  # of no interest to who has enough
    stage.fleet.wanted = 32
    stage.site.most = None
    await stage.steps(3, minutes=1)
    assert len(stage.site.jobs) == 8
    assert stage.fleet.stopped == ""


async def test_a_fault_of_our_own_is_not_repeated_at_every_step(stage):
    def prepare(site, workers, keys):
        raise TypeError("no such profile")

    stage.crew.prepare, right = prepare, stage.crew.prepare
    stage.fleet.wanted = 8
    await stage.steps(120, seconds=1)
    trouble = stage.fleet.snapshot().troubles["naples"]
    assert trouble.attempt < 10
    assert "no such profile" in trouble.message
    stage.crew.prepare = right
    await stage.steps(4, minutes=1)
    assert len(stage.site.jobs) == 2
    assert not stage.fleet.snapshot().troubles


async def test_a_site_that_has_refused_is_asked_again_after_a_while(stage):
    stage.site.rejects = "queue for group wp5 is closed"
    stage.fleet.wanted = 8
    await stage.steps(60, minutes=1)
    assert len(stage.submits()) in range(3, 6)
    assert stage.fleet.stopped == "queue for group wp5 is closed"
    stage.site.rejects = ""
    await stage.steps(75, minutes=1)
    assert len(stage.site.jobs) == 2
    assert stage.fleet.stopped == ""


@pytest.mark.parametrize("queued", [0, 2, 5])
async def test_a_submission_that_was_cut_off_is_made_again_under_the_same_keys(stage, queued):
    stage.site.break_next_submit(after=queued)
    stage.fleet.wanted = 20
    await stage.steps(30)
    assert len(stage.submits()) == 2
    assert sorted(stage.site.jobs) == [f"c7-{n}" for n in range(1, 6)]
    assert set(stage.words()) == {"queued"}
    assert not stage.fleet.snapshot().troubles


async def test_a_silent_site_ends_nothing_and_gets_no_second_submission(stage):
    await stage.working(8)
    stage.site.silent = True
    await stage.steps(20, minutes=3)
    assert set(stage.words()) == {"working"}
    assert {job.silent for job in stage.fleet.jobs} == {"site 'naples' does not answer"}
    stage.site.silent = False
    await stage.steps(6)
    assert {job.silent for job in stage.fleet.jobs} == {""}
    assert len(stage.site.jobs) == 2


async def test_a_site_that_is_silent_from_the_start_is_asked_again_with_patience(stage):
    stage.site.silent = True
    stage.fleet.wanted = 8
    await stage.steps(60, seconds=10)
    trouble = stage.fleet.snapshot().troubles["naples"]
    assert trouble.attempt < 20
    stage.site.silent = False
    await stage.steps(10, minutes=1)
    assert sorted(stage.site.jobs) == ["c7-1", "c7-2"]
    assert not stage.fleet.snapshot().troubles


async def test_a_site_that_refuses_is_asked_once_and_its_words_are_shown(stage):
    stage.site.rejects = "queue for group wp5 is closed"
    stage.fleet.wanted = 8
    await stage.steps(20)
    assert len(stage.submits()) == 1
    assert stage.fleet.stopped == "queue for group wp5 is closed"
    assert stage.fleet.jobs == ()


async def test_who_has_to_sign_in_again_is_told_so_and_served_once_they_have(stage):
    stage.site.refuses = "the sign-in of 'alice' has ended"
    stage.fleet.wanted = 8
    await stage.steps()
    assert stage.fleet.stopped == "the sign-in of 'alice' has ended"
    asked = len([call for call in stage.site.calls if call.method == "submit"])
    await stage.steps(10, seconds=1)
    assert len([call for call in stage.site.calls if call.method == "submit"]) == asked
    stage.site.refuses = ""
    await stage.steps(20, seconds=2)
    assert sorted(stage.site.jobs) == sorted(job.key for job in stage.fleet.jobs)
    assert len(stage.site.jobs) == 2
    assert stage.fleet.stopped == ""


async def test_jobs_that_run_go_on_while_their_user_has_to_sign_in_again(stage):
    stage.fleet.wanted = 4
    await stage.steps()
    (key,) = stage.site.jobs
    stage.site.start(key)
    stage.connect(key)
    stage.site.refuses = "the sign-in of 'alice' has ended"
    stage.fleet.wanted = 8
    await stage.steps(60, seconds=2)
    assert stage.words() == ["working"]
    stage.site.refuses = ""
    await stage.steps(20, seconds=2)
    assert stage.words() == ["working", "queued"]


async def test_another_site_is_used_when_the_first_one_refuses():
    stage = Stage(naples={}, bari={})
    stage.sites["naples"].rejects = "closed"
    stage.fleet.wanted = 8
    await stage.steps(20)
    assert len(stage.sites["bari"].jobs) == 2
    assert stage.fleet.stopped == ""


async def test_of_several_sites_the_healthy_one_with_the_shortest_wait_is_used():
    stage = Stage(naples={}, rome={}, pisa={})
    stage.fleet.waits = {
        "naples": Waits(20, timedelta(hours=2), timedelta(hours=3)),
        "rome": Waits(20, timedelta(minutes=5), timedelta(hours=1)),
        "pisa": Waits(20, timedelta(minutes=1), timedelta(minutes=2)),
    }
    stage.sites["pisa"].silent = True
    stage.fleet.wanted = 4
    await stage.steps()
    assert [job.site for job in stage.fleet.jobs] == ["rome"]


async def test_a_job_that_waits_too_long_is_moved_and_never_at_two_sites_at_once():
    stage = Stage(naples={}, rome={})
    stage.sites["naples"].slow_cancel = True
    stage.fleet.wanted = 4
    await stage.steps(10, minutes=1)
    assert not stage.sites["rome"].jobs
    await stage.steps(40, minutes=1)
    # It was asked to end, and has not yet: nothing is sent elsewhere.
    (job,) = stage.fleet.jobs
    assert "it goes to rome" in job.leaving
    assert stage.sites["naples"].jobs["c7-1"].cancelled
    assert not stage.sites["rome"].jobs
    stage.sites["naples"].finish_cancel()
    await stage.steps()
    assert list(stage.sites["rome"].jobs) == ["c7-2"]
    assert stage.fleet.snapshot().failures == ()
    # It does not go back and forth, and no worker is wanted twice.
    await stage.steps(25, minutes=1)
    assert stage.words() == ["ended", "queued"]


async def test_a_job_stays_at_a_site_that_does_not_answer_whether_it_still_has_it():
    stage = Stage(naples={}, rome={})
    stage.fleet.wanted = 4
    await stage.steps()
    stage.sites["naples"].silent = True
    await stage.steps(90, minutes=1)
    assert not stage.sites["rome"].jobs


async def test_a_job_is_not_moved_to_a_site_that_is_not_well_or_no_faster():
    stage = Stage(naples={}, rome={})
    stage.fleet.waits = {"rome": Waits(20, timedelta(hours=5), timedelta(hours=9))}
    stage.fleet.wanted = 4
    await stage.steps(90, minutes=1)
    assert not stage.sites["rome"].jobs
    stage.fleet.waits = {}
    stage.sites["rome"].silent = True
    await stage.steps(90, minutes=1)
    assert stage.words() == ["queued"]


async def test_a_job_that_is_moved_while_nobody_wants_it_any_more_just_ends():
    stage = Stage(naples={}, rome={})
    stage.sites["naples"].slow_cancel = True
    stage.fleet.wanted = 4
    await stage.steps(40, minutes=1)
    stage.fleet.wanted = 0
    await stage.steps()
    stage.sites["naples"].finish_cancel()
    await stage.steps()
    assert stage.words() == ["ended"]
    assert not stage.sites["rome"].jobs


async def test_scaling_down_cancels_queued_jobs_and_disturbs_no_worker(stage):
    await stage.working(8)
    stage.fleet.wanted = 16
    await stage.steps()
    stage.fleet.wanted = 8
    await stage.steps()
    assert stage.words() == ["working", "working", "ended", "ended"]
    assert stage.crew.retired == []


async def test_scaling_down_retires_working_jobs_before_it_cancels_them(stage):
    await stage.working(8)
    stage.crew.idle = ["c7-1"]
    stage.fleet.wanted = 4
    await stage.steps()
    assert stage.crew.retired == [("c7-1", 4)]
    assert stage.words() == ["ended", "working"]


async def test_less_than_a_job_is_retired_inside_it_and_the_job_stays(stage):
    await stage.working(8)
    stage.fleet.wanted = 7
    await stage.steps(10)
    assert stage.crew.retired == [("c7-1", 1)]
    assert [job.workers for job in stage.fleet.jobs] == [3, 4]
    assert len(stage.site.jobs) == 2


async def test_a_worker_that_registers_after_its_job_was_made_smaller_is_retired_as_well(stage):
    await stage.working(8)
    stage.crew.there["c7-1"] = 3
    stage.fleet.wanted = 7
    await stage.steps(4)
    assert stage.crew.retired == []
    stage.crew.there["c7-1"] = 4
    await stage.steps(4)
    assert stage.crew.retired == [("c7-1", 1)]


async def test_a_job_that_may_or_may_not_be_queued_is_found_and_canceled(stage):
    stage.site.break_next_submit(after=3)
    stage.fleet.wanted = 20
    await stage.steps(1)
    stage.fleet.wanted = 0
    await stage.steps(30)
    assert all(job.status.state.ended for job in stage.site.jobs.values())
    assert not [job for job in stage.fleet.jobs if not job.ended]


def submits_slowly(site):
    """Let submissions at `site` wait; return the event that lets them through."""
    at_once, go_on = site.submit, asyncio.Event()

    async def submit(spec, jobs):
        await go_on.wait()
        return await at_once(spec, jobs)

    site.submit = submit
    return go_on


async def test_jobs_that_nobody_wants_any_more_while_they_are_submitted_are_canceled(stage):
    go_on = submits_slowly(stage.site)
    stage.fleet.wanted = 8
    await stage.steps()
    stage.fleet.wanted = 0
    await stage.steps()
    assert stage.words() == ["leaving", "leaving"]
    go_on.set()
    await stage.steps()
    assert [job.status.state for job in stage.site.jobs.values()] == [JobState.CANCELED] * 2
    assert stage.words() == ["ended", "ended"]


async def test_close_waits_for_a_submission_that_is_under_way_and_ends_its_jobs(stage):
    go_on = submits_slowly(stage.site)
    stage.fleet.wanted = 4
    await stage.steps()
    closing = asyncio.create_task(stage.fleet.close(timeout_s=20))
    for _ in range(200):
        await asyncio.sleep(0)
    go_on.set()
    assert await closing == []
    assert [job.status.state for job in stage.site.jobs.values()] == [JobState.CANCELED]


async def test_close_returns_the_jobs_of_a_submission_that_does_not_end(stage):
    submits_slowly(stage.site)
    stage.fleet.wanted = 4
    await stage.steps()
    assert [job.key for job in await stage.fleet.close(timeout_s=0.3)] == ["c7-1"]


async def test_a_cancel_that_the_site_did_not_hear_is_said_again(stage):
    await stage.working(4)
    stage.site.silent = True
    stage.fleet.wanted = 0
    await stage.steps(3)
    stage.site.silent = False
    await stage.steps(60, seconds=5)
    assert stage.words() == ["ended"]


async def test_an_agent_that_the_relay_forgot_is_lost_not_dead(stage):
    await stage.working(4)
    del stage.agents["c7-1"]
    await stage.steps(3)
    assert stage.words() == ["lost"]
    stage.connect("c7-1")
    await stage.steps(3)
    assert stage.words() == ["working"]
    assert len(stage.site.jobs) == 1


async def test_a_job_whose_agent_never_comes_is_replaced(stage):
    stage.fleet.wanted = 4
    await stage.steps()
    stage.site.start("c7-1")
    await stage.steps(30, minutes=1)
    assert stage.words() == ["ended", "queued"]


async def test_while_the_relay_is_silent_no_job_is_given_up_for_an_agent_that_nobody_can_see(stage):
    stage.fleet.wanted = 4
    await stage.steps()
    stage.site.start("c7-1")
    stage.heard = False
    await stage.steps(60, minutes=1)
    assert stage.words() == ["starting"]
    # It answers again: the agent has as long as any other one to come.
    stage.heard = True
    await stage.steps(9, minutes=1)
    assert stage.words() == ["starting"]
    assert len(stage.site.jobs) == 1
    await stage.steps(9, minutes=1)
    assert stage.words() == ["ended", "queued"]


async def test_a_job_whose_workers_are_there_is_kept_though_the_relay_is_silent(stage):
    await stage.working(4)
    del stage.agents["c7-1"]
    await stage.steps()
    stage.heard = False
    await stage.steps(60, minutes=1)
    assert stage.words() == ["lost"]
    stage.heard = True
    stage.connect("c7-1")
    await stage.steps()
    assert stage.words() == ["working"]
    assert len(stage.site.jobs) == 1


async def test_an_agent_outliving_its_job_is_told_to_go(stage):
    await stage.working(8)
    stage.site.remove("c7-1")
    await stage.steps(30, seconds=1)
    # Again and again, for it may not have heard it; but not at every step.
    assert len(stage.crew.dismissed) in range(3, 8)
    assert set(stage.crew.dismissed) == {"c7-1"}


async def test_the_agent_of_a_job_that_leaves_is_told_to_go_though_its_site_is_silent(stage):
    await stage.working(8)
    stage.site.silent = True
    stage.fleet.wanted = 4
    await stage.steps(60)
    assert len(set(stage.crew.dismissed)) == 1


async def test_the_agent_of_a_job_that_hands_over_its_results_is_left_alone(stage):
    handing_over = asyncio.Event()

    async def retire(job, workers):
        await handing_over.wait()

    await stage.working(8)
    stage.crew.retire = retire
    stage.fleet.wanted = 4
    await stage.steps(10)
    assert stage.crew.dismissed == []
    handing_over.set()
    await stage.steps(10)
    assert stage.crew.dismissed


async def test_close_ends_all_jobs_and_returns_none(stage):
    await stage.working(8)
    stage.fleet.wanted = 12
    await stage.steps()
    assert await stage.fleet.close() == []
    assert all(job.status.state.ended for job in stage.site.jobs.values())


async def test_close_returns_what_a_silent_site_has_not_confirmed(stage):
    await stage.working(4)
    stage.site.silent = True
    left = await stage.fleet.close(timeout_s=0.5)
    assert [job.key for job in left] == ["c7-1"]
    assert word_of(left[0]) is Word.LEAVING


# --- a fleet that goes on after it was cut off ---------------------------------------------------


async def test_jobs_of_an_earlier_life_are_kept_and_their_numbers_not_used_again():
    stage = Stage(naples={})
    stage.fleet.wanted = 8
    await stage.steps()
    known = [replace(job, status=JobStatus(JobState.UNKNOWN)) for job in stage.fleet.jobs]
    policies = {"naples": Policy(workers_per_job=4)}
    again = Fleet("c7", stage.sites, stage.crew, policies, known=known, serial=2, clock=stage.clock)
    again.wanted = 12
    stage.fleet = again
    await stage.steps()
    assert list(stage.site.jobs) == ["c7-1", "c7-2", "c7-3"]
    assert {job.status.state for job in again.jobs} == {JobState.QUEUED}


async def test_a_job_whose_submission_was_cut_off_is_sent_again_under_its_key():
    stage = Stage(naples={})
    known = [FleetJob("c7-1", "naples", 4, submitted=stage.clock())]
    policies = {"naples": Policy(workers_per_job=4)}
    stage.fleet = Fleet(
        "c7", stage.sites, stage.crew, policies, known=known, serial=1, clock=stage.clock
    )
    stage.fleet.wanted = 4
    stage.fleet.ready = False
    await stage.steps()
    assert stage.site.jobs == {}
    stage.fleet.ready = True
    await stage.steps()
    assert list(stage.site.jobs) == ["c7-1"]


async def test_leaving_a_fleet_leaves_its_jobs_alone():
    stage = Stage(naples={})
    stage.fleet.wanted = 4
    await stage.steps()
    await stage.fleet.leave()
    assert not any(job.cancelled for job in stage.site.jobs.values())


async def test_a_site_that_could_not_be_asked_to_cancel_gets_more_jobs_once_it_answers(stage):
    stage.fleet.wanted = 8
    await stage.steps()
    stage.fleet.wanted = 4
    stage.site.silent = True
    await stage.steps(20, seconds=10)
    assert stage.fleet.snapshot().troubles
    stage.site.silent = False
    await stage.steps(20, seconds=10)
    assert not stage.fleet.snapshot().troubles
    stage.fleet.wanted = 12
    await stage.steps()
    assert len([job for job in stage.fleet.jobs if job.counts]) == 3
