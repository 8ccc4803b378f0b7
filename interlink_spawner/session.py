"""One session as the hub knows it, and how it moves on. Pure, and small enough to be stored.

Theory of operation
-------------------
What the site says (`JobStatus`) and whether the agent is at the relay (`AgentStatus`) arrive at any
time and in any order. Both only ever replace what was known on their own axis; the *stage* follows
from the two. A site that is silent changes nothing but `silent_since`.

::

    SUBMITTED → QUEUED ⇄ HELD → STARTING → CONNECTED → LAB → ready
                   ↑________________│  evicted, or put back by the site
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from offload_sites.jobs import (
    AgentState,
    AgentStatus,
    JobHandle,
    JobState,
    JobStatus,
    Resources,
)
from offload_sites.ledger_records import JobRecord

__all__ = ["Session", "Stage", "load_session", "record_of"]


class Stage(enum.Enum):
    """How far a session has come; in the order in which users see them."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    CONNECTED = "connected"
    LAB = "lab"


_ORDER = list(Stage)
_OF_JOB = {
    JobState.QUEUED: Stage.QUEUED,
    JobState.HELD: Stage.HELD,
    JobState.RUNNING: Stage.STARTING,
}
_NOT_HEARD = JobStatus(JobState.UNKNOWN)
_NO_AGENT = AgentStatus()


@dataclass(frozen=True)
class Session:
    """A session from its request to its end.

    Parameters
    ----------
    id, key : str
        First label of its domain; key of its job.
    user, server : str
        Whose it is; name of the server, empty for the default one.
    route : str
        The path of the hub's proxy that it answers for.
    profile, title : str
        Name and title of its profile.
    site, site_title : str
        Name and title of its site.
    image : str
        What users read of its image.
    resources : Resources
        What it asked for.
    walltime, queue_budget : timedelta
        How long it may run, and wait.
    asked : datetime
        When it was asked for. Aware UTC, as all times here.
    handle : JobHandle or None
        The site's name for the job, once the site has confirmed it.
    status : JobStatus
        What the site last said, silence apart.
    silent_since : datetime or None
        Since when the site says nothing of the job; None while it answers.
    silence : str
        What we know of the silence.
    heard : datetime or None
        When the site last answered.
    agent : AgentStatus
        What the relay last said.
    marks : mapping
        Stage to the time at which it began.
    ready : datetime or None
        When the server first answered.
    came : str
        Why it is at this site, if it was at another one before.
    leaving, leaving_for : str
        Why it is to go to another site, and the name of that, while its own has not let it go yet.
    """

    id: str
    key: str
    user: str
    server: str
    route: str
    profile: str
    title: str
    site: str
    site_title: str
    image: str
    resources: Resources
    walltime: timedelta
    queue_budget: timedelta
    asked: datetime
    handle: JobHandle | None = None
    status: JobStatus = field(default=_NOT_HEARD)
    silent_since: datetime | None = None
    silence: str = ""
    heard: datetime | None = None
    agent: AgentStatus = field(default=_NO_AGENT)
    marks: Mapping[Stage, datetime] = field(default_factory=dict)
    ready: datetime | None = None
    came: str = ""
    leaving: str = ""
    leaving_for: str = ""

    # --- what follows from what is known ---------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """How far it has come."""
        return max(self.marks, key=_ORDER.index, default=Stage.SUBMITTED)

    @property
    def queue_until(self) -> datetime:
        """When it is given up if it has not begun to run."""
        return self.asked + self.queue_budget

    @property
    def expires(self) -> datetime:
        """When it cannot be of use any more, whatever the site says: its lease ends."""
        return self.queue_until + self.walltime

    @property
    def runs_since(self) -> datetime | None:
        """When its job began to run; None if it never did."""
        return self.marks.get(Stage.STARTING)

    @property
    def ends_at(self) -> datetime | None:
        """When its walltime is over; None before it has begun."""
        return self.runs_since + self.walltime if self.runs_since else None

    @property
    def number(self) -> int:
        """Which of its jobs this is: each site that it is sent to gets one of its own."""
        return int(self.key.rpartition("-")[2])

    @property
    def left_keys(self) -> list[str]:
        """Keys of the jobs that it had at other sites before."""
        name = self.key.rpartition("-")[0]
        return [f"{name}-{earlier}" for earlier in range(1, self.number)]

    @property
    def ended(self) -> bool:
        """True if the site says so, or if the agent has said its last words."""
        return self.status.state.ended or bool(self.agent.ended)

    # --- how it moves on -------------------------------------------------------------------------

    def submitted(self, handle: JobHandle, now: datetime) -> Session:
        """Return the session after its site has confirmed the job."""
        return replace(self, handle=handle, heard=now)

    def heard_site(self, status: JobStatus, now: datetime) -> Session:
        """Return the session after its site has said `status` of its job."""
        if status.state is JobState.UNKNOWN:
            since = self.silent_since or now
            return replace(self, silent_since=since, silence=status.reason)
        heard = replace(self, status=status, silent_since=None, silence="", heard=now)
        stage = _OF_JOB.get(status.state)
        # An agent that has come proves more than a queue that is read every few seconds.
        if stage is None or self.agent.state is not AgentState.ABSENT:
            return heard
        return _at(heard, stage, _within(status.since, self.asked, now))

    def heard_agent(self, agent: AgentStatus, now: datetime) -> Session:
        """Return the session after its relay has said `agent` of its agent."""
        heard = replace(self, agent=agent)
        if agent.state is AgentState.ABSENT or self.stage is Stage.LAB:
            return heard
        since = _within(agent.since, self.asked, now)
        return _at(_at(heard, Stage.CONNECTED, since), Stage.LAB, since)

    def answered(self, now: datetime) -> Session:
        """Return the session after its server has answered."""
        return replace(self, ready=self.ready or now)

    # --- stored by the hub -----------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Return it as JSON; `load_session` reads it."""
        value = asdict(self) | {
            "handle": str(self.handle) if self.handle else None,
            "marks": {stage.value: time for stage, time in self.marks.items()},
        }
        return {name: _plain(item) for name, item in value.items()}


