"""Wait for a condition with a deadline, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, overload

__all__ = ["eventually", "eventually_sync", "scaled"]

T = TypeVar("T")


def scaled(seconds: float) -> float:
    """Return `seconds` times `OFFLOAD_TEST_TIME_FACTOR` (default 1), for slow machines."""
    return seconds * float(os.environ.get("OFFLOAD_TEST_TIME_FACTOR", "1"))


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, within_s: float = ..., saying: str = ...
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T], *, within_s: float = ..., saying: str = ...
) -> T: ...
async def eventually(
    condition: Callable[[], Any], *, within_s: float = 20.0, saying: str = ""
) -> Any:
    """Wait until `condition` holds, and return what it returned.

    Parameters
    ----------
    condition : callable
        Called again and again; it may be a coroutine function. It holds when its value is true. An
        `AssertionError` that it raises counts as "not yet".
    within_s : float
        Deadline in seconds, scaled by `OFFLOAD_TEST_TIME_FACTOR`.
    saying : str
        What was expected, for the reader of a failed test.

    Raises
    ------
    AssertionError
        The deadline is over; tells the last value, or is the last one that `condition` raised.

    Notes
    -----
    Safe to cancel.
    """
    for attempt in _attempts(within_s, saying or repr(condition)):
        try:
            value = condition()
            attempt.value = await value if inspect.isawaitable(value) else value
        except AssertionError as error:
            attempt.error = error
        if attempt.value:
            return attempt.value
        await asyncio.sleep(attempt.pause_s)
    raise AssertionError("unreachable")


def eventually_sync(condition: Callable[[], T], *, within_s: float = 20.0, saying: str = "") -> T:
    """Do what `eventually` does, in a test without an event loop."""
    for attempt in _attempts(within_s, saying or repr(condition)):
        try:
            attempt.value = condition()
        except AssertionError as error:
            attempt.error = error
        if attempt.value:
            return attempt.value  # type: ignore[return-value]
        time.sleep(attempt.pause_s)
    raise AssertionError("unreachable")


class _Attempt:
    """One look at the condition; the caller fills in what it saw."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.value: object = None
        self.error: AssertionError | None = None


def _attempts(within_s: float, saying: str) -> Iterator[_Attempt]:
    deadline = time.monotonic() + scaled(within_s)
    pause_s = 0.01
    while True:
        late = time.monotonic() > deadline  # a look begins after the deadline: the last one
        attempt = _Attempt(pause_s)
        yield attempt
        if late:
            raise attempt.error or AssertionError(
                f"not within {scaled(within_s):g} s: {saying}; last value: {attempt.value!r}"
            )
        pause_s = min(0.1, pause_s * 1.3)
