"""When a job has to finish: pure functions of time."""

from __future__ import annotations

import dataclasses
import enum

__all__ = ["Phase", "Walltime"]

# The site kills at the end of the walltime; we want to have said our last words by then.
_LAST_WORDS_S = 5.0


class Phase(enum.Enum):
    """What the payload should be doing."""

    WORK = "work"
    DRAIN = "drain"
    OVER = "over"


@dataclasses.dataclass(frozen=True)
class Walltime:
    """The walltime of one job.

    Parameters
    ----------
    total_s : float
        Length, in seconds from the agent's start.
    drain_s : float
        How long before its end the payload is asked to finish; at most a quarter of it is used.
    """

    total_s: float
    drain_s: float

    @property
    def over_at_s(self) -> float:
        """Seconds from the start after which nothing may run."""
        return self.total_s - min(_LAST_WORDS_S, self.total_s / 10)

    @property
    def drain_at_s(self) -> float:
        """Seconds from the start after which the payload should finish."""
        return self.over_at_s - min(self.drain_s, self.total_s / 4)

    def phase(self, elapsed_s: float) -> Phase:
        """Return what the payload should be doing `elapsed_s` seconds after the start."""
        if elapsed_s >= self.over_at_s:
            return Phase.OVER
        return Phase.DRAIN if elapsed_s >= self.drain_at_s else Phase.WORK

    def next_s(self, elapsed_s: float) -> float:
        """Return how long until the phase changes; 0 if it never will again."""
        for moment_s in (self.drain_at_s, self.over_at_s):
            if elapsed_s < moment_s:
                return moment_s - elapsed_s
        return 0.0
