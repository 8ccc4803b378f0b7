"""The one reconciler: keeps as many workers in jobs as are wanted. A thin loop around `fleet_plan`.

Nothing here waits for a slow site: each site is polled, asked to submit and asked to cancel by
tasks of its own, and `Fleet.step` decides on what is known by then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from offload_sites.backend import SiteBackend
from offload_sites.choose import in_order, moved_words, next_site
from offload_sites.errors import OffloadError
from offload_sites.fleet_failures import Failures
from offload_sites.fleet_logs import read_logs
from offload_sites.fleet_plan import (
    CANCEL_AGAIN,
    FleetJob,
    Policy,
    decide,
    missing_agent,
    nearly_over,
    to_cancel,
)
from offload_sites.fleet_site import FleetSite
from offload_sites.fleet_view import FleetSnapshot, Recruiter
from offload_sites.jobs import AgentState, AgentStatus, JobState, SiteHealth
from offload_sites.ledger_records import Waits

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

# How long a step waits for its sites before it decides with what it knows.
_POLL_WAIT_S = 2.0
_RELEASE_S = 90.0
# An agent that has been told to go and is still there is told again after this time.
_DISMISS_AGAIN = timedelta(seconds=5)
_ENDED_KEPT = 100
_NEARLY_OVER = "its walltime is nearly over"
# Longer than an agent lets its payload finish: then it has ended by itself.
_LAST_MINUTES = timedelta(minutes=5)


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
    changed : callable
        Called when a site has taken jobs, between two steps: who shows them need not wait.
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
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._prefix = prefix
        self._sites = {
            name: FleetSite(name, backend, policies[name], clock) for name, backend in sites.items()
        }
        self._recruiter = recruiter
        self._changed = changed
        self._clock = clock
        self._serial = serial
        self._jobs: dict[str, FleetJob] = {job.key: job for job in known}
        self._failures = Failures(policies, self._jobs.values())
        self._dismissed: dict[str, datetime] = {}
        self._heard_since: datetime | None = None
        self._closing = False
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
        """Why no more jobs are submitted, but one to see if they work; empty if the refill goes on."""
        why = [self._failures.stopped(n) or site.refusal for n, site in self._sites.items()]
        return self._spent or (why[0] if all(why) else "")

    @property
    def _spent(self) -> str:
        jobs = -(-self.wanted // next(iter(self._sites.values())).policy.workers_per_job)
        return self._failures.spent(self._clock(), jobs)

    def snapshot(self) -> FleetSnapshot:
        """Return all that can be shown."""
        return FleetSnapshot(
            self.wanted,
            tuple(self.jobs),
            self.stopped,
            self._failures.all,
            {site.name: site.trouble for site in self._sites.values() if site.trouble},
            min((site.polled for site in self._sites.values() if site.polled), default=None),
        )

    async def all_logs(self, job: str | None = None) -> dict[str, str]:
        """Return what jobs have printed; see `read_logs`."""
        backends = {name: site.backend for name, site in self._sites.items()}
        return await read_logs(self.jobs, backends, job)

    def retry(self) -> None:
        """Forget past failures and refusals, and start the refill again."""
        self._failures.clear()
        for site in self._sites.values():
            site.trouble = None

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
            self._jobs[key] = job.heard(agent, self._clock())
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
            and now - self._dismissed.get(key, now - _DISMISS_AGAIN) >= _DISMISS_AGAIN
        ]
        if unwanted:
            await self._recruiter.dismiss(unwanted)
            self._dismissed |= dict.fromkeys(unwanted, now)

    async def _poll(self) -> None:
        asked: list[asyncio.Task[None]] = []
        for site in self._sites.values():
            if site.under_way("poll") or site.poll_due(self._at(site)):
                asked.append(site.start("poll", functools.partial(self._poll_site, site)))
            if len(self._sites) > 1 and (site.under_way("health") or site.health_due):
                asked.append(site.start("health", site.ask_health))
        if asked:
            await asyncio.wait(asked, timeout=_POLL_WAIT_S)

    def _at(self, site: FleetSite) -> list[FleetJob]:
        return [job for job in self._jobs.values() if job.site == site.name]

    async def _poll_site(self, site: FleetSite) -> None:
        asked = {
            job.handle: job.key
            for job in self._at(site)
            if job.handle is not None and not job.ended
        }
        for handle, status in (await site.status(asked)).items():
            job = self._jobs.get(asked.get(handle, ""))
            if job is not None:
                seen = job.seen(status)
                if seen.status.state is not job.status.state:
                    state = seen.status.state.name
                    log.info("job %s (%s): %s: %s", handle, job.key, state, status.reason)
                self._jobs[job.key] = seen

    def _note_failures(self) -> None:
        now = self._clock()
        for failure in self._failures.look(self.jobs, now, self._heard_since or now):
            if not self._jobs[failure.key].ended:
                self._leave(failure.key, failure.reason)

    def _act(self) -> None:
        if not self._closing:
            self._hand_over()
            self._move()
            self._approach()
        for site in self._sites.values():
            if self.ready and self._unconfirmed(site):
                site.start("submit", functools.partial(self._submit_site, site))
            if self._to_cancel(site):
                site.start("cancel", functools.partial(self._cancel_site, site))
            if all(job.ended or (job.handle and not job.leaving) for job in self._at(site)):
                site.forget_silence()

    def _approach(self) -> None:
        """Decide what brings the workers nearer to what is wanted, and note it in the jobs."""
        site = self._choose_site()
        plan = decide(
            tuple(self._jobs.values()),
            self.wanted,
            (site or next(iter(self._sites.values()))).policy,
            idle_first=self._recruiter.idle_first(),
        )
        if not plan.submit:
            for one in self._sites.values():
                one.forget_limit()
        for key in plan.cancel:
            self._leave(key, "no longer wanted")
        for key in plan.release:
            self._release(key)
        for key, count in plan.trim.items():
            self._jobs[key] = replace(self._jobs[key], workers=self._jobs[key].workers - count)
        self._trim()
        if plan.submit and self.ready and site and not self.stopped:
            self._enlist(site, plan.submit)
        elif plan.submit and self.ready and not self._spent:
            self._try_again(plan.submit[0])

    def _try_again(self, size: int) -> None:
        """Send a job to a site where none works, if it is time to see whether one does."""
        for name, site in self._sites.items():
            if site.takes_jobs and self._failures.try_again(name, self.jobs, self._clock()):
                self._enlist(site, [size])
                break

    def _hand_over(self) -> None:
        """Have jobs replaced whose walltime is nearly over, and let them go once others are there.

        Jobs that have started together end together, so that there would be nobody to take results.
        """
        now = self._clock()
        there = sum(self._recruiter.registered(job) for job in self._jobs.values() if job.counts)
        for job in list(self._jobs.values()):
            if nearly_over(job, now):
                log.info("job %s: %s", job.key, _NEARLY_OVER)
                self._jobs[job.key] = replace(
                    job, leaving=_NEARLY_OVER, cancel_asked=now + _LAST_MINUTES
                )
            elif (
                job.leaving == _NEARLY_OVER
                and self._recruiter.registered(job)
                and there >= min(self.wanted, job.workers)
            ):
                retire = functools.partial(self._recruiter.retire, job, job.workers)
                self._sites[job.site].start(f"hand over {job.key}", retire)

    def _choose_site(self) -> FleetSite | None:
        """Return the best site that jobs may go to; one that may still be in trouble goes last."""
        order = in_order(self._sites, self._health(), self.waits, last=self._tired())
        sites = [self._sites[name] for name in order if not self._failures.stopped(name)]
        sites.sort(key=lambda site: site.trouble is not None)
        return next((site for site in sites if site.takes_jobs), None)

    def _move(self) -> None:
        """Let jobs go elsewhere that have waited at one of several sites for too long."""
        now = self._clock()
        stopped = self._failures.stopped
        free = [
            name for name, site in self._sites.items() if not site.trouble and not stopped(name)
        ]
        tried = self._tired()
        for job in list(self._jobs.values()):
            if job.leaving or job.status.state is not JobState.QUEUED or job.site not in free:
                continue
            waited, site = now - job.submitted, self._sites[job.site]
            other = next_site(
                job.site,
                waited,
                site.policy.patience,
                sites=free,
                health=self._health(),
                waits=self.waits,
                tried=tried,
            )
            if other:
                words = moved_words(job.site, other, waited)
                log.info("job %s: %s", job.key, words)
                site.tire()
                self._jobs[job.key] = replace(job, leaving=words, moves=True)

    def _health(self) -> dict[str, SiteHealth]:
        return {name: site.health for name, site in self._sites.items() if site.health}

    def _tired(self) -> set[str]:
        return {name for name, site in self._sites.items() if site.tired}

    # --- submitting ----------------------------------------------------------------------------

    def _enlist(self, site: FleetSite, sizes: Iterable[int]) -> None:
        """Give new jobs their keys; from now on they count, and are never made twice."""
        now = self._clock()
        for size in sizes:
            self._serial += 1
            key = f"{self._prefix}-{self._serial}"
            self._jobs[key] = FleetJob(key, site.name, size, submitted=now)

    def _unconfirmed(self, site: FleetSite) -> list[FleetJob]:
        if site.waits_for_retry:
            return []
        return [
            job for job in self._at(site) if not job.handle and not job.leaving and not job.ended
        ]

    async def _submit_site(self, site: FleetSite) -> None:
        sizes = {job.workers for job in self._unconfirmed(site)}
        # At a time: a call may take a second, and the jobs of a large fleet have two sizes.
        done = await asyncio.gather(
            *(self._submit(site, size) for size in sizes), return_exceptions=True
        )
        for result in done:
            if isinstance(result, BaseException):
                raise result

    async def _submit(self, site: FleetSite, size: int) -> None:
        """Submit the jobs of `size` workers that are not confirmed yet, in one go."""
        keys = [job.key for job in self._unconfirmed(site) if job.workers == size]
        try:
            handles, full = await site.submit(self._recruiter, size, keys)
        except OffloadError as error:
            if not error.transient:
                self._drop(keys)
            raise
        for key, handle in handles.items():
            if key in self._jobs:
                self._jobs[key] = replace(self._jobs[key], handle=handle)
        if handles:
            self._changed()
        if full:
            self._drop(job.key for job in self._unconfirmed(site) if job.workers == size)
            raise full

    def _drop(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            self._jobs.pop(key, None)

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

        async def release() -> None:
            try:
                async with asyncio.timeout(_RELEASE_S):
                    await self._recruiter.retire(job, job.workers)
            except TimeoutError:
                log.warning("job %s: its workers did not hand over in %.0f s", key, _RELEASE_S)
            if key in self._jobs:
                self._jobs[key] = replace(self._jobs[key], cancel_asked=None)

        self._sites[job.site].start(f"release {key}", release)

    def _trim(self) -> None:
        """Retire the workers that a job has too many, those too that register late."""
        for job in self._jobs.values():
            extra = self._recruiter.registered(job) - job.workers
            if job.counts and not job.moves and extra > 0:
                retire = functools.partial(self._recruiter.retire, job, extra)
                self._sites[job.site].start(f"trim {job.key}", retire)

    def _to_cancel(self, site: FleetSite) -> list[FleetJob]:
        # What is being submitted cannot be found yet, and will be there: it is canceled after that.
        sending = site.under_way("submit")
        jobs = [job for job in self._at(site) if job.handle or not sending]
        return to_cancel(jobs, self._clock())

    async def _cancel_site(self, site: FleetSite) -> None:
        jobs, backend = self._to_cancel(site), site.backend
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
            self._failures.forget(key)
            self._dismissed.pop(key, None)
        for site in self._sites.values():
            site.forget_done()

    # --- the end -------------------------------------------------------------------------------

    async def close(self, *, timeout_s: float = 30.0) -> list[FleetJob]:
        """End all jobs, and return those that the site has not confirmed as ended in time.

        Never raises for a site that is silent: its jobs are among those returned.
        """
        self._closing, self.wanted = True, 0
        for job in self._jobs.values():
            if not job.ended:
                self._jobs[job.key] = replace(job, leaving="its cluster ends", cancel_asked=None)
        for site in self._sites.values():
            site.trouble = None
        try:
            async with asyncio.timeout(timeout_s):
                while rest := [job for job in self._jobs.values() if not job.ended]:
                    for site in self._sites.values():
                        site.polled = None
                    await self.step({job.key: job.agent for job in rest})
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        await self.leave()
        return [job for job in self._jobs.values() if not job.ended]

    async def leave(self) -> None:
        """Stop what is under way, and leave all jobs as they are."""
        await asyncio.gather(*(site.stop() for site in self._sites.values()))
