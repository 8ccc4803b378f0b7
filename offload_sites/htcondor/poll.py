"""One look at a user's jobs, shared by all that ask; slower where the site is slow or silent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from offload_sites.errors import OffloadError
from offload_sites.htcondor.states import Ad

__all__ = ["Poll"]

# A look is good for so long, or for so many times what it took: a slow schedd is asked less often.
_GOOD_FOR_S, _GOOD_FOR_TIMES, _GOOD_FOR_MOST_S = 1.0, 5.0, 15.0
_BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)


@dataclass(frozen=True)
class _Look:
    ads: Mapping[str, Ad]
    good_until_s: float


class Poll:
    """Looks at the queue when somebody asks, and not more often than is good for the site.

    Parameters
    ----------
    look : callable
        Returns native id to ad of all jobs.
    clock : callable
        Returns seconds of a monotonic clock.
    """

    def __init__(
        self, look: Callable[[], Awaitable[Mapping[str, Ad]]], clock: Callable[[], float]
    ) -> None:
        self._look = look
        self._clock = clock
        self._last: _Look | None = None
        self._running: asyncio.Task[Mapping[str, Ad]] | None = None
        self._failures = 0
        self._error: OffloadError | None = None
        self._retry_at_s = 0.0

    def outdate(self) -> None:
        """Make the next question look anew: something was submitted or cancelled.

        A look that is on its way may have been too early, and is not used for later questions.
        """
        self._last = None
        self._running = None

    async def ads(self) -> Mapping[str, Ad]:
        """Return native id to ad. Cancelling is safe: others that wait still get theirs.

        Raises
        ------
        OffloadError
            What the last look raised, until it is time for the next one.
        """
        now_s = self._clock()
        if self._last is not None and now_s < self._last.good_until_s:
            return self._last.ads
        if self._error is not None and now_s < self._retry_at_s:
            raise self._error
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._refresh())
        return await asyncio.shield(self._running)

    async def close(self) -> None:
        """End a look that is on its way."""
        task, self._running = self._running, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _refresh(self) -> Mapping[str, Ad]:
        me = asyncio.current_task()
        began_s = self._clock()
        try:
            ads = await self._look()
        except OffloadError as error:
            pause_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
            self._failures += 1
            self._error = error
            self._retry_at_s = self._clock() + pause_s * random.uniform(0.8, 1.2)  # noqa: S311
            raise
        self._failures, self._error = 0, None
        took_s = self._clock() - began_s
        good_for_s = min(max(_GOOD_FOR_S, _GOOD_FOR_TIMES * took_s), _GOOD_FOR_MOST_S)
        if self._running is me:
            self._last = _Look(ads, self._clock() + good_for_s)
        return ads
