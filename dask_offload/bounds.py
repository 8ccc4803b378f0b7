"""What `scale` and `adapt` may be asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.utils

from offload_sites.errors import OffloadError

__all__ = ["AdaptiveBounds", "adaptive_bounds", "seconds_of", "whole"]

_MOST = 100_000


class AdaptiveBounds:
    """What `adapt` returns: the bounds that the cluster now moves in."""

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def __repr__(self) -> str:
        return f"Adaptive(minimum={self.minimum}, maximum={self.maximum})"


def whole(what: str, value: object) -> int:
    """Return `value`, a number of workers called `what`, as an int. Raises OffloadError if it is none."""
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
    return {
        f"{key}_s": float(dask.utils.parse_timedelta(value))
        for key, value in times.items()
        if key != "interval"
    }
