"""Waiting for workers: progress as a line that renews itself or one per change, and when to give up."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from dask_offload.show import render_line, render_notes
from dask_offload.snapshot import Snapshot
from offload_sites.errors import OffloadError

__all__ = ["Progress", "check_hope", "progress_stream"]

# What is over sooner needs no progress.
_SILENT_S = 1.0
_EVERY_S = 0.25
# In a log, where each line stays: workers may come one by one for an hour.
_LOG_EVERY_S = 5.0


class Progress:
    """Writes to `progress_stream()`.

    Parameters
    ----------
    wanted : int
        Workers that are waited for.
    quiet : bool
        Write nothing.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        wanted: int,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._quiet = quiet
        self._clock = clock
        self._began_s = clock()
        self._shown_s = self._began_s
        self._last = ""
        self._logged_s = -_LOG_EVERY_S
        self._stream = progress_stream()
        self._clear = _clearing(self._stream)
        self._shown = False
        self._notes: list[str] = []

    def show(self, snapshot: Snapshot) -> None:
        """Show `snapshot`, if it is time."""
        now_s = self._clock()
        if self._quiet or now_s - self._began_s < _SILENT_S or now_s - self._shown_s < _EVERY_S:
            return
        self._shown_s = now_s
        width = shutil.get_terminal_size().columns
        line = render_line(snapshot, self._wanted, now_s - self._began_s, width)
        notes = render_notes(snapshot, width)
        if self._clear:
            self._renew(line, notes)
        else:
            self._log(line, notes, now_s)
        self._shown = True

    def _log(self, line: str, notes: list[str], now_s: float) -> None:
        state = line.rsplit(" ", 1)[0]
        news = any(note not in self._notes for note in notes)
        if news or (state != self._last and now_s - self._logged_s >= _LOG_EVERY_S):
            self._last, self._logged_s = state, now_s
            print(line, file=self._stream)
            self._print_new(notes)

    def _renew(self, line: str, notes: list[str]) -> None:
        print(self._clear, end="", file=self._stream)
        self._print_new(notes)
        print(line, end="", file=self._stream, flush=True)

    def _print_new(self, notes: list[str]) -> None:
        for note in notes:
            if note not in self._notes:
                self._notes.append(note)
                print(note, file=self._stream)

    def done(self, snapshot: Snapshot, registered: int) -> None:
        """Say how it ended, if anything was said before."""
        if not self._shown:
            return
        places = ", ".join(
            f"{site.working} {site.title}" for site in snapshot.sites if site.working
        )
        elapsed_s = self._clock() - self._began_s
        print(
            f"{self._clear}{snapshot.name} {registered}/{self._wanted} working after {elapsed_s:.0f} s"
            + (f": {places}" if places else ""),
            file=self._stream,
        )


def check_hope(snapshot: Snapshot, registered: int, wanted: int) -> None:
    """Raise OffloadError if `wanted` workers, of which some are `registered`, will never be there."""
    coming = sum(snapshot.count(word) for word in ("starting", "queued", "held", "lost"))
    if snapshot.stopped and registered + coming < wanted:
        advice = next((n.advice for n in snapshot.notes if n.tone == "bad" and n.advice), "")
        raise OffloadError(
            f"{registered} of {wanted} workers are there, and no more will come: {snapshot.stopped}",
            f"{advice[:1].lower()}{advice[1:].rstrip('.')}",
        )


def progress_stream() -> TextIO:
    """Return standard error, or in a notebook, where that looks like a failure, standard output."""
    return sys.stdout if _of_a_notebook(sys.stdout) else sys.stderr


def _of_a_notebook(stream: TextIO) -> bool:
    return type(stream).__module__.startswith("ipykernel.")


def _clearing(stream: TextIO) -> str:
    """Return what clears the line that `stream` is in; empty where a line stays."""
    if stream.isatty():
        return "\r\x1b[K"
    # A notebook goes back to the start of the line, and knows no more of terminals than that.
    if _of_a_notebook(stream):
        return f"\r{' ' * shutil.get_terminal_size().columns}\r"
    return ""
