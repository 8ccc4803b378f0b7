"""What every back end must do, as tests that it inherits.

Runs on a fake in milliseconds and on a real site in minutes: it looks at nothing but the interface,
unless a hook lets it look further.
"""
# ruff: noqa: D102, S101 - the names of the tests say what they are for, and tests assert

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from offload_sites.backend import SiteBackend
from offload_sites.errors import JobRejectedError, OffloadError
from offload_sites.jobs import (
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
    Resources,
    SecretFiles,
    SiteHealth,
)
from offload_sites.testing.waiting import eventually

__all__ = ["SHELL", "SiteBackendContract"]

#: What the jobs of the contract do, as POSIX shell.
SHELL: Mapping[str, str] = {
    "succeeds": "exit 0",
    "fails": "echo 'it went wrong' >&2; exit 3",
    "sleeps": "sleep 3600",
    "prints": "echo 'this is out'; echo 'this is err' >&2",
    # $GREETING, a file called `input`, and one called `secret` that nobody else may read
    "reports": """echo "greeting=$GREETING"; echo "input=$(cat input)"
        echo "secret=$(cat secret)"; echo "mode=$(stat -c %a secret)"; echo "args=$#" """,
    # a child, an orphan, and an orphan in a session of its own
    "spawns_a_tree": """sleep 3600 & (sleep 3600 &) ; (setsid sleep 3600 &)
        echo ready; sleep 3600""",
}


