"""Job ads as JobStatus. Pure, and never raises for what a site says: a new HTCondor must not stop
the poll of all other jobs.

Theory of operation
-------------------
A spooled job is held with code 16 until its input has arrived: to us it counts as queued. A finished
job stays in the queue for a day; a removed one leaves it at once and is then known to the schedd's
history only. Removed can mean cancelled by us, ended by the site's rules (walltime), or by a person:
the words of the site decide.

::

    JobStatus  1 idle ─► 2 running (6 sends its output, 7 is suspended) ─► 4 completed
                 └──► 5 held ◄──┘                  any ─► 3 removed ─► history
"""  # noqa: D205

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from offload_sites.htcondor.containers import container_reason
from offload_sites.htcondor.reasons import SPOOLING, Reason, hold_reason
from offload_sites.jobs import JobState, JobStatus
from offload_sites.start_script import EXIT_WALLTIME

__all__ = ["ATTRIBUTES", "Ad", "is_uploading", "native_id", "start_failed", "status_from_ad"]

#: What is asked for of each job.
ATTRIBUTES = (
    "ClusterId",
    "ProcId",
    "JobStatus",
    "LastJobStatus",
    "EnteredCurrentStatus",
    "QDate",
    "HoldReason",
    "HoldReasonCode",
    "HoldReasonSubCode",
    "RemoveReason",
    "ExitCode",
    "ExitBySignal",
    "ExitSignal",
    "JobCurrentStartDate",
    "JobCurrentStartExecutingDate",
    "CompletionDate",
    "NumJobStarts",
    "JobRunCount",
    "RemoteHost",
    "LastRemoteHost",
    "maxWallTime",
    "OffloadWalltime",
    "OffloadKey",
    "OffloadSubmission",
    "OffloadUploaded",
    "ServerTime",
    "LastVacateReason",
)

#: One job's attributes as the client child returns them: undefined ones are missing.
Ad = Mapping[str, Any]

_HOLDS_A_SLOT = frozenset({2, 6, 7})
_UPLOAD_S = 300
# The start script's, and apptainer's own.
_START_EXITS = frozenset({71, 72, 73, 255})
_TIME_WORDS = re.compile(r"wall ?time|time limit|allowed (?:job )?duration|JobCurrentStart", re.I)
_OUR_RULE = re.compile(r"RoutedFromJobId =\?= undefined && ")
# "… (by user wp5)" is how a schedd signs what people do.
_BY = re.compile(r"\(by user (?P<who>[^)]+)\)")


def native_id(ad: Ad) -> str:
    """Return the id by which the site knows the job of `ad`."""
    return f"{ad.get('ClusterId')}.{ad.get('ProcId')}"


def is_uploading(ad: Ad) -> bool:
    """Tell whether the site does not have all input files of the job yet."""
    return _is_spooling(ad) and not ad.get("OffloadUploaded")


def _is_spooling(ad: Ad) -> bool:
    return ad.get("JobStatus") == 5 and ad.get("HoldReasonCode") == SPOOLING


def start_failed(ad: Ad) -> bool:
    """Tell whether the start script may have left word of why the job could not be started."""
    return ad.get("JobStatus") == 4 and ad.get("ExitCode") in _START_EXITS


def status_from_ad(
    ad: Ad, *, cancelled: bool = False, gone: bool = False, told: str = ""
) -> JobStatus:
    """Translate one job ad.

    Parameters
    ----------
    ad : mapping
        The `ATTRIBUTES` that the job has; times in seconds since the epoch, `OffloadWalltime` in
        seconds.
    cancelled : bool
        True if we have asked the site to end it.
    gone : bool
        True if it has left the queue: the ad is from the schedd's history.
    told : str
        The line on why a job could not be started, see `start_failed`: ``offload-start: ...`` by the
        start script, or ``FATAL: ...`` by apptainer.

    Returns
    -------
    JobStatus
        `UNKNOWN` for a state that is not in the manual.
    """
    match ad.get("JobStatus"):
        case 1:
            return _queued(ad)
        case 2 | 6 | 7 as number:
            return _running(ad, number, cancelled=cancelled)
        case 3 if not gone and ad.get("LastJobStatus") in _HOLDS_A_SLOT:
            # It leaves the queue when its processes have gone; a CE does not wait for them.
            return _running(ad, 3, cancelled=cancelled)
        case 3:
            return _removed(ad, cancelled=cancelled)
        case 4:
            return _completed(ad, told)
        case 5:
            return _held(ad)
        case other:
            return JobStatus(
                JobState.UNKNOWN, f"the site says that it is in state {other!r}, which is not known"
            )


def _queued(ad: Ad) -> JobStatus:
    if _number(ad, "NumJobStarts") or _number(ad, "JobRunCount"):
        reason = "it was stopped at the site, and waits to be started once more"
        said = str(ad.get("LastVacateReason", ""))
    else:
        reason, said = "it waits for free cores at the site", ""
    return JobStatus(JobState.QUEUED, reason, said, since=_time(ad, "EnteredCurrentStatus"))


_RUNNING = {
    3: "it has been removed, and is being ended",
    6: "it hands back its output",
    7: "the site has suspended it",
}


