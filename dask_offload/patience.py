"""Asks a service that is away for a moment again, for as long as a hub takes to start it again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from offload_sites.errors import OffloadError

__all__ = ["patiently"]

log = logging.getLogger("offload-supervisor")

T = TypeVar("T")

# A hub that restarts takes its services with it, and looks after half a minute whether they are there.
_WITHIN_S = 60.0
_FIRST_PAUSE_S = 0.2
_MOST_PAUSE_S = 3.0


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what `ask` returns, asking again while its errors are transient. Safe to cancel.

    Raises
    ------
    OffloadError
        As `ask` does: one that is final, or the last one after a minute.
    """
    deadline_s, pause_s = time.monotonic() + _WITHIN_S, _FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except OffloadError as error:
            if not error.transient or time.monotonic() > deadline_s:
                raise
            log.warning("%s; asking again", error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)
