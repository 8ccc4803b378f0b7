"""What a pod on a virtual node means. Pure.

Theory of operation
-------------------
A virtual node polls its site, one pod after another, so its news are old: ten seconds for one pod,
half an hour for two hundred. What it says of an end is less than the truth (interLink 0.6.2,
execute.go and the Slurm plugin's Status.go):

* *Succeeded* means "exit code 0, or none known": a job that was killed by its walltime, by scancel or
  with its node may show it. Our script ends with `DONE` when its command has ended with 0, so a plain
  0 is an end whose cause the site has not told.
* *Failed, Error: N* is an exit code that was really seen, or the signal of a batch job that was removed.
* *Failed, ProviderFailed* is a pod that the site never took; the message says why.
* a pod that stays Pending is in the queue of the batch system, or forgotten by it.

::

    Pending                         QUEUED, with the id of the batch job once there is one
    Running                         RUNNING
    Failed    DONE                  COMPLETED
    Failed    other code            FAILED, or TIMED_OUT by the script's or Slurm's word
    Failed    ProviderFailed        FAILED, in a sentence of ours
    Succeeded                       TIMED_OUT if it ran as long, else FAILED: its cause is not known
"""

from __future__ import annotations

import html
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from offload_sites.interlink.manifest import DONE
from offload_sites.jobs import JobState, JobStatus
from offload_sites.kubernetes.naming import parse_time
from offload_sites.kubernetes.states import End, container_end, exit_status

__all__ = ["batch_id", "status_of_virtual_pod"]

_REFUSALS: tuple[tuple[str, str, str], ...] = (
    # what the message contains, what it means, what to do
    (
        r"invalid account|account/partition combination",
        "the batch system does not accept its account or partition",
        "ask the administrator to correct `account` or `partition` of the site",
    ),
    (
        r"partition not available|partition.*(inactive|drain|down)",
        "its partition takes no jobs at present",
        "try again later, or ask the administrator of the site",
    ),
    (r"invalid partition", "the batch system has no such partition", "correct `partition`"),
    (
        r"time limit|timelimit",
        "the batch system does not allow so long a walltime",
        "ask for less time",
    ),
    (
        r"requested node configuration is not available|memory specification can not",
        "no node of the batch system is so large",
        "ask for fewer cores, less memory or fewer GPUs",
    ),
    (
        r"invalid generic resource|\bgres\b",
        "the batch system has no such GPUs",
        "correct `gpu_flags`",
    ),
    (
        r"qos|jobs? limit|submit ?job ?limit",
        "the batch system's limit of jobs is reached",
        "wait until others have ended",
    ),
    (
        r"cfgmaps/secrets not found|not found.*(configmap|secret)",
        "its files did not reach the virtual node within 5 minutes",
        "start it again",
    ),
    (
        r"connection refused|no such host|timeout|deadline exceeded|\b50[234]\b",
        "the virtual node could not reach its site",
        "start it again; if that goes on, tell the administrator of the site",
    ),
    (r"\b422\b", "the plugin and interLink do not fit together", "see docs/howto/virtual-nodes.md"),
    (
        r"\b201\b",
        "the plugin answered in a way that interLink 0.5 and later do not take",
        "see docs/howto/virtual-nodes.md; the batch job may run all the same",
    ),
)
_FILES_MISSING = {2, 127}
_SIGNALS: Mapping[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGKILL: "SIGKILL"}
# The answer of the site, and the error of Go around it that says everything twice.
_ANSWER = re.compile(r".*\(HTTP (\d+)\): (.*)", re.DOTALL)
_GO_ERROR = re.compile(r".* error: (.*)", re.DOTALL)
_SECRET = re.compile(r"(Bearer )[^\s\"',}\])]+", re.IGNORECASE)


def batch_id(pod: Mapping[str, Any]) -> str:
    """Return the id that the batch system has given the job; empty if it has not, or not yet."""
    notes = (pod.get("metadata") or {}).get("annotations") or {}
    return str(notes.get("JobID") or "")


