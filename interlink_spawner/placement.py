"""Which of the sites of its profile a session goes to, and when it had better go to another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from interlink_spawner.desk import Desk, Seen, sites_in_order
from interlink_spawner.session import Session, Stage
from offload_sites.backend import TokenSource
from offload_sites.choose import moved_words, next_site
from offload_sites.resolve import Resolved

__all__ = ["Placement"]

_HEALTH_WITHIN_S = 3.0


class Placement:
    """The choice among sites during one start.

    Parameters
    ----------
    resolved : Resolved
        What the user asked for, sites and all.
    desk : Desk
        What is known of sites.
    user : str
        Who asks.
    tokens : callable
        Takes the name of a site; asked only where the site acts as its users.
    """

    def __init__(
        self,
        resolved: Resolved,
        desk: Desk,
        user: str,
        tokens: Callable[[str], TokenSource | None],
    ) -> None:
        self.resolved = resolved
        self._desk = desk
        self._user = user
        self._tokens = tokens
        self._tried: set[str] = set()  # where it has waited for too long

    async def in_order(self) -> Sequence[str]:
        """Return all sites, the best one first. Asks them, and waits for a moment if there are several."""
        sites = self.resolved.sites
        if len(sites) == 1:
            return sites
        return sites_in_order(
            self.resolved.profile, sites, await self._ask_sites(), self._desk.waits
        )

    async def elsewhere(self, session: Session) -> tuple[str, str] | None:
        """Return where a session that waits should go, and why; None if it should stay."""
        resolved, desk = self.resolved, self._desk
        waited = desk.clock() - session.marks[Stage.SUBMITTED]
        if len(resolved.sites) == 1 or waited < resolved.patience:
            return None
        site = next_site(
            session.site,
            waited,
            resolved.patience,
            sites=resolved.sites,
            health={name: one.health for name, one in (await self._ask_sites()).items()},
            waits={site: desk.waits(resolved.profile, site) for site in resolved.sites},
            tried=self._tried,
        )
        if site is None:
            return None
        self._tried.add(session.site)
        return site, moved_words(session.site_title, desk.catalog.sites[site].title, waited)

    async def _ask_sites(self) -> Mapping[str, Seen]:
        return await self._desk.healths(
            self.resolved.sites, user=self._user, tokens=self._tokens, within_s=_HEALTH_WITHIN_S
        )
