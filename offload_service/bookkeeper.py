"""Writes into the ledger without anybody having to wait, except for what must be there first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Self, TypeVar

from offload_sites.errors import LedgerError
from offload_sites.ledger import JobRecord, Ledger

__all__ = ["Bookkeeper"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_EVERY_S = 1.0
_TRY_AGAIN_S = 15.0
_CLEAN_EVERY = timedelta(hours=6)


class Bookkeeper:
    """The ledger for a program with an event loop. An async context manager.

    Parameters
    ----------
    ledger : Ledger
        Open.
    kept : timedelta
        How long jobs that have ended are remembered.
    """

    def __init__(self, ledger: Ledger, kept: timedelta) -> None:
        self.ledger = ledger
        self._kept = kept
        self._cleaned: datetime | None = None
        self._pending: dict[str, JobRecord] = {}
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # One thread writes at a time: what is said last must be written last.
        self._lock = asyncio.Lock()
        #: Why the ledger cannot be written; empty while it can.
        self.trouble = ""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(LedgerError):
            await self.flush()

    async def first(self, records: Iterable[JobRecord]) -> None:
        """Note jobs that are about to be submitted. Raises LedgerError: do not submit them."""
        await self.write(self.ledger.record, list(records))

    def later(self, records: Iterable[JobRecord]) -> None:
        """Note jobs within a second or so, or as soon as the ledger can be written again."""
        self._pending.update({record.key: record for record in records})
        self._due.set()

    async def read(self, function: Callable[..., T], *args: object) -> T:
        """Return what is read from the database in a thread. Raises LedgerError."""
        return await asyncio.to_thread(function, *args)

    async def write(self, function: Callable[..., T], *args: object) -> T:
        """Return what a call that writes gives, made in a thread. Raises LedgerError."""
        async with self._lock:
            try:
                result = await asyncio.to_thread(function, *args)
            except LedgerError as error:
                if not self.trouble:
                    log.error("%s", error)  # noqa: TRY400  # a sentence, no traceback
                self.trouble = error.message
                raise
        if self.trouble:
            log.info("the ledger can be written again")
        self.trouble = ""
        return result

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            await asyncio.sleep(_EVERY_S)
            try:
                await self.flush()
                await self._clean()
            except LedgerError:
                self._due.set()
                await asyncio.sleep(_TRY_AGAIN_S)
            except Exception:  # the loop must survive; the traceback is logged
                log.exception("the ledger")

    async def flush(self) -> None:
        """Write what is pending now. Raises LedgerError; it is then still pending."""
        pending, self._pending = self._pending, {}
        try:
            if pending:
                await self.write(self.ledger.record, list(pending.values()))
        except BaseException:
            self._pending = {**pending, **self._pending}
            raise

    async def _clean(self) -> None:
        now = datetime.now(UTC)
        if self._cleaned is None or now - self._cleaned > _CLEAN_EVERY:
            self._cleaned = now
            await self.write(self.ledger.forget, now - self._kept)
