"""One poller per back end: asks for all jobs that anybody watches, in one call, ever less often."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from offload_sites.backend import SiteBackend
from offload_sites.jobs import JobHandle, JobState, JobStatus

__all__ = ["Poller"]

log = logging.getLogger(__name__)

Listener = Callable[[JobStatus], None]

_ASK_WITHIN_S = 30.0


class Poller:
    """Tells listeners what a site says of their jobs. Cheap however many there are.

    Parameters
    ----------
    backend : SiteBackend
        An entered back end.
    first_s : float
        Pause after something has changed, in seconds; doubled each time that nothing did.
    most_s : float
        The longest pause.

    Notes
    -----
    Each pause is cut or stretched by up to a fifth, so that several hubs do not ask in step.
    """

    def __init__(self, backend: SiteBackend, *, first_s: float = 1.0, most_s: float = 15.0) -> None:
        self._backend = backend
        self._first_s = first_s
        self.most_s = most_s
        self._pause_s = first_s
        self._listeners: dict[JobHandle, list[Listener]] = {}
        self._last: dict[JobHandle, JobStatus] = {}
        self._now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._silent = False

    @property
    def backend(self) -> SiteBackend:
        """Whom it asks."""
        return self._backend

    @property
    def watched(self) -> int:
        """How many jobs it asks for."""
        return len(self._listeners)

    def watch(self, handle: JobHandle, listener: Listener) -> None:
        """Tell `listener` each answer on the job, from now on and soon for the first time."""
        self._listeners.setdefault(handle, []).append(listener)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"poll {self._backend.site}")
        self.hurry()

    def unwatch(self, handle: JobHandle, listener: Listener) -> None:
        """Stop telling `listener`; the last one to go takes the job with it."""
        listeners = self._listeners.get(handle, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(handle, None)
            self._last.pop(handle, None)
        if not self._listeners:
            self._now.set()

    def hurry(self) -> None:
        """Ask at once: something is about to change."""
        self._pause_s = self._first_s
        self._now.set()

    async def idle(self) -> None:
        """Return when nobody watches a job any more. Safe to cancel."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._listeners:
            self._now.clear()
            changed = self._tell(await self._ask(list(self._listeners)))
            self._pause_s = self._first_s if changed else min(2 * self._pause_s, self.most_s)
            with contextlib.suppress(TimeoutError):
                pause_s = self._pause_s * random.uniform(0.8, 1.2)  # noqa: S311
                # Not wait_for: in Python 3.11 it may swallow a cancellation that comes just then.
                async with asyncio.timeout(pause_s):
                    await self._now.wait()

    async def _ask(self, handles: list[JobHandle]) -> dict[JobHandle, JobStatus]:
        try:
            async with asyncio.timeout(_ASK_WITHIN_S):
                return dict(await self._backend.status(handles))
        except TimeoutError:
            reason = f"no answer within {_ASK_WITHIN_S:.0f} s"
        except Exception:  # this loop serves all users of the site, and must go on
            log.exception("site %s: asking for %d jobs failed", self._backend.site, len(handles))
            reason = "the site cannot be asked; the log of the hub says why"
        return dict.fromkeys(handles, JobStatus(JobState.UNKNOWN, reason))

    def _tell(self, statuses: dict[JobHandle, JobStatus]) -> bool:
        """Hand out the answers; return whether any of them is new."""
        silent = all(status.state is JobState.UNKNOWN for status in statuses.values())
        if statuses and silent != self._silent:
            self._silent = silent
            level = logging.WARNING if silent else logging.INFO
            reason = next(iter(statuses.values())).reason
            log.log(level, "site %s: %s", self._backend.site, reason if silent else "answers again")
        changed = False
        for handle, status in statuses.items():
            changed |= self._last.get(handle) != status
            if handle in self._listeners:
                self._last[handle] = status
            for listener in list(self._listeners.get(handle, [])):
                listener(status)
        return changed
