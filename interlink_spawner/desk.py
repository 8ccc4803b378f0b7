"""What all spawners of one hub share: the catalog, one back end and one poller per site, waits.

Made once per hub process. Nothing here blocks the hub's event loop: files and the ledger are read in
threads, and whatever a site takes its time for is asked in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from interlink_spawner.poller import Poller
from interlink_spawner.session_job import write_session_agent
from offload_relay.access import RelayAccess
from offload_sites.backend import SiteBackend, TokenSource
from offload_sites.catalog import BaseSite, Catalog
from offload_sites.choose import in_order
from offload_sites.errors import CatalogError, LedgerError, OffloadError
from offload_sites.jobs import JobHandle, SiteHealth, SiteState
from offload_sites.ledger import JobRecord, Ledger, Waits
from offload_sites.load import CatalogFile
from offload_sites.registry import create_backend, site_kinds

__all__ = ["Desk", "Seen", "sites_in_order"]

log = logging.getLogger(__name__)

_CATALOG_S = 2.0
_HEALTH_FRESH_S = 20.0
_HEALTH_WITHIN_S = 30.0
_WAITS_S = 60.0
_BURY_EVERY_S = 20.0
_BURY_FOR = timedelta(hours=12)

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """How a site was, and when that was read (aware UTC)."""

    health: SiteHealth
    at: datetime


@dataclass
class _Contact:
    """One site's back end as one user (or all of them) sees it."""

    model: BaseSite
    poller: Poller
    leave: Callable[..., Awaitable[None]]


