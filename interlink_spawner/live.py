"""Follows one session at its site and at the relay: submits it, waits for it, ends it.

The thin edge of `session`: whatever is heard goes through it, and whoever holds a `LiveSession` is
told that something has changed. Knows no hub.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from interlink_spawner.desk import Desk
from interlink_spawner.failures import (
    Moved,
    Refused,
    SessionEnded,
    ended_job,
    ended_late,
    ended_queue,
    ended_refused,
    ended_start,
)
from interlink_spawner.poller import Poller
from interlink_spawner.session import Session, Stage, record_of
from interlink_spawner.session_job import session_owner
from offload_relay.owner import Owner
from offload_sites.backend import SiteBackend
from offload_sites.errors import (
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.jobs import AgentState, AgentStatus, JobSpec, JobState, JobStatus, SecretFiles
from offload_sites.units import render_duration

__all__ = ["LiveSession"]

log = logging.getLogger(__name__)

_SUBMIT_WITHIN_S = 120.0
_RETRY_MOST_S = 30.0
_PROBE_S = 0.2
_LEAVE_WITHIN = timedelta(minutes=1)
_LEASE_SPARE = timedelta(hours=24)


class LiveSession:
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

    # --- its start -------------------------------------------------------------------------------

    async def submit(self, prepare: Callable[[Session], tuple[JobSpec, SecretFiles]]) -> None:
        """Hand the job to its site, again and again while the site is silent.

        Parameters
        ----------
        prepare : callable
            Makes the job; called anew for each try.

        Raises
        ------
        Refused
            Nothing is queued, and this site will not take it.
        SessionEnded
            The site was silent for as long as the job may wait. It may be queued.

        Notes
        -----
        Cancelling is safe: the job may or may not be queued then, and `end` finds it by its key.
        """
        if self.poller is None:
            raise self._refused(
                OffloadError(f"there is no site {self.session.site!r} in the catalog any more")
            )
        attempt = 0
        while True:
            try:
                # Written down first: a job that the ledger does not know could be sent twice.
                await self._desk.record(record_of(self.session))
                await self._submit_once(self.poller, *prepare(self.session))
            except SiteUnavailableError as error:
                attempt += 1
                await self._wait_out(error, attempt)
            except (JobRejectedError, NotAuthorizedError) as error:
                raise self._refused(error) from error
            except OffloadError as error:
                raise SessionEnded(
                    ended_refused(self.session, error, self._desk.clock())
                ) from error
            else:
                return

    def _refused(self, error: OffloadError) -> Refused:
        now = self._desk.clock()
        end = ended_refused(self.session, error, now)
        self._move(self.session.heard_site(JobStatus(JobState.FAILED, error.message), now))
        return Refused(end)

    async def _submit_once(self, poller: Poller, spec: JobSpec, secrets: SecretFiles) -> None:
        key = self.session.key
        try:
            async with asyncio.timeout(_SUBMIT_WITHIN_S):
                handles = await poller.backend.submit(spec, {key: secrets})
        except TimeoutError as error:
            raise SiteUnavailableError(
                f"site {self.session.site!r} did not answer within {_SUBMIT_WITHIN_S:.0f} s"
            ) from error
        log.info("job %s (%s): submitted", handles[key], key)
        self._move(self.session.submitted(handles[key], self._desk.clock()))
        self._listen()

    async def _wait_out(self, error: SiteUnavailableError, attempt: int) -> None:
        now = self._desk.clock()
        silent = JobStatus(JobState.UNKNOWN, error.message, hint=error.hint)
        self._move(self.session.heard_site(silent, now))
        if now > self.session.queue_until:
            raise SessionEnded(ended_refused(self.session, error, now)) from error
        if attempt == 1:
            log.warning("job %s: not submitted yet: %s", self.session.key, error)
        await asyncio.sleep(min(_RETRY_MOST_S, 2.0**attempt) * random.uniform(0.5, 1.0))  # noqa: S311

    async def until_ready(
        self,
        answers: Callable[[], Awaitable[bool]],
        *,
        start_limit: timedelta,
        elsewhere: Callable[[Session], Awaitable[tuple[str, str] | None]] | None = None,
    ) -> None:
        """Wait until the server answers.

        Parameters
        ----------
        answers : callable
            Asks the server for an answer through the relay.
        start_limit : timedelta
            How long the job may run without.
        elsewhere : callable or None
            Takes the session while it is queued; returns the name of another site and why it should
            go there, or None if it should stay.

        Raises
        ------
        SessionEnded
            The job ended, waited too long, or ran for too long without an answer.
        Moved
            It is to go elsewhere, and nothing of it is left where it was.
        """
        while True:
            now = self._desk.clock()
            await self.seek()
            if self.session.leaving_for:  # a hub that starts again goes on with it here
                await self._leave()
            if self.session.ended:
                await self._settle()
                raise SessionEnded(ended_job(self.session, self._desk.clock()))
            connected = self.session.agent.state is AgentState.CONNECTED
            if connected and self._endpoints and await answers():
                self._move(self.session.answered(self._desk.clock()))
                return
            self._check_limits(now, start_limit)
            if elsewhere is not None and self._only_waits:
                other = await elsewhere(self.session)
                if other is not None:
                    site, why = other
                    self._move(replace(self.session, leaving_for=site, leaving=why))
                    continue
            await self.changed(_PROBE_S if connected and self._endpoints else 5.0)

    @property
    def _only_waits(self) -> bool:
        status, agent = self.session.status, self.session.agent
        return status.state is JobState.QUEUED and agent.state is AgentState.ABSENT

    async def _leave(self) -> None:
        """Take the job out of its queue, however long its site takes to say so, and raise Moved."""
        session = self.session
        log.info("job %s (%s): %s", session.handle, session.key, session.leaving)
        if not session.status.state.ended:
            await self.end(session.leaving, within=_LEAVE_WITHIN)
        while not self.session.status.state.ended:
            if self._desk.clock() > session.queue_until:
                raise SessionEnded(ended_queue(self.session, self._desk.clock()))
            await self.changed(5.0)
        raise Moved(session.leaving_for, session.leaving)

    def _check_limits(self, now: datetime, start_limit: timedelta) -> None:
        session = self.session
        if session.ready:
            return
        if now > session.queue_until + start_limit:  # the hub waits a little longer, and knows less
            limit = render_duration(session.queue_budget + start_limit)
            raise SessionEnded(ended_late(session, limit, now))
        if session.agent.state is AgentState.LOST:
            return  # it has come once: it comes back by itself, or ends the job
        since = session.marks.get(Stage.STARTING)
        # Nobody can say how long a job runs while its site is silent.
        if since is not None and session.silent_since is None and now > since + start_limit:
            raise SessionEnded(ended_start(session, render_duration(start_limit), now))
        if since is None and now > session.queue_until:
            raise SessionEnded(ended_queue(session, now))

    async def _settle(self, within_s: float = 5.0) -> None:
        """Wait a moment for the other axis: the agent's words and the site's tell different things."""
        clock = asyncio.get_running_loop().time
        deadline_s = clock() + within_s
        while not self._all_said and clock() < deadline_s:
            await self.changed(deadline_s - clock())

    @property
    def _all_said(self) -> bool:
        agent = self.session.agent
        return self.session.status.state.ended and (
            bool(agent.ended) or agent.state is AgentState.ABSENT
        )

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