def _running(ad: Ad, number: int, *, cancelled: bool) -> JobStatus:
    reason = _RUNNING.get(number, "")
    if cancelled:
        reason = "it is being cancelled"
    since = _time(ad, "JobCurrentStartExecutingDate") or _time(ad, "JobCurrentStartDate")
    return JobStatus(
        JobState.RUNNING,
        reason,
        since=since or _time(ad, "EnteredCurrentStatus"),
        where=_where(ad),
    )


def _held(ad: Ad) -> JobStatus:
    since = _time(ad, "EnteredCurrentStatus")
    if _is_spooling(ad):
        age_s = _number(ad, "ServerTime") - _number(ad, "EnteredCurrentStatus")
        if age_s < _UPLOAD_S:
            return JobStatus(JobState.QUEUED, "its input files are on their way", since=since)
        reason = "its input files have not arrived at the site"
        return JobStatus(JobState.HELD, reason, hint="submit it again", since=since)
    said = str(ad.get("HoldReason", ""))
    why = hold_reason(_number(ad, "HoldReasonCode"), _number(ad, "HoldReasonSubCode"), said)
    return JobStatus(JobState.HELD, why.sentence, said, why.hint, since, where=_where(ad))


def _completed(ad: Ad, told: str) -> JobStatus:
    code = _exit_code(ad)
    since = _time(ad, "CompletionDate") or _time(ad, "EnteredCurrentStatus")
    where = _where(ad)
    if told:
        why, said = _start_failure(told)
        return JobStatus(
            JobState.FAILED,
            f"it could not be started: {why.sentence}",
            said,
            why.hint,
            since,
            exit_code=code,
            where=where,
        )
    if code == EXIT_WALLTIME and _used_up(ad):
        return JobStatus(JobState.TIMED_OUT, "its walltime was used up", since=since, where=where)
    if code == 0:
        return JobStatus(
            JobState.COMPLETED,
            "the command ended with exit code 0",
            since=since,
            exit_code=0,
            where=where,
        )
    return JobStatus(
        JobState.FAILED,
        _failure(code),
        hint=_HINTS.get(code or 0, "its standard error may say why"),
        since=since,
        exit_code=code,
        where=where,
    )


def _start_failure(told: str) -> tuple[Reason, str]:
    """Return why a job could not be started, and whose words say so if they are not our own."""
    script, _, words = told.partition(": ")
    if script == "FATAL":
        return container_reason(words), words.strip()
    return Reason(words.strip(), "choose another image, or tell the site"), ""


_HINTS = {
    -signal.SIGKILL: "it may have used more memory than it had asked for",
    128 + signal.SIGKILL: "it may have used more memory than it had asked for",
    127: "the image has no such program",
}


def _failure(code: int | None) -> str:
    if code is None:
        return "it ended, and the site does not say how"
    if code < 0:
        return f"the command was killed by signal {_signal(-code)}"
    return f"the command ended with exit code {code}"


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:  # a real-time signal
        return str(number)


def _removed(ad: Ad, *, cancelled: bool) -> JobStatus:
    said = str(ad.get("RemoveReason", ""))
    since, where = _time(ad, "EnteredCurrentStatus"), _where(ad)
    if cancelled:
        return JobStatus(JobState.CANCELED, "it was cancelled", since=since, where=where)
    if _OUR_RULE.search(said) and not _has_started(ad):
        return JobStatus(
            JobState.CANCELED, "it had waited for as long as it was wanted", since=since
        )
    if _TIME_WORDS.search(said):
        return JobStatus(JobState.TIMED_OUT, "its walltime was used up", said, since=since)
    if "disabled job retries" in said:
        return JobStatus(
            JobState.CANCELED,
            "it was stopped at the site, which starts no job twice",
            said,
            since=since,
            where=where,
        )
    by = _BY.search(said)
    who = f"by {by['who']!r} at the site" if by else "by the site"
    return JobStatus(
        JobState.CANCELED,
        f"it was removed {who}",
        said,
        "ask the site why, with the id of the job",
        since,
        where=where,
    )


def _has_started(ad: Ad) -> bool:
    return bool(_number(ad, "JobCurrentStartDate"))


def _used_up(ad: Ad) -> bool:
    """Tell whether the job ran for as long as it might, give or take the time of a transfer."""
    began = _number(ad, "JobCurrentStartExecutingDate") or _number(ad, "JobCurrentStartDate")
    ended = _number(ad, "CompletionDate") or _number(ad, "EnteredCurrentStatus")
    walltime_s = _number(ad, "OffloadWalltime")
    return not began or not walltime_s or ended - began >= 0.95 * walltime_s - 2


def _exit_code(ad: Ad) -> int | None:
    if ad.get("ExitBySignal"):
        return -_number(ad, "ExitSignal") or None
    code = ad.get("ExitCode")
    return code if isinstance(code, int) else None


def _where(ad: Ad) -> str:
    host = ad.get("RemoteHost") or ad.get("LastRemoteHost") or ""
    return str(host).rpartition("@")[2]  # slot1_1@node7


def _number(ad: Ad, name: str) -> int:
    value = ad.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _time(ad: Ad, name: str) -> datetime | None:
    seconds = _number(ad, name)
    return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
