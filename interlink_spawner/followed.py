"""Follows one session at its site and at the relay, and ends it. How it starts is `live`'s.

The thin edge of `session`: whatever is heard goes through it, and whoever holds a `FollowedSession` is
told that something has changed. Knows no hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from interlink_spawner.desk import Desk
from interlink_spawner.poller import Poller
from interlink_spawner.session import Session, record_of
from interlink_spawner.session_job import session_owner
from offload_relay.owner import Owner
from offload_sites.backend import SiteBackend
from offload_sites.errors import OffloadError
from offload_sites.jobs import AgentStatus, JobState, JobStatus

__all__ = ["FollowedSession"]

log = logging.getLogger(__name__)

_LEASE_SPARE = timedelta(hours=24)


class FollowedSession:
    """One session, followed until `close`.

    Parameters
    ----------
    session : Session
        What is known of it.
    desk : Desk
        What this hub shares.
    find_poller : callable
        Returns the poller of its site, or raises OffloadError: the site is not in the catalog any more,
        or the catalog cannot be read. Asked again until it is there; so long the relay alone says
        how the session is.
    on_change : callable
        Called with the session whenever it has moved on; stores it.
    watch : callable
        Makes the connection to the relay, as `Owner` does.
    """

    def __init__(
        self,
        session: Session,
        desk: Desk,
        find_poller: Callable[[], Awaitable[Poller]],
        on_change: Callable[[Session], None] = lambda _: None,
        *,
        watch: Callable[..., Owner] = Owner,
    ) -> None:
        self.session = session
        self.poller: Poller | None = None
        self._find_poller = find_poller
        self._desk = desk
        self._on_change = on_change
        self._watch = watch
        self._signal = asyncio.Event()
        self._endpoints = 0
        self._owner: Owner | None = None
        self._noted: tuple[object, ...] = ()

    # --- its life --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to listen to the relay, and to the site if the job is there."""
        session, relay = self.session, self._desk.relay
        # Good for as long as the job can be of use, and for somewhat longer, to end it then.
        expires = session.expires + _LEASE_SPARE

        def lease() -> str:
            return session_owner(relay, session.user, session.id, session.route, expires)

        self._owner = self._watch(relay.url, lease, self._hear_relay, tls=_trust(relay.ca))
        await self._owner.__aenter__()
        # A job that it has left, and that its site did not remove, must not answer in its place; this
        # hub and the relay may both have been restarted since they were told.
        for left in session.left_keys:
            await self._owner.gone([left], "its session has gone to another site")
        await self.seek()

    async def seek(self) -> None:
        """Begin to listen to the site, if that was not possible so far."""
        if self.poller is not None:
            return
        try:
            poller = await self._find_poller()
        except OffloadError as error:
            # What the site has said last is not true for ever.
            self._hear_site(JobStatus(JobState.UNKNOWN, error.message, hint=error.hint))
            return
        # Somebody else may have been faster, or it is not followed any more.
        if self.poller is None and self._owner is not None:
            self.poller = poller
            self._listen()

    async def close(self) -> None:
        """Stop listening; touches no job."""
        if self.poller is not None and self.session.handle is not None:
            self.poller.unwatch(self.session.handle, self._hear_site)
        if self._owner is not None:
            owner, self._owner = self._owner, None
            await owner.__aexit__(None, None, None)

    def _listen(self) -> None:
        if self.poller is not None and self.session.handle is not None:
            self.poller.watch(self.session.handle, self._hear_site)

    def _hear_site(self, status: JobStatus) -> None:
        self._move(self.session.heard_site(status, self._desk.clock()))

    def _hear_relay(self) -> None:
        entry = self._owner.agents.get(self.session.key) if self._owner is not None else None
        if entry is None:
            return
        self._endpoints = int(entry.get("endpoints", 0))
        agent = AgentStatus.from_entry(entry)
        if agent.state is not self.session.agent.state and self.poller is not None:
            self.poller.hurry()
        self._move(self.session.heard_agent(agent, self._desk.clock()))
        self._wake()

    def _move(self, session: Session) -> None:
        old, self.session = self.session, session
        if _telling(old) == _telling(session):
            return
        if old.status.state is not session.status.state:
            log.info(
                "job %s (%s): %s -> %s: %s",
                session.handle,
                session.key,
                old.status.state.name,
                session.status.state.name,
                session.status.reason,
            )
        self._wake()
        try:
            self._on_change(session)
        except Exception:  # whoever tells us tells others too, and must go on
            log.exception("job %s: its state cannot be stored", session.key)
        self._note()

    def _wake(self) -> None:
        # A new event for each change: nobody can clear what another still waits for.
        signal, self._signal = self._signal, asyncio.Event()
        signal.set()

    async def changed(self, within_s: float | None = None) -> None:
        """Return at the next change, or after `within_s` seconds. Safe to cancel."""
        # Not wait_for: in Python 3.11 it may swallow a cancellation that comes with the signal.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._signal.wait()

    def _note(self) -> None:
        """Have the ledger follow, in the background: nothing here depends on it."""
        session = self.session
        noted = (session.handle, session.status.state, session.agent.state, session.ended)
        if noted != self._noted:
            self._noted = noted
            self._desk.keep(self._record(), f"note {session.key}")

    async def _record(self) -> None:
        try:
            await self._desk.record(record_of(self.session))
        except OffloadError as error:
            log.warning("job %s is not noted: %s", self.session.key, error)

    # --- its end ---------------------------------------------------------------------------------

    async def end(self, reason: str, *, within: timedelta) -> bool:
        """End the job, and see that it is over.

        Returns
        -------
        bool
            False if the site has not said so within the time. The desk goes on asking, and an agent
            that starts later ends itself: the relay tells it.
        """
        if self._owner is not None:
            await self._owner.gone([self.session.key], reason)
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._cancel(await self._poller_there())
                while not self.session.status.state.ended:
                    await self.changed()
        except (OffloadError, TimeoutError):
            log.warning(
                "job %s (%s): not known to be over; the site is asked on",
                self.session.handle or "?",
                self.session.key,
            )
            self._desk.bury(self._backend, self.session.key, self.session.handle)
            return False
        return True

    async def _poller_there(self) -> Poller:
        await self.seek()
        return self.poller or await self._find_poller()

    async def _backend(self) -> SiteBackend:
        return (await self._poller_there()).backend

    async def finish(self, *, within: timedelta = timedelta(minutes=1)) -> None:
        """See that the job is over, whoever has ended it, and stop listening."""
        try:
            if not self.session.status.state.ended:
                await self.end("its session is over", within=within)
        finally:
            await self.close()

    async def _cancel(self, poller: Poller) -> None:
        session = self.session
        if session.handle is None:
            handle = (await poller.backend.find(session.key)).get(session.key)
            if handle is None:
                over = JobStatus(JobState.CANCELED, "it was never queued")
                self._move(session.heard_site(over, self._desk.clock()))
                return
            self._move(session.submitted(handle, self._desk.clock()))
            self._listen()
        assert self.session.handle is not None  # noqa: S101  # found, or known before
        await poller.backend.cancel([self.session.handle])
        poller.hurry()

    async def logs(self, tail_bytes: int = 32768) -> str:
        """Return the end of what the job has printed; empty if the site has nothing."""
        if self.session.handle is None:
            return ""
        try:
            async with asyncio.timeout(10):
                backend = await self._backend()
                logs = await backend.logs(self.session.handle, tail_bytes=tail_bytes)
        except (OffloadError, TimeoutError):
            return ""
        return logs.stdout + logs.stderr


def _telling(session: Session) -> Mapping[str, object]:
    """Return what of a session is worth telling others: all but the time of the last answer."""
    return {name: value for name, value in vars(session).items() if name != "heard"}


def _trust(authority: str) -> ssl.SSLContext | None:
    return ssl.create_default_context(cadata=authority) if authority else None
