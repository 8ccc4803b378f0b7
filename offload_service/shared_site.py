"""One back end for many fleets: asked once for all of them, and never waited for without end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Self, TypeVar

from offload_sites.backend import SiteBackend
from offload_sites.errors import JobRejectedError, OffloadError, SiteUnavailableError
from offload_sites.jobs import (
    JobHandle,
    JobLogs,
    JobSpec,
    JobState,
    JobStatus,
    SecretFiles,
    SiteHealth,
    SiteState,
)

__all__ = ["AbsentSite", "SharedSite"]

T = TypeVar("T")

_INTERVAL_S = 1.0
_HEALTH_S = 15.0
# Kinds have shorter timeouts of their own; this is for one that forgot.
_SILENT_S = 120.0


class SharedSite:
    """A `SiteBackend` around another, for all clusters that use it. Does not own it.

    Parameters
    ----------
    backend : SiteBackend
        Already entered.
    interval_s : float
        The site is asked for states at most this often, for all callers together.
    """

    def __init__(self, backend: SiteBackend, *, interval_s: float = _INTERVAL_S) -> None:
        self._backend = backend
        self._interval_s = interval_s
        self._asked: set[JobHandle] = set()
        self._next: asyncio.Task[Mapping[JobHandle, JobStatus]] | None = None
        self._lock = asyncio.Lock()
        self._polled_s = float("-inf")
        self._health: asyncio.Task[SiteHealth] | None = None
        self._health_s = float("-inf")
        self._health_known = SiteHealth(SiteState.NO_ANSWER, "not asked yet")

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""
        return self._backend.site

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in (self._next, self._health):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`; joins the next request for all callers."""
        asked = set(handles)
        if not asked:
            return {}
        self._asked |= asked
        if self._next is None:
            self._next = asyncio.create_task(self._poll(), name=f"poll-{self.site}")
        # Who is cancelled must not take the answer from the others.
        statuses = await asyncio.shield(self._next)
        return {handle: statuses[handle] for handle in asked}

    async def _poll(self) -> Mapping[JobHandle, JobStatus]:
        async with self._lock:
            await asyncio.sleep(self._polled_s + self._interval_s - time.monotonic())
            # From here on callers belong to the next request.
            asked, self._asked, self._next = self._asked, set(), None
            try:
                async with asyncio.timeout(_SILENT_S):
                    statuses = await self._backend.status(asked)
            except TimeoutError:
                statuses = {}
            finally:
                self._polled_s = time.monotonic()
        silent = JobStatus(JobState.UNKNOWN, f"site {self.site!r} does not answer")
        return {handle: statuses.get(handle, silent) for handle in asked}

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Queue jobs, as the back end does."""
        return await self._within(self._backend.submit(spec, jobs))

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """End jobs, as the back end does."""
        await self._within(self._backend.cancel(handles))

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Find jobs, as the back end does."""
        return await self._within(self._backend.find(key_prefix))

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return what a job has printed, as the back end does."""
        return await self._within(self._backend.logs(handle, tail_bytes=tail_bytes))

    async def _within(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(_SILENT_S):
                return await call
        except TimeoutError as error:
            raise SiteUnavailableError(f"site {self.site!r} does not answer") from error

    async def health(self) -> SiteHealth:
        """Return how the site was a few seconds ago; the first time, how it is."""
        if time.monotonic() - self._health_s > _HEALTH_S and self._health is None:
            self._health = asyncio.create_task(self._ask_health(), name=f"health-{self.site}")
        if self._health is not None and self._health_s == float("-inf"):
            await asyncio.shield(self._health)
        return self._health_known

    async def _ask_health(self) -> SiteHealth:
        try:
            async with asyncio.timeout(_HEALTH_S):
                self._health_known = await self._backend.health()
        except TimeoutError:
            self._health_known = SiteHealth(SiteState.NO_ANSWER, "it has not answered in time")
        finally:
            self._health_s = time.monotonic()
            self._health = None
        return self._health_known


class AbsentSite:
    """A `SiteBackend` in place of one that the catalog does not have any more, or cannot be used.

    Its jobs may still be there: nothing of them is known, and nothing ends.
    """

    def __init__(self, site: str, why: str) -> None:
        self.site = site
        self._why = why

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Refuse."""
        raise JobRejectedError(self._why)

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return UNKNOWN for all."""
        return {handle: JobStatus(JobState.UNKNOWN, self._why) for handle in handles}

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """Refuse."""
        raise SiteUnavailableError(self._why)

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Refuse."""
        raise SiteUnavailableError(self._why)

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Refuse."""
        raise OffloadError(self._why)

    async def health(self) -> SiteHealth:
        """Return DOWN."""
        return SiteHealth(SiteState.DOWN, self._why)
