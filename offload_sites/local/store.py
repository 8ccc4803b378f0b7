"""Asks and changes what is in the directory of a `local` site, on behalf of the back end.

Blocking, and to be called from any thread or process: the files and locks are the only state.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from offload_sites.jobs import JobLogs, JobStatus, SiteHealth, SiteState
from offload_sites.local import launch, runner, statuses
from offload_sites.local.fifo import Size, fits, render_wait, usage
from offload_sites.local.jobqueue import Phase, Snapshot, look, phase_of, put_away
from offload_sites.local.records import (
    CANCEL,
    ENDED,
    JOBS,
    LOCK,
    RUNNER_LOG,
    STDERR,
    STDOUT,
    End,
    Order,
    Start,
    Ticket,
    Why,
    is_held,
    locked,
    read,
    this_machine,
    write,
)

# Most of a turn is waiting for another turn to end; each lasts milliseconds per job.
_TURN_S = 60.0
# What an interpreter may need to run at all. Runners outlive us: the rest of ours is not theirs.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG")


def turn_if_needed(root: Path) -> Snapshot:
    """Have the queue turned, in a process of its own, if there is anything to do; return it.

    Raises
    ------
    OSError
        That process could not be started, or failed; `runner.log` says more.
    """
    snapshot = look(root)
    if not (snapshot.lost or snapshot.next()):
        return snapshot
    _turn(root)
    return look(root)


def _turn(root: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-X", "utf8", launch.__file__, str(root)]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    with (root / RUNNER_LOG).open("ab") as log:
        try:
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                env=environment,
                start_new_session=True,  # a Ctrl-C in our terminal is not for it
                timeout=_TURN_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise OSError(0, "the process that starts jobs failed") from error


def status_of(root: Path, snapshot: Snapshot, keys: Iterable[str]) -> Mapping[str, JobStatus]:
    """Return the status of each of these jobs that the site knows."""
    phases = {entry.key: entry.phase for entry in snapshot.active + snapshot.lost}
    used = usage(entry.size for entry in snapshot.active)
    ahead = {entry.key: index for index, entry in enumerate(snapshot.waiting)}
    found: dict[str, JobStatus | None] = {}
    for key in keys:
        if key in ahead:
            reason = render_wait(ahead[key], used, snapshot.limits)
            found[key] = statuses.waiting(_records(root / JOBS / key), reason)
        else:
            found[key] = _status_of_other(root, key, phases.get(key))
    return {key: status for key, status in found.items() if status}


def _status_of_other(root: Path, key: str, phase: Phase | None) -> JobStatus | None:
    """Return the status of a job that does not wait. It may be put away while we look."""
    for job in (root / JOBS / key, root / ENDED / key):
        records = _records(job)
        if records.end:
            return statuses.ended(records, records.end)
        if records.order and phase:
            cancelled = (job / CANCEL).exists()
            return statuses.running(records, cancelled=cancelled, lost=phase is Phase.LOST)
    return None


def _records(job: Path) -> statuses.Records:
    return statuses.Records(read(Ticket, job), read(Order, job), read(Start, job), read(End, job))


def find(root: Path, prefix: str) -> set[str]:
    """Return the keys of all jobs that start with `prefix`."""
    # In this order: a job that is put away meanwhile is seen at least once.
    jobs = [*(root / JOBS).iterdir(), *(root / ENDED).iterdir()]
    return {job.name for job in jobs if job.name.startswith(prefix)}


def cancel(root: Path, keys: Iterable[str]) -> None:
    """End jobs that wait, and ask the runners of the others to end theirs."""
    with locked(root / LOCK):
        for key in keys:
            job = root / JOBS / key
            phase = phase_of(job)
            if phase is Phase.QUEUED:
                runner.clean(job)
                write(End(time.time(), Why.CANCEL), job)
                put_away(root, key)
            elif phase in {Phase.ACTIVE, Phase.LOST}:
                (job / CANCEL).touch()
                _wake(job)


def _wake(job: Path) -> None:
    """Have a runner look at its `cancel` file at once, if a signal from here can reach it."""
    start = read(Start, job)
    if start and start.machine == this_machine() and is_held(job / LOCK):
        try:
            os.kill(start.pid, runner.LOOK)
        except ProcessLookupError:  # it has ended just now
            return


def logs(root: Path, key: str, tail_bytes: int) -> JobLogs | None:
    """Return the end of what a job has printed; None if it never started, or is not known."""
    for directory in (JOBS, ENDED):
        try:
            job = root / directory / key
            return JobLogs(_tail(job / STDOUT, tail_bytes), _tail(job / STDERR, tail_bytes))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def _tail(path: Path, size: int) -> str:
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - size))
        return file.read(size).decode(errors="replace")


def health(root: Path) -> SiteHealth:
    """Return how the site is.

    Raises
    ------
    OSError
        Its directory cannot be used.
    """
    with tempfile.TemporaryFile(dir=root) as probe:
        probe.write(b"\0" * 4096)
    return _health_of(look(root))


def _health_of(snapshot: Snapshot) -> SiteHealth:
    limits = snapshot.limits
    used = usage(entry.size for entry in snapshot.active)
    free = None if limits.cpus is None else max(0, limits.cpus - used.cpus)
    if snapshot.waiting or not fits(Size(1), used, limits):
        waiting = len(snapshot.waiting)
        return SiteHealth(SiteState.FULL, f"{used.jobs} running, {waiting} waiting", free)
    return SiteHealth(SiteState.UP, "", free)
