"""The private port: HTTP CONNECT into the endpoints of agents, `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
import http
import logging
import socket
from typing import TYPE_CHECKING, Any, Self

from offload_relay.errors import LeaseError, RemoteProtocolError
from offload_relay.heads import RequestHead, render_response_head
from offload_relay.lease import Lease, may_dial
from offload_relay.listener import StreamServer, read_head
from offload_relay.protocol import CloseCode, Endpoint
from offload_relay.server.endpoints import RefusedError
from offload_relay.splice import TcpSide

if TYPE_CHECKING:
    from offload_relay.server.app import Relay

__all__ = ["DialPort", "listen_on"]

log = logging.getLogger(__name__)

_STATUS = {
    CloseCode.NOT_ALLOWED: 403,
    CloseCode.NO_ENDPOINT: 504,
    CloseCode.TOO_MANY: 429,
}


class DialPort:
    """Listens for hub-side programs. An async context manager."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._server = StreamServer(self._serve, limit=relay.limits.message_bytes)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    async def __aenter__(self) -> Self:
        await self._server.start(**listen_on(self._relay.settings.dial))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._server.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limits = self._relay.limits
        try:
            async with asyncio.timeout(limits.first_message_s):
                head, early = await read_head(reader)
        except RemoteProtocolError as error:
            writer.write(render_response_head(400, error.message))
            return
        if head.method == "CONNECT":
            await self._connect(head, TcpSide(reader, writer, early), writer)
        else:
            self._answer(head, writer)

    async def _connect(
        self, head: RequestHead, side: TcpSide, writer: asyncio.StreamWriter
    ) -> None:
        try:
            lease, endpoint = self._authorize(head)
            async with self._relay.taken(lease, endpoint) as (agent, websocket):
                writer.write(render_response_head(200, "connected"))
                await self._relay.join(side, agent, websocket)
        except (LeaseError, RemoteProtocolError) as error:
            self._refuse(writer, 407 if isinstance(error, LeaseError) else 400, error.message)
        except RefusedError as error:
            self._refuse(writer, _STATUS.get(error.code, 503), error.reason)

    def _authorize(self, head: RequestHead) -> tuple[Lease, Endpoint]:
        lease = self._relay.verify(head.bearer)
        endpoint = Endpoint.parse(head.target)
        if not may_dial(lease, endpoint):
            raise RefusedError(CloseCode.NOT_ALLOWED, f"the lease does not allow {endpoint}")
        return lease, endpoint

    def _refuse(self, writer: asyncio.StreamWriter, status: int, reason: str) -> None:
        self._relay.refuse(f"dial_{status}")
        log.info("refused a dial: %d %s", status, reason)
        writer.write(render_response_head(status, reason))

    def _answer(self, head: RequestHead, writer: asyncio.StreamWriter) -> None:
        pages = {"/health": lambda: b"ok\n", "/metrics": self._relay.metrics.render}
        page = pages.get(head.target) if head.method == "GET" else None
        status = http.HTTPStatus.OK if page else http.HTTPStatus.NOT_FOUND
        body = page() if page else b"CONNECT <endpoint>, GET /health or GET /metrics\n"
        fields = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "Content-Type: text/plain; version=0.0.4\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(fields.encode() + body)


def listen_on(where: tuple[str, int] | socket.socket) -> dict[str, Any]:
    """Return the arguments of asyncio's servers for a host and port, or for a bound socket.

    Notes
    -----
    Connections inherit TCP_NODELAY from their listener. asyncio sets it only where Python knows the
    socket's protocol, which it does not of those that `socket.create_server` has made: each answer
    of two parts then waits 40 ms for an acknowledgement (measured, Python 3.11 and Linux 6.1).
    """
    if isinstance(where, socket.socket):
        if where.family in (socket.AF_INET, socket.AF_INET6):
            where.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return {"sock": where}
    return {"host": where[0], "port": where[1]}
