"""Asks a server for an answer, as the hub does once a spawner says that it has started one."""

from __future__ import annotations

import ssl

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

__all__ = ["answers"]

_WITHIN_S = 5.0


async def answers(url: str, tls: ssl.SSLContext | None = None) -> bool:
    """Tell whether there is an answer at `url`: any but a 5xx will do. Safe to cancel.

    Parameters
    ----------
    url : str
        Of the server, with a path that it knows.
    tls : ssl.SSLContext or None
        For a hub with internal TLS.
    """
    try:
        answer = await AsyncHTTPClient().fetch(
            url,
            raise_error=False,  # for status codes; a connection that fails raises all the same
            follow_redirects=False,
            request_timeout=_WITHIN_S,
            connect_timeout=_WITHIN_S,
            ssl_options=tls,
        )
    except (HTTPClientError, OSError):
        return False
    return bool(answer.code < 500)
