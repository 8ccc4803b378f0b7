"""The queue of a `local` site: what is in it, and what starts next. Standard library only.

Whoever changes the queue, or ends a job, turns it: `turn` takes note of what has ended and starts
what fits. Runners turn it as they end, so it goes on after all submitters are gone, and no daemon
is needed. A turn may be killed at any instant: the next one does the rest.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from offload_sites.local import processes, runner
from offload_sites.local.fifo import Size, free_gpus, startable, usage
from offload_sites.local.records import (
    CANCEL,
    ENDED,
    JOBS,
    LOCK,
    Devices,
    End,
    Limits,
    Start,
    Ticket,
    Why,
    hold,
    is_held,
    locked,
    path_of,
    read,
    this_machine,
    write,
)

# Each start holds an open file until its runner is forked; 1024 is the usual limit for those.
_STARTS_PER_TURN = 100


class Phase(enum.Enum):
    """Where a job is; the table that tells them apart is in `records`."""

    QUEUED = enum.auto()
    ACTIVE = enum.auto()
    LOST = enum.auto()
    ENDED = enum.auto()


class Entry(NamedTuple):
    """One job below `jobs/`."""

    key: str
    phase: Phase
    ticket: Ticket

    @property
    def size(self) -> Size:
        """What it takes."""
        return Size(self.ticket.cpus, self.ticket.gpus)


class Snapshot(NamedTuple):
    """The queue as it was; exact only while the site's lock is held."""

    limits: Limits
    waiting: list[Entry]  # in the order in which they will start
    active: list[Entry]
    lost: list[Entry]
    ended: list[Entry]

    def next(self) -> list[Entry]:
        """Return the jobs that may start now."""
        used = usage(entry.size for entry in self.active)
        count = startable([entry.size for entry in self.waiting], used, self.limits)
        return self.waiting[:count]


def phase_of(job: Path) -> Phase | None:
    """Return the phase of a job, or None if it is not here (any more)."""
    held = is_held(job / LOCK)  # first: a runner writes its records before it lets go of the lock
    if path_of(End, job).exists():
        return Phase.ENDED
    if held:
        return Phase.ACTIVE
    if path_of(Start, job).exists():
        return Phase.LOST
    return Phase.QUEUED if path_of(Ticket, job).exists() else None


def look(root: Path) -> Snapshot:
    """Return the queue as it is."""
    snapshot = Snapshot(read(Limits, root) or Limits(), [], [], [], [])
    lists = {
        Phase.QUEUED: snapshot.waiting,
        Phase.ACTIVE: snapshot.active,
        Phase.LOST: snapshot.lost,
        Phase.ENDED: snapshot.ended,
    }
    for job in (root / JOBS).iterdir():
        phase = phase_of(job)
        if phase:
            # Without a ticket it comes first, and its runner will find its order broken as well.
            lists[phase].append(Entry(job.name, phase, read(Ticket, job) or Ticket(0, 0, 1)))
    snapshot.waiting.sort(key=lambda entry: (entry.ticket, entry.key))
    return snapshot


def run(root: Path) -> None:
    """Turn the queue, and become the runner of what it starts.

    In the calling process this returns once all that fits is started. In each child it runs a job,
    turns the queue again, and so on: a loop, since a call inside a call would meet the recursion
    limit in a long queue.
    """
    while mine := _fork_runners(root):
        job, lock = mine
        _close_all_but(lock)
        try:
            go_on = runner.supervise(job)
        except Exception:  # noqa: BLE001 - whatever it was, the log must hold it; the job is LOST
            traceback.print_exc()
            go_on = False
        os.close(lock)
        if not go_on:
            return


def _fork_runners(root: Path) -> tuple[Path, int] | None:
    """Start what fits; return the job and its lock in each child, None in the calling process."""
    while taken := _turn(root):
        for job, lock in taken:
            if os.fork() == 0:
                return job, lock
            os.close(lock)
    return None


def _turn(root: Path) -> list[tuple[Path, int]]:
    """Put ended jobs away, and return jobs that may start with an open file that holds their lock.

    If this process dies before it has forked, the locks are free again and the jobs still queued.
    """
    with locked(root / LOCK):
        snapshot = look(root)
        buried = _bury(root, snapshot.lost)
        for entry in [*snapshot.ended, *buried]:
            put_away(root, entry.key)
        left = [entry for entry in snapshot.lost if entry not in buried]
        snapshot = snapshot._replace(active=snapshot.active + left)
        next_ones = snapshot.next()[:_STARTS_PER_TURN]
        _give_gpus(root, snapshot, next_ones)
        jobs = [root / JOBS / entry.key for entry in next_ones]
        # Nobody else may start a job now, so what holds a lock is one who asks, and for an instant.
        locks = [hold(job / LOCK, wait=True) for job in jobs]
        return [(job, lock) for job, lock in zip(jobs, locks, strict=True) if lock is not None]


def _give_gpus(root: Path, snapshot: Snapshot, starting: Iterable[Entry]) -> None:
    """Note which GPUs each job has; none, where it asked for none, so that it sees none."""
    if snapshot.limits.gpus is None:
        return
    held = [read(Devices, root / JOBS / entry.key) for entry in snapshot.active]
    taken = [number for one in held if one for number in one.gpus]
    for entry in starting:
        gpus = free_gpus(entry.ticket.gpus, taken, snapshot.limits.gpus)
        taken += gpus
        write(Devices(gpus), root / JOBS / entry.key)


def put_away(root: Path, key: str) -> None:
    """Move an ended job out of the queue. The caller holds the site's lock."""
    (root / JOBS / key).rename(root / ENDED / key)


def _bury(root: Path, lost: Iterable[Entry]) -> list[Entry]:
    """Record the end of jobs whose runner was killed, once nothing of them runs any more."""
    jobs = {root / JOBS / entry.key: entry for entry in lost}
    if not jobs:
        return []
    undead = processes.kill_jobs(jobs)
    buried = []
    for job, entry in jobs.items():
        if job not in undead:
            runner.clean(job)
            write(End(time.time(), _why_lost(job)), job)
            buried.append(entry)
    return buried


def _why_lost(job: Path) -> Why:
    if (job / CANCEL).exists():
        return Why.CANCEL
    start = read(Start, job)
    return Why.LOST if start and start.machine == this_machine() else Why.RESTART


def _close_all_but(lock: int) -> None:
    numbers = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    for number in numbers:
        if number > 2 and number != lock:
            with contextlib.suppress(OSError):  # the one with which we read that directory
                os.close(number)
