"""The pages: a user's clusters and jobs, their logs, and the administrator's view of everything."""

from __future__ import annotations

import asyncio
import importlib.resources
from datetime import UTC, datetime, timedelta
from typing import Any

import jinja2
from jupyterhub.services.auth import HubOAuthCallbackHandler
from markupsafe import Markup
from tornado import web

from dask_offload.show import render_html
from offload_service import views
from offload_service.api import catalog_problems
from offload_service.cluster import Cluster
from offload_service.clusters import Caller
from offload_service.errors import answer_to
from offload_service.handlers import BaseHandler, Service
from offload_sites.errors import NotAuthorizedError, OffloadError

__all__ = ["routes"]

_ENDED_SHOWN = timedelta(hours=24)
_MOST_JOBS = 500
# A site may be asked for each log by itself, and a page is read by somebody.
_MOST_LOGS = 10
_MOST_TEXT = 1024 * 1024
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("offload_service"),
    # Names of users, words of sites and logs of jobs are all somebody else's text.
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class PageHandler(BaseHandler):
    """Answers with a page, to whoever has signed in to the hub."""

    page = "clusters"

    def set_default_headers(self) -> None:
        """Let nothing run that is not ours, also on the pages of errors."""
        super().set_default_headers()
        self.set_header("Content-Security-Policy", _POLICY)

    async def prepare(self) -> None:
        """Find out who looks; send whoever has not signed in to the hub."""
        try:
            self.caller = await self.hub_caller()
        except OffloadError as error:
            self.show_error(error)
            return
        if self.caller is None and self.request.method == "GET":
            self.redirect(self.get_login_url())
        elif self.caller is None:
            self.show_error(
                NotAuthorizedError(
                    "this form is too old", "go back, load the page again, and repeat"
                )
            )

    @property
    def known(self) -> Caller:
        """Who looks."""
        assert self.caller is not None  # noqa: S101  # prepare has answered otherwise
        return self.caller

    async def cluster(self, name: str) -> Cluster:
        """Return a cluster of whoever looks. Raises NoSuchClusterError."""
        return await self.service.clusters.get(name, self.known)

    def show(self, template: str, **values: Any) -> None:
        """Answer with a page."""
        self.finish(
            _templates.get_template(template).render(
                prefix=self.service.prefix,
                hub=self.hub_auth.hub_prefix,
                user=self.caller.name if self.caller else "",
                admin=bool(self.caller and self.caller.admin),
                page=self.page,
                xsrf=self.xsrf_token.decode() if self.caller else "",
                **values,
            )
        )

    def show_error(self, error: OffloadError) -> None:
        """Answer with the sentence of an error."""
        status, said = answer_to(error)
        self.set_status(status)
        text = said["message"][:1].upper() + said["message"][1:]
        self.show("error.html", message=text, hint=said["hint"])

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an exception: ours with their sentences, others with none of theirs."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, OffloadError):
            self.show_error(error)
            return
        self.set_status(status_code)
        message = "There is no such page" if status_code == 404 else f"Error {status_code}"
        self.show("error.html", message=message, hint="")

    def log_exception(self, *args: Any) -> None:
        """Keep sentences for users out of the log as tracebacks."""
        if not isinstance(args[1], OffloadError):
            super().log_exception(*args)

    async def jobs(self, user: str | None, *, ended: bool) -> list[views.JobView]:
        """Return jobs as rows: of a user, or (None) of all."""
        ledger = self.service.tools.books.ledger
        now = datetime.now(UTC)
        found = await self.read(lambda: ledger.jobs(user=user, ended=ended, limit=_MOST_JOBS))
        recent = [job for job in found if not job.ended or now - job.ended < _ENDED_SHOWN]
        catalog = self.service.catalog.catalog
        titles = {name: site.title for name, site in catalog.sites.items()}
        titles |= {name: profile.title for name, profile in catalog.profiles.items()}
        there = [one.id for one in self.service.clusters.all()]
        return views.job_views(recent, titles, there, now)


class ClustersPage(PageHandler):
    """A user's clusters, with their jobs and reasons."""

    async def get(self) -> None:
        now = datetime.now(UTC)
        clusters = []
        for cluster in self.service.clusters.of(self.known.name):
            snapshot = cluster.snapshot()
            clusters.append(
                {
                    "id": cluster.id,
                    "name": cluster.name,
                    # The one place where HTML is passed on: `show` has escaped what is in it.
                    "html": Markup(render_html(snapshot, calls=False)),  # noqa: S704
                    "age": views.since(cluster.created, now),
                    "stopped": snapshot.stopped,
                    "ending": cluster.closing,
                }
            )
        jobs = await self.jobs(self.known.name, ended=True)
        self.show("clusters.html", clusters=clusters, jobs=jobs)


