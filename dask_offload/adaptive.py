"""How many workers an adaptive cluster should want: a pure decision, made next to the scheduler.

Dask's own `Adaptive` asks again for what is in the queue, lets queued jobs go at the first dip of
the load, and takes single workers out of jobs (measured: 114 jobs submitted, 108 canceled,
no task done). Here what is queued counts as coming, since the fleet counts it; the target has to stay
lower for a while before anything is let go; and only whole jobs are let go.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["Adaptive", "Bounds"]


@dataclass(frozen=True)
class Bounds:
    """What the user allows. Times in seconds.

    Parameters
    ----------
    minimum, maximum : int
        Workers.
    target_duration_s : float
        How long the tasks at hand should take.
    grace_s : float
        How long fewer workers must have been enough before any are let go.
    """

    minimum: int
    maximum: int
    target_duration_s: float = 120.0
    grace_s: float = 120.0


@dataclass
class Adaptive:
    """Turns the scheduler's targets into a wanted number of workers.

    Parameters
    ----------
    bounds : Bounds
        What the user allows.
    workers_per_job : int
        Workers come and go in jobs of this size.
    seed : int
        So many are kept while there is nothing to do, also where the minimum is less: this cluster's
        share of the site's always-on workers.
    """

    bounds: Bounds
    workers_per_job: int
    seed: int = 0
    _targets: deque[tuple[float, int]] = field(default_factory=deque)

    def wanted(self, target: int, wanted_now: int, now_s: float) -> int:
        """Return how many workers to want.

        Parameters
        ----------
        target : int
            What the scheduler could use at present.
        wanted_now : int
            What is wanted so far: working, queued and coming.
        now_s : float
            Seconds of any monotonic clock.
        """
        grace_began_s = now_s - self.bounds.grace_s
        self._targets.append((now_s, target))
        # A target holds until the next one, so the one before the grace time still counts.
        while len(self._targets) > 1 and self._targets[1][0] <= grace_began_s:
            self._targets.popleft()
        needed = self.bounded(target)
        if needed >= wanted_now:
            return needed
        if self._targets[0][0] > grace_began_s:
            # Not known for long enough that fewer will do; and no reason to fill up a smaller job.
            return min(wanted_now, self.bounds.maximum)
        # The highest target of the whole grace time: a dip between two computations is no reason.
        recent = max(value for _, value in self._targets)
        return self.bounded(min(wanted_now, recent))

    def bounded(self, workers: int) -> int:
        """Return the nearest number of workers that fills whole jobs and keeps to the bounds.

        Where no number does both, the maximum is what the user has promised to somebody. A seed is
        kept as it is, in a smaller job if need be: it is meant to cost little.
        """
        seed = min(self.seed, self.bounds.maximum)
        if workers <= seed and self.bounds.minimum <= seed:
            return seed
        asked = max(self.bounds.minimum, min(self.bounds.maximum, workers))
        return min(
            self.bounds.maximum, math.ceil(asked / self.workers_per_job) * self.workers_per_job
        )
