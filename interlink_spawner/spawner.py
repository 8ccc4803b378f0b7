"""`InterLinkSpawner`: sessions of a JupyterHub wherever the catalog says. The edge to the hub.

What decides is elsewhere and pure: `options`, `session`, `progress`, `failures`. What
follows a job is `live`. Here the hub's calls become theirs, and their results the hub's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import jupyterhub
from jupyterhub.app import JupyterHub
from kubernetes_asyncio.client import ApiException
from sqlalchemy.orm import object_session
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from traitlets import Any as AnyTrait
from traitlets import default

from interlink_spawner import kube, pages
from interlink_spawner.broker import SpawnerTokens
from interlink_spawner.desk import Desk
from interlink_spawner.failures import End, ended_job, ended_refused, load_end
from interlink_spawner.live import LiveSession, Moved, Refused, SessionEnded
from interlink_spawner.options import parse_query, read_form, resolve_session
from interlink_spawner.pod_spawner import PodSpawner
from interlink_spawner.progress import Progress, progress_of
from interlink_spawner.session import Session, Stage, load_session
from interlink_spawner.session_job import SessionRequest, session_home, session_job
from interlink_spawner.settings import SpawnerSettings
from interlink_spawner.wording import image_tag
from offload_relay.access import RelayAccess
from offload_sites.backend import TokenSource
from offload_sites.catalog import BaseSite, KubernetesSite
from offload_sites.choose import moved_words, next_site
from offload_sites.errors import CatalogError, InvalidOptionsError, OffloadError
from offload_sites.jobs import JobSpec, SecretFiles, SiteHealth
from offload_sites.ledger import Ledger
from offload_sites.resolve import Resolved

__all__ = ["InterLinkSpawner", "SpawnFailed"]

_KUBERNETES = "kubernetes"
_HEALTH_WITHIN_S = 3.0
_FORM_S = 1.2
_RENEW_S = 15.0
_LOG_BYTES = 4 * 1024**2
_LOOK_S = 0.2
# Of what the hub gives a spawner on top of its own limit, so that ours is the one that speaks.
_SPARE_S = 600
# Set by the hub for its own server; a catalog or a profile has no say in them.
_RESERVED = ("JUPYTERHUB_", "JPY_", "OFFLOAD_")


class SpawnFailed(web.HTTPError):
    """What the hub shows, and answers, when a session could not be started.

    Parameters
    ----------
    status : int
        Below 500: nothing that a session does is a reason to restart the hub.
    message : str
        One sentence.
    end : End or None
        How the session ended, for the page; None if there was none.
    """

    def __init__(self, status: int, message: str, end: End | None = None) -> None:
        # The message may hold a %, and is no format.
        super().__init__(status, "%s", message)
        self.jupyterhub_message = message  # the only part of an exception that pages show
        self.end = end
        self.headers: dict[str, str] = {}


class InterLinkSpawner(SpawnerSettings, PodSpawner):
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

    _desk: ClassVar[Desk | None] = None
    _wanted: ClassVar[dict[str, object]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._session: Session | None = None
        self._live: LiveSession | None = None
        self._place = ""  # "kubernetes", "site", or nothing
        self._resolved: Resolved | None = None
        self._expected: Session | None = None  # while its site is being chosen
        self._resuming = False
        self._pod_site = ""
        self._tried: set[str] = set()  # where this session has waited for too long
        #: How the last session ended, if its user did not end it.
        self.last_end: End | None = None
        super().__init__(*args, **kwargs)
        #: The last options that were good, as the hub has stored them.
        self._good_options = self.orm_spawner.user_options if self.orm_spawner else None

    @default("user_options")
    def _default_user_options(self) -> dict[str, object]:
        return {}

    # --- what is shared by all spawners ----------------------------------------------------------

    @property
    def desk(self) -> Desk:
        """What this hub's spawners share; made by the first one that needs it.

        Raises
        ------
        OffloadError
            A setting is missing or wrong.
        """
        cls = InterLinkSpawner
        if cls._desk is None:
            cls._desk = self._make_desk()
        return cls._desk

    def _make_desk(self) -> Desk:
        for name in ("catalog_file", "relay_key_file"):
            if not getattr(self, name):
                raise OffloadError(
                    f"InterLinkSpawner.{name} is not set", "set it in the configuration of the hub"
                )
        relay = RelayAccess(
            url=self.relay_url,
            dial="",
            key=_read(self.relay_key_file, "relay_key_file"),
            ca=_read(self.relay_ca_file, "relay_ca_file").decode() if self.relay_ca_file else "",
            gateway=self.relay_gateway,
        )
        ledger = Ledger(self.ledger_url) if self.ledger_url else None
        return Desk(Path(self.catalog_file), relay, ledger)

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
    def groups(self) -> set[str]:
        """Names of the groups that this user is in."""
        return {group.name for group in self.user.orm_user.groups}

    # --- options ---------------------------------------------------------------------------------

    @default("options_from_form")
    def _default_options_from_form(self) -> Callable[..., Any]:
        return self._read_form if self.catalog_file else self._options_from_form

    def _read_form(self, form: Mapping[str, Any]) -> object:
        if form.get("again"):
            return self.orm_spawner.user_options or {}
        options: object = None
        try:
            options = read_form(form)
            resolve_session(self.desk.catalog, options, groups=self.groups)
        except OffloadError as error:
            self._wanted[self.user.name] = options
            raise self._bad_options(error, counted=False) from error
        return options

    def take_wanted(self) -> object:
        """Return what this user has just chosen in vain, once: the form keeps all choices."""
        return self._wanted.pop(self.user.name, None)

    def options_from_query(self, query_data: Mapping[str, Any]) -> object:
        """Return the options in the query of a link that starts a session."""
        try:
            return parse_query(query_data)
        except InvalidOptionsError as error:
            raise self._bad_options(error, counted=False) from error

    async def _run_apply_user_options(self, user_options: object) -> None:
        """Check what was asked for, before anything else is done with it.

        The hub has stored it by now; if it is bad, what was there before comes back.
        """
        if not self.catalog_file:
            await super()._run_apply_user_options(user_options)
            return
        try:
            await self.desk.started()
            resolved = resolve_session(self.desk.catalog, user_options, groups=self.groups)
        except OffloadError as error:
            self.orm_spawner.user_options = self._good_options
            self._commit()
            raise self._bad_options(error) from error
        self._good_options = self.orm_spawner.user_options
        self._resolved = resolved
        if not self._all_kubernetes(resolved):
            # The hub reads it before it calls start(): how long the job may wait, and start.
            budget_s = resolved.queue_budget.total_seconds()
            self.start_timeout = int(budget_s) + self.job_start_timeout + _SPARE_S
        if self.apply_user_options:
            await super()._run_apply_user_options(user_options)

    def _bad_options(self, error: OffloadError, *, counted: bool = True) -> SpawnFailed:
        if isinstance(error, InvalidOptionsError):
            failure = SpawnFailed(400, str(error))
        else:
            what = "the catalog of this hub" if isinstance(error, CatalogError) else error.message
            self.log.error("nothing can be started: %s", error)
            failure = SpawnFailed(424, f"{what} cannot be used: tell an administrator")
        if counted:
            self._uncount()
        return failure

    def _uncount(self) -> None:
        """Take the failure that is about to be raised out of the hub's count in advance.

        JupyterHub 5 counts every failed spawn, a user's bad request too, and exits at a limit. Later
        ones count what is an error of the hub only.
        """
        settings = getattr(self.handler, "settings", None)
        if settings is not None and jupyterhub.version_info[0] < 6:
            settings["failure_count"] = settings.get("failure_count", 0) - 1

    def _all_kubernetes(self, resolved: Resolved) -> bool:
        sites = self.desk.catalog.sites
        return all(sites[name].kind == _KUBERNETES for name in resolved.sites)

    # --- start -----------------------------------------------------------------------------------

    def start(self) -> asyncio.Future[str]:
        """Start the session; the result is the URL that the proxy sends its users' requests to."""
        self._start_future = asyncio.ensure_future(self._start_anywhere())
        return self._start_future

    async def _start_anywhere(self) -> str:
        self.last_end = None
        self._tried.clear()
        if not self.catalog_file:
            self._place = _KUBERNETES
            return str(await super()._start())
        resolved = self._resolved
        if resolved is None:
            raise SpawnFailed(400, "no options were checked for this server")
        if not self._all_kubernetes(resolved):
            self._expected = self._new_session(resolved, resolved.sites[0], 1)
        return await self._start_at(resolved, await self._sites_in_order(resolved))

    async def _start_at(
        self, resolved: Resolved, sites: Sequence[str], *, number: int = 1, came: str = ""
    ) -> str:
        """Start the session at the first of `sites` that takes it, and move it when that is best."""
        refused: Refused | None = None
        todo = list(sites)
        while todo:
            site = todo.pop(0)
            if self.desk.catalog.sites[site].kind == _KUBERNETES:
                return await self._start_pod(resolved, site)
            try:
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
            number += 1
        assert refused is not None  # noqa: S101  # a profile has a site
        raise await self._failure_of(refused.end) from refused

    async def _sites_in_order(self, resolved: Resolved) -> Sequence[str]:
        if len(resolved.sites) == 1:
            return resolved.sites
        await self._ask_sites(resolved)
        return self.desk.in_order(resolved.profile, resolved.sites)

    async def _ask_sites(self, resolved: Resolved) -> Mapping[str, SiteHealth]:
        seen = await self.desk.healths(
            resolved.sites,
            user=self.user.name,
            tokens=self.token_source,
            within_s=_HEALTH_WITHIN_S,
        )
        return {site: one.health for site, one in seen.items()}

    async def _elsewhere(self, session: Session) -> tuple[str, str] | None:
        """Return where a session that waits should go, and why; None if it should stay."""
        resolved = self._resolved
        if resolved is None or len(resolved.sites) == 1:
            return None
        waited = self.desk.clock() - session.marks[Stage.SUBMITTED]
        if waited < resolved.patience:
            return None
        site = next_site(
            session.site,
            waited,
            resolved.patience,
            sites=resolved.sites,
            health=await self._ask_sites(resolved),
            waits={site: self.desk.waits(resolved.profile, site) for site in resolved.sites},
            tried=self._tried,
        )
        if site is None:
            return None
        self._tried.add(session.site)
        title = self.desk.catalog.sites[site].title
        return site, moved_words(session.site_title, title, waited)

    async def _start_pod(self, resolved: Resolved, site: str) -> str:
        """Let KubeSpawner start its own pod."""
        self._place, self._pod_site = _KUBERNETES, site
        model = self.desk.catalog.sites[site]
        assert isinstance(model, KubernetesSite)  # noqa: S101  # of this kind
        names = (
            *("environment", "node_selector", "extra_pod_config"),
            *("extra_resource_limits", "extra_resource_guarantees", "extra_labels"),
        )
        present = {name: getattr(self, name) for name in names}
        for name in ("tolerations", "image_pull_secrets"):
            present[name] = list(self._sorted_dict_values(getattr(self, name)) or [])
        service_url = self.pod_service_url or self.service_url
        for name, value in kube.pod_settings(resolved, model, present, service_url).items():
            setattr(self, name, value)
        try:
            return str(await super()._start())
        except ApiException as error:
            self.log.exception("%s: the pod could not be started", self._log_name)
            raise self._pod_failed(model, kube.api_words(error)) from error
        except TimeoutError as error:
            why, _ = kube.why_not(self._pod_seen())
            raise self._pod_failed(model, why or str(error)) from error

    def _pod_seen(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.pod_reflector.pods.get(
            f"{self.namespace}/{self.pod_name}"
        )
        return found

    def _pod_failed(self, site: BaseSite, why: str) -> SpawnFailed:
        self._uncount()
        return SpawnFailed(424, f"The pod did not start at {site.title}: {why}.")

    def is_pod_running(self, pod: Any) -> bool:
        """Tell whether a pod runs; raise if it never will, rather than wait for `start_timeout`."""
        why, final = kube.why_not(pod)
        if final and self._pod_site:
            raise self._pod_failed(self.desk.catalog.sites[self._pod_site], why)
        # KubeSpawner fails, and leaves the pod behind, where one that runs has no address yet.
        return bool(pod and pod["status"].get("podIP")) and bool(super().is_pod_running(pod))

    async def load_user_options(self) -> None:
        """Do nothing: what KubeSpawner would do with options has been done with the catalog's."""
        if not self.catalog_file:
            await super().load_user_options()

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
            site_title=self.desk.catalog.sites[site].title,
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
        self._place = "site"
        await self._let_go()
        self._session = session
        self._store(session)  # its key, before anything is sent under it
        live = await self._follow()
        if session.handle is None:
            agent = await self.desk.agent()
            await live.submit(lambda known: self._job(known, agent))
        await live.until_ready(
            self._answers,
            start_limit=timedelta(seconds=self.job_start_timeout),
            elsewhere=self._elsewhere,
        )
        return f"{self._gateway}{self.server.base_url}"

    def _job(self, session: Session, agent: Path) -> tuple[JobSpec, SecretFiles]:
        resolved = self._resolved
        assert resolved is not None  # noqa: S101  # checked before start
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
            home=session_home(self.desk.catalog.sites[session.site], session.user),
            labels={"owner": session.user, "profile": session.profile, "server": session.server},
        )
        return session_job(request, agent)

    def _job_environment(self, resolved: Resolved, session: Session) -> dict[str, str]:
        """Return the variables of a server that runs as a job."""
        if self.desk.catalog.sites[session.site].kind != "local" and self.public_hub_connect_url:
            self.hub_connect_url = self.public_hub_connect_url
        given = {
            name: value
            for name, value in resolved.environment.items()
            if not name.startswith(_RESERVED)
        }
        ours = {"OFFLOAD_PROFILE": resolved.profile, "OFFLOAD_IMAGE": resolved.image.name}
        if self.service_url:
            ours["OFFLOAD_SERVICE_URL"] = self.service_url
        environment = {**ours, **self.get_env(), **given}
        return {name: str(value) for name, value in environment.items()}

    @property
    def _gateway(self) -> str:
        return f"http://{self.desk.relay.gateway}"

    async def _answers(self) -> bool:
        """Ask the server for an answer, as the hub will: any but a 5xx will do."""
        url = f"{self._gateway}{self.server.base_url}api"
        answer = await AsyncHTTPClient().fetch(
            url, raise_error=False, follow_redirects=False, request_timeout=5, connect_timeout=5
        )
        return bool(answer.code < 500)

    async def _failure_of(self, end: End) -> SpawnFailed:
        """Return what the hub is told of a session that did not start."""
        self.last_end = await self._with_log(end)
        # Within its first second the hub would show the form again, in place of the failure page.
        left_s = _FORM_S - (self.desk.clock() - end.session.asked).total_seconds()
        await asyncio.sleep(max(0.0, left_s))
        self._uncount()
        message = " ".join([f"{end.heading}.", *end.todo[:1]])
        return SpawnFailed(424, message, self.last_end)

    async def _with_log(self, end: End) -> End:
        return end.with_log(await self._live.logs()) if self._live is not None else end

    async def read_log(self) -> str:
        """Return what the job of this session has printed, or of the last one that ended badly."""
        session = self._session or (self.last_end.session if self.last_end else None)
        if session is None or session.handle is None:
            return ""
        try:
            poller = await self.desk.poller(
                session.site, user=self.user.name, tokens=self.token_source
            )
            return await LiveSession(session, self.desk, poller).logs(_LOG_BYTES)
        except OffloadError:
            return ""

    # --- following it ----------------------------------------------------------------------------

    async def _follow(self) -> LiveSession:
        """Return the session as it is followed; begin to if this hub has just started."""
        if self._live is None:
            assert self._session is not None  # noqa: S101  # callers have looked
            poller = None
            with contextlib.suppress(OffloadError):
                await self.desk.started()
                poller = await self.desk.poller(
                    self._session.site, user=self.user.name, tokens=self.token_source
                )
            if self._live is None:
                self._live = LiveSession(self._session, self.desk, poller, self._moved)
                await self._live.open()
        return self._live

    def _moved(self, session: Session) -> None:
        self._session = session
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
        self._commit()

    def _commit(self) -> None:
        database = object_session(self.orm_spawner)
        if database is not None:
            database.commit()

    async def poll(self) -> int | None:
        """Return None while the session lives, or may live; else the exit code of its job."""
        if self._place == _KUBERNETES:
            return await super().poll()
        if self._session is None:
            return 0
        session = (await self._follow()).session
        if self._resuming:  # how it goes on, or ends, is found out there
            return None
        if not session.ended and not self._is_lost(session):
            return None
        if self.last_end is None:
            self.last_end = await self._with_log(ended_job(session, self.desk.clock()))
            self._store(session)
        code = session.agent.exit_code if session.agent.ended else session.status.exit_code
        return 1 if code is None else code

    def _is_lost(self, session: Session) -> bool:
        """Tell whether nothing is known of a job whose time is over in any case."""
        return session.silent_since is not None and self.desk.clock() > session.expires

    async def stop(self, now: bool = False) -> None:  # the hub's signature
        """End the session, and see that its job is over."""
        if self._place == _KUBERNETES:
            await super().stop(now)
        elif self._session is not None:
            live = await self._follow()
            within = timedelta(seconds=self.stop_timeout)
            await live.end("its server was stopped", within=within)
            await self._let_go()

    # --- over restarts of the hub ----------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return what a hub that starts again needs to know."""
        state: dict[str, Any] = super().get_state()
        state["offload"] = {
            "place": self._place,
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
            self._place = _KUBERNETES if "pod_name" in state else ""
            return
        self._place = ours.get("place", "")
        self._session = load_session(ours.get("session"))
        self.last_end = load_end(ours.get("end"))

    def clear_state(self) -> None:
        """Forget the session; how the last one ended is kept for its user."""
        super().clear_state()
        self._place, self._session, self._expected = "", None, None
        if self._live is not None:
            live, self._live = self._live, None
            self.desk.keep(live.finish(), "finish")

    async def get_url(self) -> str:
        """Return where the session is; called by a hub that has just started.

        The hub would ask the server for an answer now, and end what does not give one within
        `http_timeout`: a queued job, or a running one whose relay was restarted with the hub. So its
        question is answered here, and the start goes on as one that is pending.
        """
        if self._place != "site" or self._session is None:
            return str(await super().get_url())
        self.server.wait_up = self._believed
        self._spawn_pending = self._resuming = True
        self._spawn_future: Any = asyncio.ensure_future(self._resume(self._session))
        self._spawn_future.add_done_callback(_look_at)
        return f"{self._gateway}{self.server.base_url}"

    async def _believed(self, **_: object) -> HTTPResponse:
        """Stand in for `Server.wait_up`, once."""
        del self.server.wait_up
        headers = HTTPHeaders({"X-JupyterHub-Version": jupyterhub.__version__})
        return HTTPResponse(HTTPRequest(self._gateway), 200, headers=headers)

    async def _resume(self, session: Session) -> None:
        """Do what is left of a start, as the hub's own `spawn_single_user` does."""
        self.log.info("%s: going on with job %s", self._log_name, session.key)
        try:
            self._start_future = asyncio.ensure_future(self._start_again(session))
            await self._start_future
            await _hub_proxy().add_user(self.user, self.name)
        except SpawnFailed:
            self._resuming = False
            await _hub_proxy().delete_user(self.user, self.name)
            await self.user.stop(self.name)
            raise
        else:
            self._spawn_future = None
        finally:
            self._spawn_pending = self._resuming = False

    async def _start_again(self, session: Session) -> str:
        number = int(session.key.rpartition("-")[2])
        try:
            await self.desk.started()
            try:
                self._resolved = resolve_session(
                    self.desk.catalog, self.user_options or self._good_options, groups=self.groups
                )
            except OffloadError:
                if session.handle is None:  # it may never have been sent, and cannot be now
                    raise
                # It is in its queue: whatever the catalog says by now, it stays there.
            return await self._start_job(session)
        except Moved as moved:
            assert self._resolved is not None  # noqa: S101  # nothing is moved without
            return await self._start_at(
                self._resolved, [moved.site, session.site], number=number + 1, came=moved.why
            )
        except SessionEnded as error:
            raise await self._failure_of(error.end) from error
        except OffloadError as error:
            end = ended_refused(session, error, self.desk.clock())
            raise await self._failure_of(end) from error

    # --- pages -----------------------------------------------------------------------------------

    @default("options_form")
    def _default_options_form(self) -> str | Callable[..., Any]:
        if not self.catalog_file:
            form: str | Callable[..., Any] = self._options_form_default()
            return form
        return self._render_form

    async def _render_form(self, _: object) -> str:
        return await pages.render_form(self)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield an event for each change of a starting session, with the part of the page it moves.

        Notes
        -----
        One runs for each open page, and ends with the start.
        """
        told, most = "", 0
        while self._place != _KUBERNETES:
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
        if session is None or self._place == _KUBERNETES:
            return None
        seen = self.desk.health(session.site)
        return progress_of(
            session,
            now=self.desk.clock(),
            waits=self.desk.waits(session.profile, session.site),
            health=seen.health if seen else None,
            retry_s=15,
        )


def _hub_proxy() -> Any:
    """Return the proxy of the hub that this process is."""
    return JupyterHub.instance().proxy


def _look_at(future: asyncio.Future[None]) -> None:
    """Take note of an exception that the pages of the hub read later, if anybody looks."""
    if not future.cancelled():
        future.exception()


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OffloadError(
            f"InterLinkSpawner.{name}: cannot read {path}: {error.strerror}"
        ) from error
