"""The hub's broker of site tokens: turns a user's sign-in into a short-lived token for one site.

The refresh token never leaves the hub's encrypted auth_state. Who may ask is the offload service,
with its own token, and spawners of this hub; what they get is a token for the audience of one site
of the catalog, with `compute.*` scopes and nothing else, for as long as the sign-in service gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from tornado import web
from tornado.httpclient import HTTPClientError
from traitlets import Enum, Float, Set, Unicode, default
from traitlets.config import LoggingConfigurable

from interlink_spawner.token_grants import (
    Grant,
    Wanted,
    exchange_form,
    no_sign_in,
    parse_grant,
    refresh_form,
)
from offload_sites.catalog import BaseSite
from offload_sites.errors import (
    InvalidOptionsError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.load import CatalogFile

__all__ = ["HANDLERS", "PATH", "SpawnerTokens", "TokenBroker", "TokenHandler", "keep_signed_in"]

#: Below the hub's API.
PATH = "/api/offload/token"

# While the sign-in service is silent, a token is used for as long as this is left of it.
_LAST = timedelta(seconds=30)
# So long nobody asks a sign-in service again that did not answer, or that refused this sign-in.
_SILENT, _REFUSED = timedelta(seconds=10), timedelta(minutes=5)
_SCOPES = "compute."


@dataclass(frozen=True)
class _Refusal:
    sign_in: bytes  # of the refresh token, its hash
    until: datetime
    error: NotAuthorizedError


class TokenBroker(LoggingConfigurable):
    """Makes site tokens from sign-ins of one hub's authenticator, and keeps them until they end.

    One per authenticator: `TokenBroker.of`.
    """

    issuer = Unicode(
        "iam",
        config=True,
        help="""
        Name that the catalog gives the sign-in service of this hub (`credential.issuer` of a site).
        """,
    )
    grant = Enum(
        ["refresh", "exchange"],
        default_value="refresh",
        config=True,
        help="""
        How a token for a site is made. `refresh`: from the user's refresh token, restricted to the
        site's audience and scope; the hub has to ask for the scopes at sign-in. `exchange`: from the
        user's access token by token exchange (RFC 8693), which the sign-in service has to allow for
        the hub's client.
        """,
    )
    services = Set(
        Unicode(),
        default_value={"offload"},
        config=True,
        help="""
        Names of the hub's services that may ask for tokens of users: the offload service alone.
        """,
    )
    catalog_file = Unicode(
        config=True,
        help="""
        The catalog, where audience and scope of each site stand. Default: that of InterLinkSpawner.
        """,
    )
    timeout = Float(
        15.0,
        config=True,
        help="""
        Seconds after which a silent sign-in service counts as not answering.
        """,
    )

    @default("catalog_file")
    def _default_catalog_file(self) -> str:
        return str(self.config.InterLinkSpawner.get("catalog_file", ""))

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._catalog: CatalogFile | None = None
        self._grants: dict[tuple[str, Wanted], Grant] = {}
        self._refused: dict[tuple[str, Wanted], _Refusal] = {}
        self._silent: tuple[datetime, SiteUnavailableError] | None = None
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @classmethod
    def of(cls, authenticator: Any) -> TokenBroker:
        """Return the broker of a hub, by its authenticator."""
        broker = _brokers.get(authenticator)
        if broker is None:
            broker = _brokers[authenticator] = cls(parent=authenticator)
        return broker

    # --- tokens ----------------------------------------------------------------------------------

    async def token(self, user: Any, site: str) -> Grant:
        """Return a token of `user` for `site`. Cancelling is safe.

        Parameters
        ----------
        user : jupyterhub.user.User
            Whose sign-in it is made from.
        site : str
            Name in the catalog.

        Raises
        ------
        InvalidOptionsError
            There is no such site, or it takes no token.
        NotAuthorizedError
            The user has to sign in again.
        SiteUnavailableError
            The sign-in service does not answer, and no token is left that still holds.
        OffloadError
            Something in the configuration is wrong.
        """
        wanted = await self._wanted(site)
        which = (user.name, wanted)
        async with self.lock(user.name):
            known, now = self._grants.get(which), datetime.now(UTC)
            if known is not None and now < known.good_until:
                return known
            try:
                grant = await self._make(user, wanted, now)
            except SiteUnavailableError:
                if known is not None and now < known.expires - _LAST:
                    return known
                raise
            self._forget_ended(now)
            self._grants[which] = replace(grant, refresh_token="")
            self.log.info("made a token of %s for site %s", user.name, site)
            return self._grants[which]

    def lock(self, user: str) -> asyncio.Lock:
        """Return what keeps two from using one refresh token at a time: it may be good for one."""
        return self._locks.setdefault(user, asyncio.Lock())

    async def _make(self, user: Any, wanted: Wanted, now: datetime) -> Grant:
        if not getattr(self.parent, "token_url", ""):
            raise OffloadError(
                f"site {wanted.site!r} takes tokens of {wanted.issuer!r}, and this hub does not sign "
                "its users in with OAuth",
                "use an authenticator of oauthenticator, with enable_auth_state",
            )
        state = await user.get_auth_state() or {}
        sign_in = state.get("refresh_token") or ""
        if not sign_in:
            raise no_sign_in(wanted.issuer, user.name)
        which, mark = (user.name, wanted), hashlib.sha256(sign_in.encode()).digest()
        refused = self._refused.get(which)
        if refused is not None and refused.sign_in == mark and now < refused.until:
            raise refused.error
        try:
            if self.grant == "exchange":
                return await self._exchange(user, state, wanted)
            grant = await self._ask(user, wanted, refresh_form(sign_in, wanted))
        except NotAuthorizedError as error:
            self._refused[which] = _Refusal(mark, now + _REFUSED, error)
            self.log.warning("no token of %s for site %s: %s", user.name, wanted.site, error)
            raise
        await self._keep(user, state, grant, full=False)
        return grant

    async def _exchange(self, user: Any, state: dict[str, Any], wanted: Wanted) -> Grant:
        """Exchange the user's access token; renew it first if it has ended."""
        with contextlib.suppress(NotAuthorizedError):
            if state.get("access_token"):
                return await self._ask(user, wanted, exchange_form(state["access_token"], wanted))
        full = await self._ask(user, wanted, refresh_form(state["refresh_token"], None))
        await self._keep(user, state, full, full=True)
        return await self._ask(user, wanted, exchange_form(full.token, wanted))

    async def _ask(self, user: Any, wanted: Wanted, form: dict[str, str]) -> Grant:
        now = datetime.now(UTC)
        if self._silent is not None and now < self._silent[0]:
            raise self._silent[1]
        code, body = await self._post(form)
        now = datetime.now(UTC)
        try:
            return parse_grant(code, body, issuer=wanted.issuer, user=user.name, now=now)
        except SiteUnavailableError as error:
            self._silent = (now + _SILENT, error)
            raise

    async def _post(self, form: dict[str, str]) -> tuple[int, bytes]:
        """Return status and body of the token endpoint's answer; 599 if there is none."""
        authenticator: Any = self.parent
        if not authenticator.basic_auth:
            form = {
                **form,
                "client_id": authenticator.client_id,
                "client_secret": authenticator.client_secret,
            }
        try:
            answer = await authenticator.httpfetch(
                authenticator.token_url,
                label="making a token for a site",
                parse_json=False,
                raise_error=False,
                method="POST",
                headers=authenticator.build_token_info_request_headers(),
                body=urlencode(form),
                validate_cert=authenticator.validate_server_cert,
                request_timeout=self.timeout,
                connect_timeout=self.timeout,
            )
        except (HTTPClientError, OSError):
            return 599, b""
        return answer.code, answer.body or b""

    async def _keep(self, user: Any, state: dict[str, Any], grant: Grant, *, full: bool) -> None:
        """Save what has changed of a sign-in; a used refresh token may be good for nothing now."""
        changed: dict[str, Any] = {}
        if grant.refresh_token and grant.refresh_token != state.get("refresh_token"):
            changed["refresh_token"] = grant.refresh_token
        if full:
            changed["access_token"] = grant.token
        if not changed:
            return
        answer = state.get("token_response")
        if isinstance(answer, dict):
            changed["token_response"] = {**answer, **changed}
        await user.save_auth_state({**state, **changed})

    def _forget_ended(self, now: datetime) -> None:
        for which in [which for which, grant in self._grants.items() if grant.expires <= now]:
            del self._grants[which]

    # --- what a site takes -----------------------------------------------------------------------

    async def _wanted(self, name: str) -> Wanted:
        site = (await asyncio.to_thread(self._sites)).get(name)
        if site is None:
            raise InvalidOptionsError(f"the catalog has no site {name!r}")
        credential = getattr(site, "credential", None)
        if credential is None:
            raise InvalidOptionsError(f"site {name!r} takes no token of its users")
        if credential.issuer != self.issuer:
            raise OffloadError(
                f"site {name!r} takes tokens of {credential.issuer!r}, and users of this hub sign in "
                f"at {self.issuer!r}",
                "correct the catalog, or TokenBroker.issuer",
            )
        others = [word for word in credential.scope.split() if not word.startswith(_SCOPES)]
        if others:
            raise OffloadError(
                f"site {name!r} asks for the scope {others[0]!r} in the catalog",
                "tokens for sites allow compute.* and nothing else",
            )
        audience = credential.audience or getattr(site, "collector", "")
        return Wanted(name, self.issuer, audience, credential.scope)

    def _sites(self) -> Mapping[str, BaseSite]:
        if self._catalog is None:
            self._catalog = CatalogFile(Path(self.catalog_file))
        else:
            self._catalog.refresh()
        return self._catalog.catalog.sites


