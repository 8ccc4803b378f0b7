"""What a fleet should do next: pure decisions on wanted against seen, over jobs.

Theory of operation
-------------------
A fleet keeps `wanted` workers alive in jobs that run several workers each. Jobs that are queued,
held, running, not yet accepted, or of a silent site all count as coming: UNKNOWN is never an end,
and nothing is ever submitted because a site does not answer. What has ended unasked is replaced, within
the budgets of `fleet_failures`.

A job whose walltime is nearly over does not count any more, so that what takes its place may be there
in time to take its results as well.

Scaling down takes jobs that are not working first (the newest, which have waited least), then whole
working jobs, and at last single workers of one job.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from offload_sites.jobs import AgentState, AgentStatus, JobHandle, JobState, JobStatus

__all__ = [
    "CANCEL_AGAIN",
    "FleetJob",
    "Plan",
    "Policy",
    "Word",
    "decide",
    "missing_agent",
    "nearly_over",
    "poll_pause",
    "split_workers",
    "to_cancel",
    "word_of",
]

#: A site that has been asked to end a job is asked again after this time.
CANCEL_AGAIN = timedelta(seconds=15)
_POLL_BUSY, _POLL_QUIET = timedelta(seconds=1), timedelta(seconds=10)


@dataclass(frozen=True)
class Policy:
    """How patient and how persistent a fleet is.

    Parameters
    ----------
    workers_per_job : int
        Most workers that one job runs.
    start_timeout : timedelta
        How long a running job may be without its agent before it is replaced.
    hold_timeout : timedelta
        How long a held job is left alone: a site's administrator, or the site, may release it.
    lost_timeout : timedelta
        How long the agent of a running job may be lost before the job is replaced.
    farewell_timeout : timedelta
        How long a site may go on to call a job running whose agent has said its last words.
    short_life : timedelta
        A job that ends within this time of its agent's arrival counts as a start failure.
    same_failures : int
        Start failures of one kind that stop the refill.
    losses_per_hour : int
        Losses per hour that are replaced, on top of twice the number of wanted jobs.
    patience : timedelta
        How long a job may wait in the queue of one of several sites before it is moved to another.
    """

    workers_per_job: int = 1
    start_timeout: timedelta = timedelta(minutes=10)
    hold_timeout: timedelta = timedelta(minutes=5)
    lost_timeout: timedelta = timedelta(minutes=10)
    farewell_timeout: timedelta = timedelta(seconds=60)
    short_life: timedelta = timedelta(seconds=60)
    same_failures: int = 3
    losses_per_hour: int = 3
    patience: timedelta = timedelta(minutes=30)


@dataclass(frozen=True)
class FleetJob:
    """One job of a fleet, as far as it is known.

    `handle` is None until the site has confirmed it; `leaving` says why it is to end, if it is;
    `connected` is when its agent first came; `silent` is why its site, or its node, does not say how it
    is, if so: then `status` is the last that was known. A job that `moves` leaves its site for another
    one; until it has ended there it counts, so that nothing takes its place too early.
    """

    key: str
    site: str
    workers: int
    submitted: datetime
    handle: JobHandle | None = None
    status: JobStatus = field(default_factory=lambda: JobStatus(JobState.UNKNOWN))
    agent: AgentStatus = field(default_factory=AgentStatus)
    connected: datetime | None = None
    leaving: str = ""
    cancel_asked: datetime | None = None
    moves: bool = False
    silent: str = ""

    @property
    def ended(self) -> bool:
        """True once the site has said that it is over."""
        return self.status.state.ended

    @property
    def counts(self) -> bool:
        """True if its workers are there or coming."""
        return not self.ended and (not self.leaving or self.moves)

    def over_for_us(self, now: datetime) -> bool:
        """Tell whether nobody needs what this job runs, so that its agent can be told to go.

        While its workers hand over their results, `cancel_asked` lies ahead.
        """
        handing_over = self.cancel_asked is not None and self.cancel_asked > now
        return self.ended or (bool(self.leaving) and not handing_over)

    def seen(self, status: JobStatus) -> FleetJob:
        """Return this job with what its site says."""
        if status.state is not JobState.UNKNOWN:
            return replace(self, status=status, silent="")
        if self.status.state is JobState.UNKNOWN:
            return replace(self, status=status, silent=status.reason)
        return replace(self, silent=status.reason)

    def heard(self, agent: AgentStatus, now: datetime) -> FleetJob:
        """Return this job with what the relay says at `now` (aware UTC)."""
        came = self.connected or (now if agent.state is AgentState.CONNECTED else None)
        return replace(self, agent=agent, connected=came)


class Word(enum.Enum):
    """What users are told of a job; jobs with equal words are counted together."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    WORKING = "working"
    LOST = "lost"
    LEAVING = "leaving"
    ENDED = "ended"


