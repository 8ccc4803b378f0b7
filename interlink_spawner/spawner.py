"""`InterLinkSpawner`: sessions of a JupyterHub wherever the catalog says. The edge to the hub.

What decides is elsewhere and pure: `options`, `session`, `progress`, `failures`. What
follows a job is `live`. Here the hub's calls become theirs, and their results the hub's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from traitlets import Any as AnyTrait
from traitlets import default

from interlink_spawner.after_restart import StartGoesOn
from interlink_spawner.failures import End, Moved, Refused, SessionEnded, ended_refused
from interlink_spawner.offers import CatalogOffer, KubeSpawnerOffer, Offer
from interlink_spawner.placement import Placement
from interlink_spawner.probe import answers
from interlink_spawner.session import Session, Stage
from interlink_spawner.session_job import (
    SessionRequest,
    session_environment,
    session_home,
    session_job,
)
from interlink_spawner.session_spawner import SessionSpawner
from interlink_spawner.spawn_failed import SpawnFailed, uncount
from interlink_spawner.wording import image_tag
from offload_sites.catalog import BaseSite, KubernetesSite
from offload_sites.errors import OffloadError
from offload_sites.jobs import JobSpec, SecretFiles
from offload_sites.resolve import Resolved

__all__ = ["InterLinkSpawner"]

# Of what the hub gives a spawner on top of its own limit, so that ours is the one that speaks.
_SPARE_S = 600


class InterLinkSpawner(SessionSpawner):
    """Starts a session at whichever site of the catalog its profile names.

    A profile whose site is of kind `kubernetes` is started by KubeSpawner as it is. For all other
    kinds a job is submitted, its agent dials the relay, and the hub's proxy reaches the server
    through the relay's gateway. Without a catalog everything is as in KubeSpawner, so that a hub can
    change to this class first, and write its catalog later.

    To change what it does, in rising order of effort: edit the catalog; set its `SpawnerSettings`, or
    any of KubeSpawner's; set the hub's hooks (`auth_state_hook`, `pre_spawn_hook`, `post_stop_hook`,
    `apply_user_options`), which this class leaves alone; override `token_source` or `get_env`.
    """

    user_options = AnyTrait(
        help="What was asked for, as it was sent: any JSON. See `interlink_spawner.options`."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._placement: Placement | None = None
        super().__init__(*args, **kwargs)
        self._catalog_offer = CatalogOffer(self)
        self._offer: Offer = self._catalog_offer if self.catalog_file else KubeSpawnerOffer(self)

    @default("user_options")
    def _default_user_options(self) -> dict[str, object]:
        return {}

    @property
    def groups(self) -> set[str]:
        """Names of the groups that this user is in."""
        return {group.name for group in self.user.orm_user.groups}

    # --- options ---------------------------------------------------------------------------------

    @default("options_form")
    def _default_options_form(self) -> str | Callable[..., Any]:
        return self._offer.form()

    @default("options_from_form")
    def _default_options_from_form(self) -> Callable[..., Any]:
        return self._offer.read_form

    def options_from_query(self, query_data: Mapping[str, Any]) -> object:
        """Return the options in the query of a link that starts a session."""
        return self._offer.read_query(query_data)

    async def _run_apply_user_options(self, user_options: object) -> None:
        await self._offer.take(user_options)

    async def load_user_options(self) -> None:
        """Set what KubeSpawner starts, unless the catalog says it."""
        await self._offer.load()

    def outwait(self, budget: timedelta) -> None:
        """Have the hub wait for longer than we do: its own time-out tells nobody why.

        It reads `start_timeout` right after it has called `start()`; afterwards this is again what the
        administrator has set, and KubeSpawner waits with.

        Parameters
        ----------
        budget : timedelta
            How long the session may wait in a queue.
        """
        pod_s = self.pod_start.total_seconds() + self.http_timeout
        start_s = max(self.job_start_timeout, pod_s)
        self.start_timeout = int(budget.total_seconds() + start_s) + _SPARE_S

    # --- start -----------------------------------------------------------------------------------

    async def _start(self) -> str:
        self.last_end = None
        try:
            return await self._offer.start()
        finally:
            self.start_timeout = int(self.pod_start.total_seconds())

    async def start_resolved(self, resolved: Resolved) -> str:
        """Start what a user has chosen from the catalog; return its URL.

        Raises
        ------
        SpawnFailed
            What the user is told.
        """
        placement = self._place(resolved)
        if not self._is_pods_alone(resolved):
            self._expected = self._new_session(resolved, resolved.sites[0], 1)
        return await self._start_at(await placement.in_order())

    def _place(self, resolved: Resolved) -> Placement:
        self._placement = Placement(resolved, self.desk, self.user.name, self.token_source)
        return self._placement

    def _is_pods_alone(self, resolved: Resolved) -> bool:
        sites = self.desk.catalog.sites
        return all(isinstance(sites[name], KubernetesSite) for name in resolved.sites)

    async def _start_at(self, sites: Sequence[str], *, number: int = 1, came: str = "") -> str:
        """Start the session at the first of `sites` that takes it, and move it when that is best."""
        assert self._placement is not None  # noqa: S101  # callers have made it
        resolved = self._placement.resolved
        refused: Refused | None = None
        todo = list(sites)
        while todo:
            site = todo.pop(0)
            try:
                model = self._site(site)
                if isinstance(model, KubernetesSite):
                    url = self.pod_service_url or self.service_url
                    asked = self._session.asked if self._session else self.desk.clock()
                    return await self.start_pod(resolved, model, url, asked)
                return await self._start_job(self._new_session(resolved, site, number, came))
            except Refused as error:
                refused = error
                self.log.warning("%s: %s", self._log_name, error)
            except Moved as moved:
                # The site that it has left comes last, should the others refuse it.
                todo = [moved.site, *(one for one in todo if one != moved.site), site]
                came = moved.why
            except SessionEnded as error:
                raise await self._failure_of(error.end) from error
            except OffloadError as error:
                raise await self._changed_meanwhile(error) from error
            number += 1
        assert refused is not None  # noqa: S101  # a profile has a site
        raise await self._failure_of(refused.end) from refused

    def _site(self, name: str) -> BaseSite:
        """Return a site, which an administrator may have removed from the catalog meanwhile.

        Raises
        ------
        OffloadError
            It is not there any more.
        """
        model = self.desk.catalog.sites.get(name)
        if model is None:
            raise OffloadError(f"there is no site {name!r} in the catalog any more")
        return model

    def _new_session(self, resolved: Resolved, site: str, number: int, came: str = "") -> Session:
        now = self.desk.clock()
        # One that was moved has waited since it was asked for.
        asked = self._session.asked if self._session and came else now
        session_id = self._session.id if self._session else f"s{os.urandom(5).hex()}"
        return Session(
            id=session_id,
            key=f"{session_id}-{number}",
            user=self.user.name,
            server=self.name,
            route=self.server.base_url,
            profile=resolved.profile,
            title=resolved.title,
            site=site,
            site_title=self._site(site).title,
            image=image_tag(resolved.image),
            resources=resolved.resources,
            walltime=resolved.walltime,
            queue_budget=resolved.queue_budget,
            asked=asked,
            marks={Stage.SUBMITTED: now},
            came=came,
        )

    async def _start_job(self, session: Session) -> str:
        """Submit the job of `session`, or find it again, and wait until its server answers."""
        self.is_pod = False
        await self._let_go()
        self._store(session)  # its key, before anything is sent under it
        live = await self._follow()
        if session.handle is None:
            agent = await self.desk.agent()
            await live.submit(lambda known: self._job(known, agent))
        await live.until_ready(
            self._answers,
            start_limit=timedelta(seconds=self.job_start_timeout),
            elsewhere=self._placement.elsewhere if self._placement else None,
        )
        return f"{self._gateway}{self.server.base_url}"

    def _job(self, session: Session, agent: Path) -> tuple[JobSpec, SecretFiles]:
        assert self._placement is not None  # noqa: S101  # nothing is submitted without
        resolved = self._placement.resolved
        request = SessionRequest(
            user=session.user,
            session=session.id,
            key=session.key,
            route=session.route,
            site=session.site,
            site_title=session.site_title,
            relay=self.desk.relay,
            image=resolved.image,
            resources=session.resources,
            walltime=session.walltime,
            queue_budget=session.queue_budget,
            asked=session.asked,
            environment=self._job_environment(resolved, session),
            arguments=tuple(self.get_args()),
            home=session_home(self._site(session.site), session.user),
            labels={"owner": session.user, "profile": session.profile, "server": session.server},
        )
        return session_job(request, agent)

    def _job_environment(self, resolved: Resolved, session: Session) -> dict[str, str]:
        """Return the variables of a server that runs as a job."""
        if self._site(session.site).kind != "local" and self.public_hub_connect_url:
            self.hub_connect_url = self.public_hub_connect_url
        return session_environment(resolved, self.get_env(), self.service_url)

    async def _answers(self) -> bool:
        return await answers(f"{self._gateway}{self.server.base_url}api")

    async def _changed_meanwhile(self, error: OffloadError) -> SpawnFailed:
        """Return what the hub is told of a start that went wrong before its site was asked."""
        session = self._session or self._expected
        if session is None:  # of pods alone
            uncount(self.handler)
            return SpawnFailed(424, str(error))
        return await self._failure_of(ended_refused(session, error, self.desk.clock()))

    async def _failure_of(self, end: End) -> SpawnFailed:
        """Return what the hub is told of a session that did not start."""
        self.last_end = await self._with_log(end)
        await self.past_form(end.session.asked)
        uncount(self.handler)
        return SpawnFailed(424, end.message, self.last_end)

    # --- over restarts of the hub ----------------------------------------------------------------

    async def get_url(self) -> str:
        """Return where the session is; called by a hub that has just started."""
        if self.is_pod or self._session is None:
            return str(await super().get_url())
        url = f"{self._gateway}{self.server.base_url}"
        self.going_on = StartGoesOn(self, url)
        self.going_on.begin()
        return url

    async def start_again(self) -> None:
        """Go on with the start of the session that was stored, wherever it was.

        Raises
        ------
        SpawnFailed
            What the user is told.
        """
        assert self._session is not None  # noqa: S101  # it was found
        self.log.info("%s: going on with job %s", self._log_name, self._session.key)
        self._start_future = asyncio.ensure_future(self._start_again(self._session))
        await self._start_future

    async def _start_again(self, session: Session) -> str:
        try:
            await self.desk.started()
            try:
                self._place(self._catalog_offer.taken_before())
            except OffloadError:
                if session.handle is None:  # it may never have been sent, and cannot be now
                    raise
                # It is in its queue: whatever the catalog says by now, it stays there.
            return await self._start_job(session)
        except Moved as moved:
            return await self._start_at(
                [moved.site, session.site], number=session.number + 1, came=moved.why
            )
        except SessionEnded as error:
            raise await self._failure_of(error.end) from error
        except OffloadError as error:
            end = ended_refused(session, error, self.desk.clock())
            raise await self._failure_of(end) from error