class Desk:
    """The catalog, the sites and the ledger of one hub.

    Parameters
    ----------
    catalog : Path
        The catalog file; read again when it changes.
    relay : RelayAccess
        How sessions and this hub reach the relay.
    open_ledger : callable or None
        Returns the ledger, where jobs are recorded and waits are known from, or raises LedgerError;
        called in a thread, until there is one. None to record nothing.
    clock : callable
        Returns aware UTC.
    """

    def __init__(
        self,
        catalog: Path,
        relay: RelayAccess,
        open_ledger: Callable[[], Ledger] | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.relay = relay
        self.clock = clock
        self._open_ledger = open_ledger
        self._ledger: Ledger | None = None
        self._ledger_lock = asyncio.Lock()
        self._path = catalog
        self._file: CatalogFile | None = None
        self._problems: list[str] = []
        self._contacts: dict[tuple[str, str], _Contact] = {}
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}
        self._health: dict[tuple[str, str], Seen] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._waits: Mapping[tuple[str, str], Waits] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._agent: Path | None = None
        self._ready: asyncio.Task[None] | None = None

    # --- its life --------------------------------------------------------------------------------

    async def started(self) -> None:
        """Return once the catalog has been read for the first time. Safe to cancel."""
        if self._ready is None:
            self._ready = asyncio.create_task(self._start())
        await asyncio.shield(self._ready)

    async def _start(self) -> None:
        await self._read_catalog()
        await self._read_waits()
        self.keep(self._every(_CATALOG_S, self._read_catalog, "catalog"), "catalog")
        self.keep(self._every(_WAITS_S, self._read_waits, "waits"), "waits")

    async def close(self) -> None:
        """Stop all tasks and leave all back ends; touches no job."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for contact in self._contacts.values():
            await contact.poller.close()
            await contact.leave(None, None, None)
        self._contacts.clear()

    def keep(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background; its failure is logged."""
        task = asyncio.create_task(work, name=f"offload {name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s ended", task.get_name(), exc_info=task.exception())

    async def _every(self, pause_s: float, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await work()
            except Exception:  # once more is better than never again
                log.exception("%s: failed, and is tried again", what)

    # --- the catalog -----------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The last good content of the catalog file.

        Raises
        ------
        CatalogError
            There was none since this hub began.
        """
        if self._file is None:
            raise CatalogError(self._problems or [f"{self._path.name}: not read yet"])
        return self._file.catalog

    @property
    def problems(self) -> list[str]:
        """What is wrong with the catalog file as it is now, with lines; empty if it is good."""
        return self._file.problems if self._file else self._problems

    async def _read_catalog(self) -> None:
        # In a thread: reading is quick, but a large file that has changed takes long to check.
        changed = await asyncio.to_thread(self._refresh)
        if changed:
            for site, user in list(self._contacts):
                if self.catalog.sites.get(site) != self._contacts[site, user].model:
                    await self._retire(site, user)

    def _refresh(self) -> bool:
        if self._file is not None:
            return self._file.refresh()
        try:
            self._file = CatalogFile(self._path)
        except CatalogError as error:
            if error.problems != self._problems:
                log.error("the catalog cannot be used: %s", "; ".join(error.problems))  # noqa: TRY400
            self._problems = error.problems
        return False

    # --- sites -----------------------------------------------------------------------------------

    async def poller(
        self, site: str, *, user: str, tokens: Callable[[str], TokenSource | None]
    ) -> Poller:
        """Return the poller of a site, with its entered back end.

        Parameters
        ----------
        site : str
            Name in the catalog.
        user : str
            Whose jobs it is about, where the site acts as its users; else all share one.
        tokens : callable
            Takes the name of the site; asked only where the site acts as its users.

        Raises
        ------
        OffloadError
            There is no such site any more, or its kind is not installed here.
        """
        model = self.catalog.sites.get(site)
        if model is None:
            raise OffloadError(f"there is no site {site!r} in the catalog any more")
        which = self._which(site, user)
        async with self._opening.setdefault(which, asyncio.Lock()):
            if which not in self._contacts:
                source = tokens(site) if which[1] else None
                backend = create_backend(site, model, source)
                await backend.__aenter__()
                self._contacts[which] = _Contact(model, Poller(backend), backend.__aexit__)
            return self._contacts[which].poller

    def _which(self, site: str, user: str) -> tuple[str, str]:
        """Return the site, and as whose it acts: it may refuse one user, and take jobs of another."""
        model = self._file.catalog.sites.get(site) if self._file is not None else None
        kind = site_kinds().get(model.kind) if model is not None else None
        return site, user if kind is not None and kind.per_user else ""

    async def _retire(self, site: str, user: str) -> None:
        """Let a back end go whose site has changed; whoever uses it still holds it."""
        contact = self._contacts.pop((site, user))
        self._health.pop((site, user), None)
        log.info("site %s: its entry in the catalog has changed", site)

        async def leave() -> None:
            await contact.poller.idle()
            await contact.poller.close()
            await contact.leave(None, None, None)

        self.keep(leave(), f"retire {site}")

    async def healths(
        self,
        sites: Iterable[str],
        *,
        user: str,
        tokens: Callable[[str], TokenSource | None],
        within_s: float,
    ) -> Mapping[str, Seen]:
        """Return how sites are, as read within the last seconds where they answer in time.

        Parameters
        ----------
        within_s : float
            How long to wait for sites that have to be asked, in seconds. A slow one is asked on.

        Notes
        -----
        Safe to cancel. A site that has never answered is missing.
        """
        now = self.clock()
        named = {name: self._which(name, user) for name in sites}
        for name, which in named.items():
            seen = self._health.get(which)
            fresh = seen and (now - seen.at).total_seconds() < _HEALTH_FRESH_S
            if not fresh and which not in self._asking:
                asks = self._ask(which, user, tokens)
                self._asking[which] = self.keep(asks, f"health {name}")
        asking = [self._asking[which] for which in named.values() if which in self._asking]
        if asking:
            await asyncio.wait(asking, timeout=within_s)
        known = {name: self._health.get(which) for name, which in named.items()}
        return {name: seen for name, seen in known.items() if seen is not None}

    async def _ask(
        self, which: tuple[str, str], user: str, tokens: Callable[[str], TokenSource | None]
    ) -> None:
        site, _ = which
        try:
            poller = await self.poller(site, user=user, tokens=tokens)
            async with asyncio.timeout(_HEALTH_WITHIN_S):
                health = await poller.backend.health()
        except TimeoutError:
            reason = f"no answer within {_HEALTH_WITHIN_S:.0f} s"
            health = SiteHealth(SiteState.NO_ANSWER, reason)
        except OffloadError as error:
            health = SiteHealth(SiteState.NO_ANSWER, error.message)
        finally:
            self._asking.pop(which, None)
        self._health[which] = Seen(health, self.clock())

    def health(self, site: str, *, user: str) -> Seen | None:
        """Return how a site was for `user` when it was asked last; None if it never was."""
        return self._health.get(self._which(site, user))

    # --- jobs that nobody needs ------------------------------------------------------------------

    def bury(
        self, backend: Callable[[], Awaitable[SiteBackend]], key: str, handle: JobHandle | None
    ) -> None:
        """Go on asking a site to end a job, until it says that the job is over.

        Parameters
        ----------
        backend : callable
            Returns how the site is reached; may raise OffloadError while it cannot be.
        key : str
            Of the job.
        handle : JobHandle or None
            The site's name for it, if it is known.
        """
        self.keep(self._bury(backend, key, handle), f"end {key}")

    async def _bury(
        self, backend: Callable[[], Awaitable[SiteBackend]], key: str, handle: JobHandle | None
    ) -> None:
        until = self.clock() + _BURY_FOR
        while self.clock() < until:
            with contextlib.suppress(OffloadError, TimeoutError):
                async with asyncio.timeout(_HEALTH_WITHIN_S):
                    if await _is_over(await backend(), key, handle):
                        log.info("job %s: the site says that it is over", key)
                        return
            await asyncio.sleep(_BURY_EVERY_S)
        log.warning("job %s (%s): the site never said that it is over", handle or "?", key)

    # --- the ledger ------------------------------------------------------------------------------

    def waits(self, profile: str, site: str) -> Waits:
        """Return how long sessions of `profile` waited at `site` in the last days."""
        return self._waits.get((profile, site), Waits())

    async def record(self, record: JobRecord) -> None:
        """Note a job. Raises LedgerError: nothing may be submitted that is not noted."""
        await self._ask_ledger(lambda ledger: ledger.record([record]))

    async def _ask_ledger(self, ask: Callable[[Ledger], T]) -> T | None:
        """Return what the ledger answers; None if there is none. Raises LedgerError."""
        if self._open_ledger is None:
            return None
        # Not when the hub begins: what runs does not depend on it, and must be found again without.
        async with self._ledger_lock:
            if self._ledger is None:
                self._ledger = await asyncio.to_thread(self._open_ledger)
        return await asyncio.to_thread(ask, self._ledger)

    async def _read_waits(self) -> None:
        try:
            self._waits = await self._ask_ledger(Ledger.all_waits) or {}
        except LedgerError as error:
            log.warning("waits are not known: %s", error)

    # --- the agent -------------------------------------------------------------------------------

    async def agent(self) -> Path:
        """Return the archive of the agent that runs sessions; written once."""
        # Written again if something has tidied the folder away: a hub runs for months.
        if self._agent is None or not self._agent.is_file():
            self._folder = tempfile.TemporaryDirectory(prefix="offload-hub-")
            self._agent = await asyncio.to_thread(write_session_agent, Path(self._folder.name))
        return self._agent


def sites_in_order(
    profile: str,
    sites: Collection[str],
    seen: Mapping[str, Seen],
    waits: Callable[[str, str], Waits],
) -> tuple[str, ...]:
    """Return `sites`, the best one for a session of `profile` first."""
    return in_order(
        sites,
        {site: seen[site].health for site in sites if site in seen},
        {site: waits(profile, site) for site in sites},
    )


async def _is_over(backend: SiteBackend, key: str, handle: JobHandle | None) -> bool:
    """Ask a site to end a job; return whether there is nothing left to end."""
    if handle is None:
        handle = (await backend.find(key)).get(key)
    if handle is None:  # the site answers, and never got it
        return True
    await backend.cancel([handle])
    return (await backend.status([handle]))[handle].state.ended
