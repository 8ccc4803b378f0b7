"""Which of several sites to take: the first healthy one with the shortest expected wait. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from offload_sites.jobs import SiteHealth, SiteState
from offload_sites.ledger_records import Waits

__all__ = ["by_wait"]

_REFUSE = (SiteState.DOWN, SiteState.NO_ANSWER)


def by_wait(
    profile: str,
    sites: Sequence[str],
    health: Mapping[str, SiteHealth],
    waits: Mapping[tuple[str, str], Waits],
) -> tuple[str, ...]:
    """Return `sites` in the order in which they are to be tried.

    Parameters
    ----------
    profile : str
        What is to run.
    sites : sequence of str
        In the order of the catalog.
    health : mapping
        Of each site, as far as it is known.
    waits : mapping
        Profile and site to how long jobs waited there.

    Notes
    -----
    Sites that take no jobs at present come last. A site without experience counts as one without a
    wait: somebody has to be the first. Among equals the catalog decides.
    """

    def key(site: str) -> tuple[bool, timedelta]:
        refuses = site in health and health[site].state in _REFUSE
        wait = waits.get((profile, site), Waits())
        return refuses, wait.p50 or timedelta(0)

    return tuple(sorted(sites, key=key))
