"""A back end that writes into the ledger before it submits: what is sent has been written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Self

from offload_service.bookkeeper import Bookkeeper
from offload_service.made import Made
from offload_sites.backend import SiteBackend
from offload_sites.fleet_plan import FleetJob
from offload_sites.jobs import (
    AgentState,
    AgentStatus,
    JobHandle,
    JobLogs,
    JobSpec,
    JobStatus,
    SecretFiles,
    SiteHealth,
)
from offload_sites.ledger import JobRecord

__all__ = ["RecordedSite", "known_job", "record_of"]


class RecordedSite:
    """A `SiteBackend` around another, for one cluster. Does not own it.

    Parameters
    ----------
    site : SiteBackend
        Already entered.
    books : Bookkeeper
        Where jobs are written down.
    records : callable
        Returns what is known of all jobs of the cluster.
    """

    def __init__(
        self,
        site: SiteBackend,
        books: Bookkeeper,
        records: Callable[[], Iterable[JobRecord]],
    ) -> None:
        self._site = site
        self._books = books
        self._records = records

    @property
    def site(self) -> str:
        """Name of the site in the catalog."""
        return self._site.site

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def submit(
        self, spec: JobSpec, jobs: Mapping[str, SecretFiles]
    ) -> Mapping[str, JobHandle]:
        """Write the jobs down, then queue them. Raises LedgerError if they cannot be written."""
        await self._books.first([record for record in self._records() if record.key in jobs])
        return await self._site.submit(spec, jobs)

    async def status(self, handles: Iterable[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """Return the status of each of `handles`."""
        return await self._site.status(handles)

    async def cancel(self, handles: Iterable[JobHandle]) -> None:
        """End jobs."""
        await self._site.cancel(handles)

    async def find(self, key_prefix: str) -> Mapping[str, JobHandle]:
        """Find jobs."""
        return await self._site.find(key_prefix)

    async def logs(self, handle: JobHandle, *, tail_bytes: int = 65536) -> JobLogs:
        """Return what a job has printed."""
        return await self._site.logs(handle, tail_bytes=tail_bytes)

    async def health(self) -> SiteHealth:
        """Return how the site is."""
        return await self._site.health()


def record_of(job: FleetJob, user: str, cluster: str, made: Made) -> JobRecord:
    """Return what the ledger is to know of a job of workers."""
    return JobRecord(
        key=job.key,
        user=user,
        site=job.site,
        profile=made.profile,
        purpose="workers",
        submitted=job.submitted,
        image=made.image.name,
        group=cluster,
        workers=job.workers,
        resources=made.unit.times(max(1, job.workers)),
        handle=str(job.handle or ""),
        state=job.status.state,
        agent=job.agent.state,
        reason=(job.agent.ended if job.ended else "")
        or job.leaving
        or job.silent
        or job.status.reason,
        connected=job.connected,
    )


def known_job(record: JobRecord, now: datetime) -> FleetJob:
    """Return a job as a fleet knows it, from what the ledger has kept.

    An agent that was there is lost until the relay says that it is still there.
    """
    agent = AgentState.LOST if record.connected else AgentState.ABSENT
    return FleetJob(
        key=record.key,
        site=record.site,
        workers=record.workers,
        submitted=record.submitted,
        handle=JobHandle.parse(record.handle) if record.handle else None,
        status=JobStatus(record.state, record.reason, since=record.ended),
        agent=AgentStatus(agent, now if record.connected else None),
        connected=record.connected,
    )
