"""A fleet's snapshot as JSON values and back, for those who watch a fleet in another process. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from offload_sites.fleet_failures import Failure
from offload_sites.fleet_plan import FleetJob
from offload_sites.fleet_view import FleetSnapshot, SiteTrouble
from offload_sites.jobs import AgentState, AgentStatus, JobHandle, JobState, JobStatus

__all__ = ["fleet_from_json", "fleet_to_json"]


def fleet_to_json(snapshot: FleetSnapshot) -> dict[str, Any]:
    """Return `snapshot` as JSON values."""
    return {
        "wanted": snapshot.wanted,
        "stopped": snapshot.stopped,
        "polled": _text(snapshot.polled),
        "jobs": [_job_to_json(job) for job in snapshot.jobs],
        "failures": [{**asdict(f), "when": _text(f.when)} for f in snapshot.failures],
        "troubles": {
            site: {
                **asdict(trouble),
                "since": _text(trouble.since),
                "retry_at": _text(trouble.retry_at),
            }
            for site, trouble in snapshot.troubles.items()
        },
    }


def fleet_from_json(value: Mapping[str, Any]) -> FleetSnapshot:
    """Return what `fleet_to_json` wrote. Raises KeyError, TypeError or ValueError for else."""
    return FleetSnapshot(
        wanted=int(value["wanted"]),
        jobs=tuple(_job_from_json(job) for job in value["jobs"]),
        stopped=str(value["stopped"]),
        failures=tuple(Failure(**{**f, "when": _time(f["when"])}) for f in value["failures"]),
        troubles={
            site: SiteTrouble(
                **{**t, "since": _time(t["since"]), "retry_at": _time(t["retry_at"] or t["since"])}
            )
            for site, t in value["troubles"].items()
        },
        polled=_time_or_none(value["polled"]),
    )


def _job_to_json(job: FleetJob) -> dict[str, Any]:
    status, agent = job.status, job.agent
    return {
        "key": job.key,
        "site": job.site,
        "workers": job.workers,
        "submitted": _text(job.submitted),
        "handle": str(job.handle) if job.handle else None,
        "connected": _text(job.connected),
        "leaving": job.leaving,
        "silent": job.silent,
        "status": {**asdict(status), "state": status.state.value, "since": _text(status.since)},
        "agent": {**asdict(agent), "state": agent.state.value, "since": _text(agent.since)},
    }


def _job_from_json(value: Mapping[str, Any]) -> FleetJob:
    status, agent = value["status"], value["agent"]
    return FleetJob(
        key=str(value["key"]),
        site=str(value["site"]),
        workers=int(value["workers"]),
        submitted=_time(value["submitted"]),
        handle=JobHandle.parse(value["handle"]) if value["handle"] else None,
        status=JobStatus(
            **{
                **status,
                "state": JobState(status["state"]),
                "since": _time_or_none(status["since"]),
            }
        ),
        agent=AgentStatus(
            **{**agent, "state": AgentState(agent["state"]), "since": _time_or_none(agent["since"])}
        ),
        connected=_time_or_none(value["connected"]),
        leaving=str(value["leaving"]),
        silent=str(value.get("silent", "")),
    )


def _text(when: datetime | None) -> str | None:
    return when.isoformat() if when else None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _time_or_none(text: str | None) -> datetime | None:
    return _time(text) if text else None
