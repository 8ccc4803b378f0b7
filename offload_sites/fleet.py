"""The one reconciler: keeps as many workers in jobs as are wanted. A thin loop around `fleet_plan`.

Nothing here waits for a slow site: each site is polled, asked to submit and asked to cancel by
tasks of its own, and `Fleet.step` decides on what is known by then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from offload_sites.backend import SiteBackend
from offload_sites.choose import in_order, moved_words, next_site
from offload_sites.errors import OffloadError
from offload_sites.fleet_plan import (
    CANCEL_AGAIN,
    Failure,
    FleetJob,
    Policy,
    decide,
    failure_of,
    missing_agent,
    poll_pause,
    stop_reason,
    to_cancel,
)
from offload_sites.fleet_view import FleetSnapshot, Recruiter, SiteTrouble, next_trouble
from offload_sites.jobs import (
    AgentState,
    AgentStatus,
    JobLogs,
    JobState,
    SiteHealth,
)
from offload_sites.ledger_records import Waits

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

# How long a step waits for its sites before it decides with what it knows.
_POLL_WAIT_S = 2.0
_HEALTH_S = 30.0
_RELEASE_S = 90.0
_ENDED_KEPT = 100


def _now() -> datetime:
    return datetime.now(UTC)


class Fleet:
    """Workers in jobs at one or more sites.

    Parameters
    ----------
    prefix : str
        Start of all keys; unique to this fleet.
    sites : mapping
        Name to back end, already entered, in the order of the catalog. Of several, the first healthy
        one with the shortest expected wait is used (`choose`).
    recruiter : Recruiter
        The layer above.
    policies : mapping
        Name of the site to its policy: how many workers one job runs there, and how patient to be.
    known : iterable of FleetJob
        Jobs of an earlier life of this fleet, which was cut off. Those without a handle may or may
        not have been accepted: they are sent again under their keys, which doubles nothing.
    serial : int
        Highest number that a key of this fleet has had.
    clock : callable
        Returns aware UTC.
    """

    def __init__(
        self,
        prefix: str,
        sites: Mapping[str, SiteBackend],
        recruiter: Recruiter,
        policies: Mapping[str, Policy],
        *,
        known: Iterable[FleetJob] = (),
        serial: int = 0,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._prefix = prefix
        self._sites = sites
        self._recruiter = recruiter
        self._policies = policies
        self._clock = clock
        self._serial = serial
        self._jobs: dict[str, FleetJob] = {job.key: job for job in known}
        self._failures: list[Failure] = []
        self._noted: set[str] = set()
        self._troubles: dict[str, SiteTrouble] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._polled: dict[str, datetime] = {}
        self._heard_since: datetime | None = None
        self._closing = ""
        self._health: dict[str, SiteHealth] = {}
        self._asked: dict[str, datetime] = {}
        self._tired: dict[str, datetime] = {}
        #: How long jobs like these have waited at each site, as far as somebody knows.
        self.waits: Mapping[str, Waits] = {}
        #: How many workers there should be.
        self.wanted = 0
        #: False while the layer above cannot prepare jobs yet: then nothing is submitted.
        self.ready = True

    # --- what others see -----------------------------------------------------------------------

    @property
    def jobs(self) -> Sequence[FleetJob]:
        """All jobs, the oldest first; ended ones for a while."""
        return tuple(self._jobs.values())

    @property
    def stopped(self) -> str:
        """Why no more jobs are submitted; empty if the refill goes on."""
        refused = [self._troubles[s] for s in self._sites if s in self._troubles]
        all_refuse = len(refused) == len(self._sites) and all(one.final for one in refused)
        if all_refuse and not any(map(self._may_ask, self._sites)):
            return refused[0].message
        policy = self._policies[next(iter(self._sites))]
        wanted_jobs = -(-self.wanted // policy.workers_per_job)
        return stop_reason(self._failures, self._clock(), wanted_jobs, policy)

    def snapshot(self) -> FleetSnapshot:
        """Return all that can be shown."""
        return FleetSnapshot(
            self.wanted,
            tuple(self.jobs),
            self.stopped,
            tuple(self._failures),
            dict(self._troubles),
            min(self._polled.values(), default=None),
        )

    async def logs(self, job: FleetJob) -> JobLogs:
        """Return what `job` has printed. Raises as `SiteBackend.logs` does."""
        if job.handle is None:
            raise OffloadError(f"job {job.key} has not been accepted by its site yet")
        return await self._sites[job.site].logs(job.handle)

    async def all_logs(self, job: str | None = None) -> dict[str, str]:
        """Return the ends of the logs of one job (its key or handle), or of all that have some.

        Raises
        ------
        OffloadError
            There is no such job.
        """
        found: dict[str, str] = {}
        for one in self.jobs:
            if one.handle is None or job not in (None, one.key, str(one.handle)):
                continue
            try:
                logs = await self.logs(one)
            except OffloadError as error:
                found[one.key] = f"({error.message})"
            else:
                found[one.key] = "\n".join(text for text in (logs.stdout, logs.stderr) if text)
        if job is not None and not found:
            raise OffloadError(
                f"no job of this cluster is called {job!r}", "its jobs are listed by cluster.jobs()"
            )
        return found

    def retry(self) -> None:
        """Forget past failures and refusals, and start the refill again."""
        self._failures.clear()
        self._troubles.clear()

    # --- the loop's body -----------------------------------------------------------------------

    async def step(self, agents: Mapping[str, AgentStatus], *, heard: bool = True) -> None:
        """See what there is, and do what brings it nearer to what is wanted.

        Parameters
        ----------
        agents : mapping
            Key to what the relay says; a job that is missing here has no agent.
        heard : bool
            Whether the relay answers at present. While it is silent, and for as long again as each
            job has anyway, no job is given up because its agent is not seen.

        Notes
        -----
        Takes at most about two seconds however slow the sites are. Cancelling is safe.
        """
        self._heard_since = (self._heard_since or self._clock()) if heard else None
        for key, job in self._jobs.items():
            agent = agents.get(key) or missing_agent(job.agent, self._clock())
            self._jobs[key] = job.seen(job.status, agent, self._clock())
        await self._poll()
        self._note_failures()
        self._act()
        await self._dismiss(agents)
        self._forget()

    async def _dismiss(self, agents: Mapping[str, AgentStatus]) -> None:
        """See to it that jobs end which their sites believe to have ended, or cannot end.

        Whoever deletes a pod of a virtual node, for one, does not hear whether the batch system was
        told. That an agent is still there is the one sure sign.
        """
        now = self._clock()
        unwanted = [
            key
            for key, agent in agents.items()
            if agent.state is AgentState.CONNECTED
            and key in self._jobs
            and self._jobs[key].over_for_us(now)
        ]
        if unwanted:
            await self._recruiter.dismiss(unwanted)

    async def _poll(self) -> None:
        polls = [self._run("poll", site, self._poll_site) for site in self._sites]
        if len(self._sites) > 1:
            polls += [self._run("health", site, self._ask_health) for site in self._sites]
        waiting = [task for task in polls if task is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=_POLL_WAIT_S)

    def _run(
        self, what: str, site: str, action: Callable[[str], Awaitable[None]]
    ) -> asyncio.Task[None] | None:
        """Start `action(site)` unless the last one is still on its way."""
        running = self._tasks.get((what, site))
        if running is not None and not running.done():
            return running
        if what == "poll" and not self._poll_due(site):
            return None
        if what == "health" and not self._health_due(site):
            return None

        async def guarded() -> None:
            try:
                await action(site)
            except OffloadError as error:
                self._note_trouble(site, error)
            except Exception:  # the loop must survive; the traceback is logged
                log.exception("site %s: %s failed", site, what)

        task = asyncio.create_task(guarded(), name=f"fleet-{what}-{site}")
        self._tasks[what, site] = task
        return task

    def _poll_due(self, site: str) -> bool:
        pause = poll_pause([job for job in self._jobs.values() if job.site == site])
        last = self._polled.get(site)
        return pause is not None and (last is None or self._clock() - last >= pause)

    def _health_due(self, site: str) -> bool:
        last = self._asked.get(site)
        return last is None or self._clock() - last >= timedelta(seconds=_HEALTH_S)

    async def _ask_health(self, site: str) -> None:
        self._health[site] = await self._sites[site].health()
        self._asked[site] = self._clock()

    async def _poll_site(self, site: str) -> None:
        asked = {
            job.handle: job.key
            for job in self._jobs.values()
            if job.site == site and job.handle is not None and not job.ended
        }
        statuses = await self._sites[site].status(list(asked))
        self._polled[site] = self._clock()
        for handle, status in statuses.items():
            job = self._jobs.get(asked.get(handle, ""))
            if job is not None:
                seen = job.seen(status, job.agent, self._clock())
                if seen.status.state is not job.status.state:
                    log.info(
                        "job %s (%s): %s -> %s: %s",
                        handle,
                        job.key,
                        job.status.state.name,
                        seen.status.state.name,
                        status.reason,
                    )
                self._jobs[job.key] = seen

    def _note_failures(self) -> None:
        now = self._clock()
        for job in list(self._jobs.values()):
            if job.key in self._noted:
                continue
            failure = failure_of(
                job, now, self._policies[job.site], heard_since=self._heard_since or now
            )
            if failure is not None:
                log.warning("job %s failed at %s: %s", job.key, job.site, failure.reason)
                self._failures.append(failure)
                self._noted.add(job.key)
                if not job.ended:
                    self._leave(job.key, failure.reason)

    def _act(self) -> None:
        policy = self._policies[next(iter(self._sites))]
        if not self._closing:
            self._move()
            site = self._choose_site()
            policy = self._policies[site] if site else policy
            plan = decide(
                tuple(self._jobs.values()),
                self.wanted,
                policy,
                idle_first=self._recruiter.idle_first(),
            )
            for key in plan.cancel:
                self._leave(key, "no longer wanted")
            for key in plan.release:
                self._release(key)
            for key, count in plan.trim.items():
                self._jobs[key] = replace(self._jobs[key], workers=self._jobs[key].workers - count)
            self._trim()
            if plan.submit and site and self.ready and not self.stopped:
                self._enlist(site, plan.submit)
        for site in self._sites:
            if self.ready and self._unconfirmed(site):
                self._run("submit", site, self._submit_site)
            if self._to_cancel(site):
                self._run("cancel", site, self._cancel_site)

    def _choose_site(self) -> str | None:
        """Return the best site without trouble; None if all have some."""
        order = in_order(self._sites, self._health, self.waits, last=self._tired_sites())
        return next((site for site in order if self._may_ask(site)), None)

    def _move(self) -> None:
        """Let jobs go elsewhere that have waited at one of several sites for too long."""
        now = self._clock()
        free = [site for site in self._sites if site not in self._troubles]
        tried = self._tired_sites()
        for job in list(self._jobs.values()):
            if job.leaving or job.status.state is not JobState.QUEUED or job.site not in free:
                continue
            waited, patience = now - job.submitted, self._policies[job.site].patience
            other = next_site(
                job.site,
                waited,
                patience,
                sites=free,
                health=self._health,
                waits=self.waits,
                tried=tried,
            )
            if other:
                words = moved_words(job.site, other, waited)
                log.info("job %s: %s", job.key, words)
                self._tired[job.site] = now
                self._jobs[job.key] = replace(job, leaving=words, moves=True)

    def _tired_sites(self) -> set[str]:
        """Return sites at which a job has waited for too long of late."""
        now = self._clock()
        return {s for s, since in self._tired.items() if now - since < self._policies[s].patience}

    def _may_ask(self, site: str) -> bool:
        """Tell whether new jobs may go to a site: it has no trouble, or may have left it behind."""
        trouble = self._troubles.get(site)
        return trouble is None or (trouble.final and trouble.is_due(self._clock()))

    # --- submitting ----------------------------------------------------------------------------

    def _enlist(self, site: str, sizes: Iterable[int]) -> None:
        """Give new jobs their keys; from now on they count, and are never made twice."""
        now = self._clock()
        for size in sizes:
            self._serial += 1
            key = f"{self._prefix}-{self._serial}"
            self._jobs[key] = FleetJob(key, site, size, submitted=now)

    def _unconfirmed(self, site: str) -> list[FleetJob]:
        trouble = self._troubles.get(site)
        if trouble and not trouble.is_due(self._clock()):
            return []
        return [
            job
            for job in self._jobs.values()
            if job.site == site and not job.handle and not job.leaving and not job.ended
        ]

    async def _submit_site(self, site: str) -> None:
        sizes = Counter(job.workers for job in self._unconfirmed(site))
        for size in sizes:
            keys = [job.key for job in self._unconfirmed(site) if job.workers == size]
            if not keys:
                continue
            try:
                spec, secrets = self._recruiter.prepare(site, size, keys)
                handles = await self._sites[site].submit(spec, secrets)
            except OffloadError as error:
                if not error.transient:
                    for key in keys:
                        self._jobs.pop(key, None)
                raise
            self._troubles.pop(site, None)
            log.info("site %s: submitted %d jobs of %d workers", site, len(handles), size)
            for key, handle in handles.items():
                if key in self._jobs:
                    self._jobs[key] = replace(self._jobs[key], handle=handle)

    def _note_trouble(self, site: str, error: OffloadError) -> None:
        old = self._troubles.get(site)
        self._troubles[site] = next_trouble(old, error, self._clock())
        if old is None:
            log.warning("site %s: %s", site, error)

    # --- letting go ----------------------------------------------------------------------------

    def _leave(self, key: str, reason: str) -> None:
        self._jobs[key] = replace(self._jobs[key], leaving=reason, moves=False)

    def _release(self, key: str) -> None:
        """Retire a working job as a whole; it is cancelled once its workers have handed over."""
        job = self._jobs[key]
        # Far enough in the past or future, `cancel_asked` also says when to cancel next.
        self._jobs[key] = replace(
            job,
            leaving="no longer wanted",
            cancel_asked=self._clock() + timedelta(seconds=_RELEASE_S) - CANCEL_AGAIN,
        )

        async def release(_: str) -> None:
            try:
                async with asyncio.timeout(_RELEASE_S):
                    await self._recruiter.retire(job, job.workers)
            except TimeoutError:
                log.warning("job %s: its workers did not hand over in %.0f s", key, _RELEASE_S)
            if key in self._jobs:
                self._jobs[key] = replace(self._jobs[key], cancel_asked=None)

        self._run(f"release {key}", job.site, release)

    def _trim(self) -> None:
        """Retire the workers that a job has too many, those too that register late."""
        for job in self._jobs.values():
            extra = self._recruiter.registered(job) - job.workers
            if job.counts and not job.moves and extra > 0:
                retire = functools.partial(self._retire, job, extra)
                self._run(f"trim {job.key}", job.site, retire)

    async def _retire(self, job: FleetJob, workers: int, _site: str) -> None:
        await self._recruiter.retire(job, workers)

    def _to_cancel(self, site: str) -> list[FleetJob]:
        return to_cancel([job for job in self._jobs.values() if job.site == site], self._clock())

    async def _cancel_site(self, site: str) -> None:
        jobs = self._to_cancel(site)
        backend = self._sites[site]
        if any(job.handle is None for job in jobs):
            # A submission that was cut off may have gone through.
            found = await backend.find(self._prefix + "-")
            for job in jobs:
                if job.handle is None and job.key in found:
                    self._jobs[job.key] = replace(job, handle=found[job.key])
                elif job.handle is None:
                    del self._jobs[job.key]
            jobs = [self._jobs[job.key] for job in jobs if job.key in self._jobs]
        try:
            await backend.cancel([job.handle for job in jobs if job.handle is not None])
        finally:  # a site that refuses is not asked at every step either
            for job in jobs:
                if job.key in self._jobs:
                    self._jobs[job.key] = replace(self._jobs[job.key], cancel_asked=self._clock())

    def _forget(self) -> None:
        ended = [job.key for job in self._jobs.values() if job.ended]
        for key in ended[:-_ENDED_KEPT]:
            del self._jobs[key]
            self._noted.discard(key)
        for task_key, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[task_key]

    # --- the end -------------------------------------------------------------------------------

    async def close(self, *, timeout_s: float = 30.0) -> list[FleetJob]:
        """End all jobs, and return those that the site has not confirmed as ended in time.

        Never raises for a site that is silent: its jobs are among those returned.
        """
        self._closing, self.wanted = "closing", 0
        for job in self._jobs.values():
            if not job.ended:
                self._jobs[job.key] = replace(job, leaving="its cluster ends", cancel_asked=None)
        self._troubles.clear()
        try:
            async with asyncio.timeout(timeout_s):
                while rest := [job for job in self._jobs.values() if not job.ended]:
                    self._polled.clear()
                    await self.step({job.key: job.agent for job in rest})
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        await self.leave()
        return [job for job in self._jobs.values() if not job.ended]

    async def leave(self) -> None:
        """Stop what is under way, and leave all jobs as they are."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
