"""How one session starts: its job is submitted, and waited for until its server answers.

Nothing here knows the hub; what is heard meanwhile is `followed`'s.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

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
from interlink_spawner.followed import FollowedSession
from interlink_spawner.poller import Poller
from interlink_spawner.session import Session, Stage, record_of
from offload_sites.errors import (
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.jobs import AgentState, JobSpec, JobState, JobStatus, SecretFiles
from offload_sites.units import render_duration

__all__ = ["LiveSession"]

log = logging.getLogger(__name__)

_SUBMIT_WITHIN_S = 120.0
_RETRY_MOST_S = 30.0
_PROBE_S = 0.2
_LEAVE_WITHIN = timedelta(minutes=1)


class LiveSession(FollowedSession):
    """A session with its start; parameters as of `FollowedSession`."""

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