class SiteBackendContract:
    """The contract of `SiteBackend`. Inherit it, and override in this order as far as you need.

    1. `backend`, a fixture: an entered back end at a site where jobs can start. Always.
    2. `reopen`: another back end at the same site, as after a restart of the program. Always.
    3. `spec_that`: how a job of the site does what a name of `SHELL` says. Only where a bare
       `sh -c` is not enough: to add an image, or where no commands run at all.
    4. `slots`, `impossible`, `walltime`, `within_s`, `live_logs`, `tells_where`, `lingers_s`: what
       the site is like.
    5. `processes_of`, `has_secret`: look at the site past the interface, where that is possible.

    Tests are coroutines: pytest-asyncio in its `auto` mode runs them. Each cleans up its jobs.
    """

    #: Jobs of one CPU that run at once, so that one more has to wait; None if that is not known.
    slots: int | None = None
    #: Resources that the site must refuse; None if it has no limit.
    impossible: Resources | None = None
    #: A walltime that the site can end a job by.
    walltime: timedelta = timedelta(seconds=1)
    #: Seconds after which a job must have changed its state.
    within_s: float = 30.0
    #: False if the site gives out what a job has printed only when the job has ended.
    live_logs: bool = True
    #: False if the site does not tell on which node a job runs.
    tells_where: bool = True
    #: Seconds for which processes may live on, with their files, after the site has said that their
    #: job ended.
    lingers_s: float = 0.0

    @pytest.fixture
    async def backend(self) -> AsyncIterator[SiteBackend]:
        """Lend an entered back end."""
        raise NotImplementedError("a contract needs a fixture `backend`")
        yield  # noqa: PT022 - it makes this a generator, as every override is one

    async def reopen(self, backend: SiteBackend) -> SiteBackend:
        """Return another back end at the site of `backend`."""
        raise NotImplementedError("a contract needs `reopen`")

    def spec_that(self, does: str, **changes: Any) -> JobSpec:
        """Return a small job that does what `SHELL[does]` says."""
        spec = JobSpec(
            command=("sh", "-c", SHELL[does]),
            resources=Resources(cpus=1, memory_bytes=64 * 1024**2),
            walltime=timedelta(minutes=10),
        )
        return dataclasses.replace(spec, **changes)

    def processes_of(self, backend: SiteBackend, key: str) -> int | None:
        """Return how many processes of a job there are; None if that cannot be seen."""
        return None

    def has_secret(self, backend: SiteBackend, key: str, name: str) -> bool | None:
        """Tell whether this secret file is still at the site; None if that cannot be seen."""
        return None

    @pytest.fixture
    async def prefix(self, backend: SiteBackend) -> AsyncIterator[str]:
        """Lend a prefix for the keys of one test, and end its jobs."""
        prefix = f"contract-{uuid.uuid4().hex[:8]}-"
        yield prefix
        handles = (await backend.find(prefix)).values()
        await backend.cancel(handles)
        await self.until(backend, handles, lambda status: status.state.ended)

    async def until(
        self,
        backend: SiteBackend,
        handles: Iterable[JobHandle],
        holds: Callable[[JobStatus], bool],
    ) -> Mapping[JobHandle, JobStatus]:
        """Wait until the status of each of `handles` is as wanted, and return them."""
        handles = list(handles)

        async def reached() -> tuple[Mapping[JobHandle, JobStatus]]:
            seen = await backend.status(handles)
            assert all(holds(status) for status in seen.values()), seen
            return (seen,)  # true also if it is empty

        return (await eventually(reached, within_s=self.within_s))[0]

    async def run(
        self, backend: SiteBackend, key: str, spec: JobSpec, secrets: SecretFiles | None = None
    ) -> tuple[JobHandle, JobStatus]:
        """Submit one job, and wait for its end."""
        handle = (await backend.submit(spec, {key: secrets or {}}))[key]
        return handle, (await self.until(backend, [handle], _ended))[handle]

    # Submitting

    async def test_a_submit_returns_one_handle_per_key(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        keys = _keys(prefix, 5)
        handles = await backend.submit(self.spec_that("succeeds"), keys)
        assert set(handles) == set(keys)
        assert len(set(handles.values())) == len(keys)
        assert {handle.site for handle in handles.values()} == {backend.site}
        assert all(JobHandle.parse(str(handle)) == handle for handle in handles.values())

    async def test_a_submit_of_nothing_queues_nothing(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        assert await backend.submit(self.spec_that("succeeds"), {}) == {}
        assert await backend.find(prefix) == {}

    async def test_the_same_keys_again_return_the_same_handles_and_queue_nothing_twice(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        few, more = _keys(prefix, 2), _keys(prefix, 4)
        first = await backend.submit(self.spec_that("sleeps"), few)
        again = await backend.submit(self.spec_that("sleeps"), more)
        assert {key: again[key] for key in few} == first
        assert await backend.find(prefix) == again

    async def test_two_submits_of_the_same_keys_at_once_queue_each_job_once(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        other = await self.reopen(backend)
        async with other, asyncio.TaskGroup() as group:
            spec, keys = self.spec_that("sleeps"), _keys(prefix, 5)
            submits = [group.create_task(site.submit(spec, keys)) for site in (backend, other)]
        assert submits[0].result() == submits[1].result() == await backend.find(prefix)

    async def test_the_key_of_an_ended_job_does_not_start_it_again(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        key, spec = f"{prefix}once", self.spec_that("succeeds")
        handle, before = await self.run(backend, key, spec)
        assert await backend.submit(spec, {key: {}}) == {key: handle}
        assert (await backend.status([handle]))[handle] == before

    async def test_a_key_that_no_site_could_carry_is_refused(self, backend: SiteBackend) -> None:
        with pytest.raises(ValueError, match="job key"):
            await backend.submit(self.spec_that("succeeds"), {"No_Key": {}})

    async def test_an_impossible_request_is_rejected_and_queues_nothing(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        if self.impossible is None:
            pytest.skip("this site has no limit")
        with pytest.raises(JobRejectedError) as refusal:
            await backend.submit(
                self.spec_that("succeeds", resources=self.impossible), _keys(prefix, 2)
            )
        assert refusal.value.message
        assert not refusal.value.transient
        assert await backend.find(prefix) == {}

    # Finding

    async def test_jobs_are_found_by_the_beginning_of_their_key(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        spec = self.spec_that("sleeps")
        mine = await backend.submit(spec, _keys(f"{prefix}mine-", 2))
        yours = await backend.submit(spec, _keys(f"{prefix}yours-", 1))
        assert await backend.find(f"{prefix}mine-") == mine
        assert await backend.find(prefix) == {**mine, **yours}
        assert await backend.find(f"{prefix}nobody-") == {}

    @pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
    async def test_jobs_of_a_submit_that_was_cancelled_are_found_and_can_be_completed(
        self, backend: SiteBackend, prefix: str, turns: int
    ) -> None:
        keys, spec = _keys(prefix, 6), self.spec_that("sleeps")
        submit = asyncio.create_task(backend.submit(spec, keys))
        for _ in range(turns):
            await asyncio.sleep(0)
        submit.cancel()
        await asyncio.wait([submit])
        before = await backend.find(prefix)
        assert set(before) <= set(keys)
        completed = await backend.submit(spec, keys)
        assert before.items() <= completed.items()
        assert await backend.find(prefix) == completed

    async def test_handles_and_keys_outlive_the_program(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        handles = await backend.submit(self.spec_that("sleeps"), _keys(prefix, 2))
        await self.until(backend, handles.values(), _running)
        async with await self.reopen(backend) as other:
            assert await other.find(prefix) == handles
            await self.until(other, handles.values(), _running)
            await other.cancel(handles.values())
            await self.until(other, handles.values(), _canceled)

    # Status

    async def test_one_call_tells_the_status_of_all_jobs(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        good = await backend.submit(self.spec_that("succeeds"), {f"{prefix}good": {}})
        bad = await backend.submit(self.spec_that("fails"), {f"{prefix}bad": {}})
        handles = [*good.values(), *bad.values()]
        seen = await self.until(backend, handles, _ended)
        states = [seen[handle].state for handle in handles]
        assert states == [JobState.COMPLETED, JobState.FAILED]

    async def test_a_job_it_never_saw_is_unknown_not_finished(self, backend: SiteBackend) -> None:
        strangers = [
            JobHandle("nowhere", "424242.0"),
            JobHandle(backend.site, "424242.0"),
            JobHandle(backend.site, "no-such-job"),
            JobHandle(backend.site, "../../etc"),
        ]
        seen = await backend.status(strangers)
        assert {status.state for status in seen.values()} == {JobState.UNKNOWN}
        assert set(seen) == set(strangers)
        assert all(status.reason for status in seen.values())

    async def test_the_status_of_nothing_is_nothing(self, backend: SiteBackend) -> None:
        assert await backend.status([]) == {}

    async def test_a_running_job_says_since_when_and_where(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        submitted = datetime.now(UTC)
        handles = await backend.submit(self.spec_that("sleeps"), _keys(prefix, 1))
        seen = await self.until(backend, handles.values(), _running)
        (status,) = seen.values()
        assert status.where or not self.tells_where
        assert status.since is not None
        assert abs(status.since - submitted) < timedelta(minutes=10)  # two clocks, perhaps
        assert status.exit_code is None

    async def test_a_command_that_succeeds_completes(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        _, status = await self.run(backend, f"{prefix}a", self.spec_that("succeeds"))
        assert (status.state, status.exit_code) == (JobState.COMPLETED, 0)

    async def test_a_command_that_fails_says_its_exit_code_and_a_reason(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        _, status = await self.run(backend, f"{prefix}a", self.spec_that("fails"))
        assert (status.state, status.exit_code) == (JobState.FAILED, 3)
        assert status.reason

    async def test_a_job_whose_walltime_is_over_has_timed_out(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        spec = self.spec_that("spawns_a_tree", walltime=self.walltime)
        _, status = await self.run(backend, f"{prefix}a", spec)
        assert status.state is JobState.TIMED_OUT
        await self.has_no_process(backend, f"{prefix}a")

    async def test_an_ended_job_stays_as_it_ended(self, backend: SiteBackend, prefix: str) -> None:
        handle, before = await self.run(backend, f"{prefix}a", self.spec_that("fails"))
        await backend.cancel([handle])
        assert (await backend.status([handle]))[handle] == before
        assert await backend.find(prefix) == {f"{prefix}a": handle}

    # Cancelling

    async def test_a_running_job_is_cancelled_with_every_process_it_has_started(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        key = f"{prefix}tree"
        handle = (await backend.submit(self.spec_that("spawns_a_tree"), {key: {}}))[key]
        await self.until(backend, [handle], _running)
        await eventually(lambda: self._is_at_work(backend, handle, key), within_s=self.within_s)
        await backend.cancel([handle])
        await self.until(backend, [handle], _canceled)
        await self.has_no_process(backend, key)

    async def test_a_queued_job_waits_and_is_cancelled_without_having_run(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        if self.slots is None:
            pytest.skip("it is not known how many jobs this site runs at once")
        running = await backend.submit(self.spec_that("sleeps"), _keys(f"{prefix}r-", self.slots))
        await self.until(backend, running.values(), _running)
        queued = await backend.submit(self.spec_that("prints"), _keys(f"{prefix}q-", 1))
        (handle,) = queued.values()
        status = (await backend.status([handle]))[handle]
        assert status.state is JobState.QUEUED
        assert status.reason
        await backend.cancel([handle])
        await self.until(backend, [handle], _canceled)
        with pytest.raises(OffloadError):
            await backend.logs(handle)
        assert await self.until(backend, running.values(), _running)

    async def test_a_queued_job_starts_when_another_ends(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        if self.slots is None:
            pytest.skip("it is not known how many jobs this site runs at once")
        running = await backend.submit(self.spec_that("sleeps"), _keys(f"{prefix}r-", self.slots))
        queued = await backend.submit(self.spec_that("sleeps"), _keys(f"{prefix}q-", 1))
        await backend.cancel([*running.values()][:1])
        await self.until(backend, queued.values(), _running)

    async def test_unknown_jobs_are_passed_over_when_cancelling(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        handles = await backend.submit(self.spec_that("sleeps"), _keys(prefix, 1))
        strangers = [JobHandle("nowhere", "1"), JobHandle(backend.site, "../..")]
        await backend.cancel([*strangers, *handles.values()])
        await self.until(backend, handles.values(), _canceled)

    # What a job finds, and what it leaves

    async def test_environment_and_files_arrive_and_secrets_are_private(
        self, backend: SiteBackend, prefix: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("from here")
        spec = self.spec_that(
            "reports",
            environment={"GREETING": "hello 'you' $HOME\tà"},
            inputs={"input": tmp_path / "file"},
        )
        secrets = {f"{prefix}{name}": {"secret": name.encode()} for name in ("one", "two")}
        handles = await backend.submit(spec, secrets)
        await self.until(backend, handles.values(), _ended)
        for name in ("one", "two"):
            told = (await backend.logs(handles[f"{prefix}{name}"])).stdout.splitlines()
            assert "greeting=hello 'you' $HOME\tà" in told
            assert "input=from here" in told
            assert f"secret={name}" in told
            assert "mode=600" in told

    async def test_a_secret_is_gone_when_its_job_has_ended(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        key = f"{prefix}a"
        jobs = {key: {"secret": b"hush"}}
        handle = (await backend.submit(self.spec_that("sleeps"), jobs))[key]
        await self.until(backend, [handle], _running)
        if self.has_secret(backend, key, "secret") is None:
            pytest.skip("it cannot be seen which files are at this site")
        assert self.has_secret(backend, key, "secret")
        await backend.cancel([handle])
        await self.until(backend, [handle], _ended)

        async def gone() -> bool:
            assert not self.has_secret(backend, key, "secret")
            return True

        await eventually(gone, within_s=self.lingers_s)

    async def test_logs_are_what_the_job_has_printed(
        self, backend: SiteBackend, prefix: str
    ) -> None:
        handle, _ = await self.run(backend, f"{prefix}a", self.spec_that("prints"))
        logs = await backend.logs(handle)
        assert logs.stdout.endswith("this is out\n")
        assert "this is err" in logs.stderr + logs.stdout  # some sites have one stream
        assert (await backend.logs(handle, tail_bytes=4)).stdout == "out\n"

    async def test_a_running_job_has_logs_already(self, backend: SiteBackend, prefix: str) -> None:
        if not self.live_logs:
            pytest.skip("this site gives out what a job has printed when the job has ended")
        handles = await backend.submit(self.spec_that("spawns_a_tree"), _keys(prefix, 1))
        (handle,) = handles.values()
        await eventually(lambda: self._prints(backend, handle, "ready"), within_s=self.within_s)

    async def test_there_are_no_logs_of_a_stranger(self, backend: SiteBackend) -> None:
        with pytest.raises(OffloadError):
            await backend.logs(JobHandle(backend.site, "no-such-job"))
        with pytest.raises(OffloadError):
            await backend.logs(JobHandle(backend.site, "../.."))

    # The site

    async def test_its_health_can_be_told(self, backend: SiteBackend) -> None:
        assert isinstance(await backend.health(), SiteHealth)

    async def has_no_process(self, backend: SiteBackend, key: str) -> None:
        """Check that no process of this job is left, where that can be seen."""

        def gone() -> bool:
            left = self.processes_of(backend, key)
            assert not left, f"{left} processes of {key} are left"
            return True

        await eventually(gone, within_s=self.lingers_s)

    async def _is_at_work(self, backend: SiteBackend, handle: JobHandle, key: str) -> bool:
        """Tell whether a job that `spawns_a_tree` has spawned it."""
        if self.live_logs:
            return await self._prints(backend, handle, "ready")
        count = self.processes_of(backend, key)
        return count is None or count >= 4

    async def _prints(self, backend: SiteBackend, handle: JobHandle, text: str) -> bool:
        try:
            return text in (await backend.logs(handle)).stdout
        except OffloadError:
            return False


def _keys(prefix: str, count: int) -> dict[str, SecretFiles]:
    return {f"{prefix}{number}": {} for number in range(count)}


def _ended(status: JobStatus) -> bool:
    return status.state.ended


def _running(status: JobStatus) -> bool:
    return status.state is JobState.RUNNING


def _canceled(status: JobStatus) -> bool:
    return status.state is JobState.CANCELED
