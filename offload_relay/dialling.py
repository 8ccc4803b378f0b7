"""What agents and owners share when they dial the relay: through which proxy, and what can go wrong.

Used by the agent too: standard library and `websockets`, Python 3.9.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import InvalidProxy, WebSocketException

from offload_relay.errors import RemoteProtocolError

__all__ = ["LOST", "proxy_for", "words_of"]

#: What ends a connection, or keeps it from being made; the next try may do better. The last two are for
#: what the environment names as its proxy: it may be no URL, or be of a kind that lacks a module.
LOST = (
    OSError,
    asyncio.TimeoutError,
    RemoteProtocolError,
    WebSocketException,
    ValueError,
    ImportError,
)


def proxy_for(url: str) -> dict[str, Any]:
    """Return the arguments with which `connect` uses the proxy of this computer, but not to itself."""
    host = urlsplit(url).hostname or ""
    return {"proxy": None} if host in ("localhost", "127.0.0.1", "::1") else {}


def words_of(error: BaseException) -> str:
    """Return what one of `LOST` says, for logs and for people."""
    if isinstance(error, InvalidProxy):
        # Its own words hold the whole value, and with it the password of the proxy.
        return f"what the environment names as the proxy is none: {error.msg}"[:200]
    if isinstance(error, RemoteProtocolError):
        return error.message[:200]
    return f"{type(error).__name__}: {error}"[:200]
