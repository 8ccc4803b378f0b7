"""One site as a fleet sees it: what is known of it, and what is under way there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from offload_sites.backend import SiteBackend
from offload_sites.errors import JobLimitError, OffloadError, SiteUnavailableError
from offload_sites.fleet_plan import FleetJob, Policy, poll_pause
from offload_sites.fleet_view import Recruiter, SiteTrouble, next_trouble
from offload_sites.jobs import JobHandle, JobStatus, SiteHealth

__all__ = ["FleetSite"]

log = logging.getLogger(__name__)

_HEALTH = timedelta(seconds=30)
# What a site is asked about jobs, and its answer counts.
_ASKING = ("submit", "cancel", "poll")


class FleetSite:
    """A back end, and what its fleet has learned of it.

    Whatever is asked of a site runs in a task of its own, one of each kind at a time: a site that is
    slow or silent delays nobody.

    Parameters
    ----------
    name : str
        As in the catalog.
    backend : SiteBackend
        Already entered.
    policy : Policy
        How many workers one job runs here, and how patient to be.
    clock : callable
        Returns aware UTC.
    """

    def __init__(
        self, name: str, backend: SiteBackend, policy: Policy, clock: Callable[[], datetime]
    ) -> None:
        self.name = name
        self.backend = backend
        self.policy = policy
        #: Why it is not used at present, if so.
        self.trouble: SiteTrouble | None = None
        #: What it has said last; None before it has answered.
        self.health: SiteHealth | None = None
        #: When it was last asked for the states of jobs.
        self.polled: datetime | None = None
        self._clock = clock
        self._full = False
        self._asked: datetime | None = None
        self._tired: datetime | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # --- what is known of it -------------------------------------------------------------------

    @property
    def takes_jobs(self) -> bool:
        """Whether new jobs may go here: it has no trouble, or may have left it behind."""
        return self.trouble is None or self.trouble.is_due(self._clock())

    @property
    def refusal(self) -> str:
        """Why it refuses jobs, and is not to be asked again yet; empty if it does not."""
        trouble = self.trouble
        return trouble.message if trouble and trouble.final and not self.takes_jobs else ""

    @property
    def waits_for_retry(self) -> bool:
        """Whether it has trouble and is left alone for a while, or for good."""
        return self.trouble is not None and not self.trouble.is_due(self._clock())

    @property
    def tired(self) -> bool:
        """Whether a job has waited here for too long of late."""
        return self._tired is not None and self._clock() - self._tired < self.policy.patience

    def tire(self) -> None:
        """Note that a job has waited here for too long."""
        self._tired = self._clock()

    def note(self, error: OffloadError) -> None:
        """Note that it has answered with `error`."""
        if self.trouble is None:
            log.warning("site %s: %s", self.name, error)
        self.trouble = next_trouble(self.trouble, error, self._clock())
        self._full = isinstance(error, JobLimitError)

    def forget_limit(self) -> None:
        """Forget that it takes no more jobs: who has enough need not hear it."""
        if self._full:
            self.trouble, self._full = None, False

    def forget_silence(self) -> None:
        """Forget that it has not answered, once it would be asked again: there is nothing to ask."""
        asking = any(self.under_way(what) for what in _ASKING)
        if self.trouble and not self.trouble.final and not self.waits_for_retry and not asking:
            self.trouble = None

    # --- asking it -----------------------------------------------------------------------------

    def start(self, what: str, action: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Return the task that does `what`: the one under way, or a new one that runs `action`."""
        running = self._tasks.get(what)
        if running is not None and not running.done():
            return running

        async def guarded() -> None:
            try:
                await action()
            except OffloadError as error:
                if what in _ASKING:
                    self.note(error)
                else:  # of workers, or of how the site is: no word on jobs
                    log.warning("site %s: %s: %s", self.name, what, error)
            except Exception as error:  # the fleet must survive; the traceback is logged
                log.exception("site %s: %s failed", self.name, what)
                if what in _ASKING:
                    self.note(_our_fault(self.name, what, error))

        task = asyncio.create_task(guarded(), name=f"fleet-{what}-{self.name}")
        self._tasks[what] = task
        return task

    def under_way(self, what: str) -> bool:
        """Tell whether the task that does `what` has not ended yet."""
        return what in self._tasks and not self._tasks[what].done()

    async def submit(
        self, recruiter: Recruiter, size: int, keys: Sequence[str]
    ) -> tuple[Mapping[str, JobHandle], JobLimitError | None]:
        """Submit the jobs `keys` of `size` workers in one go, or as many of them as the site takes.

        Returns
        -------
        mapping
            Key to handle of those that it has taken.
        JobLimitError or None
            Why it has not taken all.

        Raises
        ------
        OffloadError
            Any other that `SiteBackend.submit` raises.
        """
        full: JobLimitError | None = None
        while keys:
            spec, secrets = recruiter.prepare(self.name, size, keys)
            try:
                handles = await self.backend.submit(spec, secrets)
            except JobLimitError as error:
                # It does not say how many it would take.
                full, keys = error, keys[: len(keys) // 2]
            else:
                self.trouble = None
                log.info("site %s: submitted %d jobs of %d workers", self.name, len(handles), size)
                return handles, full
        return {}, full

    def poll_due(self, jobs: Iterable[FleetJob]) -> bool:
        """Tell whether it is time to ask for the states of `jobs`."""
        pause = poll_pause(list(jobs))
        return pause is not None and (self.polled is None or self._clock() - self.polled >= pause)

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the states of jobs. Raises as `SiteBackend.status` does."""
        statuses = await self.backend.status(list(handles))
        self.polled = self._clock()
        return statuses

    @property
    def health_due(self) -> bool:
        """Whether it is time to ask how it is."""
        return self._asked is None or self._clock() - self._asked >= _HEALTH

    async def ask_health(self) -> None:
        """Ask how it is."""
        self._asked = self._clock()
        self.health = await self.backend.health()

    def forget_done(self) -> None:
        """Forget tasks that have ended."""
        self._tasks = {what: task for what, task in self._tasks.items() if not task.done()}

    async def stop(self) -> None:
        """Stop what is under way."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _our_fault(site: str, what: str, error: Exception) -> SiteUnavailableError:
    return SiteUnavailableError(
        f"site {site!r}: {what} failed ({type(error).__name__}: {error}), which is a fault of the "
        "product; its log says more"
    )