_brokers: weakref.WeakKeyDictionary[Any, TokenBroker] = weakref.WeakKeyDictionary()


class SpawnerTokens:
    """A user's tokens for one site, for a spawner in the hub: a `TokenSource`."""

    def __init__(self, authenticator: Any, user: Any, site: str) -> None:
        self._broker = TokenBroker.of(authenticator)
        self._user = user
        self._site = site

    async def token(self) -> str:
        """Return a token that is good for a few minutes. Raises as `TokenBroker.token` does."""
        return (await self._broker.token(self._user, self._site)).token


class TokenHandler(APIHandler):
    """``POST /hub/api/offload/token`` with ``{"user": …, "site": …}``; for the offload service."""

    @web.authenticated
    async def post(self) -> None:
        """Answer with the token and when it ends; 403 if the user has to sign in again."""
        broker = TokenBroker.of(self.authenticator)
        asks = self.current_user
        if not isinstance(asks, orm.Service) or asks.name not in broker.services:
            raise web.HTTPError(403, "only the offload service gets tokens of users")
        order = self.get_json_body()
        names = order if isinstance(order, dict) else {}
        user_name, site = names.get("user"), names.get("site")
        if not isinstance(user_name, str) or not isinstance(site, str):
            raise web.HTTPError(400, "user and site have to be texts")
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, "there is no such user")
        try:
            grant = await broker.token(user, site)
        except OffloadError as error:
            self.set_status(_STATUS.get(type(error), 500))
            self.finish(
                {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
            )
            return
        self.set_header("Cache-Control", "no-store")
        self.finish({"token": grant.token, "good_until": grant.good_until.isoformat()})


_STATUS: Mapping[type[OffloadError], int] = {
    NotAuthorizedError: 403,
    InvalidOptionsError: 404,
    SiteUnavailableError: 503,
}

#: For `c.JupyterHub.extra_handlers`.
HANDLERS = [(PATH, TokenHandler)]


# --- the hub's own refresh -----------------------------------------------------------------------

_refreshing: contextvars.ContextVar[bool] = contextvars.ContextVar("refreshing", default=False)


async def keep_signed_in(authenticator: Any, user: Any, _auth_state: object) -> Any:
    """Refresh a sign-in as ever, but let no failure of it lock out what runs.

    For `c.OAuthenticator.refresh_user_hook`. A hub before 6.1 answers 403 to servers and their
    owners while a refresh fails, so that running sessions break when the sign-in service is down
    (measured with jupyterhub 5.5.4). What the sign-in is needed for, new jobs, says so by itself.
    """
    if _refreshing.get():
        return None  # the inner call: as if there were no hook
    mark = _refreshing.set(True)
    try:
        async with TokenBroker.of(authenticator).lock(user.name):
            refreshed = await authenticator.refresh_user(user)
    except Exception as error:  # noqa: BLE001 - whatever a client raises for a server that is down
        authenticator.log.warning(
            "cannot refresh the sign-in of %s: %s", user.name, type(error).__name__
        )
        return True
    finally:
        _refreshing.reset(mark)
    if not refreshed:
        authenticator.log.warning("the sign-in of %s has ended; new jobs need a new one", user.name)
    return refreshed or True
