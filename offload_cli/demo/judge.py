"""Whether the dimuon analysis came to the right result, by what it prints. Pure."""

from __future__ import annotations

import re

__all__ = ["judge", "number"]

# From the file itself, by plain numpy: 2,304 events; the Z boson is at 91.2 GeV, and detectors and
# photons that muons radiate move the peak down a little.
_EVENTS = 2304 * 25
_PEAK_GEV = (90.0, 91.5)


def judge(text: str, workers: int) -> list[str]:
    """Return all that is wrong with what the analysis has printed.

    Parameters
    ----------
    text : str
        What it has printed.
    workers : int
        How many workers it was to use.
    """
    events, peak = number(text, "events analysed"), number(text, "Z peak")
    used, relayed = number(text, "workers used"), number(text, "through the relay")
    low, high = _PEAK_GEV
    looks = [
        (events == _EVENTS, f"{events:g} events analysed, expected {_EVENTS}"),
        (low < peak < high, f"the Z peak is at {peak} GeV, expected {low} to {high}"),
        (used == workers, f"{used:g} workers used, expected {workers}"),
        (relayed > 0, "no byte went through the relay"),
    ]
    return [sentence for good, sentence in looks if not good]


def number(text: str, name: str) -> float:
    """Return the number in the line that begins with `name`; not a number if there is none."""
    found = re.search(rf"^{name}\s+([\d.,]+)", text, re.MULTILINE)
    return float(found[1].replace(",", "")) if found else float("nan")
