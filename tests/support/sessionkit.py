"""Sessions at fixed times, for tests of what follows from them."""

from datetime import UTC, datetime, timedelta

from interlink_spawner.session import Session, Stage
from offload_sites.jobs import AgentState, AgentStatus, JobState, JobStatus, Resources

NOW = datetime(2026, 11, 3, 14, 2, 11, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def new_session(**changes) -> Session:
    fields = {
        "id": "s1",
        "key": "s1-1",
        "user": "alice",
        "server": "",
        "route": "/user/alice/",
        "profile": "htc",
        "title": "HTC cores",
        "site": "farm",
        "site_title": "Naples",
        "image": "highrate:v1.4",
        "resources": Resources(4, 8 * 1024**3),
        "walltime": timedelta(hours=8),
        "queue_budget": timedelta(hours=6),
        "asked": NOW,
        "marks": {Stage.SUBMITTED: NOW},
    }
    return Session(**{**fields, **changes})


def status(state: JobState, reason: str = "", *, since=None, **more) -> JobStatus:
    return JobStatus(state, reason, since=since, **more)


def agent(state: AgentState, *, since=None, ended: str = "", **more) -> AgentStatus:
    return AgentStatus(state, since, ended, **more)
