"""The catalog in use: read again when the file changes, and kept over a restart if it is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Self

from offload_service.bookkeeper import Bookkeeper
from offload_service.store import ClusterStore
from offload_sites.catalog import Catalog
from offload_sites.errors import LedgerError
from offload_sites.load import CatalogFile

__all__ = ["CatalogKeeper"]

log = logging.getLogger(__name__)

_EVERY_S = 2.0
_NAME = "catalog"


class CatalogKeeper:
    """Follows one catalog file. An async context manager.

    Parameters
    ----------
    path : Path
        The file.
    books, store
        Where the last good content is kept.
    """

    def __init__(self, path: Path, books: Bookkeeper, store: ClusterStore) -> None:
        self.path = path
        self._books = books
        self._store = store
        self._file: CatalogFile
        self._kept = ""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Read the file. Raises CatalogError if neither it nor an earlier content is good."""
        last_good = await self._books.read(self._store.text, _NAME)
        self._file = CatalogFile(self.path, last_good=last_good)
        self._kept = last_good or ""
        await self._keep()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def catalog(self) -> Catalog:
        """The last good content."""
        return self._file.catalog

    @property
    def text(self) -> str:
        """The last good content, as text."""
        return self._file.text

    @property
    def problems(self) -> list[str]:
        """What is wrong with the file as it is now, one line each."""
        return self._file.problems

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await asyncio.to_thread(self._file.refresh)
                await self._keep()
            except LedgerError:
                pass  # said by the bookkeeper, and tried again
            except Exception:  # the loop must survive; the traceback is logged
                log.exception("the catalog")

    async def _keep(self) -> None:
        if self._file.text != self._kept:
            await self._books.write(self._store.keep_text, _NAME, self._file.text)
            self._kept = self._file.text
