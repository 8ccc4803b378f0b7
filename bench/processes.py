"""Processes that are measured: started, waited for, and asked what they have used."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import psutil

__all__ = ["Measured", "Stopwatch", "cpu_of_tree_s", "pss_of_tree_bytes", "until"]


class Measured:
    """A process, ended with all that it has started when the `with` block is left.

    Parameters
    ----------
    argv : list of str
        The program; `python` stands for this interpreter.
    cwd : Path
        Where it runs, and where its output goes (`log`).
    options : dict
        As for `subprocess.Popen`.
    """

    def __init__(self, argv: list[str], cwd: Path, **options) -> None:
        self.log = cwd / "log"
        argv = [sys.executable, *argv[1:]] if argv[0] == "python" else argv
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(argv, cwd=cwd, stdout=output, stderr=output, **options)
        self.process = psutil.Process(self.popen.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            rest = self.process.children(recursive=True)
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(20)
            for process in [self.process, *rest]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.popen.wait()

    def cpu_s(self) -> float:
        """Return the CPU seconds of this process alone."""
        used = self.process.cpu_times()
        return used.user + used.system

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        return self.process.memory_info().rss

    def check(self) -> None:
        """Raise, with the end of its log, if it has ended."""
        if self.popen.poll() is not None:
            raise RuntimeError(f"{self.popen.args} has ended:\n{self.log.read_text()[-2000:]}")


def cpu_of_tree_s(roots: Iterable[Measured]) -> float:
    """Return the CPU seconds of processes and all that they have started, ended ones included."""
    total = 0.0
    for root in roots:
        for process in [root.process, *root.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system + used.children_user + used.children_system
    return total


def pss_of_tree_bytes(roots: Iterable[Measured]) -> int:
    """Return the memory of processes and all that they have started; shared pages count once."""
    total = 0
    for root in roots:
        for process in [root.process, *root.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total


def until(condition: Callable[[], object], within_s: float, watched: Iterable[Measured] = ()):
    """Return the first true value of `condition`; raise if there is none in time, or one died."""
    deadline_s = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        for process in watched:
            process.check()
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {within_s:.0f} s")
        time.sleep(0.01)


class Stopwatch:
    """Seconds of the wall, and CPU seconds of named processes, between entering and leaving."""

    def __init__(self, **measured: Measured | None) -> None:
        self._measured = {name: one for name, one in measured.items() if one is not None}
        self.cpu_s: dict[str, float] = {}
        self.wall_s = 0.0

    def __enter__(self) -> Self:
        self._before = {name: one.cpu_s() for name, one in self._measured.items()}
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall_s = time.perf_counter() - self._began_s
        self.cpu_s = {n: one.cpu_s() - self._before[n] for n, one in self._measured.items()}
