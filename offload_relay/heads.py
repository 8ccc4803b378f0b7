"""The handshake on dial ports: heads of HTTP requests and answers, without I/O.

Programs on both sides ask a dial port with `CONNECT <endpoint>`; behind an agent they hold an
endpoint with `REGISTER <endpoint>`. The agent carries this file into any image: standard library
only, Python 3.9.
"""

from __future__ import annotations

import dataclasses
import re

from offload_relay.errors import RemoteProtocolError
from offload_relay.protocol import LIMITS, SERVES_HEADER, short

__all__ = [
    "RequestHead",
    "ResponseHead",
    "parse_request_head",
    "parse_response_head",
    "render_request_head",
    "render_response_head",
]


@dataclasses.dataclass(frozen=True)
class RequestHead:
    """The head of a request on a dial port; header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def bearer(self) -> str:
        """The token of `Proxy-Authorization: Bearer …`; empty if there is none."""
        scheme, _, token = self.headers.get("proxy-authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


@dataclasses.dataclass(frozen=True)
class ResponseHead:
    """The head of the answer: `status` (200 means that bytes follow) and its reason."""

    status: int
    reason: str


_REQUEST = re.compile(r"(?P<method>[A-Z]{1,16}) (?P<target>[!-~]{1,512}) HTTP/1\.[01]")
_STATUS = re.compile(r"HTTP/1[.][01] (?P<status>[0-9]{3})(?: (?P<reason>[ -~]*))?")
_HEADER = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*(?P<value>[ -~\t]*)")


def render_request_head(
    method: str, target: str, token: str = "", *, serves: bool = False
) -> bytes:
    """Return the head that asks a dial port for `method` (CONNECT, REGISTER, GET) on `target`.

    `serves` marks the REGISTER of the server of a session.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {target}"]
    if serves:
        lines.append(f"{SERVES_HEADER}: yes")
    if token:
        lines.append(f"Proxy-Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def render_response_head(status: int, reason: str) -> bytes:
    """Return the head that answers on a dial port; `reason` is a sentence for the log."""
    plain = re.sub(r"[^ -~]", "?", reason)[:400]
    return f"HTTP/1.1 {status} {plain}\r\n\r\n".encode("ascii")


def parse_request_head(
    data: bytes, *, limit: int = LIMITS.head_bytes
) -> tuple[RequestHead, bytes] | None:
    """Return the head at the start of `data` and the bytes after it; None if more must be read.

    Raises
    ------
    RemoteProtocolError
        Not HTTP, or a head of more than `limit` bytes.
    """
    split = _split_head(data, limit)
    if split is None:
        return None
    lines, rest = split
    match = _REQUEST.fullmatch(lines[0])
    if match is None:
        raise RemoteProtocolError(f"{short(lines[0])} is not an HTTP request line")
    return RequestHead(match["method"], match["target"], _headers(lines[1:])), rest


def parse_response_head(
    data: bytes, *, limit: int = LIMITS.head_bytes
) -> tuple[ResponseHead, bytes] | None:
    """Return the head at the start of `data` and the bytes after it; None if more must be read.

    Raises
    ------
    RemoteProtocolError
        Not HTTP, or a head of more than `limit` bytes.
    """
    split = _split_head(data, limit)
    if split is None:
        return None
    lines, rest = split
    match = _STATUS.fullmatch(lines[0])
    if match is None:
        raise RemoteProtocolError(f"{short(lines[0])} is not an HTTP status line")
    return ResponseHead(int(match["status"]), match["reason"] or ""), rest


def _split_head(data: bytes, limit: int) -> tuple[list[str], bytes] | None:
    end = data.find(b"\r\n\r\n", 0, limit)
    if end < 0:
        if len(data) >= limit:
            raise RemoteProtocolError(f"an HTTP head of more than {limit} bytes")
        return None
    return data[:end].decode("latin-1").split("\r\n"), data[end + 4 :]


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise RemoteProtocolError(f"{short(line)} is not an HTTP header")
        headers[match["name"].lower()] = match["value"].strip()
    return headers
