"""What a pod, and the record of its job, mean in the words of the site interface. Pure.

Theory of operation
-------------------
::

    phase     containers                           job
    Pending   not on a node yet                    QUEUED   no node has room
    Pending   waiting: created, image pulled       QUEUED   it is being started
    Pending   waiting: image or setup is wrong     HELD     nothing happens until somebody acts
    Running                                        RUNNING
    Running   ready, but its pod is not            UNKNOWN  its node is silent
    Succeeded                                      COMPLETED
    Failed    exit code EXIT_WALLTIME, or deadline TIMED_OUT
    Failed    otherwise                            FAILED
    gone      record: cancelled                    CANCELED
    gone      record: ended                        as it ended
    gone      record: placed                       CANCELED by somebody else
    gone      record without a mark, or none       UNKNOWN

A pod on a node that has died stays as its kubelet last told, until somebody removes the node: not even
a deletion ends it, since that is for the kubelet to confirm. All that the control plane does is to
declare the pod not ready, and it gives no reason.

Sources: Kubernetes 1.36, "Pod Lifecycle"; reasons from kubelet's `images`, `eviction`, `nodeshutdown`;
1.33, pkg/controller/util/node/controller_utils.go, `MarkPodsNotReady`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from offload_sites.jobs import JobState, JobStatus
from offload_sites.kubernetes import launch
from offload_sites.kubernetes.naming import parse_time
from offload_sites.kubernetes.record import Record
from offload_sites.start_script import EXIT_WALLTIME

__all__ = [
    "End",
    "container_end",
    "exit_status",
    "status_of_missing",
    "status_of_pod",
    "with_record",
]

# Waiting reasons that do not end by themselves, and what to do.
_STUCK: Mapping[str, tuple[str, str]] = {
    "ErrImagePull": ("its image cannot be pulled", "check the name and tag of the image"),
    "ImagePullBackOff": ("its image cannot be pulled", "check the name and tag of the image"),
    "InvalidImageName": ("the name of its image is not valid", "correct it in the catalog"),
    "ErrImageNeverPull": ("its image is not on the node, and is not to be pulled", ""),
    "RegistryUnavailable": ("the registry of its image does not answer", ""),
    "CreateContainerConfigError": (
        "its container cannot be set up",
        "a Secret or ConfigMap that it needs may be missing",
    ),
    "CreateContainerError": ("its container cannot be created", ""),
    "RunContainerError": (
        "its container cannot be started",
        "the image may have no /bin/sh",
    ),
}
# `status.reason` of a pod that failed as a whole.
_ENDINGS: Mapping[str, tuple[JobState, str, str]] = {
    "DeadlineExceeded": (JobState.TIMED_OUT, "its walltime was used up", ""),
    "Evicted": (
        JobState.FAILED,
        "the cluster evicted it",
        "its node was short of memory or disk; ask for more memory, or write less",
    ),
    "NodeLost": (JobState.FAILED, "its node was lost", "start it again"),
    "NodeShutdown": (JobState.FAILED, "its node was shut down", "start it again"),
    "Terminated": (JobState.FAILED, "its node was shut down", "start it again"),
    "Preempting": (JobState.FAILED, "more important pods took its place", "start it again"),
    "OutOfcpu": (JobState.FAILED, "its node had no CPUs left", "start it again"),
    "OutOfmemory": (JobState.FAILED, "its node had no memory left", "start it again"),
    "UnexpectedAdmissionError": (
        JobState.FAILED,
        "its node could not give it what it asked for",
        "start it again; GPUs are the usual cause",
    ),
}


class End(NamedTuple):
    """How the container of a job ended; `reason` and `message` are the site's words."""

    code: int
    reason: str = ""
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None


def status_of_pod(
    pod: Mapping[str, Any], walltime: timedelta, warnings: Iterable[str] = ()
) -> JobStatus:
    """Return what a pod on an ordinary node says of its job.

    Parameters
    ----------
    pod : mapping
        As the API has it.
    walltime : timedelta
        Of the job.
    warnings : iterable of str
        Messages of warning events on this pod, the newest last.
    """
    state = pod.get("status") or {}
    phase = state.get("phase")
    where = str((pod.get("spec") or {}).get("nodeName") or "")
    if phase == "Running":
        return replace(_running(pod), where=where)
    if phase in {"Succeeded", "Failed"}:
        return replace(_ended(pod, walltime), where=where)
    if phase == "Pending":
        return _pending(pod, where, list(warnings))
    return JobStatus(JobState.UNKNOWN, f"its pod is in the phase {phase!r}", said=_said(state))


def status_of_missing(record: Record | None) -> JobStatus:
    """Return the status of a job whose pod is not there."""
    if record is None:
        return JobStatus(JobState.UNKNOWN, "the site does not know this job, or has forgotten it")
    if record.ended:
        return record.ended
    if record.cancelled:
        return JobStatus(JobState.CANCELED, "it was cancelled", since=record.cancelled)
    if record.placed:
        return JobStatus(
            JobState.CANCELED,
            "its pod is gone: somebody, or the cluster, has deleted it",
            hint="start it again",
        )
    return JobStatus(
        JobState.UNKNOWN, "its submission was cut off before it had a pod", hint="submit it again"
    )


