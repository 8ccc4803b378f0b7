"""The site kind `local`: processes on this machine, without any daemon.

The embedded default, and a small batch system for one machine: limits, a queue, walltime, and jobs
that outlive whoever submitted them. Several programs, or several back ends in one, may use the same
directory at the same time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from offload_sites.errors import OffloadError, SiteUnavailableError
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
from offload_sites.local import staging, store
from offload_sites.local.checks import check_request
from offload_sites.local.jobqueue import Snapshot, look
from offload_sites.local.records import Limits

__all__ = ["LocalBackend"]

log = logging.getLogger(__name__)

# A look while a submission or a turn of the queue is under way, and one more.
_THREADS = 4

P = ParamSpec("P")
T = TypeVar("T")


class LocalBackend:
    """Runs jobs as processes of this user on this machine.

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    directory : Path
        Where its jobs live; made if it is not there. It must be this user's alone, and on a file
        system with locks (`flock`). Whoever uses the same directory is at the same site.
    max_jobs : int or None
        Jobs that run at once; others wait. None for any number.
    cpus : int or None
        CPUs that running jobs may ask for together; others wait. None for any number. Jobs are
        counted, not confined. The limits of whoever set them last hold for all.
    node : Resources or None
        The most that one job may ask for; None for no limit.
    term_grace_s : float
        Seconds between the SIGTERM and the SIGKILL with which a job is ended.

    Notes
    -----
    Images are not rendered: a job is its command, on the bare machine. It gets a clean environment
    (PATH, HOME, USER, LOGNAME, LANG, TMPDIR and what its spec says).

    A job that is submitted from inside a job ends with that one, since no descendant of a job
    outlives it.
    """

    def __init__(
        self,
        name: str,
        *,
        directory: Path,
        max_jobs: int | None = None,
        cpus: int | None = None,
        node: Resources | None = None,
        term_grace_s: float = 10.0,
    ) -> None:
        self._name = name
        # Not Path.resolve, which raises for a loop of links: the first call says so in a sentence.
        self._root = Path(os.path.realpath(directory.expanduser()))
        self._limits = Limits(max_jobs, cpus, node.gpus if node and node.gpus else None)
        self._node = node
        self._term_grace_s = term_grace_s
        self._prepared = False
        self._cannot_start = False
        self._trouble = ""  # what was logged last
        # Of its own: threads that wait for a dead file server would be missing to all of this program.
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, f"offload-{name}")

    def __repr__(self) -> str:
        return f"<LocalBackend {self._name!r}>"

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""
        return self._name

    async def __aenter__(self) -> Self:
        """Do nothing: the directory is made by the first call, which can say what is wrong."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Do nothing: jobs outlive all that use the site."""

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Queue one job per key; the native id is the key.

        All or none are queued. Cancelling waits until it is settled which.
        """
        handles = {check_key(key): JobHandle(self._name, key) for key in jobs}
        check_request(self._name, spec, jobs, self._limits, self._node)
        stopped = threading.Event()
        work = asyncio.create_task(self._call(self._add, spec, jobs, stopped))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.wait([work])
            work.exception()  # or asyncio would say that nobody asked
            raise
        await self._call(self._turn)
        return handles

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`; the queue moves on if it can."""
        handles = list(handles)
        try:
            known = await self._call(self._statuses, handles)
            reason = f"site {self._name!r} does not know this job, or has forgotten it"
        except SiteUnavailableError as error:
            known, reason = {}, error.message
        unknown = JobStatus(JobState.UNKNOWN, reason)
        return {handle: known.get(handle, unknown) for handle in handles}

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """End queued jobs, and ask the runners of the others to end theirs."""
        await self._call(store.cancel, self._root, self._keys(handles))
        await self._call(self._turn)

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Return key to handle of all jobs whose key starts with `key_prefix`."""
        keys = await self._call(store.find, self._root, key_prefix)
        return {key: JobHandle(self._name, key) for key in sorted(keys)}

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return the last `tail_bytes` bytes of each stream of a running or ended job."""
        for key in self._keys([handle]):
            found = await self._call(store.logs, self._root, key, tail_bytes)
            if found:
                return found
        raise OffloadError(f"job {handle} has no logs: it never started, or is not known")

    async def health(self) -> SiteHealth:
        """Return how the site is; never raises."""
        try:
            health = await self._call(store.health, self._root)
        except SiteUnavailableError as error:
            return SiteHealth(SiteState.DOWN, error.message)
        if self._cannot_start:
            return SiteHealth(SiteState.DEGRADED, "jobs wait: the process that starts them fails")
        return health

    def _keys(self, handles: Iterable[JobHandle]) -> list[str]:
        """Return the keys of handles that may be ours; a native id from outside may be any text."""
        return [handle.native_id for handle in handles if self._may_be_ours(handle)]

    def _may_be_ours(self, handle: JobHandle) -> bool:
        try:
            check_key(handle.native_id)
        except ValueError:
            return False
        return handle.site == self._name

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do file work in a thread; what the system says to it becomes one of our errors."""

        def prepared() -> T:
            if not self._prepared:
                staging.prepare(self._root, self._limits)
                self._prepared = True
            return work(*args, **kwargs)

        try:
            done = await asyncio.get_running_loop().run_in_executor(self._threads, prepared)
        except OSError as error:
            self._prepared = False  # somebody may have removed the directory: make it again
            self._log_trouble(str(error))
            raise SiteUnavailableError(
                f"site {self._name!r} cannot use its directory: {error.strerror}",
                hint="check the directory of this site, and the space that is left there",
            ) from error
        if not self._cannot_start:
            self._log_trouble("")
        return done

    def _log_trouble(self, trouble: str) -> None:
        """Log the first of many equal failures, and the recovery."""
        if trouble and trouble != self._trouble:
            log.warning("site %s: %s", self._name, trouble)
        elif self._trouble and not trouble:
            log.info("site %s: works again", self._name)
        self._trouble = trouble

    def _add(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles], stopped: threading.Event
    ) -> None:
        count = staging.add(
            self._root, spec, jobs, term_grace_s=self._term_grace_s, stopped=stopped.is_set
        )
        log.info("site %s: %d jobs queued, %d asked for", self._name, count, len(jobs))
        staging.forget_old(self._root, time.time())

    def _statuses(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        found = store.status_of(self._root, self._turn(), self._keys(handles))
        return {JobHandle(self._name, key): status for key, status in found.items()}

    def _turn(self) -> Snapshot:
        """Move the queue on. If that fails the jobs wait, and the next call tries again."""
        try:
            snapshot = store.turn_if_needed(self._root)
        except OSError as error:
            self._cannot_start = True
            self._log_trouble(f"jobs wait: {error}")
            return look(self._root)
        self._cannot_start = False
        return snapshot
