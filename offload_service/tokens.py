"""Users' tokens for sites, from the hub's broker (`interlink_spawner.broker`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from offload_sites.backend import TokenSource
from offload_sites.catalog import BaseSite
from offload_sites.errors import NotAuthorizedError, OffloadError, SiteUnavailableError

__all__ = ["HubTokens", "hub_tokens"]

_TIMEOUT_S = 30.0
# The same failure is told to all that ask within this time.
_FAILURE_KEPT = timedelta(seconds=5)


def hub_tokens(api_url: str, api_token: str) -> Callable[[str, str, BaseSite], TokenSource | None]:
    """Return where the service finds users' tokens.

    Parameters
    ----------
    api_url : str
        Of the hub, ``http://…/hub/api``.
    api_token : str
        The service's own.
    """

    def source(user: str, site: str, model: BaseSite) -> TokenSource | None:
        if getattr(model, "credential", None) is None:
            return None  # what the environment of the service offers
        return HubTokens(api_url, api_token, user, site)

    return source


class HubTokens:
    """A user's tokens for one site: a `TokenSource`. Keeps one until it is to be renewed.

    Parameters
    ----------
    api_url, api_token : str
        Of the hub, and the service's own.
    user, site : str
        Whose tokens, and for which site of the catalog.
    clock : callable
        Returns aware UTC.
    """

    def __init__(
        self,
        api_url: str,
        api_token: str,
        user: str,
        site: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = f"{api_url.rstrip('/')}/offload/token"
        self._api_token = api_token
        self._user = user
        self._site = site
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._until = datetime.min.replace(tzinfo=UTC)
        self._failure: OffloadError | None = None

    def __repr__(self) -> str:
        return f"<HubTokens of {self._user!r} for {self._site!r}>"

    async def token(self) -> str:
        """Return a token that is good for a few minutes. Cancelling is safe.

        Raises
        ------
        NotAuthorizedError
            The user has to sign in again.
        SiteUnavailableError
            The hub, or the service at which users sign in, does not answer.
        """
        async with self._lock:
            if self._clock() >= self._until:
                self._token, self._failure = "", None
                try:
                    self._token, self._until = await self._ask()
                except OffloadError as error:
                    self._failure, self._until = error, self._clock() + _FAILURE_KEPT
            if self._failure is not None:
                raise self._failure
            return self._token

    async def _ask(self) -> tuple[str, datetime]:
        request = HTTPRequest(
            self._url,
            method="POST",
            headers={
                "Authorization": f"token {self._api_token}",
                "Content-Type": "application/json",
            },
            body=json.dumps({"user": self._user, "site": self._site}),
            request_timeout=_TIMEOUT_S,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request, raise_error=False)
            value: Any = json.loads(answer.body or b"{}")
        except (HTTPClientError, OSError, ValueError) as error:
            raise self._error(599, {}) from error
        if answer.code == 200:
            until = datetime.fromisoformat(str(value["good_until"]))
            # What the broker gives while the sign-in service is silent is over soon.
            return str(value["token"]), max(until, self._clock() + _FAILURE_KEPT)
        raise self._error(answer.code, value if isinstance(value, dict) else {})

    def _error(self, status: int, value: dict[str, Any]) -> OffloadError:
        message, hint = str(value.get("message", "")), str(value.get("hint", ""))
        match value.get("kind"):
            case "NotAuthorizedError":
                return NotAuthorizedError(message, hint)
            case "SiteUnavailableError":
                return SiteUnavailableError(message, hint)
            case str():
                return OffloadError(message, hint)
        if status in {401, 403, 404}:
            return OffloadError(
                f"the hub gives this service no tokens of users for site {self._site!r}",
                "the administrator of the hub has to add the handlers of interlink_spawner.broker, "
                "and name this service in TokenBroker.services",
            )
        return SiteUnavailableError(
            f"the hub does not answer when asked for a token for site {self._site!r}"
        )