def word_of(job: FleetJob) -> Word:
    """Return the one word that tells where `job` is, from both of its axes."""
    if job.ended:
        return Word.ENDED
    if job.leaving:
        return Word.LEAVING
    if job.agent.state is AgentState.CONNECTED:
        return Word.WORKING
    # The agent of a job that its site has put back into the queue does not return.
    if job.agent.state is AgentState.LOST and job.status.state is not JobState.QUEUED:
        return Word.LOST
    words = {
        JobState.QUEUED: Word.QUEUED,
        JobState.HELD: Word.HELD,
        JobState.RUNNING: Word.STARTING,
    }
    return words.get(job.status.state, Word.SUBMITTED)


# --- plan ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to do now.

    Parameters
    ----------
    submit : tuple of int
        Workers of each new job.
    cancel : tuple of str
        Keys of jobs that do not work yet.
    release : tuple of str
        Keys of working jobs to be retired as a whole.
    trim : mapping
        Key of a working job to how many of its workers are to be retired.
    """

    submit: tuple[int, ...] = ()
    cancel: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    trim: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.submit or self.cancel or self.release or self.trim)


def split_workers(count: int, most: int) -> tuple[int, ...]:
    """Return the sizes of as few jobs as run `count` workers, at most `most` each.

    Sizes differ by one at most, so that a whole fleet is one or two submissions.
    """
    if count <= 0:
        return ()
    jobs = -(-count // most)
    size, larger = divmod(count, jobs)
    return (size + 1,) * larger + (size,) * (jobs - larger)


def decide(
    jobs: Sequence[FleetJob], wanted: int, policy: Policy, *, idle_first: Sequence[str] = ()
) -> Plan:
    """Return what brings the workers of `jobs` to `wanted`.

    Parameters
    ----------
    jobs : sequence of FleetJob
        All of the fleet's jobs, in any order.
    wanted : int
        Workers, at least 0.
    policy : Policy
        Gives the size of new jobs.
    idle_first : sequence of str
        Keys of working jobs in the order in which they are best let go; others go last, the newest
        first.
    """
    alive = [job for job in jobs if job.counts]
    surplus = sum(job.workers for job in alive) - wanted
    if surplus < 0:
        return Plan(submit=split_workers(-surplus, policy.workers_per_job))
    cancel: list[str] = []
    release: list[str] = []
    for job in sorted(alive, key=lambda job: _letting_go(job, idle_first)):
        if 0 < job.workers <= surplus:
            surplus -= job.workers
            (release if word_of(job) is Word.WORKING else cancel).append(job.key)
    gone = {*cancel, *release}
    working = [job for job in alive if job.key not in gone and word_of(job) is Word.WORKING]
    if surplus and working:
        # Fewer than a whole job. A job that is still queued keeps its place: it is trimmed later.
        smallest = min(working, key=lambda job: (job.workers, job.key))
        trim = {smallest.key: surplus} if smallest.workers > surplus else {}
        return Plan((), tuple(cancel), tuple(release), trim)
    return Plan((), tuple(cancel), tuple(release))


_ORDER = {
    Word.LEAVING: 0,  # only those that move count at all
    Word.SUBMITTED: 0,
    Word.HELD: 1,
    Word.QUEUED: 2,
    Word.LOST: 3,
    Word.STARTING: 4,
    Word.WORKING: 5,
}


def _letting_go(job: FleetJob, idle_first: Sequence[str]) -> tuple[int, int, float]:
    idle = idle_first.index(job.key) if job.key in idle_first else len(idle_first)
    return _ORDER[word_of(job)], idle, -job.submitted.timestamp()


def poll_pause(jobs: Iterable[FleetJob]) -> timedelta | None:
    """Return how often a site with these jobs is asked about them; None if there is nothing to ask."""
    alive = [job for job in jobs if not job.ended]
    if not any(job.handle for job in alive):
        return None
    quiet = all(job.agent.state is AgentState.CONNECTED and job.counts for job in alive)
    return _POLL_QUIET if quiet else _POLL_BUSY


def to_cancel(jobs: Iterable[FleetJob], now: datetime) -> list[FleetJob]:
    """Return those of `jobs` that their site is to be asked to end, at `now` (aware UTC)."""
    return [
        job
        for job in jobs
        if job.leaving
        and not job.ended
        and (job.cancel_asked is None or job.cancel_asked < now - CANCEL_AGAIN)
    ]


def nearly_over(job: FleetJob, now: datetime) -> bool:
    """Tell whether the workers of `job` have been asked to finish, for the sake of its walltime."""
    after_s = job.agent.drain_after_s
    if job.leaving or word_of(job) is not Word.WORKING or after_s is None or job.connected is None:
        return False
    # By our clock: that of the node may be any.
    return now - job.connected >= timedelta(seconds=after_s)


def missing_agent(agent: AgentStatus, now: datetime) -> AgentStatus:
    """Return the status of an agent that the relay does not list: one that was there is lost."""
    if agent.state is AgentState.CONNECTED:
        return replace(agent, state=AgentState.LOST, since=now)
    return agent
