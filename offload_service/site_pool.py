"""The back ends of all sites: opened when somebody needs one, shared, and closed when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Self

from offload_service.shared_site import AbsentSite, SharedSite
from offload_sites.backend import SiteBackend, TokenSource
from offload_sites.catalog import BaseSite, Catalog
from offload_sites.errors import OffloadError
from offload_sites.registry import create_backend, site_kinds

__all__ = ["SitePool", "TokenSources"]

log = logging.getLogger(__name__)

_IDLE_S = 600.0

#: Takes a user's and a site's name and its model; returns where that user's tokens for it come from.
TokenSources = Callable[[str, str, BaseSite], TokenSource | None]


@dataclass
class _Entry:
    site: SharedSite | None = None
    model: BaseSite | None = None
    users: int = 0
    idle_since_s: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)


class SitePool:
    """Back ends by site, and by user where jobs run as their users. An async context manager.

    Parameters
    ----------
    catalog : callable
        Returns the catalog in use.
    tokens : callable
        Where a user's tokens come from (`TokenSources`).
    """

    def __init__(self, catalog: Callable[[], Catalog], tokens: TokenSources) -> None:
        self._catalog = catalog
        self._tokens = tokens
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._outdated: list[_Entry] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for entry in [*self._entries.values(), *self._outdated]:
            await entry.stack.aclose()

    @contextlib.asynccontextmanager
    async def open(self, name: str, user: str) -> AsyncIterator[SiteBackend]:
        """Give the back end of a site for the jobs of a user.

        Never raises: a site that is not in the catalog, or cannot be talked to, is an `AbsentSite`.
        """
        entry = self._entry(name, user)
        if entry is None:
            yield AbsentSite(name, f"the catalog has no site {name!r} any more")
            return
        entry.users += 1
        try:
            yield await self._opened(entry, name, user)
        finally:
            entry.users -= 1
            entry.idle_since_s = time.monotonic()

    def _entry(self, name: str, user: str) -> _Entry | None:
        model = self._catalog().sites.get(name)
        if model is None:
            return None
        kind = site_kinds().get(model.kind)
        which = (name, user if kind is not None and kind.per_user else "")
        entry = self._entries.get(which)
        if entry is not None and entry.model != model:
            # Edited in the catalog: who uses the old one keeps it.
            self._outdated.append(self._entries.pop(which))
            entry = None
        if entry is None:
            entry = self._entries[which] = _Entry(model=model)
        return entry

    async def _opened(self, entry: _Entry, name: str, user: str) -> SiteBackend:
        async with entry.lock:
            if entry.site is None and entry.model is not None:
                tokens = self._tokens(user, name, entry.model)
                try:
                    backend = create_backend(name, entry.model, tokens)
                    opened = await entry.stack.enter_async_context(backend)
                except OffloadError as error:
                    log.warning("site %s cannot be used: %s", name, error)
                    return AbsentSite(name, error.message)
                entry.site = await entry.stack.enter_async_context(SharedSite(opened))
        assert entry.site is not None  # noqa: S101  # just made
        return entry.site

    async def sweep(self) -> None:
        """Close what nobody has used for a while, or what the catalog describes otherwise now."""
        now_s = time.monotonic()
        for which, entry in list(self._entries.items()):
            if not entry.users and now_s - entry.idle_since_s > _IDLE_S:
                del self._entries[which]
                await entry.stack.aclose()
        for entry in [entry for entry in self._outdated if not entry.users]:
            self._outdated.remove(entry)
            await entry.stack.aclose()