def _at(session: Session, stage: Stage, since: datetime) -> Session:
    """Return the session in `stage`, with the stages before it dated as well as is known."""
    if session.stage is stage and stage in session.marks:
        return session
    index = _ORDER.index(stage)
    # A hold is shown while it lasts; once it is over it was a part of the queue.
    marks: dict[Stage, datetime] = {
        done: time
        for done, time in session.marks.items()
        if _ORDER.index(done) < index and done is not Stage.HELD
    }
    since = max([since, *marks.values()])
    for passed in _ORDER[:index]:
        # What was over between two looks took no time that anybody has seen.
        if passed is not Stage.HELD:
            marks.setdefault(passed, since)
    return replace(session, marks={**marks, stage: since})


def load_session(value: object) -> Session | None:
    """Return the session that `dump` wrote; None if this release cannot read it."""
    if not isinstance(value, Mapping):
        return None
    known = {item.name for item in fields(Session)}
    given = {name: value[name] for name in value if name in known}
    try:
        return Session(
            **{
                **given,
                "resources": Resources(**given["resources"]),
                "walltime": timedelta(seconds=given["walltime"]),
                "queue_budget": timedelta(seconds=given["queue_budget"]),
                "handle": JobHandle.parse(given["handle"]) if given.get("handle") else None,
                "status": _load_status(given["status"]),
                "agent": _load_agent(given["agent"]),
                "marks": {Stage(name): _time(text) for name, text in given["marks"].items()},
                **{name: _time(given.get(name)) for name in _TIMES},
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def record_of(session: Session) -> JobRecord:
    """Return what the ledger keeps of a session."""
    return JobRecord(
        key=session.key,
        user=session.user,
        site=session.site,
        profile=session.profile,
        purpose="session",
        submitted=session.asked,
        image=session.image,
        group=session.server,
        resources=session.resources,
        handle=str(session.handle) if session.handle else "",
        state=session.status.state,
        agent=session.agent.state,
        reason=session.agent.ended or session.status.reason,
    )


_TIMES = ("asked", "silent_since", "heard", "ready")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _load_status(value: Mapping[str, Any]) -> JobStatus:
    return JobStatus(**{**value, "state": JobState(value["state"]), "since": _time(value["since"])})


def _load_agent(value: Mapping[str, Any]) -> AgentStatus:
    state = AgentState(value["state"])
    return AgentStatus(**{**value, "state": state, "since": _time(value["since"])})


def _time(text: str | None) -> Any:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _within(time: datetime | None, first: datetime, last: datetime) -> datetime:
    """Return `time` if it is between two others: the clocks of a site may be wrong."""
    return time if time is not None and first <= time <= last else last
