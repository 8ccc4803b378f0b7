"""How jobs come into the directory of a `local` site, and how they leave it.

They are written, and removed, in `staging/`: each appears and disappears at once and whole, at
whatever instant the process is killed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from offload_sites.jobs import JobSpec, SecretFiles
from offload_sites.local.records import (
    ENDED,
    JOBS,
    LOCK,
    STAGING,
    TMP,
    WORK,
    End,
    Limits,
    Order,
    Start,
    Ticket,
    hold,
    locked,
    path_of,
    put,
    read,
    reserve,
    write,
)

INPUTS = "inputs"

#: Ended jobs are forgotten after this time, or when there are more of them than this, but never
#: while somebody who polls now and then may not have seen their end.
KEPT_S, KEPT_JOBS, KEPT_AT_LEAST_S = 7 * 86400.0, 1000, 3600.0


def prepare(root: Path, limits: Limits) -> None:
    """Make the directory of a site, or check the one that is there, and set its limits.

    Raises
    ------
    PermissionError
        It belongs to another user, or others may write to it.
    OSError
        It cannot be made or written.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = root.stat()
    if info.st_uid != os.geteuid():
        raise PermissionError(0, "it belongs to another user")
    if info.st_mode & 0o022:
        raise PermissionError(0, "other users may write to it")
    for name in (JOBS, ENDED, STAGING):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    with locked(root / LOCK):
        abandoned = list(_abandoned(root / STAGING))
        if read(Limits, root) != limits:
            write(limits, root)
    _remove(abandoned)


def add(
    root: Path,
    spec: JobSpec,
    jobs: Mapping[str, SecretFiles],
    *,
    term_grace_s: float,
    stopped: Callable[[], bool],
) -> int:
    """Queue those of `jobs` that the site does not know yet, all or none; return how many.

    If `stopped` becomes true before they are all written, none is queued.
    """
    now_ns = time.time_ns()
    new = {key: secrets for key, secrets in jobs.items() if not is_known(root, key)}
    if not new:
        return 0
    with _staging(root) as directory:
        # One copy, which all jobs link to. The originals may change while they wait.
        inputs = {
            name: _copy(path, directory / INPUTS / name) for name, path in spec.inputs.items()
        }
        for index, (key, secrets) in enumerate(new.items()):
            if stopped():
                return 0
            job = directory / JOBS / key
            ticket = Ticket(now_ns, index, spec.resources.cpus, spec.resources.gpus)
            _write_job(job, _order(spec, secrets, term_grace_s), ticket, inputs, secrets)
        with locked(root / LOCK):
            fresh = [key for key in new if not is_known(root, key)]
            for key in fresh:
                (directory / JOBS / key).rename(root / JOBS / key)
    return len(fresh)


def is_known(root: Path, key: str) -> bool:
    """Tell whether the site has this job; exact only while the site's lock is held."""
    return (root / JOBS / key).exists() or (root / ENDED / key).exists()


def forget_old(root: Path, now_s: float) -> None:
    """Remove ended jobs that are too old or too many."""
    old = list(too_old(_end_times(root / ENDED), now_s))
    if old:
        with _staging(root) as directory:
            for key in old:
                with contextlib.suppress(FileNotFoundError):  # somebody else removed it
                    (root / ENDED / key).rename(directory / JOBS / key)


def too_old(ended: Mapping[str, float], now_s: float) -> Iterator[str]:
    """Yield the keys of jobs to forget, given when each job ended."""
    newest_first = sorted(ended, key=lambda key: ended[key], reverse=True)
    for index, key in enumerate(newest_first):
        age_s = now_s - ended[key]
        if age_s > KEPT_S or (index >= KEPT_JOBS and age_s > KEPT_AT_LEAST_S):
            yield key


def _end_times(directory: Path) -> dict[str, float]:
    times = {}
    for job in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            times[job.name] = path_of(End, job).stat().st_mtime
    return times


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Lend a directory with `jobs/` and `inputs/`; what is left there in the end is removed.

    If this process is killed, the next one that comes here removes it.
    """
    with locked(root / LOCK):
        abandoned = list(_abandoned(root / STAGING))
        directory = Path(tempfile.mkdtemp(dir=root / STAGING))
        lock = hold(directory / LOCK, wait=True)
    try:
        for name in (JOBS, INPUTS):
            (directory / name).mkdir()
        yield directory
    finally:
        _remove([directory, *abandoned])
        if lock is not None:
            os.close(lock)


def _abandoned(directory: Path) -> Iterator[Path]:
    for place in directory.iterdir():
        try:
            lock = hold(place / LOCK, wait=False)
        except FileNotFoundError:  # its owner, who needs no lock of the site for it, removes it now
            continue
        if lock is not None:
            os.close(lock)
            yield place


def _remove(directories: Iterable[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _order(spec: JobSpec, secrets: SecretFiles, term_grace_s: float) -> Order:
    return Order(
        command=list(spec.command),
        environment=_clean_environment() | dict(spec.environment),
        secrets=list(secrets),
        walltime_s=spec.walltime.total_seconds(),
        term_grace_s=term_grace_s,
    )


def _clean_environment() -> dict[str, str]:
    """Return what any program needs. The rest of ours is not the job's: it may hold secrets."""
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    # Containers run under numbers that have neither name nor home.
    with contextlib.suppress(RuntimeError):
        environment["HOME"] = str(Path.home())
    with contextlib.suppress(KeyError):
        environment["USER"] = environment["LOGNAME"] = pwd.getpwuid(os.getuid()).pw_name
    return environment | {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}


def _write_job(
    job: Path, order: Order, ticket: Ticket, inputs: Mapping[str, Path], secrets: SecretFiles
) -> None:
    for directory in (job, job / WORK, job / TMP):
        directory.mkdir(mode=0o700)
    put(order, job)
    put(ticket, job)
    reserve(Start, job)
    reserve(End, job)
    for name, source in inputs.items():
        _link(source, job / WORK / name)
    for name, content in secrets.items():
        fd = os.open(job / WORK / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)


def _copy(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    target.chmod(0o444 | source.stat().st_mode & 0o111)  # read-only: jobs share it
    return target


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # not on every file system, and not any number of times
        shutil.copy(source, target)
