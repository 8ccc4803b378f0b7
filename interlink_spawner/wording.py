"""The words that users read for states, and how long things take. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from offload_sites.jobs import ImageRef, JobState, Resources, SiteHealth, SiteState
from offload_sites.ledger_records import Waits
from offload_sites.units import render_duration, render_memory

__all__ = [
    "END_TAGS",
    "SITE_TAGS",
    "Tag",
    "count",
    "image_tag",
    "render_range",
    "resources_text",
    "site_tag",
    "wait_text",
]

_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Tag:
    """A state as users see it: icon, word and tone, of which any one may be lost."""

    icon: str
    word: str
    tone: str


#: The five states of a site.
SITE_TAGS = {
    SiteState.UP: Tag("ok", "Up", "ok"),
    SiteState.FULL: Tag("full", "Full", "wait"),
    SiteState.DEGRADED: Tag("warn", "Degraded", "warn"),
    SiteState.DOWN: Tag("bad", "Down", "bad"),
    SiteState.NO_ANSWER: Tag("unknown", "No answer", "wait"),
}

#: How a job ended.
END_TAGS = {
    JobState.COMPLETED: Tag("ended", "Ended", "wait"),
    JobState.FAILED: Tag("bad", "Failed", "bad"),
    JobState.CANCELED: Tag("canceled", "Canceled", "wait"),
    JobState.TIMED_OUT: Tag("timeup", "Time is up", "wait"),
}
_UNREAD = Tag("unknown", "Not asked yet", "wait")


def site_tag(health: SiteHealth | None) -> Tag:
    """Return how a site is shown; None if nobody has asked it so far."""
    return SITE_TAGS[health.state] if health else _UNREAD


def render_range(low: timedelta, high: timedelta) -> str:
    """Return a range of times as people say it: `3–12 min`, `40 min – 2 h`, rounded up."""
    first, last = _rounded(low), _rounded(high)
    if first == last:
        return last
    number, _, unit = first.rpartition(" ")
    # One unit is said once; what has two of them ("1 h 20 min") is not shortened.
    if number.isdigit() and last.endswith(f" {unit}") and last.removesuffix(f" {unit}").isdigit():
        return f"{number}–{last}"
    return f"{first} – {last}"


def _rounded(time: timedelta) -> str:
    """Return a time as coarse as an estimate is: seconds, whole minutes, tens of minutes."""
    if time <= _MINUTE:
        return f"{max(1, math.ceil(time.total_seconds()))} s" if time < _MINUTE else "1 min"
    step = _MINUTE if time < _HOUR else 10 * _MINUTE
    return render_duration(math.ceil(time / step) * step)


def wait_text(waits: Waits, *, verb: str = "Usually starts") -> str:
    """Return how long it takes until a session of one profile starts at one site."""
    if waits.p50 is None or waits.p90 is None:
        return "Usual wait not known yet"
    if waits.p90 <= _MINUTE:
        return f"{verb} within 1 min"
    if waits.p90 > _HOUR:
        return f"{verb} after {render_range(waits.p50, waits.p90)}"
    return f"{verb} in {render_range(waits.p50, waits.p90)}"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 CPU`, `3,480 CPUs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def resources_text(resources: Resources) -> str:
    """Return what is asked for: `32 CPUs, 240 GiB, 4 GPUs`."""
    parts = [count(resources.cpus, "CPU"), render_memory(resources.memory_bytes)]
    if resources.gpus:
        parts.append(count(resources.gpus, "GPU"))
    return ", ".join(parts)


def image_tag(image: ImageRef) -> str:
    """Return the last part of where an image is, such as `highrate:v1.4`; its name if nowhere."""
    place = image.cvmfs or image.docker
    return place.rstrip("/").rpartition("/")[2] or image.name
