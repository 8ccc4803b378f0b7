"""Which of a profile's sites a session goes to: the first healthy one with the shortest wait. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from interlink_spawner.desk import Seen
from offload_sites.jobs import SiteState
from offload_sites.ledger_records import Waits

__all__ = ["in_order"]

# A full site takes jobs, and its wait is part of what is known of it. A degraded one may lose them.
_RANK = {
    SiteState.UP: 0,
    SiteState.FULL: 0,
    SiteState.DEGRADED: 1,
    SiteState.NO_ANSWER: 2,
    SiteState.DOWN: 3,
}


def in_order(
    sites: Iterable[str], seen: Mapping[str, Seen], waits: Callable[[str], Waits]
) -> list[str]:
    """Return `sites`, the best one first.

    Parameters
    ----------
    sites : iterable of str
        In the order of the catalog, which decides between equals.
    seen : mapping
        How they are; a site that is missing has not answered yet.
    waits : callable
        How long jobs waited at a site. A site that is up and without experience is taken to start
        at once, so that it gets some; one that is full, to start last.
    """

    def key(site: str) -> tuple[int, timedelta]:
        known = seen.get(site)
        state = known.health.state if known else SiteState.NO_ANSWER
        unknown = timedelta(0) if state is SiteState.UP else timedelta.max
        wait = waits(site).p50
        return _RANK[state], unknown if wait is None else wait

    return sorted(sites, key=key)
