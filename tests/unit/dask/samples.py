"""Fleets in one state each, as the supervisor would see them."""

from datetime import UTC, datetime, timedelta

from dask_offload.snapshot import Snapshot, WorkerInfo, make_snapshot
from offload_sites.fleet_failures import Failure
from offload_sites.fleet_plan import FleetJob
from offload_sites.fleet_view import FleetSnapshot, SiteTrouble
from offload_sites.jobs import AgentState, AgentStatus, JobHandle, JobState, JobStatus

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GIB = 2**30
TITLES = {"naples": "RAC Naples", "leonardo": "Leonardo"}
BASE = Snapshot(name="alice-1", version=1, wanted=0, title="HTC cores", image="AlmaLinux 9")


def job(number, state=JobState.QUEUED, agent=AgentState.ABSENT, *, site="naples", **fields):
    """Return a job of four workers; `reason`, `said`, `hint`, `since`, `where` are its site's."""
    of_status = {
        k: fields.pop(k) for k in ("reason", "said", "hint", "since", "where") & fields.keys()
    }
    return FleetJob(
        **{
            "key": f"c7-{number}",
            "site": site,
            "workers": 4,
            "submitted": NOW,
            "handle": JobHandle(site, f"{number}.0"),
            "status": JobStatus(state, **of_status),
            "agent": AgentStatus(agent, NOW),
            **fields,
        }
    )


def working(number, **fields):
    return job(number, JobState.RUNNING, AgentState.CONNECTED, **fields)


def crew(key, count=4):
    """Return registered workers of the job `key`: 2 threads and 4 GiB each."""
    return [WorkerInfo(f"{key}-{number}", 2, 4 * GIB) for number in range(count)]


def fleet(*jobs, wanted=8, **fields):
    return FleetSnapshot(
        **{
            "wanted": wanted,
            "jobs": jobs,
            "stopped": "",
            "failures": (),
            "troubles": {},
            "polled": NOW,
            **fields,
        }
    )


def snapshot(*jobs, workers=(), titles=TITLES, base=BASE, trouble="", **fields):
    return make_snapshot(base, fleet(*jobs, **fields), workers, titles, trouble=trouble)


def failure(number=1, reason="the image was not found", **fields):
    return Failure(
        **{"key": f"c7-{number}", "site": "naples", "when": NOW, "reason": reason, **fields}
    )


def silence(message="the site does not answer", *, final=False, **fields):
    since, again = NOW - timedelta(minutes=3), NOW + timedelta(minutes=7)
    return SiteTrouble(since=since, message=message, retry_at=again, final=final, **fields)
