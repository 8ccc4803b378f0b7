"""The ledger: which jobs there were, whose, where, and how long they waited.

Sessions (written by the hub) and workers (written by the offload service) share it. Its calls are
short and synchronous; async callers use a thread. Nobody's job depends on it once it runs: an
unwritable ledger refuses new work and keeps what there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from offload_sites.database import Component, Database, Moment
from offload_sites.jobs import AgentState, JobState, Resources
from offload_sites.ledger_records import JobChange, JobRecord, Usage, Waits, merge, waits_of
from offload_sites.wording import shorten

__all__ = ["JOBS", "JobChange", "JobRecord", "Ledger", "Usage", "Waits"]

# How far back a wait still says something of the next one, and how many jobs say enough.
_EXPERIENCE = timedelta(days=7)
_MOST_WAITS = 20_000
_ENDED = [state.value for state in JobState if state.ended]
# SQLite takes 32766 parameters in one statement, older ones 999.
_CHUNK = 500
# Longer words of a site are cut; a job writes its log elsewhere.
_REASON = 2000

_tables = sa.MetaData()
_jobs = sa.Table(
    "offload_jobs",
    _tables,
    sa.Column("key", sa.String(63), primary_key=True),
    sa.Column("user", sa.String(255), nullable=False),
    sa.Column("site", sa.String(63), nullable=False),
    sa.Column("profile", sa.String(63), nullable=False),
    sa.Column("purpose", sa.String(20), nullable=False),
    sa.Column("image", sa.Text, nullable=False),
    sa.Column("group", sa.String(255), nullable=False),
    sa.Column("workers", sa.Integer, nullable=False),
    sa.Column("cpus", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    sa.Column("handle", sa.Text, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("agent", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("submitted", Moment, nullable=False),
    sa.Column("started", Moment),
    sa.Column("connected", Moment),
    sa.Column("ended", Moment),
    sa.Index("offload_jobs_waits", "connected", "profile", "site"),
    sa.Index("offload_jobs_of", "user", "group"),
    sa.Index("offload_jobs_ended", "ended"),
)
_changes = sa.Table(
    "offload_job_changes",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column(
        "key", sa.ForeignKey("offload_jobs.key", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("time", Moment, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("agent", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

#: The tables of jobs, in their present version.
JOBS = Component("jobs", _tables)


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """The ledger in one database. Safe to use from several threads and processes.

    Parameters
    ----------
    database : str or Database
        Where it is: see `Database` for the forms of a URL; or an open database with `JOBS`.
    clock : callable
        Returns aware UTC.

    Raises
    ------
    LedgerError
        It cannot be opened, or a newer release has written it.
    """

    def __init__(self, database: str | Database, *, clock: Callable[[], datetime] = _now) -> None:
        self._database = Database(database, JOBS) if isinstance(database, str) else database
        self._clock = clock

    def close(self) -> None:
        """Close its connections."""
        self._database.close()

    # --- writing -------------------------------------------------------------------------------

    def record(self, records: Iterable[JobRecord]) -> None:
        """Note what is known of jobs at this moment; all of them, or none.

        Whoever is about to submit calls this first, and submits only if it returns. Saying the same
        again changes nothing; what an earlier record knew and this one does not is kept.

        Raises
        ------
        LedgerError
            Nothing was noted. Do not submit; for jobs that run already, call again later.
        """
        new = {record.key: record for record in records}
        if not new:
            return
        now = self._clock()
        with self._database.write() as connection:
            old = self._known(connection, new)
            joined = {key: merge(old.get(key), record, now) for key, record in new.items()}
            fresh = [_row(job) for key, (job, _) in joined.items() if key not in old]
            known = [job for key, (job, _) in joined.items() if key in old and job != old[key]]
            if fresh:
                connection.execute(_jobs.insert(), fresh)
            for job in known:
                connection.execute(_jobs.update().where(_jobs.c.key == job.key).values(_row(job)))
            changes = [_change(job, now) for job, changed in joined.values() if changed]
            if changes:
                connection.execute(_changes.insert(), changes)

    def forget(self, before: datetime) -> int:
        """Drop jobs that ended before a time, with their changes; return how many."""
        with self._database.write() as connection:
            gone = sa.select(_jobs.c.key).where(_jobs.c.ended < before)
            connection.execute(_changes.delete().where(_changes.c.key.in_(gone)))
            return connection.execute(_jobs.delete().where(_jobs.c.ended < before)).rowcount

    def check(self) -> None:
        """Write something and take it back. Raises LedgerError if that is not possible."""
        probe = JobRecord("ledger-check", "", "", "", "", self._clock())
        with self._database.write() as connection:
            connection.execute(_jobs.delete().where(_jobs.c.key == probe.key))
            connection.execute(_jobs.insert().values(_row(probe)))
            connection.execute(_jobs.delete().where(_jobs.c.key == probe.key))

    # --- reading -------------------------------------------------------------------------------

    def waits(self, profile: str, site: str) -> Waits:
        """Return how long jobs of `profile` waited at `site` in the last 7 days."""
        return self.all_waits().get((profile, site), Waits())

    def all_waits(self) -> Mapping[tuple[str, str], Waits]:
        """Return profile and site to how long jobs waited there in the last 7 days, in one query."""
        since = self._clock() - _EXPERIENCE
        columns = (_jobs.c.profile, _jobs.c.site, _jobs.c.submitted, _jobs.c.connected)
        query = (
            sa.select(*columns)
            .where(_jobs.c.connected > since)
            .order_by(_jobs.c.connected.desc())
            .limit(_MOST_WAITS)
        )
        found: dict[tuple[str, str], list[timedelta]] = defaultdict(list)
        with self._database.read() as connection:
            for profile, site, submitted, connected in connection.execute(query):
                found[profile, site].append(connected - submitted)
        return {which: waits_of(waits) for which, waits in found.items()}

    def jobs(
        self,
        *,
        user: str | None = None,
        group: str | None = None,
        purpose: str | None = None,
        ended: bool = False,
        limit: int = 1000,
    ) -> Sequence[JobRecord]:
        """Return jobs, the newest first; those that have ended only if asked for."""
        query = sa.select(_jobs).order_by(_jobs.c.submitted.desc(), _jobs.c.key).limit(limit)
        if user is not None:
            query = query.where(_jobs.c.user == user)
        if group is not None:
            query = query.where(_jobs.c.group == group)
        if purpose is not None:
            query = query.where(_jobs.c.purpose == purpose)
        if not ended:
            query = query.where(_jobs.c.state.not_in(_ENDED))
        with self._database.read() as connection:
            return [_record(dict(row)) for row in connection.execute(query).mappings()]

    def job(self, key: str) -> JobRecord | None:
        """Return the job called `key`; None if there was none."""
        with self._database.read() as connection:
            return self._known(connection, [key]).get(key)

    def changes(self, key: str) -> Sequence[JobChange]:
        """Return the states that a job went through, the first one first."""
        query = sa.select(_changes).where(_changes.c.key == key).order_by(_changes.c.number)
        with self._database.read() as connection:
            return [
                JobChange(
                    row["key"],
                    row["time"],
                    JobState(row["state"]),
                    AgentState(row["agent"]),
                    row["reason"],
                )
                for row in connection.execute(query).mappings()
            ]

    def usage(self) -> Sequence[Usage]:
        """Return who has what at this moment, by user, site, profile and purpose."""
        by = (_jobs.c.user, _jobs.c.site, _jobs.c.profile, _jobs.c.purpose)
        here = sa.case((_jobs.c.agent == AgentState.CONNECTED.value, 1), else_=0)
        sums = (
            sa.func.count(),
            sa.func.sum(here),
            *(
                sa.func.sum(column)
                for column in (_jobs.c.workers, _jobs.c.cpus, _jobs.c.memory_bytes, _jobs.c.gpus)
            ),
        )
        query = (
            sa.select(*by, *sums).where(_jobs.c.state.not_in(_ENDED)).group_by(*by).order_by(*by)
        )
        with self._database.read() as connection:
            # PostgreSQL adds up to a decimal number.
            return [Usage(*row[:4], *map(int, row[4:])) for row in connection.execute(query)]

    def _known(self, connection: sa.Connection, keys: Collection[str]) -> dict[str, JobRecord]:
        found: dict[str, JobRecord] = {}
        asked = sorted(keys)
        for start in range(0, len(asked), _CHUNK):
            query = sa.select(_jobs).where(_jobs.c.key.in_(asked[start : start + _CHUNK]))
            if connection.get_execution_options().get("offload_write"):
                query = query.with_for_update()  # SQLite has the whole file locked already
            for row in connection.execute(query).mappings():
                found[row["key"]] = _record(dict(row))
        return found


def _row(job: JobRecord) -> dict[str, Any]:
    names = [column.name for column in _jobs.columns if hasattr(job, column.name)]
    row = {name: getattr(job, name) for name in names}
    return {
        **row,
        "reason": _storable(job.reason),
        "cpus": job.resources.cpus,
        "memory_bytes": job.resources.memory_bytes,
        "gpus": job.resources.gpus,
        "state": job.state.value,
        "agent": job.agent.value,
    }


def _record(values: dict[str, Any]) -> JobRecord:
    resources = Resources(*(values.pop(name) for name in ("cpus", "memory_bytes", "gpus")))
    return replace(
        JobRecord(**values, resources=resources),
        state=JobState(values["state"]),
        agent=AgentState(values["agent"]),
    )


def _change(job: JobRecord, now: datetime) -> dict[str, Any]:
    return {
        "key": job.key,
        "time": now,
        "state": job.state.value,
        "agent": job.agent.value,
        "reason": _storable(job.reason),
    }


def _storable(text: str) -> str:
    """Return what a site or an image has said, as text that every database takes."""
    return shorten(text.replace("\0", ""), _REASON).encode(errors="replace").decode()
