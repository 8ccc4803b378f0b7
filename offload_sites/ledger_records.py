"""What the ledger says of jobs, and how what is new joins what was known. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from offload_sites.jobs import AgentState, JobState, Resources
from offload_sites.units import render_duration

__all__ = ["JobChange", "JobRecord", "Usage", "Waits", "merge", "waits_of"]

#: Fewer jobs than this say nothing of the next one.
ENOUGH_JOBS = 10


@dataclass(frozen=True)
class JobRecord:
    """One job, of a session or with workers, as the ledger keeps it.

    Parameters
    ----------
    key : str
        Our name for it.
    user : str
        Whose it is.
    site, profile, image : str
        Names in the catalog; `image` may be a path.
    purpose : str
        `session` or `workers`.
    submitted : datetime
        When it was first sent, or about to be. Aware UTC, as all times here.
    group : str
        What it belongs to: the id of a Dask cluster, or the name of a server.
    workers : int
        Workers in it; 0 for a session.
    resources : Resources
        What it asks for, as a whole.
    handle : str
        `site:native_id`; empty until the site has confirmed it.
    state, agent : JobState, AgentState
        Both axes.
    reason : str
        Why it is where it is.
    started, connected, ended : datetime or None
        When the site first said that it runs, when its agent first came, when it was over.
    """

    key: str
    user: str
    site: str
    profile: str
    purpose: str
    submitted: datetime
    image: str = ""
    group: str = ""
    workers: int = 0
    resources: Resources = field(default_factory=Resources)
    handle: str = ""
    state: JobState = JobState.UNKNOWN
    agent: AgentState = AgentState.ABSENT
    reason: str = ""
    started: datetime | None = None
    connected: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True)
class JobChange:
    """A job came into a state, at a time."""

    key: str
    time: datetime
    state: JobState
    agent: AgentState
    reason: str


@dataclass(frozen=True)
class Usage:
    """What one user has at one site with one profile at this moment."""

    user: str
    site: str
    profile: str
    purpose: str
    jobs: int
    connected: int
    workers: int
    cpus: int
    memory_bytes: int
    gpus: int


@dataclass(frozen=True)
class Waits:
    """How long jobs waited from submission until their agent came.

    Parameters
    ----------
    count : int
        How many jobs this rests on.
    p50, p90 : timedelta or None
        Half of them, nine in ten of them came within this; None below `ENOUGH_JOBS`.
    """

    count: int = 0
    p50: timedelta | None = None
    p90: timedelta | None = None

    def __str__(self) -> str:
        if self.p50 is None or self.p90 is None:
            return "not known yet"
        return f"usually {render_duration(self.p50)}, 9 in 10 within {render_duration(self.p90)}"


def waits_of(waits: Sequence[timedelta]) -> Waits:
    """Return what the `waits` of single jobs say together."""
    if len(waits) < ENOUGH_JOBS:
        return Waits(len(waits))
    ordered = sorted(max(wait, timedelta(0)) for wait in waits)

    def within(share: float) -> timedelta:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return Waits(len(ordered), within(0.5), within(0.9))


def merge(old: JobRecord | None, new: JobRecord, now: datetime) -> tuple[JobRecord, bool]:
    """Return what is known of a job now, and whether one of its two axes has changed.

    Parameters
    ----------
    old : JobRecord or None
        What the ledger says; None if it does not know the job.
    new : JobRecord
        What somebody says of the same job. Saying it twice is the same as saying it once.
    now : datetime
        Stands in for a time that nobody has given.

    Notes
    -----
    An ended job stays ended, and a site that is silent (UNKNOWN) takes nothing back. Of each time
    the first one known stays.
    """
    if old is None:
        return _dated(new, now), True
    if old.state.ended:
        # Only what was learned late may still be missing: the job cannot come back.
        return replace(old, handle=old.handle or new.handle), False
    state = old.state if new.state is JobState.UNKNOWN else new.state
    changed = (state, new.agent) != (old.state, old.agent)
    joined = replace(
        new,
        submitted=min(old.submitted, new.submitted),
        handle=new.handle or old.handle,
        state=state,
        reason=new.reason or ("" if changed else old.reason),
        started=old.started or new.started,
        connected=old.connected or new.connected,
        ended=old.ended or new.ended,
    )
    return _dated(joined, now), changed


def _dated(record: JobRecord, now: datetime) -> JobRecord:
    """Return `record` with the times that follow from its states."""
    connected = record.connected
    if record.agent is AgentState.CONNECTED:
        connected = connected or now
    started = record.started
    if record.state is JobState.RUNNING or connected:
        started = started or connected or now
    ended = (record.ended or now) if record.state.ended else None
    # Whoever ends a job may not wait for the relay to notice.
    gone = ended is not None and record.agent is AgentState.CONNECTED
    agent = AgentState.LOST if gone else record.agent
    return replace(record, started=started, connected=connected, ended=ended, agent=agent)
