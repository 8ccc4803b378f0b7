"""When a worker process that ended is started again: pure decisions of the starter.

Travels in the agent's archive: standard library only.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field

__all__ = ["Exit", "Slot", "verdict"]

# A crash costs the tasks that ran; a worker that crashes so often in this time is given up.
_CRASHES = 6
_WINDOW_S = 600.0
_CRASH_DELAYS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
# The stream to the scheduler broke: the agent waits for the relay, so ask again soon.
_RECONNECT_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
_SHORT_LIFE_S = 10.0


class Exit(enum.IntEnum):
    """Exit codes of a worker process; any other one, or a signal, is a crash."""

    RELEASED = 0
    UNREGISTERED = 69
    DISCONNECTED = 75
    RESTART = 76


@dataclass
class Slot:
    """One worker of a job over all its lives. Times in seconds of any monotonic clock.

    Parameters
    ----------
    number : int
        0 to workers - 1.
    due_s : float or None
        When to start it next; None while it runs, or if it is over.
    """

    number: int
    due_s: float | None = 0.0
    started_s: float = 0.0
    over: str = ""
    words: str = ""
    crashes_s: list[float] = field(default_factory=list)
    _quick: int = 0

    def started(self, now_s: float) -> None:
        """Note that its process runs."""
        self.started_s, self.due_s = now_s, None

    def ended(self, code: int, now_s: float, why: str = "") -> None:
        """Note that its process ended with `code` (negative: a signal), and decide what follows.

        `why` is what the starter itself knows (it killed the process), else empty.
        """
        self.words = why or _words(code)
        self._quick = self._quick + 1 if now_s - self.started_s < _SHORT_LIFE_S else 0
        if code == Exit.RELEASED:
            self.over = "released"
        elif code == Exit.UNREGISTERED:
            self.over = "unregistered"
        elif code == Exit.RESTART:
            self.due_s = now_s
        elif code == Exit.DISCONNECTED:
            self.due_s = now_s + _RECONNECT_DELAYS_S[min(self._quick, 5)]
        else:
            self._crashed(now_s)

    def _crashed(self, now_s: float) -> None:
        self.crashes_s = [s for s in self.crashes_s if now_s - s < _WINDOW_S] + [now_s]
        if len(self.crashes_s) >= _CRASHES:
            self.over = "crashed"
        else:
            self.due_s = now_s + _CRASH_DELAYS_S[len(self.crashes_s) - 1]


def _words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-code} ({name})"


def verdict(slots: list[Slot]) -> tuple[int, str, str] | None:
    """Return exit code, reason and hint of the job once all of `slots` are over; None before.

    The reason is empty if the job did what it was asked to.
    """
    if not all(slot.over for slot in slots):
        return None
    crashed = [slot for slot in slots if slot.over == "crashed"]
    if crashed:
        return (
            70,
            f"{len(crashed)} of {len(slots)} workers crashed {_CRASHES} times within "
            f"{_WINDOW_S / 60:.0f} min; the last one {crashed[-1].words}",
            "read the log of the job; tasks that need too much memory are the usual cause",
        )
    if all(slot.over == "unregistered" for slot in slots):
        return int(Exit.UNREGISTERED), "no worker could register at the scheduler", ""
    return 0, "", ""
