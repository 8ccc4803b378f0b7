"""What the records of a `local` job mean, in the words of the site interface. Pure."""

from __future__ import annotations

import errno
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from offload_sites.jobs import JobState, JobStatus
from offload_sites.local.records import End, Order, Start, Ticket, Why

_REASONS = {
    Why.CANCEL: "it was cancelled",
    Why.STOP: "its runner was told to stop, as at a shutdown of the machine",
    Why.LOST: "its runner, the process that watches over it, was killed",
    Why.RESTART: "the machine, or the container it ran in, was restarted",
    Why.BROKEN: "the record of what to run cannot be read",
}

_AGAIN = "start it again; if it happens often, ask who looks after this machine"
_HINTS: dict[str, str] = {
    Why.EXIT: "its standard error may say why",
    Why.NOT_STARTED: "check the command, and the PATH it is searched in",
    Why.LOST: _AGAIN,
    Why.RESTART: _AGAIN,
    Why.BROKEN: _AGAIN,
}


class Records(NamedTuple):
    """All records of one job; None for those that it does not have yet."""

    ticket: Ticket | None
    order: Order | None
    start: Start | None
    end: End | None


def waiting(records: Records, reason: str) -> JobStatus:
    """Return the status of a queued job."""
    ticket = records.ticket
    since = _utc(ticket.submitted_ns / 1e9) if ticket else None
    return JobStatus(JobState.QUEUED, reason, since=since)


def running(records: Records, *, cancelled: bool, lost: bool) -> JobStatus:
    """Return the status of a job that a runner owns, or whose runner was just found dead."""
    start = records.start
    if start is None:
        return waiting(records, "it is being started")
    reason = ""
    if lost:
        reason = "its runner was killed; what is left of it is being ended"
    elif cancelled:
        reason = "it is being cancelled"
    return JobStatus(JobState.RUNNING, reason, since=_utc(start.time_s), where=start.node)


def ended(records: Records, end: End) -> JobStatus:
    """Return the status of a job that has ended."""
    state, reason = _state_and_reason(records, end)
    return JobStatus(
        state,
        reason,
        said=os.strerror(end.errno) if end.errno else "",
        hint="" if state is JobState.COMPLETED else _hint(end),
        since=_utc(end.time_s),
        exit_code=end.exit_code,
        where=records.start.node if records.start else "",
    )


def _state_and_reason(records: Records, end: End) -> tuple[JobState, str]:
    if end.why == Why.EXIT:
        return _exit_state(end.exit_code)
    if end.why == Why.WALLTIME:
        walltime = timedelta(seconds=records.order.walltime_s) if records.order else "?"
        return JobState.TIMED_OUT, f"its walltime of {walltime} was used up"
    if end.why == Why.NOT_STARTED:
        command = records.order.command[0] if records.order else "?"
        how = "was not found" if end.errno == errno.ENOENT else "could not be started"
        return JobState.FAILED, f"the command {command!r} {how}"
    try:
        why = Why(end.why)
    except ValueError:  # written by a newer release
        return JobState.FAILED, f"it ended for an unknown reason: {end.why}"
    if why is Why.CANCEL and records.start is None:
        return JobState.CANCELED, "it was cancelled before it started"
    state = JobState.CANCELED if why in {Why.CANCEL, Why.STOP} else JobState.FAILED
    return state, _REASONS[why]


def _exit_state(exit_code: int | None) -> tuple[JobState, str]:
    if exit_code == 0:
        return JobState.COMPLETED, "the command ended with exit code 0"
    if exit_code is not None and exit_code < 0:
        return JobState.FAILED, f"the command was killed by signal {_signal(-exit_code)}"
    return JobState.FAILED, f"the command ended with exit code {exit_code}"


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return str(number)


def _hint(end: End) -> str:
    if end.why == Why.EXIT and end.exit_code == -signal.SIGKILL:
        return "the machine may have run out of memory"
    return _HINTS.get(end.why, "")


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
