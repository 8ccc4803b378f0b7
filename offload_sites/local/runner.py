"""Runs one job: the process that owns it from its start to the record of its end.

Standard library only. It knows one job directory, and neither queue nor submitter; `jobqueue` makes
this process and holds the job's lock in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import zlib
from pathlib import Path

from offload_sites.local import processes
from offload_sites.local.records import (
    CANCEL,
    LOOK_S,
    MARK,
    STDERR,
    STDOUT,
    TMP,
    WORK,
    Devices,
    End,
    Order,
    Start,
    Why,
    read,
    this_machine,
    write,
)

#: Tells a runner to look at its job's `cancel` file.
LOOK = signal.SIGUSR1
_STOPS = {signal.SIGTERM, signal.SIGINT}
# Blocked, and taken with sigtimedwait: without handlers nothing comes between a look and a sleep.
_SIGNALS = {signal.SIGCHLD, signal.SIGHUP, LOOK, *_STOPS}


def supervise(job: Path) -> bool:
    """Run a job from its start to the record of its end; False if this process was told to stop.

    The caller is a fresh child, holds the job's lock, and keeps it until this returns.

    Raises
    ------
    OSError
        A record could not be written (disk full). Without its start record the job was not started
        and is still queued; without its end record it has ended and is LOST.
    """
    _settle_in()
    order = read(Order, job)
    if order is None:
        return _end(job, End(time.time(), Why.BROKEN))
    write(Start(time.time(), os.uname().nodename, this_machine(), os.getpid()), job)
    # After the start record: who cancels writes this file first and then looks for that record.
    if (job / CANCEL).exists():
        return _end(job, End(time.time(), Why.CANCEL))
    payload, failure = _start(order, job)
    if failure:
        os.waitpid(payload, 0)
        return _end(job, End(time.time(), Why.NOT_STARTED, errno=failure))
    children = _Children(payload)
    why = _watch(children, job, time.monotonic() + order.walltime_s)
    ended_at = time.time()
    if why is not Why.EXIT:
        _ask_to_end(children, order.term_grace_s)
    _kill_all(children)
    _end(job, End(ended_at if why is Why.EXIT else time.time(), why, children.exit_code))
    return why is not Why.STOP


def clean(job: Path) -> None:
    """Remove what must not outlive a job: its secrets and its temporary files.

    What the job itself has made impossible to remove stays: that must not stop the queue.
    """
    order = read(Order, job)
    for name in order.secrets if order else ():
        with contextlib.suppress(OSError):
            (job / WORK / name).unlink()
    link = _tmp_link(job)
    with contextlib.suppress(OSError):
        if link.readlink() == job / TMP:
            link.unlink()
    with contextlib.suppress(OSError):
        _remove_tree(job / TMP)


def _end(job: Path, end: End) -> bool:
    clean(job)
    write(end, job)
    return True


def _settle_in() -> None:
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    processes.set_name("offload-runner")
    processes.adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, the kernel would reap for us
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


class _Children:
    """Reaps every child, and remembers how the payload ended."""

    def __init__(self, payload: int) -> None:
        self.payload = payload
        self.exit_code: int | None = None
        self.none_left = False

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.payload:
                    self.exit_code = os.waitstatus_to_exitcode(status)
        self.none_left = True

    @property
    def payload_ended(self) -> bool:
        self.reap()
        return self.exit_code is not None


def _watch(children: _Children, job: Path, deadline: float) -> Why:
    """Wait until the payload has ended, or has to; return why."""
    while not children.payload_ended:
        if (job / CANCEL).exists():
            return Why.CANCEL
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return Why.WALLTIME
        came = signal.sigtimedwait(_SIGNALS, min(left_s, LOOK_S))
        if came and came.si_signo in _STOPS:
            return Why.STOP
    return Why.EXIT


def _ask_to_end(children: _Children, grace_s: float) -> None:
    """Send SIGTERM to the payload's process group, and wait for the payload at most `grace_s`."""
    if children.payload_ended:
        return
    with contextlib.suppress(PermissionError):  # it has become another user (setuid)
        os.killpg(children.payload, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while not children.payload_ended and (left_s := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left_s)


def _kill_all(children: _Children) -> None:
    """End every descendant, however long that takes: orphans come to us, none can get away."""
    pause_s = 0.01
    children.reap()
    while not children.none_left:
        for pid in processes.descendants(os.getpid()):
            processes.kill(pid)
        signal.sigtimedwait({signal.SIGCHLD}, pause_s)
        pause_s = min(1.0, 2 * pause_s)
        children.reap()


def _start(order: Order, job: Path) -> tuple[int, int]:
    """Start the payload; return its process id, and the errno if it could not be started."""
    runner = os.getpid()
    told, tell = os.pipe()  # close-on-exec: the end of file says that the payload has begun
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            processes.die_with(runner)
            _become(order, job)
        except OSError as error:
            code = error.errno or 0
        finally:
            os.write(tell, str(code).encode())
            os._exit(127)
    os.close(tell)
    failure = os.read(told, 16)
    os.close(told)
    return pid, int(failure or 0)


def _become(order: Order, job: Path) -> None:
    """Turn this process into the payload; returns only by raising."""
    os.setpgid(0, 0)
    os.umask(0o022)
    os.chdir(job / WORK)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, STDOUT), (2, STDERR)):
        os.dup2(os.open(job / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    devices = read(Devices, job)
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices.gpus))} if devices else {}
    environment = {"TMPDIR": str(_make_tmp(job)), **order.environment, **gpus, MARK: str(job)}
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python itself
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvpe(order.command[0], order.command, environment)  # noqa: S606 - argv, as it came


def _tmp_link(job: Path) -> Path:
    return Path("/tmp", f"offload-{os.getuid()}-{zlib.crc32(os.fsencode(job)):08x}")  # noqa: S108


def _make_tmp(job: Path) -> Path:
    """Return a short name of the job's temporary directory, or the long one if that fails.

    The path of a Unix socket has at most 107 bytes (unix(7)), and multiprocessing puts sockets
    below TMPDIR: in a job directory below a home directory they would not fit.
    """
    link = _tmp_link(job)
    with contextlib.suppress(OSError):
        link.symlink_to(job / TMP)
    with contextlib.suppress(OSError):
        if link.readlink() == job / TMP and link.lstat().st_uid == os.getuid():
            return link
    return job / TMP


def _remove_tree(directory: Path) -> None:
    if any(directory.iterdir()):
        import shutil  # costs as much to load as all else here, and is hardly ever needed

        shutil.rmtree(directory, ignore_errors=True)
    else:
        directory.rmdir()
