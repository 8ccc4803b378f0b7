"""The record of a job: a ConfigMap that is there before its pod, and outlives it. Pure.

Theory of operation
-------------------
A pod that was deleted is forgotten by Kubernetes at once, and a pod can be created again under its
name. So each job has a record with three marks, set one after the other and never taken back:

* *placed*: its pod has been created. From now on it is never created again; a pod that is missing
  has been deleted by somebody.
* *cancelled*: we have asked for its end; if its pod is gone, that is why.
* *ended*: how it ended, as it was first seen.

A record without a mark and without a pod is what a submission leaves that was cut off. The record
also holds the job's script, and owns its Secret and its pod: whoever deletes it deletes all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from offload_sites.jobs import JobState, JobStatus
from offload_sites.kubernetes.naming import ANNOTATION, parse_time

__all__ = ["Record", "ended_mark", "parse_record"]

_UNKNOWN_WALLTIME = timedelta(days=365)


@dataclass(frozen=True)
class Record:
    """What is known of a job beside its pod.

    Parameters
    ----------
    name, uid : str
        Of the record, and so of the job at its site.
    key : str
        Our name for it.
    submitted : datetime or None
        Aware UTC.
    walltime : timedelta
        How long it may run.
    placed, batch_id : str
        UID of its pod, once that has been created; the id of the batch system behind a virtual node.
    cancelled : datetime or None
        When its end was asked for.
    ended : JobStatus or None
        How it ended, once that has been seen.
    """

    name: str
    uid: str
    key: str
    submitted: datetime | None = None
    walltime: timedelta = _UNKNOWN_WALLTIME
    placed: str = ""
    batch_id: str = ""
    cancelled: datetime | None = None
    ended: JobStatus | None = None


def parse_record(configmap: Mapping[str, Any]) -> Record:
    """Return the record in a ConfigMap; what cannot be read in it counts as not there."""
    meta = configmap.get("metadata") or {}
    notes = meta.get("annotations") or {}

    def note(name: str) -> str:
        return str(notes.get(ANNOTATION + name) or "")

    return Record(
        name=str(meta.get("name") or ""),
        uid=str(meta.get("uid") or ""),
        key=note("key"),
        submitted=parse_time(meta.get("creationTimestamp")),
        walltime=_seconds(note("walltime-s")),
        placed=note("placed"),
        batch_id=note("batch-id"),
        cancelled=parse_time(note("cancelled")),
        ended=_parse_ended(note("ended")),
    )


def ended_mark(status: JobStatus) -> str:
    """Return `status` as the record keeps it."""
    return json.dumps(
        {
            "state": status.state.value,
            "reason": status.reason,
            "said": status.said[:2000],
            "hint": status.hint,
            "since": status.since.isoformat() if status.since else None,
            "exit_code": status.exit_code,
            "where": status.where,
        }
    )


def _parse_ended(text: str) -> JobStatus | None:
    try:
        value = json.loads(text)
        since = datetime.fromisoformat(value["since"]).astimezone(UTC) if value["since"] else None
        return JobStatus(
            JobState(value["state"]),
            str(value["reason"]),
            str(value["said"]),
            str(value["hint"]),
            since,
            value["exit_code"],
            str(value["where"]),
        )
    except (ValueError, KeyError, TypeError):  # empty, or written by another release
        return None


def _seconds(text: str) -> timedelta:
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        return _UNKNOWN_WALLTIME
