"""Which of a profile's sites to take, and when to try the next one. Pure; for sessions and workers.

Theory of operation
-------------------
A site is taken if it is well, and of those the one at which jobs usually start soonest. What waits there
for longer than its patience may be moved to another one that is well: it is cancelled first, and sent to
the other site only once the first has said that it has ended. So it never runs at two, and it stays where
it is while that site is silent. A site that something was moved away from comes last for as long as the
patience lasts; without that, jobs would go back and forth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta

from offload_sites.jobs import SiteHealth, SiteState
from offload_sites.ledger_records import Waits
from offload_sites.units import render_duration

__all__ = ["DEFAULT_PATIENCE", "in_order", "moved_words", "next_site"]

#: How long a job waits at one of several sites, where a profile does not say.
DEFAULT_PATIENCE = timedelta(minutes=30)

# A full site takes jobs, and its wait is part of what is known of it. A degraded one may lose them.
_RANK = {
    SiteState.UP: 0,
    SiteState.FULL: 0,
    SiteState.DEGRADED: 1,
    SiteState.NO_ANSWER: 2,
    SiteState.DOWN: 3,
}
_WELL = frozenset({SiteState.UP, SiteState.FULL})
_UNHEARD = SiteHealth(SiteState.NO_ANSWER)


def in_order(
    sites: Iterable[str],
    health: Mapping[str, SiteHealth],
    waits: Mapping[str, Waits],
    *,
    last: Collection[str] = (),
) -> tuple[str, ...]:
    """Return `sites` in the order in which they are to be tried.

    Parameters
    ----------
    sites : iterable of str
        In the order of the catalog, which decides between equals.
    health : mapping
        How they are; one that is missing has not answered yet.
    waits : mapping
        How long jobs of the profile waited at each. A site that is up and without experience is taken to
        start at once, so that it gets some; one that is full, to start last.
    last : collection of str
        Those to be tried after all others that are as well: something waited there for too long.
    """

    def key(site: str) -> tuple[int, bool, timedelta]:
        state = health.get(site, _UNHEARD).state
        unknown = timedelta(0) if state is SiteState.UP else timedelta.max
        wait = waits.get(site, Waits()).p50
        return _RANK[state], site in last, unknown if wait is None else wait

    return tuple(sorted(sites, key=key))


def next_site(
    site: str,
    waited: timedelta,
    patience: timedelta,
    *,
    sites: Iterable[str],
    health: Mapping[str, SiteHealth],
    waits: Mapping[str, Waits],
    tried: Collection[str] = (),
) -> str | None:
    """Return where a job that has `waited` in the queue of `site` should be moved; None: nowhere.

    Parameters
    ----------
    site : str
        Where it waits.
    waited, patience : timedelta
        How long it has waited, and how long it should at most.
    sites, health, waits
        As for `in_order`.
    tried : collection of str
        Sites at which it, or one like it, has waited for too long of late.

    Notes
    -----
    A job is not moved to where it would usually wait for longer than it already has: it is likely to
    start sooner where it is.
    """
    if waited < patience:
        return None
    for other in in_order(sites, health, waits):
        well = health.get(other, _UNHEARD).state in _WELL
        usual = waits.get(other, Waits()).p50 or timedelta(0)
        if other != site and other not in tried and well and usual <= waited:
            return other
    return None


def moved_words(site: str, other: str, waited: timedelta) -> str:
    """Return what users are told of a move; both are titles of sites."""
    return f"nothing started at {site} within {render_duration(waited)}; it goes to {other}"
