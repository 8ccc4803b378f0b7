"""The fake obeys the contract, and the script."""

from datetime import UTC, datetime, timedelta

import pytest

from offload_sites.errors import JobRejectedError, NotAuthorizedError, SiteUnavailableError
from offload_sites.jobs import JobSpec, JobState, Resources, SiteState
from offload_sites.testing import FakeJob, FakeSite, SiteBackendContract

GIB = 1024**3


def obey(site: FakeSite, job: FakeJob) -> None:
    """Do what `SHELL` says of a job of the contract."""
    match job.spec.command[-1]:
        case "succeeds":
            site.complete(job.key)
        case "fails":
            site.fail(job.key, exit_code=3)
        case "prints":
            site.print(job.key, "this is out\n", "this is err\n")
            site.complete(job.key)
        case "spawns_a_tree":
            site.print(job.key, "ready\n")
        case "reports":
            (found,) = (path.read_text() for path in job.spec.inputs.values())
            site.print(job.key, f"greeting={job.spec.environment['GREETING']}\ninput={found}\n")
            site.print(job.key, f"secret={job.secrets['secret'].decode()}\nmode=600\n")
            site.complete(job.key)


class TestFakeSite(SiteBackendContract):
    slots = 6
    impossible = Resources(cpus=65)
    walltime = timedelta(milliseconds=20)

    @pytest.fixture
    async def backend(self):
        node = Resources(64, 64 * GIB, 0)
        site = FakeSite(
            "fake", clock=lambda: datetime.now(UTC), slots=self.slots, node=node, program=obey
        )
        async with site:
            yield site

    async def reopen(self, backend):
        return backend.reopened()

    def spec_that(self, does, **changes):
        return super().spec_that(does, **{"command": ("fake", does), **changes})

    def has_secret(self, backend, key, name):
        return name in backend.jobs[key].secrets


SPEC = JobSpec(("work",), Resources(), timedelta(hours=1))


class Clock:
    def __init__(self):
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def site(clock):
    return FakeSite("fake", clock=clock)


async def state_of(site, key):
    handle = site.jobs[key].handle
    return (await site.status([handle]))[handle]


async def test_without_slots_a_job_does_what_the_script_says_and_when(site, clock):
    await site.submit(SPEC, {"a": {}})
    assert (await state_of(site, "a")).state is JobState.QUEUED
    site.hold("a", said="Input file is missing")
    assert (await state_of(site, "a")).said == "Input file is missing"
    site.requeue("a")
    clock.now += timedelta(minutes=5)
    site.start("a", where="node7")
    status = await state_of(site, "a")
    assert (status.state, status.where, status.since) == (JobState.RUNNING, "node7", clock.now)
    site.fail("a", exit_code=-9, said="Out of memory")
    status = await state_of(site, "a")
    assert (status.state, status.exit_code, status.said) == (JobState.FAILED, -9, "Out of memory")


async def test_a_job_times_out_by_the_clock_of_the_test(site, clock):
    await site.submit(SPEC, {"a": {}})
    site.start("a")
    clock.now += SPEC.walltime - timedelta(seconds=1)
    assert (await state_of(site, "a")).state is JobState.RUNNING
    clock.now += timedelta(seconds=1)
    assert (await state_of(site, "a")).state is JobState.TIMED_OUT


async def test_jobs_start_in_their_order_while_there_are_slots(clock):
    site = FakeSite("fake", clock=clock, slots=2)
    await site.submit(SPEC, {"b": {}, "a": {}, "c": {}})
    assert [(await state_of(site, key)).state.name for key in "bac"] == [
        "RUNNING",
        "RUNNING",
        "QUEUED",
    ]
    assert (await site.health()).state is SiteState.FULL
    site.complete("b")
    assert (await state_of(site, "c")).state is JobState.RUNNING


@pytest.mark.parametrize(("after", "queued"), [(0, []), (1, ["a"]), (None, ["a", "b", "c"])])
async def test_a_broken_submit_queues_as_many_as_the_script_says(site, after, queued):
    keys = {"a": {}, "b": {}, "c": {}}
    site.break_next_submit(after=after)
    with pytest.raises(SiteUnavailableError):
        await site.submit(SPEC, keys)
    assert list(await site.find("")) == queued
    assert list(await site.submit(SPEC, keys)) == ["a", "b", "c"]


async def test_a_silent_site_answers_nothing_and_forgets_nothing(site):
    handles = await site.submit(SPEC, {"a": {}})
    site.silent = True
    assert (await state_of(site, "a")).state is JobState.UNKNOWN
    assert (await site.health()).state is SiteState.NO_ANSWER
    for call in (
        site.find(""),
        site.submit(SPEC, {"b": {}}),
        site.cancel(handles.values()),
        site.logs(handles["a"]),
    ):
        with pytest.raises(SiteUnavailableError):
            await call
    site.silent = False
    assert (await state_of(site, "a")).state is JobState.QUEUED


async def test_a_site_refuses_the_job_or_the_user_in_the_words_of_the_script(site):
    site.rejects = "no GPUs here"
    with pytest.raises(JobRejectedError, match="no GPUs here"):
        await site.submit(SPEC, {"a": {}})
    site.rejects, site.refuses = "", "your token is over"
    with pytest.raises(NotAuthorizedError, match="your token is over"):
        await site.submit(SPEC, {"a": {}})
    assert site.jobs == {}


async def test_a_slow_site_ends_cancelled_jobs_only_later(site):
    handles = await site.submit(SPEC, {"a": {}})
    site.start("a")
    site.slow_cancel = True
    await site.cancel(handles.values())
    assert (await state_of(site, "a")).state is JobState.RUNNING
    site.finish_cancel()
    assert (await state_of(site, "a")).state is JobState.CANCELED


async def test_a_forgotten_job_is_unknown(site):
    (handle,) = (await site.submit(SPEC, {"a": {}})).values()
    site.forget("a")
    assert (await site.status([handle]))[handle].state is JobState.UNKNOWN


async def test_calls_are_recorded(site):
    await site.submit(SPEC, {"a": {}, "b": {}})
    await site.find("a")
    assert [tuple(call) for call in site.calls] == [("submit", ("a", "b")), ("find", ("a",))]
