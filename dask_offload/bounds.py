"""What users give to a cluster, each mistake in a sentence: numbers, times, texts. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import dask.utils

from offload_sites.errors import OffloadError
from offload_sites.wording import show

__all__ = [
    "AdaptiveBounds",
    "adaptive_bounds",
    "for_workers",
    "modules",
    "seconds_in",
    "seconds_of",
    "some_time",
    "text",
    "walltime",
    "whole",
]

_MOST = 100_000
_LONGEST_S = 10 * 365 * 86400.0


class AdaptiveBounds:
    """What `adapt` returns: the bounds that the cluster now moves in."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def __repr__(self) -> str:
        return f"Adaptive(minimum={self.minimum}, maximum={self.maximum})"


def whole(what: str, value: object) -> int:
    """Return `value`, a number called `what`, as an int. Raises OffloadError if it is none."""
    # bool is an int to Python; numpy's integers are not, but are meant.
    try:
        number = -1 if isinstance(value, bool) else value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        number = -1
    if not 0 <= number <= _MOST:
        raise OffloadError(f"{what} is {value!r}", f"it has to be a whole number from 0 to {_MOST}")
    return int(number)


def adaptive_bounds(minimum: object, maximum: object) -> AdaptiveBounds:
    """Return the bounds that `adapt` was given. Raises OffloadError if they are none."""
    if maximum is None:
        raise OffloadError(
            "adapt() needs a maximum: the most workers that may be asked for",
            "for example cluster.adapt(minimum=0, maximum=100)",
        )
    low, high = whole("minimum", minimum), whole("maximum", maximum)
    if low > high:
        raise OffloadError(f"adapt(): the minimum {low} is above the maximum {high}")
    return AdaptiveBounds(low, high)


def seconds_of(times: Mapping[str, Any]) -> dict[str, float]:
    """Return the times that `adapt` was given, in seconds, as the supervisor calls them.

    Dask's `interval` is taken and has no effect: the supervisor has its own. Raises OffloadError for
    what is not known.
    """
    unknown = sorted(set(times) - {"target_duration", "grace", "interval"})
    if unknown:
        raise OffloadError(
            f"adapt() does not know {', '.join(unknown)}", "it takes target_duration and grace"
        )
    found_s = {key: seconds_in(key, value) for key, value in times.items() if key != "interval"}
    if "target_duration" in found_s:
        some_time("target_duration", found_s["target_duration"])
    return {f"{key}_s": value_s for key, value_s in found_s.items()}


def seconds_in(what: str, value: object) -> float:
    """Return `value`, a duration as Dask writes them, in seconds. Raises OffloadError if it is none."""
    try:
        found_s = float(dask.utils.parse_timedelta(value))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError):
        found_s = -1.0
    if not 0 <= found_s <= _LONGEST_S:
        raise OffloadError(f"{what} is {value!r}", "it has to be a duration such as 90s, 5m or 72h")
    return found_s


def some_time(what: str, duration_s: float) -> float:
    """Return a duration that something is divided by. Raises OffloadError if it is no time at all."""
    if not duration_s:
        raise OffloadError(f"{what} is no time at all", "it has to be a duration such as 90s or 5m")
    return duration_s


def walltime(value: object) -> str | None:
    """Return `value`, a text or a timedelta, as a catalog writes it. Raises OffloadError if it is none."""
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        # With days: a number in a duration has six digits.
        return f"{seconds // 86400}d{seconds % 86400}s" if seconds > 0 else f"{seconds}s"
    if value is None or isinstance(value, str):
        return value
    raise OffloadError(f"walltime is {value!r}", "it has to be a duration such as '8h', in quotes")


def text(what: str, value: object) -> str | None:
    """Return `value` as a text; a path is one. Raises OffloadError if it is none."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # as Dask reads a variable of the environment that holds a number
    if value is None or isinstance(value, str):
        return value or None
    raise OffloadError(f"{what} is {value!r}", "it has to be a text")


def for_workers(what: str, value: Any) -> Any:
    """Return `value`, a setting of Dask or a tree of them, if it can be written into a job's files.

    Raises OffloadError that names the first one in it that cannot.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            for_workers(f"{what}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            for_workers(what, inner)
    elif not isinstance(value, str | int | float | None):
        raise OffloadError(
            f"Dask's setting {what} is {show(value)}, which cannot be sent to workers",
            "write it as a text, a number, a list or a mapping",
        )
    return value


def modules(what: str, value: str | Iterable[object] | None) -> list[str]:
    """Return names of modules; a text is one name. Raises OffloadError for anything else."""
    found: Iterable[object] = [value] if isinstance(value, str) else value or ()
    if not isinstance(found, Iterable) or not all(isinstance(name, str) for name in found):
        raise OffloadError(f"{what} is {value!r}", "it has to be a list of names of modules")
    return [str(name) for name in found]
