"""What all requests have in common: who calls, what they send, and how errors are answered.

The only module that asks the hub who a caller is.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jupyterhub.services.auth import HubOAuth, HubOAuthenticated, UserNotAllowed
from tornado import web

from dask_offload.service_client import MARK
from offload_relay.errors import RelayError
from offload_service.addresses import LOOPBACK, caller_address
from offload_service.bodies import parse_body
from offload_service.catalog_keeper import CatalogKeeper
from offload_service.cluster import Cluster, Tools
from offload_service.clusters import TOKEN_PREFIX, Caller, Clusters
from offload_service.errors import BadRequestError, answer_to
from offload_sites.errors import NotAuthorizedError, OffloadError, SiteUnavailableError
from offload_sites.jobs import SiteHealth

__all__ = ["ApiHandler", "BaseHandler", "Service"]

log = logging.getLogger(__name__)

_Body = TypeVar("_Body", bound=Any)
# Hub admins have it; `oauth_client_allowed_scopes` of the service lets it through to here.
_ADMIN_SCOPE = "admin-ui"


@dataclass(frozen=True)
class Service:
    """What handlers need."""

    tools: Tools
    clusters: Clusters
    catalog: CatalogKeeper
    auth: HubOAuth
    prefix: str

    async def health(self, names: set[str], user: str) -> Mapping[str, SiteHealth]:
        """Return how the sites `names` are."""

        async def one(name: str) -> SiteHealth:
            async with self.tools.pool.open(name, user) as site:
                return await site.health()

        ordered = sorted(names)
        return dict(zip(ordered, await asyncio.gather(*map(one, ordered)), strict=True))


class BaseHandler(HubOAuthenticated, web.RequestHandler):  # type: ignore[misc]  # untyped base
    """Knows who calls."""

    service: Service
    caller: Caller | None

    def initialize(self, service: Service) -> None:
        """Take what the application has."""
        self.service = service
        self.caller = None
        self.hub_auth = service.auth

    def set_default_headers(self) -> None:
        """Mark the answer as ours; nobody keeps it, nobody frames it."""
        self.set_header(MARK, "1")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "frame-ancestors 'self'; object-src 'none'")
        self.clear_header("Server")

    async def hub_caller(self) -> Caller | None:
        """Return the user of the hub who calls, by token or by cookie; None if nobody has signed in.

        Raises
        ------
        NotAuthorizedError
            The user may not use this service.
        SiteUnavailableError
            The hub does not answer.
        """
        try:
            model = await self.hub_auth.get_user(self, sync=False)
        except web.HTTPError as error:
            raise SiteUnavailableError(
                "the hub does not answer, so that it is not known who you are", "try again soon"
            ) from error
        if model is None:
            return None
        try:
            self.check_hub_user(model)
        except UserNotAllowed as error:
            raise NotAuthorizedError(
                f"{model.get('name')!r} may not use this service",
                "the hub's administrator grants it: access:services!service=offload",
            ) from error
        if model.get("kind", "user") != "user":
            raise NotAuthorizedError("only users have clusters, and this is a service's token")
        groups = frozenset(map(str, model.get("groups") or ()))
        admin = (
            bool(model.get("admin"))
            or _ADMIN_SCOPE in model.get("scopes", ())
            or bool(groups & self.service.tools.settings.admin_groups)
        )
        # Without this the answer to a request made with a cookie would look for a user once more.
        self._hub_auth_user_cache = model
        return Caller(str(model["name"]), groups, admin)

    @property
    def address(self) -> str:
        """Where this request comes from."""
        connection = self.request.connection
        context = getattr(connection, "context", None)
        peer = getattr(context, "address", None) or ("127.0.0.1", 0)
        proxies = (*LOOPBACK, *self.service.tools.settings.proxy_networks)
        forwarded = self.request.headers.get_list("X-Forwarded-For")
        return caller_address(str(peer[0]), ",".join(forwarded), proxies)

    async def read(self, function: Any, *args: object) -> Any:
        """Return what is read from the database. Raises LedgerError."""
        return await self.service.tools.books.read(function, *args)


class ApiHandler(BaseHandler):
    """Answers in JSON."""

    async def prepare(self) -> None:
        """Find out who calls; nobody unknown gets any further."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        token = self.hub_auth.get_token(self, in_cookie=False) or ""
        try:
            if token.startswith(TOKEN_PREFIX):
                cluster = self.path_kwargs.get("cluster", "")
                self.caller = await self.service.clusters.by_token(cluster, token)
            else:
                self.caller = await self.hub_caller()
        except OffloadError as error:
            self.answer_error(error)
            return
        if self.caller is None:
            self.set_status(401)
            self.finish(
                {
                    "message": "the hub does not know who you are",
                    "hint": "send your token of the hub: Authorization: token …",
                }
            )

    @property
    def known(self) -> Caller:
        """Who calls."""
        assert self.caller is not None  # noqa: S101  # prepare has answered otherwise
        return self.caller

    def user(self) -> Caller:
        """Return the caller if it is a user, not a cluster's supervisor."""
        if self.known.cluster:
            raise NotAuthorizedError("the token of a cluster is for that cluster only")
        return self.known

    def admin(self) -> Caller:
        """Return the caller if it is an administrator."""
        if not self.user().admin:
            raise NotAuthorizedError("this is for administrators of the hub")
        return self.known

    async def cluster(self, name: str) -> Cluster:
        """Return a cluster of the caller. Raises NoSuchClusterError."""
        return await self.service.clusters.get(name, self.known)

    def body(self, model: type[_Body]) -> _Body:
        """Return what was sent. Raises BadRequestError."""
        kind = self.request.headers.get("Content-Type", "application/json").partition(";")[0]
        if kind.strip().lower() != "application/json":
            # A form of another site can send cookies, but not this.
            raise BadRequestError("expected Content-Type: application/json")
        return parse_body(model, self.request.body)

    def answer(self, value: object, status: int = 200) -> None:
        """Answer with `value`."""
        self.set_status(status)
        self.finish(json.dumps(value))

    def answer_error(self, error: OffloadError | RelayError) -> None:
        """Answer with the sentence of an error."""
        status, body = answer_to(error)
        self.answer(body, status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an exception: ours with their sentences, others with none of theirs."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, OffloadError | RelayError):
            self.answer_error(error)
            return
        message = "an internal error; the log of the service says more"
        if isinstance(error, web.HTTPError) and status_code < 500:
            message = f"{self.request.method} {self.request.path}: {self._reason}"
        self.answer({"message": message, "hint": ""}, status_code)

    def log_exception(self, *args: Any) -> None:
        """Keep sentences for users out of the log as tracebacks."""
        if not isinstance(args[1], OffloadError | RelayError):
            super().log_exception(*args)
