"""Processes of jobs: how to find all of them, and how to end them.

Linux, and standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from offload_sites.local.records import MARK, STDERR, STDOUT

# prctl(2), linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36

# Loaded here and not at the first call, which may come between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: object) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_name(name: str) -> None:
    """Give this process a name (at most 15 bytes) for `ps` and `top`."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends: none can leave the tree."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; for the child, just after a fork."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return every living process below `pid`."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for process in found:  # grows while it is read
        found += children.get(process, ())
    return found


def kill(pid: int) -> None:
    """Send SIGKILL to `pid` if it is still there and ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def kill_jobs(jobs: Iterable[Path], *, within_s: float = 2.0) -> set[Path]:
    """End every process of jobs whose runner is dead, and return the jobs that still have one.

    A process that cannot die (it waits for a dead file server) is left for the next call.
    """
    places = {str(job): job for job in jobs}
    deadline = time.monotonic() + within_s
    while found := _of_jobs(places):
        for pid in found:
            kill(pid)
        if time.monotonic() > deadline:
            return set(found.values())
        time.sleep(0.01)
    return set()


def _of_jobs(places: dict[str, Path]) -> dict[int, Path]:
    """Return the living processes of these jobs, and all descendants of those."""
    found = {pid: job for pid in _pids() if (job := _job_of(pid, places))}
    parents = dict(_parents()) if found else {}
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] not in found:
            line.append(parents[line[-1]])
        if line[-1] in found:
            found.update(dict.fromkeys(line, found[line[-1]]))
    found.pop(os.getpid(), None)  # a job that submits jobs may be the one that asks
    return found


def _job_of(pid: int, places: dict[str, Path]) -> Path | None:
    """Tell a job's process by its environment; failing that (`env -i`), by where it writes to.

    Not by its working directory: that may be a person who reads the job's logs.
    """
    process = Path("/proc", str(pid))
    with contextlib.suppress(OSError):
        for entry in (process / "environ").read_bytes().split(b"\0"):
            variable, _, value = entry.partition(b"=")
            if variable == MARK.encode():
                return places.get(os.fsdecode(value))
    for stream, name in ((1, STDOUT), (2, STDERR)):
        with contextlib.suppress(OSError):
            target = (process / "fd" / str(stream)).readlink()
            if target.name == name and str(target.parent) in places:
                return places[str(target.parent)]
    return None


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _parents() -> Iterator[tuple[int, int]]:
    """Yield each living process with its parent."""
    for pid in _pids():
        with contextlib.suppress(OSError):
            stat = Path("/proc", str(pid), "stat").read_bytes()
            # The name in parentheses may itself hold parentheses and spaces: proc(5).
            state, parent = stat[stat.rindex(b")") + 1 :].split()[:2]
            if state not in (b"Z", b"X"):
                yield pid, int(parent)