def with_record(status: JobStatus, record: Record | None) -> JobStatus:
    """Return `status`, from a pod that is there, with what the record adds to it."""
    if record is None:
        return status
    if record.ended:
        return record.ended
    if record.cancelled and status.state.ended:
        # It ended because we have asked for that: what the killed command said does not matter.
        return replace(
            status,
            state=JobState.CANCELED,
            reason="it was cancelled",
            hint="",
            since=record.cancelled,
        )
    if record.cancelled:
        silent = status.reason if status.state is JobState.UNKNOWN else ""
        return replace(status, reason="; ".join(filter(None, ("it is being cancelled", silent))))
    return status


def exit_status(end: End, run: timedelta | None, walltime: timedelta) -> JobStatus:
    """Return how a job ended whose script ended with `end.code` after `run`, if that is known."""
    since = end.finished
    if end.code == 0:
        return JobStatus(
            JobState.COMPLETED, "the command ended with exit code 0", since=since, exit_code=0
        )
    if end.reason == "OOMKilled":
        return JobStatus(
            JobState.FAILED,
            "it used more memory than it had asked for",
            said=end.message,
            hint="ask for more memory",
            since=since,
            exit_code=-signal.SIGKILL,
        )
    if end.code == EXIT_WALLTIME and (run is None or run >= walltime / 2):
        return JobStatus(
            JobState.TIMED_OUT, "its walltime was used up", since=since, exit_code=end.code
        )
    if end.code > 128:
        # As shells and container runtimes tell that a signal ended it.
        number = end.code - 128
        reason = f"the command was killed by signal {number}{_signal(number)}"
        hint = "the machine may have run out of memory" if number == signal.SIGKILL else ""
        return JobStatus(JobState.FAILED, reason, end.message, hint, since, -number)
    hints = {
        launch.EXIT_NO_FILES: "the site did not deliver the files of the job; its log says more",
        launch.EXIT_NO_ROOM: "the node has no folder that the job can write to",
    }
    return JobStatus(
        JobState.FAILED,
        f"the command ended with exit code {end.code}",
        said=end.message,
        hint=hints.get(end.code, "its log may say why"),
        since=since,
        exit_code=end.code,
    )


def container_end(pod: Mapping[str, Any]) -> End | None:
    """Return how the first container that ended with an error, or at all, has ended."""
    ends = []
    for one in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (one.get("state") or {}).get("terminated")
        if ended is not None:
            ends.append(
                End(
                    int(ended.get("exitCode") or 0),
                    str(ended.get("reason") or ""),
                    str(ended.get("message") or ""),
                    parse_time(ended.get("startedAt")),
                    parse_time(ended.get("finishedAt")),
                )
            )
    return next((end for end in ends if end.code), ends[0] if ends else None)


def _pending(pod: Mapping[str, Any], where: str, warnings: list[str]) -> JobStatus:
    state = pod.get("status") or {}
    since = parse_time((pod.get("metadata") or {}).get("creationTimestamp"))
    if not where:
        said = _unschedulable(state)
        reason = "no node has room for it yet" if said else "the cluster looks for a node"
        return JobStatus(JobState.QUEUED, reason, said=said, since=since)
    for one in state.get("containerStatuses") or []:
        waiting = (one.get("state") or {}).get("waiting") or {}
        stuck = _STUCK.get(str(waiting.get("reason")))
        if stuck:
            said = str(waiting.get("message") or waiting["reason"])
            return JobStatus(JobState.HELD, stuck[0], said, stuck[1], since, where=where)
    said = warnings[-1] if warnings else ""
    reason = f"it is being started on node {where}" + (", with difficulties" if said else "")
    return JobStatus(JobState.QUEUED, reason, said=said, since=since, where=where)


def _unschedulable(state: Mapping[str, Any]) -> str:
    for condition in state.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""


def _running(pod: Mapping[str, Any]) -> JobStatus:
    state = pod.get("status") or {}
    containers = state.get("containerStatuses") or []
    since = parse_time(state.get("startTime"))
    for one in containers:
        started = ((one.get("state") or {}).get("running") or {}).get("startedAt")
        since = parse_time(started) or since
    for condition in state.get("conditions") or []:
        # A kubelet says the same of a pod and of its containers. Who says that the pod is not ready,
        # and not why, is the control plane, which has not heard from the kubelet.
        taken = condition.get("type") == "Ready" and condition.get("status") == "False"
        if taken and not condition.get("reason") and any(one.get("ready") for one in containers):
            gone = parse_time(condition.get("lastTransitionTime"))
            reason = "its node does not answer; it may still run there"
            return JobStatus(JobState.UNKNOWN, reason, since=gone)
    return JobStatus(JobState.RUNNING, since=since)


def _ended(pod: Mapping[str, Any], walltime: timedelta) -> JobStatus:
    state = pod.get("status") or {}
    end = container_end(pod)
    known = _ENDINGS.get(str(state.get("reason")))
    if known:
        return JobStatus(
            known[0],
            known[1],
            said=_said(state),
            hint=known[2],
            since=end.finished if end else None,
            exit_code=end.code if end and end.code else None,
        )
    if end is None:
        if state.get("phase") == "Succeeded":
            end = End(0)
        else:
            reason = "its pod failed before its command ran"
            return JobStatus(JobState.FAILED, reason, _said(state), "start it again")
    run = end.finished - end.started if end.finished and end.started else None
    return exit_status(end, run, walltime)


def _said(state: Mapping[str, Any]) -> str:
    words = (state.get("reason"), state.get("message"))
    return ": ".join(str(word) for word in words if word)


def _signal(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""
