"""One look for all who ask, less often where a site is slow or silent; and what is remembered."""

import asyncio

import pytest

from offload_sites.errors import SiteUnavailableError
from offload_sites.htcondor.endings import Endings
from offload_sites.htcondor.poll import Poll
from offload_sites.jobs import JobState, JobStatus


class Site:
    def __init__(self):
        self.now_s = 1000.0
        self.looks = 0
        self.takes_s = 0.0
        self.fails = False
        self.go = asyncio.Event()
        self.go.set()

    def clock(self):
        return self.now_s

    async def look(self):
        self.looks += 1
        number = self.looks
        await self.go.wait()
        self.now_s += self.takes_s
        if self.fails:
            raise SiteUnavailableError("silent")
        return {"1.0": {"look": number}}


@pytest.fixture
async def site():
    return Site()


@pytest.fixture
async def poll(site):
    poll = Poll(site.look, site.clock)
    yield poll
    await poll.close()


async def test_all_who_ask_at_a_time_share_one_look(site, poll):
    site.go.clear()
    asking = [asyncio.create_task(poll.ads()) for _ in range(5)]
    await asyncio.sleep(0)
    site.go.set()
    assert [await ask for ask in asking] == [{"1.0": {"look": 1}}] * 5


async def test_who_is_cancelled_takes_the_answer_from_nobody(site, poll):
    site.go.clear()
    first, second = (asyncio.create_task(poll.ads()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    site.go.set()
    assert await second == {"1.0": {"look": 1}}


async def test_a_look_is_good_for_a_second_and_longer_where_it_took_long(site, poll):
    await poll.ads()
    site.now_s += 0.9
    await poll.ads()
    assert site.looks == 1
    site.now_s += 0.2
    site.takes_s = 2.0
    await poll.ads()
    assert site.looks == 2
    site.now_s += 9.0
    await poll.ads()
    assert site.looks == 2
    site.now_s += 1.1
    await poll.ads()
    assert site.looks == 3


async def test_after_a_submission_the_next_question_looks_anew(site, poll):
    await poll.ads()
    poll.outdate()
    assert await poll.ads() == {"1.0": {"look": 2}}


async def test_a_look_that_began_before_a_submission_is_not_used_after_it(site, poll):
    site.go.clear()
    early = asyncio.create_task(poll.ads())
    await asyncio.sleep(0)
    poll.outdate()
    late = asyncio.create_task(poll.ads())
    await asyncio.sleep(0)
    site.go.set()
    assert (await early, await late) == ({"1.0": {"look": 1}}, {"1.0": {"look": 2}})
    assert await poll.ads() == {"1.0": {"look": 2}}


async def test_a_silent_site_is_asked_less_and_less_often(site, poll):
    site.fails = True
    for _ in range(600):
        with pytest.raises(SiteUnavailableError):
            await poll.ads()
        site.now_s += 0.5
    assert 6 <= site.looks <= 14, "in five minutes"
    site.fails = False
    site.now_s += 80
    assert await poll.ads()
    site.now_s += 1.1
    assert await poll.ads()


GONE = JobStatus(JobState.CANCELED, "gone")


def test_the_end_that_was_told_first_stays():
    endings = Endings()
    first = JobStatus(JobState.COMPLETED, "first")
    assert endings.ended("1.0", first) is first
    assert endings.ended("1.0", GONE) is first
    assert endings.get("1.0") is first


def test_a_job_that_we_have_cancelled_and_that_has_left_is_cancelled():
    endings = Endings()
    endings.seen(["1.0"])
    endings.cancelled(["1.0"])
    assert endings.is_cancelled("1.0")
    status = endings.gone("1.0", 0.0)
    assert status is not None
    assert status.state is JobState.CANCELED
    assert not endings.is_cancelled("1.0")


def test_a_missing_job_is_searched_for_at_growing_intervals():
    endings = Endings()
    asked = []
    for second in range(601):
        assert endings.gone("1.0", float(second)) is None
        if endings.due(["1.0"], float(second)):
            asked.append(second)
    assert asked == [0, 1, 3, 7, 15, 30, 60, 120, 420]


def test_a_stranger_is_never_said_to_have_ended():
    endings = Endings()
    for second in range(0, 10_000, 10):
        assert endings.gone("1.0", float(second)) is None
        endings.due(["1.0"], float(second))


def test_a_job_that_was_seen_and_is_nowhere_for_two_minutes_is_lost():
    endings = Endings()
    endings.seen(["1.0"])
    for second in range(121):
        assert endings.gone("1.0", float(second)) is None
        endings.due(["1.0"], float(second))
    status = endings.gone("1.0", 121.0)
    assert status is not None
    assert status.state is JobState.FAILED
    assert "no record of its end" in status.reason


def test_a_history_that_does_not_answer_makes_no_job_lost():
    endings = Endings()
    endings.seen(["1.0"])
    for second in range(1000):
        assert endings.gone("1.0", float(second)) is None
        endings.no_answer(endings.due(["1.0"], float(second)))


def test_a_job_that_turns_up_again_was_not_missing():
    endings = Endings()
    endings.seen(["1.0"])
    endings.gone("1.0", 0.0)
    endings.due(["1.0"], 0.0)
    endings.seen(["1.0"])
    assert endings.gone("1.0", 1000.0) is None