class LogsPage(PageHandler):
    """What the jobs of a cluster have printed."""

    async def get(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        job = self.get_query_argument("job", None)
        started = [one.key for one in found.jobs if one.handle is not None]
        shown = [job] if job is not None else started[-_MOST_LOGS:]
        logs: dict[str, str] = {}
        for part in await asyncio.gather(*map(found.logs, shown)):
            logs |= part
        self.show(
            "logs.html", name=found.name, logs=logs, more=job is None and len(started) > len(shown)
        )


class EndForm(PageHandler):
    """End a cluster."""

    async def post(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        who = "its user" if found.user == self.known.name else "an administrator"
        await found.close(f"{who} has ended it on the page of the service")
        self.redirect(_back(self, found), status=303)


class RetryForm(PageHandler):
    """Submit again after jobs have failed too often."""

    async def post(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        found.retry()
        self.redirect(_back(self, found), status=303)


class AdminPage(PageHandler):
    """Sites with their health, everybody's jobs, and the catalog."""

    page = "admin"

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and not self.known.admin:
            self.show_error(NotAuthorizedError("this page is for administrators of the hub"))

    async def get(self) -> None:
        await self._show(None)

    async def post(self) -> None:
        text = self.get_body_argument("yaml", "", strip=False)[:_MOST_TEXT]
        await self._show(text.replace("\r\n", "\n"))

    async def _show(self, draft: str | None) -> None:
        keeper, ledger = self.service.catalog, self.service.tools.books.ledger
        catalog = keeper.catalog
        health = await self.service.health(set(catalog.sites), self.known.name)
        usage = await self.read(ledger.usage)
        waits = await self.read(ledger.all_waits)
        found: list[str] = []
        if draft is not None:
            found = await asyncio.to_thread(catalog_problems, draft)
        drafted = views.problem_views(found)
        text = keeper.text if draft is None else draft
        now = datetime.now(UTC)
        self.show(
            "admin.html",
            sites=views.site_views(catalog, health, usage, waits),
            profiles=views.profile_views(catalog, usage),
            clusters=[_cluster_row(one, now) for one in self.service.clusters.all()],
            jobs=await self.jobs(None, ended=False),
            most=_MOST_JOBS,
            ledger_trouble=self.service.tools.books.trouble,
            file=keeper.path.name,
            problems=views.problem_views(keeper.problems),
            draft=draft is not None,
            draft_problems=drafted,
            text=text,
            lines=views.numbered(text, drafted),
        )


class Health(BaseHandler):
    """Whether this service runs, for whoever watches it. Says nothing of sites, jobs or the ledger."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("ok\n")


class SignedIn(HubOAuthCallbackHandler):  # type: ignore[misc]  # untyped base
    """Where the hub sends users back to after they have signed in."""

    def initialize(self, service: Service) -> None:
        """Take what the application has: the one that has sent them there."""
        self.hub_auth = service.auth


class NoPage(PageHandler):
    """Whatever is not there."""

    async def prepare(self) -> None:
        self.write_error(404)


def _back(handler: PageHandler, cluster: Cluster) -> str:
    own = cluster.user == handler.known.name
    return handler.service.prefix + ("" if own else "admin#clusters")


def _cluster_row(cluster: Cluster, now: datetime) -> dict[str, Any]:
    snapshot = cluster.snapshot()
    return {
        "id": cluster.id,
        "user": cluster.user,
        "title": cluster.made.title,
        "wanted": cluster.wanted,
        "working": snapshot.count("working"),
        "age": views.since(cluster.created, now),
        "ending": cluster.closing,
        "stopped": snapshot.stopped,
        "trouble": cluster.trouble,
    }


def routes(prefix: str) -> list[Any]:
    """Return the routes of the pages below `prefix`, which ends in a slash."""
    one = rf"{prefix}clusters/(?P<cluster>[a-z0-9-]{{1,63}})"
    static = str(importlib.resources.files("offload_service") / "static")
    return [
        (prefix, ClustersPage),
        (rf"{prefix}oauth_callback", SignedIn),
        (rf"{prefix}admin", AdminPage),
        (rf"{one}/logs", LogsPage),
        (rf"{one}/end", EndForm),
        (rf"{one}/retry", RetryForm),
        (rf"{prefix}health", Health),
        (rf"{prefix}static/(.*)", web.StaticFileHandler, {"path": static}),
        (rf"{prefix}(?!api/|api$).*", NoPage),
        (prefix.rstrip("/"), web.RedirectHandler, {"url": prefix}),
    ]
