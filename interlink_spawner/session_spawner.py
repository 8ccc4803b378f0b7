"""The part of `InterLinkSpawner` that keeps a session which is there: follows, stores and ends it.

How it is started is `spawner`'s to say.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy.orm import object_session

from interlink_spawner import pages
from interlink_spawner.broker import SpawnerTokens
from interlink_spawner.desk import Desk
from interlink_spawner.failures import End, ended_job, ended_renamed, load_end
from interlink_spawner.live import LiveSession
from interlink_spawner.pod_spawner import PodSpawner
from interlink_spawner.poller import Poller
from interlink_spawner.progress import Progress, progress_of
from interlink_spawner.session import Session, load_session
from interlink_spawner.settings import SpawnerSettings, make_desk
from offload_sites.backend import TokenSource

if TYPE_CHECKING:
    from interlink_spawner.after_restart import StartGoesOn

__all__ = ["SessionSpawner"]

_RENEW_S = 15.0
_LOG_BYTES = 4 * 1024**2
_LOOK_S = 0.2


class SessionSpawner(SpawnerSettings, PodSpawner):
    """A spawner with the one session that it keeps, if there is one and it is not a pod."""

    _desk: ClassVar[Desk | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._session: Session | None = None
        self._live: LiveSession | None = None
        self._expected: Session | None = None  # while its site is being chosen
        #: The rest of a start that this hub has found when it began, while it goes on.
        self.going_on: StartGoesOn | None = None
        #: How the last session ended, if its user did not end it.
        self.last_end: End | None = None
        super().__init__(*args, **kwargs)

    @property
    def desk(self) -> Desk:
        """What this hub's spawners share; made by the first one that needs it.

        Raises
        ------
        OffloadError
            A setting is missing or wrong.
        """
        cls = SessionSpawner
        if cls._desk is None:
            cls._desk = make_desk(self)
        return cls._desk

    def token_source(self, site: str) -> TokenSource | None:
        """Return where tokens of this user for `site` come from; None for the hub's environment.

        Asked for sites that act as their users (`htcondor-ce`): from the user's sign-in, if the
        catalog says which one the site takes.
        """
        model = self.desk.catalog.sites.get(site)
        if getattr(model, "credential", None) is None:
            return None
        return SpawnerTokens(self.authenticator, self.user, site)

    @property
    def _gateway(self) -> str:
        return f"http://{self.desk.relay.gateway}"

    # --- following it ----------------------------------------------------------------------------

    async def _follow(self) -> LiveSession:
        """Return the session as it is followed; begin to if this hub has just started."""
        if self._live is None:
            assert self._session is not None  # noqa: S101  # callers have looked
            find = functools.partial(self._poller, self._session.site)
            self._live = LiveSession(self._session, self.desk, find, self._moved)
            await self._live.open()
        await self._live.seek()
        return self._live

    async def _poller(self, site: str) -> Poller:
        await self.desk.started()
        return await self.desk.poller(site, user=self.user.name, tokens=self.token_source)

    def _moved(self, session: Session) -> None:
        if self._session is None or self._session.key != session.key:
            return  # one that is over for the hub, and is still seen to its end
        self._store(session)
        if session.ended and self.ready:
            # The hub looks every half minute; the user should not have to wait for it.
            self.desk.keep(self._notice(), f"notice {session.key}")

    async def _notice(self) -> None:
        await self.poll_and_notify()

    async def _let_go(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            await live.close()

    def _store(self, session: Session) -> None:
        """Store where the session is: a hub that starts again must find it at every stage."""
        self._session = session
        self.orm_spawner.state = self.get_state()
        self.commit()

    def commit(self) -> None:
        """Have the hub's database keep what was changed in it."""
        database = object_session(self.orm_spawner)
        if database is not None:
            database.commit()

    async def poll(self) -> int | None:
        """Return None while the session lives, or may live; else the exit code of its job."""
        if self.is_pod:
            return await super().poll()
        if self._session is None:
            return 0
        session = (await self._follow()).session
        if self.going_on is not None:  # how it goes on, or ends, is found out there
            return None
        renamed = not self.proxy_spec.endswith(session.route)
        if not session.ended and not self._is_lost(session) and not renamed:
            return None
        if self.last_end is None:
            ended = ended_renamed if renamed else ended_job
            self.last_end = await self._with_log(ended(session, self.desk.clock()))
            self._store(session)
        code = session.agent.exit_code if session.agent.ended else session.status.exit_code
        return 1 if code is None else code

    def _is_lost(self, session: Session) -> bool:
        """Tell whether nothing is known of a job whose time is over in any case."""
        return session.silent_since is not None and self.desk.clock() > session.expires

    async def stop(self, now: bool = False) -> None:  # the hub's signature
        """End the session, and see that its job is over."""
        if self.is_pod:
            await super().stop(now)
        elif self._session is not None:
            live = await self._follow()
            within = timedelta(seconds=self.stop_timeout)
            await live.end("its server was stopped", within=within)
            await self._let_go()

    # --- what is stored --------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return what a hub that starts again needs to know."""
        state: dict[str, Any] = super().get_state()
        state["offload"] = {
            "pod": self.is_pod,
            "session": self._session.dump() if self._session else None,
            "end": self.last_end.dump() if self.last_end else None,
        }
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_state` returned before the hub was restarted."""
        super().load_state(state)
        ours = state.get("offload")
        if ours is None:
            # A hub that had KubeSpawner before: its pods go on.
            self.is_pod = "pod_name" in state
            return
        self.is_pod = bool(ours.get("pod"))
        self._session = load_session(ours.get("session"))
        self.last_end = load_end(ours.get("end"))

    def clear_state(self) -> None:
        """Forget the session; how the last one ended is kept for its user."""
        super().clear_state()
        self.is_pod, self._session, self._expected = False, None, None
        if self._live is not None:
            live, self._live = self._live, None
            self.desk.keep(live.finish(), "finish")

    # --- what is shown ---------------------------------------------------------------------------

    async def _with_log(self, end: End) -> End:
        return end.with_log(await self._live.logs()) if self._live is not None else end

    async def read_log(self) -> str:
        """Return what the job of this session has printed, or of the last one that ended badly."""
        session = self._session or (self.last_end.session if self.last_end else None)
        if session is None or session.handle is None:
            return ""
        find = functools.partial(self._poller, session.site)
        return await LiveSession(session, self.desk, find).logs(_LOG_BYTES)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield an event for each change of a starting session, with the part of the page it moves.

        Notes
        -----
        One runs for each open page, and ends with the start.
        """
        told, most = "", 0
        while not self.is_pod:
            page = self.progress_page
            if page is not None:
                most = max(most, page.percent)
                yield {
                    "progress": most,
                    "message": f"{page.heading}. {page.short}",
                    "offload": pages.render_progress(page),
                    "offload_state": page.state if page.state != told else "",
                }
                told = page.state
            if self._live is not None:
                await self._live.changed(_RENEW_S)
            else:
                await asyncio.sleep(_LOOK_S)
        async for event in super().progress():
            event.pop("raw_event", None)  # an object of the cluster; no page needs it
            yield event

    @property
    def progress_page(self) -> Progress | None:
        """What the page of a starting session shows; None if it is a pod, or not started."""
        session = self._session or self._expected
        if session is None or self.is_pod:
            return None
        seen = self.desk.health(session.site, user=self.user.name)
        return progress_of(
            session,
            now=self.desk.clock(),
            waits=self.desk.waits(session.profile, session.site),
            health=seen.health if seen else None,
            retry_s=15,
        )
