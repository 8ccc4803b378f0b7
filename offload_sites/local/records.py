"""The directory of a `local` site: its names, locks and records.

Standard library only, and quick to import: every runner loads it (see `launch`).

Theory of operation
-------------------
All state is in files, so that no daemon is needed and a process may be killed at any instant::

    <root>/lock            flock: held while the queue changes
    <root>/limits.json     how much may run at once
    <root>/runner.log      tracebacks of runners; empty unless something is wrong
    <root>/staging/<id>/   a submission being written, or jobs being thrown away
    <root>/jobs/<key>/     queued and running jobs
    <root>/ended/<key>/    ended jobs

A job moves only to the right (`staging`, `jobs`, `ended`), each time by one rename, and always as a
whole. Inside its directory::

    order.json  ticket.json     what to run; its place in the queue. Written once
    devices.json                which GPUs it has, at a site that has some
    lock                        flock: held by its runner for as long as that lives
    start.json                  written by the runner just before the command may exist
    cancel                      somebody wants it to end
    end.json                    how it ended. Written once
    work/ tmp/ stdout stderr    the command's own

The phase follows from these files and the lock alone. A process id proves nothing: it may have been
given to another process since.

=========  ==========  ========  ===========================================================
end.json   job's lock  start     phase
=========  ==========  ========  ===========================================================
yes        any         any       ENDED
no         held        any       ACTIVE: a runner owns it
no         free        yes       LOST: its runner was killed. It may never be started again
no         free        no        QUEUED
=========  ==========  ========  ===========================================================
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

JOBS, ENDED, STAGING = "jobs", "ended", "staging"
LOCK, CANCEL, RUNNER_LOG = "lock", "cancel", "runner.log"
WORK, TMP, STDOUT, STDERR = "work", "tmp", "stdout", "stderr"

#: Variable in the environment of every process of a job; its value is the job's directory.
MARK = "OFFLOAD_LOCAL_JOB"

#: Seconds after which a runner looks at its `cancel` file even if no signal came: the signal cannot
#: cross from one container or machine to another that shares the directory.
LOOK_S = 5.0


class Limits(NamedTuple):
    """How much may run at once; None for any number."""

    max_jobs: int | None = None
    cpus: int | None = None
    gpus: int | None = None


class Ticket(NamedTuple):
    """A job's place in the queue (time in ns since the epoch, then number), and its size."""

    submitted_ns: int
    number: int
    cpus: int
    gpus: int = 0


class Order(NamedTuple):
    """What a runner needs to know. `environment` is the whole one, `secrets` are names in work/."""

    command: list[str]
    environment: dict[str, str]
    secrets: list[str]
    walltime_s: float
    term_grace_s: float


class Devices(NamedTuple):
    """Which GPUs of the machine are a job's own, by number; written before it starts."""

    gpus: list[int]


class Start(NamedTuple):
    """Who runs a job since when (seconds since the epoch). `machine` is as `this_machine` says."""

    time_s: float
    node: str
    machine: str
    pid: int


class Why(enum.StrEnum):
    """Why a job ended; the words for it are in `statuses`."""

    EXIT = "exit"  # the command ended by itself
    NOT_STARTED = "not started"  # the system refused to start the command: `errno`
    CANCEL = "cancel"
    WALLTIME = "walltime"
    STOP = "stop"  # the runner got SIGTERM, as at a shutdown
    LOST = "lost"  # the runner was killed
    RESTART = "restart"  # so was everything else
    BROKEN = "broken"  # the order cannot be read


class End(NamedTuple):
    """How a job ended, and when (seconds since the epoch); a negative exit code is a signal."""

    time_s: float
    why: str
    exit_code: int | None = None
    errno: int = 0


R = TypeVar("R", Limits, Ticket, Order, Devices, Start, End)

_NAMES: dict[type[NamedTuple], str] = {
    Limits: "limits.json",
    Ticket: "ticket.json",
    Order: "order.json",
    Devices: "devices.json",
    Start: "start.json",
    End: "end.json",
}


def path_of(kind: type[R], directory: Path) -> Path:
    """Return where `directory` holds its record of this kind."""
    return directory / _NAMES[kind]


def read(kind: type[R], directory: Path) -> R | None:
    """Return a record; None if there is none, or half of one (the machine lost power)."""
    try:
        fields = json.loads(path_of(kind, directory).read_bytes())
        return kind(**fields)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def put(record: R, directory: Path) -> None:
    """Write a record into a directory that nobody else knows yet."""
    path_of(type(record), directory).write_bytes(_encode(record))


def reserve(kind: type[R], directory: Path) -> None:
    """Take disk space for a record now, so that a full disk cannot keep it from being written."""
    _room(kind, directory).write_bytes(b" " * 2048)


def write(record: R, directory: Path) -> None:
    """Write a record so that after a crash it is there whole or not at all."""
    room = _room(type(record), directory)
    text = _encode(record)
    fd = os.open(room, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(fd, text)  # over the reserved bytes; what is left of those is cut off only then
        os.ftruncate(fd, len(text))
        os.fsync(fd)
    finally:
        os.close(fd)
    room.rename(path_of(type(record), directory))


def _room(kind: type[R], directory: Path) -> Path:
    return path_of(kind, directory).with_suffix(".room")


def _encode(record: NamedTuple) -> bytes:
    return json.dumps(record._asdict()).encode()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`; wait for it as long as it takes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Not by closing alone: if another thread of this process forked meanwhile, its child
            # has the file open too, and the lock would last as long as that child.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def hold(path: Path, *, wait: bool) -> int | None:
    """Return an open file that holds the lock `path`; without `wait`, None if another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def is_held(path: Path) -> bool:
    """Tell whether somebody has the lock `path`."""
    try:
        fd = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # Shared, so that two who ask at once do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)  # not by closing alone, as in `locked`
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def this_machine() -> str:
    """Return a name for this boot of this machine, seen from this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