def status_of_virtual_pod(
    pod: Mapping[str, Any], walltime: timedelta, warnings: Iterable[str] = ()
) -> JobStatus:
    """Return what a pod on a virtual node says of its job.

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
    if phase == "Pending":
        return _pending(pod, list(warnings))
    where = batch_id(pod) and f"batch job {batch_id(pod)}"
    where = where or str((pod.get("spec") or {}).get("nodeName") or "")
    if phase == "Running":
        since = _started(state) or parse_time(state.get("startTime"))
        return JobStatus(JobState.RUNNING, since=since, where=where)
    if phase == "Failed":
        return replace(_failed(state, container_end(pod), walltime), where=where)
    if phase == "Succeeded":
        return replace(_succeeded(container_end(pod), walltime), where=where)
    return JobStatus(JobState.UNKNOWN, f"its pod is in the phase {phase!r}")


def _pending(pod: Mapping[str, Any], warnings: list[str]) -> JobStatus:
    state = pod.get("status") or {}
    since = parse_time((pod.get("metadata") or {}).get("creationTimestamp"))
    said = _words(warnings[-1]) if warnings else ""
    if not (pod.get("spec") or {}).get("nodeName"):
        reason = "it waits for the virtual node"
        for condition in state.get("conditions") or []:
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                reason = "the virtual node does not take it at present"
                said = str(condition.get("message") or said)
        return JobStatus(JobState.QUEUED, reason, said, since=since)
    number = batch_id(pod)
    for waiting in _waiting(state):
        if waiting.get("reason") == "JobHeld":
            held = str(waiting.get("message") or "")
            return JobStatus(JobState.HELD, "the batch system holds it", held, since=since)
    reason = f"batch job {number} waits in the queue" if number else "it is handed to the site"
    return JobStatus(JobState.QUEUED, reason, said, since=since)


def _failed(state: Mapping[str, Any], end: End | None, walltime: timedelta) -> JobStatus:
    said = _words(str(state.get("message") or (end.message if end else "") or ""))
    reason = str(state.get("reason") or "")
    since = end.finished if end else None
    if reason == "ProviderFailed" or (end is None and reason):
        words, hint = _refusal(said or reason)
        return JobStatus(JobState.FAILED, words, said or reason, hint, since)
    if end is None:
        return JobStatus(JobState.FAILED, "the site says that it failed, and not why", said)
    if end.code == DONE:
        return replace(exit_status(replace_code(end, 0), None, walltime), said="")
    if "time limit" in said:
        return JobStatus(
            JobState.TIMED_OUT, "its walltime was used up", said, since=since, exit_code=end.code
        )
    if re.search(r"out.of.memory|OOM", said, re.IGNORECASE):
        end = End(end.code, "OOMKilled", said, end.started, end.finished)
    # The start that a virtual node tells is when it noticed: nothing can be reckoned from it.
    status = exit_status(end, None, walltime)
    if end.code in _SIGNALS:
        # Slurm's plugin writes the signal where an exit code belongs (seen with f8451d9, Slurm 24.11).
        name = _SIGNALS[end.code]
        status = replace(
            status,
            reason=f"the batch system ended it by {name}, or its command with exit code {end.code}",
            hint="it may have been removed there, as by scancel; start it again",
        )
    if end.code in _FILES_MISSING and status.state is JobState.FAILED:
        hint = (
            "if its log is empty or does not know start.sh, the plugin does not deliver files: see "
            "docs/howto/virtual-nodes.md"
        )
        status = replace(status, hint=hint)
    return replace(status, said=said if said != reason else "")


def _succeeded(end: End | None, walltime: timedelta) -> JobStatus:
    since = end.finished if end else None
    ran = end.finished - end.started if end and end.finished and end.started else timedelta(0)
    if ran >= walltime * 0.9 or (end and "time limit" in end.message):
        return JobStatus(JobState.TIMED_OUT, "its walltime was used up", since=since)
    return JobStatus(
        JobState.FAILED,
        "the batch system ended it, and the site does not say why",
        said=end.message if end else "",
        hint="it may have been removed there, or its node was lost; start it again",
        since=since,
    )


def replace_code(end: End, code: int) -> End:
    """Return `end` with another exit code."""
    return End(code, "", "", end.started, end.finished)


def _words(message: str) -> str:
    """Return what the site has said, out of the error that a virtual kubelet makes of it.

    interLink 0.6 prints the whole request into it, with the token that it uses at the site
    (execute.go, `createRequest`). Users read these words.
    """
    answer = _ANSWER.fullmatch(message)
    if answer:
        body = html.unescape(answer[2]).rpartition(" Body: ")[2].strip()
        message = f"HTTP {answer[1]}: {body}" if body else f"HTTP {answer[1]}"
    elif "http.Request{" in message:
        inner = _GO_ERROR.fullmatch(message)
        message = inner[1] if inner else "the request failed"
    return _SECRET.sub(r"\1…", message)


def _refusal(said: str) -> tuple[str, str]:
    for pattern, words, hint in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return words, hint
    return "the site did not take it", "its own words may say why"


def _started(state: Mapping[str, Any]) -> Any:
    for one in state.get("containerStatuses") or []:
        started = ((one.get("state") or {}).get("running") or {}).get("startedAt")
        if started:
            return parse_time(started)
    return None


def _waiting(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        (one.get("state") or {}).get("waiting") or {}
        for one in state.get("containerStatuses") or []
    ]
