"""Calls to the offload service of a hub, and what the answers mean.

An answer counts only if the service itself has given it: while a hub restarts, its proxy answers for
it, with pages and with 404, and nothing of that says anything about a cluster.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from offload_sites.errors import OffloadError

__all__ = ["API", "MARK", "ClusterGoneError", "ServiceClient", "service_url"]

log = logging.getLogger(__name__)

#: The version of what both sides say; another number cannot be understood.
API = 1
#: Header of every answer that the service itself gives.
MARK = "Offload-Service"

_CONNECT_S = 5.0
_BODY_BYTES = 64 * 1024 * 1024


class ClusterGoneError(OffloadError):
    """The service does not have this cluster, or has ended it."""


def service_url() -> str:
    """Return the URL of this hub's service; empty if this program does not run in a session."""
    if not os.environ.get("JUPYTERHUB_API_TOKEN"):
        return ""
    return os.environ.get("OFFLOAD_SERVICE_URL", "").rstrip("/")


class ServiceClient:
    """Calls one service.

    Parameters
    ----------
    url : str
        Its base, as `https://hub.example.org/services/offload`.
    token : str
        Who calls: the token of a JupyterHub server, or of one cluster.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/") + "/api"
        self._token = token
        self._http = AsyncHTTPClient(force_instance=True, max_body_size=_BODY_BYTES)
        # A hub with a certificate of its own authority says so to its servers this way.
        self._tls = (
            ssl.create_default_context(cafile=os.environ.get("JUPYTERHUB_SSL_CLIENT_CA") or None)
            if url.startswith("https:")
            else None
        )

    def __repr__(self) -> str:
        return f"ServiceClient({self._url!r})"  # without the token

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> Any:
        """Return what the service answers. Cancelling is safe; the service may go on.

        Raises
        ------
        ClusterGoneError
            The cluster that `path` names has ended.
        OffloadError
            The service's sentence; transient if it did not answer, or cannot at present.
        """
        url = self._url + path + (f"?{urlencode(query)}" if query else "")
        request = HTTPRequest(
            url,
            method=method,
            headers={"Authorization": f"token {self._token}", "Content-Type": "application/json"},
            body=json.dumps(body) if body is not None else None,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            connect_timeout=_CONNECT_S,
            request_timeout=timeout_s,
            ssl_options=self._tls,
        )
        try:
            # The client's own timeouts start when a connection is free.
            async with asyncio.timeout(timeout_s + _CONNECT_S):
                response = await self._http.fetch(request, raise_error=False)
        except (OSError, TimeoutError, HTTPClientError) as error:
            raise _silent(_words(error)) from error
        return _answer(response)


def _silent(why: str) -> OffloadError:
    return OffloadError(
        f"the offload service of this hub does not answer: {why}",
        "what runs goes on; ask the hub's administrator if this lasts",
        transient=True,
    )


def _words(error: BaseException) -> str:
    if isinstance(error, HTTPClientError) and error.code == 599:
        return "no answer in time"
    return getattr(error, "strerror", None) or type(error).__name__


def _answer(response: HTTPResponse) -> Any:
    if response.code == 599:
        raise _silent(_words(response.error) if response.error else "no answer")
    if MARK not in response.headers:
        raise _silent(f"{response.code} {response.reason} from something else at its address")
    try:
        value = json.loads(response.body or b"null")
    except ValueError as error:
        raise _silent("an answer that cannot be read") from error
    if 200 <= response.code < 300:
        return value
    said = value if isinstance(value, dict) else {}
    message = str(said.get("message") or f"the offload service answers {response.code}")
    hint = str(said.get("hint") or "")
    if said.get("gone"):
        raise ClusterGoneError(message, hint)
    raise OffloadError(message, hint, transient=response.code >= 500)
