"""A site in memory that does what a test tells it to, for the tests of all that uses sites."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Self

from offload_sites.errors import (
    JobLimitError,
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.jobs import (
    JobHandle,
    JobLogs,
    JobSpec,
    JobState,
    JobStatus,
    Resources,
    SecretFiles,
    SiteHealth,
    SiteState,
    check_key,
)

__all__ = ["Call", "FakeJob", "FakeSite"]


class Call(NamedTuple):
    """One call that a `FakeSite` has got: the method, and the keys or native ids it was about."""

    method: str
    about: tuple[str, ...]


@dataclass
class FakeJob:
    """What a `FakeSite` holds of one job. `secrets` is empty once the job has ended."""

    key: str
    spec: JobSpec
    handle: JobHandle
    status: JobStatus
    secrets: dict[str, bytes]
    stdout: str = ""
    stderr: str = ""
    cancelled: bool = False


@dataclass(eq=False)
class FakeSite:
    """A `SiteBackend` that keeps its jobs in memory and obeys the test's script.

    Jobs wait until the test starts them, or start by themselves if the site has `slots`.

    Parameters
    ----------
    name : str
        Name of the site.
    clock : callable
        Returns the time, aware and in UTC; a running job whose walltime is over by this clock has
        timed out.
    slots : int or None
        Jobs that run at once, started in their order; None: none starts by itself.
    node : Resources or None
        The most that one job may ask for; more is rejected. None for no limit.
    program : callable or None
        What a job does as it starts: called with this site and the job; it may print, and end it.

    Attributes
    ----------
    jobs : dict
        Key to `FakeJob`, in the order in which they came.
    calls : list of Call
        What was asked of this site.
    silent : bool
        Set it, and the site does not answer: every status is UNKNOWN, all else raises
        `SiteUnavailableError`.
    rejects, refuses : str
        Set one, and `submit` raises `JobRejectedError`, or `NotAuthorizedError`, with this message.
    most : int or None
        Set it, and no more jobs than these are taken at a time: `submit` raises `JobLimitError`.
    slow_cancel : bool
        Set it, and cancelled jobs go on running until `finish_cancel`.
    """

    name: str
    clock: Callable[[], datetime]
    slots: int | None = None
    node: Resources | None = None
    program: Callable[[FakeSite, FakeJob], None] | None = None
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    silent: bool = False
    rejects: str = ""
    refuses: str = ""
    most: int | None = None
    slow_cancel: bool = False
    _submits: int = 0
    _breaks_after: list[int | None] = field(default_factory=list)

    # The script: what happens at the site.

    def start(self, *keys: str, where: str = "fake-node") -> None:
        """Let these jobs run."""
        for job in self._chosen(keys):
            self._move(job, JobState.RUNNING, where=where)
            if self.program:
                self.program(self, job)

    def hold(self, *keys: str, said: str = "", hint: str = "") -> None:
        """Put these jobs on hold."""
        for job in self._chosen(keys):
            self._move(job, JobState.HELD, "the site holds it", said=said, hint=hint)

    def requeue(self, *keys: str, reason: str = "it is in the queue again") -> None:
        """Put these jobs back in the queue: released from hold, or evicted from their node."""
        for job in self._chosen(keys):
            self._move(job, JobState.QUEUED, reason)

    def complete(self, *keys: str) -> None:
        """Let these jobs end with exit code 0."""
        for job in self._chosen(keys):
            self._move(job, JobState.COMPLETED, exit_code=0)

    def fail(
        self, *keys: str, exit_code: int | None = 1, reason: str = "it failed", said: str = ""
    ) -> None:
        """Let these jobs fail."""
        for job in self._chosen(keys):
            self._move(job, JobState.FAILED, reason, said=said, exit_code=exit_code)

    def time_out(self, *keys: str) -> None:
        """Let the walltime of these jobs be over."""
        for job in self._chosen(keys):
            self._move(job, JobState.TIMED_OUT, "its walltime was used up")

    def remove(self, *keys: str, reason: str = "the site removed it") -> None:
        """Let the site's administrator remove these jobs."""
        for job in self._chosen(keys):
            self._move(job, JobState.CANCELED, reason)

    def finish_cancel(self) -> None:
        """Let the jobs end that were cancelled while `slow_cancel` was set."""
        self.remove(*(job.key for job in self.jobs.values() if job.cancelled), reason="cancelled")

    def forget(self, *keys: str) -> None:
        """Let the site know nothing of these jobs any more."""
        for key in keys:
            del self.jobs[key]

    def print(self, key: str, stdout: str = "", stderr: str = "") -> None:
        """Let a job print."""
        self.jobs[key].stdout += stdout
        self.jobs[key].stderr += stderr

    def break_next_submit(self, *, after: int | None = None) -> None:
        """Let the next `submit` raise `SiteUnavailableError` after queuing `after` jobs (or all).

        Called several times, it breaks as many submits.
        """
        self._breaks_after.append(after)

    def reopened(self) -> FakeSite:
        """Return a new back end at the same site, as after a restart of the program."""
        twin = dataclasses.replace(self)
        twin.__dict__ = self.__dict__
        return twin

    # The interface: what the program under test sees.

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""
        return self.name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Queue one job per key, or fail as the script says."""
        self._called("submit", jobs)
        keys = [check_key(key) for key in jobs]
        self._check_answers()
        self._check_accepts(spec, jobs)
        left = None
        breaks = bool(self._breaks_after)
        if breaks:
            left = self._breaks_after.pop(0)
        for count, key in enumerate(keys):
            if breaks and count == left:
                break
            self._add(spec, key, jobs[key])
            await asyncio.sleep(0)  # here a caller may be cancelled half-way
        self._settle()
        if breaks:
            raise SiteUnavailableError(f"site {self.name!r} broke off the connection")
        return {key: self.jobs[key].handle for key in keys}

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`."""
        handles = list(handles)
        self._called("status", (handle.native_id for handle in handles))
        if self.silent:
            silence = JobStatus(JobState.UNKNOWN, f"site {self.name!r} does not answer")
            return dict.fromkeys(handles, silence)
        self._settle()
        known = {job.handle: job.status for job in self.jobs.values()}
        stranger = JobStatus(JobState.UNKNOWN, f"site {self.name!r} does not know this job")
        return {handle: known.get(handle, stranger) for handle in handles}

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """End these jobs, at once or as `slow_cancel` says."""
        asked = set(handles)
        self._called("cancel", (handle.native_id for handle in asked))
        self._check_answers()
        for job in self.jobs.values():
            if job.handle in asked and not job.status.state.ended:
                job.cancelled = True
        if not self.slow_cancel:
            self.finish_cancel()
        self._settle()

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Return key to handle of all jobs whose key starts with `key_prefix`."""
        self._called("find", [key_prefix])
        self._check_answers()
        return {key: job.handle for key, job in self.jobs.items() if key.startswith(key_prefix)}

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return what a job has printed."""
        self._called("logs", [handle.native_id])
        self._check_answers()
        for job in self.jobs.values():
            if job.handle == handle and (job.status.where or job.stdout or job.stderr):
                return JobLogs(_tail(job.stdout, tail_bytes), _tail(job.stderr, tail_bytes))
        raise OffloadError(f"job {handle} has no logs: it never started, or is not known")

    async def health(self) -> SiteHealth:
        """Return how the site is."""
        self._called("health", [])
        if self.silent:
            return SiteHealth(SiteState.NO_ANSWER, f"site {self.name!r} does not answer")
        if self.slots is None:
            return SiteHealth(SiteState.UP)
        free = self.slots - len(self._in_state(JobState.RUNNING))
        return SiteHealth(SiteState.UP if free > 0 else SiteState.FULL, free_cpus=max(0, free))

    def _called(self, method: str, about: Iterable[str]) -> None:
        self.calls.append(Call(method, tuple(about)))

    def _check_answers(self) -> None:
        if self.silent:
            raise SiteUnavailableError(f"site {self.name!r} does not answer")

    def _check_accepts(self, spec: JobSpec, keys: Iterable[str]) -> None:
        if self.refuses:
            raise NotAuthorizedError(self.refuses)
        if self.rejects:
            raise JobRejectedError(self.rejects)
        there = sum(not job.status.state.ended for job in self.jobs.values())
        if self.most is not None and there + len(set(keys) - self.jobs.keys()) > self.most:
            raise JobLimitError(f"site {self.name!r} takes {self.most} jobs at a time")
        if self.node and not spec.resources.fits(self.node):
            raise JobRejectedError(
                f"site {self.name!r} refused the job: {spec.resources} asked, {self.node} allowed"
            )

    def _add(self, spec: JobSpec, key: str, secrets: SecretFiles) -> None:
        if key not in self.jobs:
            self._submits += 1
            # Not the key: nobody may rely on the two being equal.
            handle = JobHandle(self.name, f"{1000 + self._submits}.0")
            status = JobStatus(JobState.QUEUED, "it waits", since=self.clock())
            self.jobs[key] = FakeJob(key, spec, handle, status, dict(secrets))

    def _settle(self) -> None:
        """Do what has become due: ends by walltime, and starts."""
        for job in self._in_state(JobState.RUNNING):
            since = job.status.since
            if since and self.clock() - since >= job.spec.walltime:
                self.time_out(job.key)
        while self.slots and len(self._in_state(JobState.RUNNING)) < self.slots:
            waiting = self._in_state(JobState.QUEUED)
            if not waiting:
                return
            self.start(waiting[0].key)

    def _in_state(self, state: JobState) -> list[FakeJob]:
        return [job for job in self.jobs.values() if job.status.state is state]

    def _chosen(self, keys: Iterable[str]) -> list[FakeJob]:
        """Return these jobs but for ended ones: an ended job stays as it is."""
        chosen = [self.jobs[key] for key in keys]
        return [job for job in chosen if not job.status.state.ended]

    def _move(
        self,
        job: FakeJob,
        state: JobState,
        reason: str = "",
        *,
        said: str = "",
        hint: str = "",
        exit_code: int | None = None,
        where: str = "",
    ) -> None:
        where = where or job.status.where
        job.status = JobStatus(state, reason, said, hint, self.clock(), exit_code, where)
        if state.ended:
            job.secrets.clear()


def _tail(text: str, size: int) -> str:
    return text.encode()[-size:].decode(errors="replace") if size else ""
