"""One Dask cluster of one user: its fleet, its agents, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dask_offload.recruit import WorkerJobs
from dask_offload.snapshot import Snapshot, WorkerInfo, make_snapshot
from dask_offload.tls import Credential
from offload_relay.access import RelayAccess, user_label
from offload_relay.lease import Lease, sign
from offload_relay.owner import Owner
from offload_service.bodies import HeartbeatBody
from offload_service.bookkeeper import Bookkeeper
from offload_service.made import Made
from offload_service.notebook_side import NotebookSide
from offload_service.recorded_site import RecordedSite, known_job, record_of
from offload_service.settings import ServiceSettings
from offload_service.site_pool import SitePool
from offload_service.store import ClusterRow, ClusterStore
from offload_sites.errors import LedgerError
from offload_sites.fleet import Fleet
from offload_sites.fleet_json import fleet_to_json
from offload_sites.fleet_plan import FleetJob, Policy
from offload_sites.fleet_view import FleetSnapshot
from offload_sites.jobs import AgentStatus, JobSpec, JobState, JobStatus, SecretFiles
from offload_sites.ledger import JobRecord, Waits

__all__ = ["Cluster", "Tools"]

log = logging.getLogger(__name__)

_TICK_S = 0.25
_QUIET_TICK_S = 1.0
_START_AGAIN_S = 5.0
_CLOSE_S = 20.0
# As long as a fleet counts what it has lost.
_FAILURES_COUNT = timedelta(hours=1)
_CLOSE_AGAIN_S = (2.0, 5.0, 15.0, 60.0)
# Signed anew for each connection to the relay, which ends with it.
_WATCH_LEASE = timedelta(days=1)
# How much longer than a job may take a certificate is good, and when a new one is asked for.
_CREDENTIAL_SPARE = timedelta(hours=24)


@dataclass(frozen=True)
class Tools:
    """What all clusters of a service share."""

    settings: ServiceSettings
    pool: SitePool
    books: Bookkeeper
    store: ClusterStore
    agent: Path


def _now() -> datetime:
    return datetime.now(UTC)


class Cluster:
    """One cluster. Runs from `start` until it has ended, or `stop`, which leaves its jobs alone.

    Parameters
    ----------
    row : ClusterRow
        As it is kept.
    tools : Tools
        What it shares with the others.
    jobs : sequence of JobRecord
        What the ledger knows of its jobs, ended ones included, after a restart.
    """

    def __init__(self, row: ClusterRow, tools: Tools, jobs: Sequence[JobRecord] = ()) -> None:
        self.id = row.id
        self.user = row.user
        self.name = row.name
        self.created = row.created
        self.token_hash = row.token_hash
        self.made = Made.from_json(row.made)
        self.notebook = NotebookSide(_now())
        #: Why it is to end; empty while it goes on.
        self.closing = row.closing
        #: Set once nothing of it is left.
        self.ended = asyncio.Event()
        self._tools = tools
        self._wanted = row.wanted
        self._unsaved: dict[str, object] = {}
        self._known: Sequence[FleetJob] = [
            known_job(job, _now()) for job in jobs if _matters(job, row.retried, _now())
        ]
        self._recorded: dict[str, JobRecord] = {job.key: job for job in jobs}
        self._poked = asyncio.Event()
        self._fleet: Fleet | None = None
        self._shown = FleetSnapshot(row.wanted, tuple(self._known), "", (), {}, None)
        # Larger than any that the notebook's side may have seen before a restart of this service.
        self._version = int(_now().timestamp() * 1000)
        self._carried: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._owner = Owner(
            tools.settings.relay.url,
            lambda: self.owner_lease(_WATCH_LEASE),
            self._poked.set,
            tls=relay_tls(tools.settings.relay),
        )

    @property
    def domain(self) -> str:
        """Last labels of the nets of its jobs."""
        return f"{self.id}.{user_label(self.user)}"

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._wanted

    @property
    def jobs(self) -> Sequence[FleetJob]:
        """All its jobs, the oldest first; ended ones for a while."""
        return self._shown.jobs

    @property
    def left(self) -> list[str]:
        """Its jobs that have not ended, by handle or key."""
        return [str(job.handle or job.key) for job in self.jobs if not job.ended]

    @property
    def trouble(self) -> str:
        """Why the relay cannot be reached; empty if it can."""
        return self._owner.trouble

    def owner_lease(self, lifetime: timedelta) -> str:
        """Return the right to dial its workers, and to watch and end its agents; no other's."""
        lease = Lease(
            role="owner",
            user=self.user,
            domain=self.domain,
            expires=_now() + lifetime,
            dial=(f"*.{self.domain}",),
        )
        return sign(lease, self._tools.settings.relay.key)

    @property
    def credential_for(self) -> timedelta:
        """How long a worker's certificate has to be good."""
        return self.made.lifetime + 2 * _CREDENTIAL_SPARE

    # --- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to keep its workers."""
        self._task = asyncio.create_task(self._run(), name=f"cluster-{self.id}")

    async def stop(self) -> None:
        """Stop to do so, and leave its jobs as they are: the service will be back."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while not self.ended.is_set():
            try:
                async with contextlib.AsyncExitStack() as stack:
                    fleet = await self._take_up(stack)
                    while not self.closing:
                        await self._turn(fleet)
                    await self._end(fleet)
            except Exception:  # the cluster must go on, and the others too; the traceback is logged
                log.exception("cluster %s", self.id)
                await asyncio.sleep(_START_AGAIN_S)
                self._known = self._shown.jobs

    async def _take_up(self, stack: contextlib.AsyncExitStack) -> Fleet:
        """Return the fleet with the jobs that are known, watched and with its sites at hand."""
        await stack.enter_async_context(self._owner)
        sites = {}
        for name in self.made.sites:
            site = await stack.enter_async_context(self._tools.pool.open(name, self.user))
            sites[name] = RecordedSite(site, self._tools.books, self._records)
        policies = {
            name: Policy(site.workers_per_job, patience=self.made.patience)
            for name, site in self.made.sites.items()
        }
        keys = [*self._recorded, *(job.key for job in self._known)]
        serial = max(map(_number, keys), default=0)
        fleet = Fleet(
            self.id,
            sites,
            self,
            policies,
            known=self._known,
            serial=serial,
            changed=self._poked.set,
        )
        fleet.wanted = self._wanted
        if len(sites) > 1:
            fleet.waits = await self._waits()
        stack.push_async_callback(fleet.leave)
        self._fleet = fleet
        return fleet

    async def _waits(self) -> Mapping[str, Waits]:
        """Return how long jobs of its profile waited at each site; without experience, nothing."""
        try:
            found = await asyncio.to_thread(self._tools.books.ledger.all_waits)
        except LedgerError:
            return {}
        return {
            site: wait for (profile, site), wait in found.items() if profile == self.made.profile
        }

    async def _turn(self, fleet: Fleet) -> None:
        self._poked.clear()
        fleet.ready = self.notebook.crew is not None
        try:
            await fleet.step(self._agents(), heard=not self._owner.trouble)
        except Exception:  # the loop must survive; the traceback is logged
            log.exception("cluster %s", self.id)
        await self._publish(fleet)
        self._owner.forget_others({job.key for job in fleet.jobs})
        grace = self._tools.settings.owner_grace
        if _now() - self.notebook.seen > grace:
            seconds = grace.total_seconds()
            await self.close(f"its notebook has not been heard of for {seconds:.0f} s")
            return
        moving = any(not job.connected for job in self.jobs if job.counts) or not fleet.ready
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S if moving else _QUIET_TICK_S):
                await self._poked.wait()

    def _agents(self) -> dict[str, AgentStatus]:
        return {key: AgentStatus.from_entry(entry) for key, entry in self._owner.agents.items()}

    async def _publish(self, fleet: Fleet) -> None:
        """Note what has changed, for the notebook's side, for people, and in the ledger."""
        self._count_bytes()  # before agents that have ended are forgotten
        new = fleet.snapshot()
        if replace(new, polled=None) != replace(self._shown, polled=None):
            self._version += 1
            changed = [record for record in self._records(new.jobs) if self._is_news(record)]
            changed += self._vanished({job.key for job in new.jobs})
            self._recorded.update({record.key: record for record in changed})
            self._tools.books.later(changed)
        self._shown = new
        await self._save()

    def _records(self, jobs: Iterable[FleetJob] | None = None) -> list[JobRecord]:
        """Return what the ledger is to know of `jobs`; None: of all that there are."""
        if jobs is None:
            jobs = self._fleet.jobs if self._fleet is not None else ()
        return [record_of(job, self.user, self.id, self.made) for job in jobs]

    def _is_news(self, record: JobRecord) -> bool:
        return self._recorded.get(record.key) != record

    def _vanished(self, there: Collection[str]) -> list[JobRecord]:
        """Return the end of jobs that were written down, and then not accepted by their site."""
        return [
            replace(record, state=JobState.CANCELED, reason="it was not accepted by its site")
            for key, record in self._recorded.items()
            if key not in there and not record.state.ended
        ]

    # --- its end ---------------------------------------------------------------------------------

    async def close(self, reason: str) -> None:
        """Have it end. Returns at once; `ended` is set when nothing is left."""
        if not self.closing:
            log.info("cluster %s of %s ends: %s", self.id, self.user, reason)
            self.closing = reason
            self._unsaved["closing"] = reason
            await self._save()
        self._poked.set()

    async def _end(self, fleet: Fleet) -> None:
        """End its jobs, for as long as that takes: a site that is silent now will be asked again."""
        await self._owner.gone([], self.closing)
        for attempt in range(1_000_000):
            left = await fleet.close(timeout_s=_CLOSE_S)
            await self._publish(fleet)
            gone = [job for job in left if _now() - job.submitted > self.made.lifetime]
            if len(gone) == len(left):
                break
            log.warning("cluster %s: %d jobs may still be there", self.id, len(left))
            await asyncio.sleep(_CLOSE_AGAIN_S[min(attempt, len(_CLOSE_AGAIN_S) - 1)])
        # What nobody has confirmed cannot run any more: its walltime is over.
        over = JobStatus(JobState.CANCELED, "not confirmed by its site, and its time is over")
        self._tools.books.later(self._records([replace(job, status=over) for job in left]))
        with contextlib.suppress(LedgerError):
            # Jobs first: a cluster that has ended is not looked at again after a restart.
            await self._tools.books.flush()
            self._unsaved["ended"] = _now()
            await self._save()
        log.info("cluster %s of %s has ended", self.id, self.user)
        self.ended.set()

    async def _save(self) -> None:
        """Write what has not been written; what runs does not depend on it."""
        if not self._unsaved:
            return
        values, self._unsaved = self._unsaved, {}
        try:
            await self._tools.books.write(lambda: self._tools.store.update(self.id, **values))
        except LedgerError:
            self._unsaved = {**values, **self._unsaved}

    # --- what callers ask ------------------------------------------------------------------------

    async def scale(self, workers: int) -> None:
        """Want `workers` workers. Raises LedgerError for more than now if that cannot be kept."""
        if workers > self._wanted:
            await self._tools.books.write(lambda: self._tools.store.update(self.id, wanted=workers))
        # Also what has just been written: an earlier number may still wait to be.
        self._unsaved["wanted"] = workers
        self._wanted = workers
        self._version += 1
        if self._fleet is not None:
            self._fleet.wanted = workers
        self._shown = replace(self._shown, wanted=workers)
        self._poked.set()

    def retry(self) -> None:
        """Forget past failures, and start the refill again."""
        if self._fleet is not None:
            self._fleet.retry()
            self._shown = self._fleet.snapshot()
            self._unsaved["retried"] = _now()
        self._version += 1
        self._poked.set()

    def heard(self, body: HeartbeatBody) -> None:
        """Take in a heartbeat."""
        had_crew = self.notebook.crew is not None
        self.notebook.heard(body, _now())
        if not had_crew and self.notebook.crew is not None:
            self._poked.set()

    async def logs(self, job: str | None) -> dict[str, str]:
        """Return the ends of the logs of one job, or of all, by key. Raises OffloadError."""
        return await self._fleet.all_logs(job) if self._fleet is not None else {}

    def answer(self, *, seen: int, most: int, seed: int) -> dict[str, Any]:
        """Return what the notebook's side is told: always what it is to do, and the fleet if new."""
        renew = _now() - self.notebook.crew_since > _CREDENTIAL_SPARE
        return {
            "version": self._version,
            "fleet": fleet_to_json(self._shown) if seen != self._version else None,
            "carried": self._count_bytes(),
            "trouble": self.trouble,
            "ending": self.closing,
            "most": most,
            "seed": seed,
            "crew": self.notebook.crew is None or renew,
            **self.notebook.orders(),
        }

    def _count_bytes(self) -> int:
        """Return how many bytes the relay has carried, both ways, jobs that have ended included."""
        for key, entry in self._owner.agents.items():
            self._carried[key] = int(entry.get("bytes_in", 0)) + int(entry.get("bytes_out", 0))
        return sum(self._carried.values())

    def snapshot(self) -> Snapshot:
        """Return all that is shown of it to people."""
        made = self.made
        base = Snapshot(
            name=self.name,
            version=self._version,
            wanted=self._wanted,
            title=made.title,
            image=made.image.title or made.image.name,
            adaptive=self.notebook.adaptive,
            bytes_through_relay=self._count_bytes(),
            gpus_per_worker=made.unit.gpus,
            workers_per_job=next(iter(made.sites.values())).workers_per_job,
        )
        workers = [
            WorkerInfo(f"{job.key}-{number}", made.unit.cpus, made.unit.memory_bytes)
            for job in self.jobs
            for number in range(self.notebook.registered(job.key))
        ]
        titles = {name: site.title for name, site in made.sites.items()}
        return make_snapshot(base, self._shown, workers, titles, trouble=self.trouble)

    # --- what the fleet asks ---------------------------------------------------------------------

    def prepare(
        self, site: str, workers: int, keys: Sequence[str]
    ) -> tuple[JobSpec, Mapping[str, SecretFiles]]:
        """Return the spec of jobs with `workers` workers each at `site`, and each job's secrets."""
        crew = self.notebook.crew
        assert crew is not None  # noqa: S101  # the fleet is not `ready` before
        made, settings = self.made, self._tools.settings
        tls = Credential(crew.tls.ca, crew.tls.cert, crew.tls.key)
        jobs = WorkerJobs(
            domain=self.domain,
            user=self.user,
            scheduler=crew.scheduler,
            relay=settings.relay,
            credential=lambda _: tls,
            agent=self._tools.agent,
            image=made.image,
            unit=made.unit,
            walltime=made.walltime,
            queue_budget=made.queue_budget,
            unreachable=made.unreachable,
            places={name: one.place for name, one in made.sites.items()},
            settings={
                **crew.settings.model_dump(),
                "preload": [*made.preload, *crew.settings.preload],
            },
            environment=made.environment,
            labels={"owner": self.user, "cluster": self.name, "profile": made.profile},
            unwatched=settings.unwatched,
        )
        return jobs.prepare(site, workers, keys)

    async def retire(self, job: FleetJob, workers: int) -> None:
        """Let `workers` workers of `job` hand over their results and end."""
        await self.notebook.retire(job.key, workers)

    def registered(self, job: FleetJob) -> int:
        """Return how many workers of `job` are there."""
        return self.notebook.registered(job.key)

    async def dismiss(self, keys: Sequence[str]) -> None:
        """Tell the agents of these jobs that nobody needs them any more."""
        await self._owner.gone(list(keys), "its job is no longer wanted")

    def idle_first(self) -> Sequence[str]:
        """Return keys of working jobs in the order in which they are best let go."""
        return self.notebook.idle_first()


def relay_tls(relay: RelayAccess) -> ssl.SSLContext | None:
    """Return what a `wss://` relay is checked against."""
    if not relay.url.startswith("wss://"):
        return None
    return ssl.create_default_context(cadata=relay.ca or None)


def _matters(job: JobRecord, retried: datetime | None, now: datetime) -> bool:
    """Tell whether a fleet has to know a job again: it is there, or it counts as a failure."""
    if job.ended is None:
        return True
    failed = job.state is JobState.FAILED and now - job.ended < _FAILURES_COUNT
    return failed and (retried is None or job.ended > retried)


def _number(key: str) -> int:
    number = key.rpartition("-")[2]
    return int(number) if number.isdigit() else 0
