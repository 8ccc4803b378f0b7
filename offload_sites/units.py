"""Durations and memory sizes: text to value and back. Pure, and knows nothing of the catalog."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction

from offload_sites.wording import show

__all__ = [
    "EXPECTED_DURATION",
    "EXPECTED_MEMORY",
    "parse_duration",
    "parse_memory",
    "render_duration",
    "render_memory",
]

#: What a text must look like; each error says it, here and in the catalog.
EXPECTED_DURATION = "expected a duration such as '24h' (units: s, m, h, d)"
EXPECTED_MEMORY = (
    "expected a memory size such as '4GiB' (units: KiB, MiB, GiB, TiB; kB, MB, GB, TB)"
)

# Six digits: 999999d is within a timedelta, and nobody means more. Blanks and 'min' are taken so
# that whatever render_duration shows can be typed in again.
_DURATION = re.compile(
    r"(?=\d)(?:(\d{1,6}) ?d ?)?(?:(\d{1,6}) ?h ?)?(?:(\d{1,6}) ?m(?:in)? ?)?(?:(\d{1,6}) ?s)?",
    re.ASCII,
)
_MEMORY = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([kKMGT]i?B)", re.ASCII)

_BINARY = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_DECIMAL = {"kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_UNIT_BYTES = {**_BINARY, **_DECIMAL}

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
# "48 h" is how people speak of a walltime; a week in hours is not.
_DAYS_FROM_S = 3 * _DAY_S


def parse_duration(text: str) -> timedelta:
    """Read a duration such as ``90s``, ``30m``, ``24h``, ``2d`` or ``1h30m``.

    Parameters
    ----------
    text : str
        Whole numbers with a unit (d, h, m or min, s), the largest first, each unit once. Blanks
        between them do not count.

    Returns
    -------
    timedelta
        Zero or longer, and at most some 2700 years.

    Raises
    ------
    ValueError
        A sentence that names the units and shows `text`.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{EXPECTED_DURATION}, got {show(text)}")
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def render_duration(duration: timedelta) -> str:
    """Write a duration for people, in its two largest units: ``3 s``, ``23 min 41 s``, ``48 h``.

    Parameters
    ----------
    duration : timedelta
        What is smaller than the two units shown is cut off, not rounded. Less than zero counts as
        zero: two clocks that differ a little must not show an age of -1 s.
    """
    total = max(0, int(duration.total_seconds()))
    if total < _MINUTE_S:
        return f"{total} s"
    if total < _HOUR_S:
        parts = [(total // _MINUTE_S, "min"), (total % _MINUTE_S, "s")]
    elif total < _DAYS_FROM_S:
        parts = [(total // _HOUR_S, "h"), (total % _HOUR_S // _MINUTE_S, "min")]
    else:
        parts = [(total // _DAY_S, "d"), (total % _DAY_S // _HOUR_S, "h")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def parse_memory(text: str) -> int:
    """Read a memory size such as ``4GiB``, ``1.5GiB`` or ``500MB``.

    Parameters
    ----------
    text : str
        A number with a unit: KiB, MiB, GiB, TiB (powers of 1024) or kB, MB, GB, TB (of 1000).
        Upper and lower case count: ``Gb`` would be gigabits.

    Returns
    -------
    int
        Bytes, rounded down.

    Raises
    ------
    ValueError
        A sentence that names the units and shows `text`.
    """
    match = _MEMORY.fullmatch(text.strip())
    unit_bytes = _UNIT_BYTES.get(match[2]) if match else None
    if match is None or unit_bytes is None:
        raise ValueError(f"{EXPECTED_MEMORY}, got {show(text)}")
    return int(Fraction(match[1]) * unit_bytes)


def render_memory(size_bytes: int) -> str:
    """Write a memory size for people: ``512 MiB``, ``4 GiB``, ``1.5 GiB``.

    Parameters
    ----------
    size_bytes : int
        Bytes, zero or more. Shown in the largest binary unit that it fills, with one digit after
        the point, cut off and not rounded, if it is not whole.
    """
    for unit, unit_bytes in reversed(_BINARY.items()):
        if size_bytes >= unit_bytes:
            tenths = size_bytes * 10 // unit_bytes
            return f"{tenths / 10:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"
