"""Who is attached to a cluster, and since when nobody is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from dask_offload.rpc import Caller

__all__ = ["Owners", "process_start"]

log = logging.getLogger("offload-supervisor")


def process_start(pid: int) -> str:
    """Return when process `pid` was started (in clock ticks, as text); empty if it is gone.

    Together with the pid it names a process for good: pids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


class Owners:
    """The notebooks that are attached.

    Parameters
    ----------
    grace_s : float
        How long a cluster goes on without any.
    clock, started : callable
        Monotonic seconds; when a process was started (`process_start`).
    """

    def __init__(
        self,
        grace_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        started: Callable[[int], str] = process_start,
    ) -> None:
        self._grace_s = grace_s
        self._clock = clock
        self._started = started
        self._owners: dict[Caller, tuple[int, str]] = {}
        self._alone_since_s: float | None = clock()

    def came(self, caller: Caller, pid: int) -> None:
        """Note that the process `pid` is attached through `caller`."""
        self._owners[caller] = (pid, self._started(pid))

    def left(self, caller: Caller) -> None:
        """Note that the connection of `caller` is gone."""
        self._owners.pop(caller, None)

    def away(self) -> bool:
        """Tell whether nobody has been attached for longer than the grace time."""
        # A child of the notebook may have inherited its connection: look at the process as well.
        present = any(self._started(pid) == start for pid, start in self._owners.values())
        if present:
            self._alone_since_s = None
            return False
        if self._alone_since_s is None:
            log.info("nobody is attached; ending in %.0f s unless somebody comes", self._grace_s)
            self._alone_since_s = self._clock()
        return self._clock() - self._alone_since_s > self._grace_s
