"""Heads of requests and responses: what is refused, and what of them travels on. Pure."""

from __future__ import annotations

import http
from collections.abc import Iterable
from dataclasses import dataclass

import h11

from offload_relay.errors import RemoteProtocolError
from offload_relay.server.routes import canonical_path

__all__ = [
    "Forward",
    "RefusedRequestError",
    "check_request",
    "response_headers",
    "trailer_headers",
]

Headers = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1, and what proxies have made of it: these are for the next hop only.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# `Connection: cookie` must not take away what the server decides by.
_NEVER_DROPPED = frozenset({b"host", b"content-length", b"authorization", b"cookie", b"origin"})
# A request that was sent twice has done what it does once (RFC 9110, 9.2.2), and has no body.
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})


class RefusedRequestError(Exception):
    """The client's request is answered by the gateway itself, with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence

    @property
    def phrase(self) -> str:
        """The reason phrase of its status."""
        return http.HTTPStatus(self.status).phrase


@dataclass(frozen=True)
class Forward:
    """A request as it travels on.

    Parameters
    ----------
    path : str
        Canonical; finds the session. The target travels as it came.
    request : h11.Request
        For the server.
    websocket : bool
        It asks to become a WebSocket.
    has_body : bool
        A body may follow.
    """

    path: str
    request: h11.Request
    websocket: bool
    has_body: bool

    @property
    def repeatable(self) -> bool:
        """True if it may be sent once more where the first answer was lost."""
        return self.request.method in _REPEATABLE and not self.has_body and not self.websocket


def check_request(request: h11.Request, head_bytes: int) -> Forward:
    """Return what travels on of `request`.

    Raises
    ------
    RefusedRequestError
        It is ambiguous, too long, or for something that a gateway does not do.
    """
    if request.http_version not in (b"1.0", b"1.1"):
        raise RefusedRequestError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if request.method in (b"CONNECT", b"TRACE"):
        raise RefusedRequestError(405, f"{request.method.decode()} is not done here")
    if sum(len(name) + len(value) + 4 for name, value in request.headers) > head_bytes:
        raise RefusedRequestError(431, f"the headers are longer than {head_bytes} bytes")
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version == b"1.0"
    ):
        raise RefusedRequestError(400, "the length of the body is given in two ways")
    websocket = (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and b"upgrade" in _tokens(request.headers, b"connection")
        and b"websocket" in _tokens(request.headers, b"upgrade")
    )
    headers = _end_to_end(request)
    if b"host" not in names:
        headers.append((b"Host", b"localhost"))  # HTTP/1.0 may do without, the server may not
    if websocket:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    if b"transfer-encoding" in names:
        headers.append((b"Transfer-Encoding", b"chunked"))
    return Forward(
        path=_path(request.target),
        request=h11.Request(method=request.method, target=request.target, headers=headers),
        websocket=websocket,
        has_body=b"transfer-encoding" in names
        or any(n == b"content-length" and int(v) > 0 for n, v in request.headers),
    )


def _path(target: bytes) -> str:
    # A whole URL, an authority or "*" in this place is for other kinds of proxies.
    try:
        return canonical_path(target.decode("latin-1").partition("?")[0])
    except RemoteProtocolError as error:
        raise RefusedRequestError(400, error.message) from error


def response_headers(response: h11.Response | h11.InformationalResponse) -> Headers:
    """Return what of a server's headers travels on; `h11` adds how the body is framed."""
    kept = _end_to_end(response)
    if any(name == b"transfer-encoding" for name, _ in response.headers):
        kept = [(name, value) for name, value in kept if name.lower() != b"content-length"]
    return kept


def trailer_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what of trailers travels on: nothing that a head decides by (RFC 9110, 6.5.1)."""
    decides = _HOP_BY_HOP | _NEVER_DROPPED | {b"set-cookie", b"content-type", b"content-encoding"}
    return [(name, value) for name, value in headers if name.lower() not in decides]


def _end_to_end(head: h11.Request | h11.Response | h11.InformationalResponse) -> Headers:
    dropped = _HOP_BY_HOP | (_tokens(head.headers, b"connection") - _NEVER_DROPPED)
    # As they were written: some programs at both ends know one spelling only.
    written = head.headers.raw_items()
    return [(name, value) for name, value in written if name.lower() not in dropped]


def _tokens(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> frozenset[bytes]:
    lists = (value.lower().split(b",") for name, value in headers if name == wanted)
    return frozenset(token.strip() for tokens in lists for token in tokens)
