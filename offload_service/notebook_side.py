"""What the service knows of a cluster's notebook side: its workers, and what it is to do.

The notebook's supervisor keeps the scheduler and gives a heartbeat. Orders wait here for the next
one, and what it reports is what the fleet is told.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from offload_service.bodies import CrewBody, HeartbeatBody

__all__ = ["NotebookSide"]


class NotebookSide:
    """The other end of one cluster's heartbeat.

    Parameters
    ----------
    now : datetime
        From when on it is waited for. Aware UTC.
    """

    def __init__(self, now: datetime) -> None:
        self.seen = now
        self.crew: CrewBody | None = None
        self.crew_since = now
        self.adaptive: tuple[int, int] | None = None
        self._table: Mapping[str, tuple[int, int, int]] = {}
        # Numbers must be larger than those of an earlier life of this service.
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        self._retiring: dict[int, tuple[str, int, asyncio.Future[None]]] = {}
        self._order: dict[str, Any] | None = None

    def heard(self, body: HeartbeatBody, now: datetime) -> None:
        """Take in a heartbeat."""
        self.seen = now
        self._table = body.jobs
        self.adaptive = body.adaptive
        if body.crew is not None:
            self.crew, self.crew_since = body.crew, now
        for number in body.retired:
            if number in self._retiring and not self._retiring[number][2].done():
                self._retiring[number][2].set_result(None)
        if self._order is not None and body.order >= self._order["number"]:
            self._order = None

    # --- orders ----------------------------------------------------------------------------------

    async def retire(self, job: str, workers: int) -> None:
        """Have `workers` workers of `job` hand over and end; returns once they have. Cancel-safe."""
        number = next(self._numbers)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._retiring[number] = (job, workers, done)
        try:
            await done
        finally:
            del self._retiring[number]

    def order(self, adapt: tuple[int, int] | None) -> None:
        """Have it move within the bounds `adapt`, or (None) stay at what is wanted."""
        self._order = {"number": next(self._numbers), "adapt": list(adapt) if adapt else None}
        self.adaptive = adapt

    def orders(self) -> dict[str, Any]:
        """Return what the answer to a heartbeat says it is to do."""
        retire = [
            [number, job, workers]
            for number, (job, workers, done) in self._retiring.items()
            if not done.done()
        ]
        return {"retire": retire, "order": self._order}

    # --- workers ---------------------------------------------------------------------------------

    def registered(self, job: str) -> int:
        """Return how many workers of `job` are there."""
        return self._table.get(job, (0, 0, 0))[0]

    def idle_first(self) -> Sequence[str]:
        """Return keys of working jobs, those with the least work and data first."""
        return sorted(self._table, key=lambda key: self._table[key][1:])
