"""The agent's loopback port: the payload dials out and registers what it listens on.

`CONNECT <endpoint>` opens a stream; `REGISTER <endpoint>` holds an endpoint for as long as the
connection stays open, so that a payload that dies gives its endpoints back; with the header
`Offload-Serves` it is the server of this session, to which the relay's gateway leads. Both need the secret
that only the payload's environment holds: others may have processes on this node.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets

from offload_relay.agent.link import Link
from offload_relay.errors import RelayError, RemoteProtocolError
from offload_relay.heads import render_response_head
from offload_relay.listener import StreamServer, read_head
from offload_relay.protocol import LIMITS, SERVES_HEADER, Endpoint
from offload_relay.splice import TcpSide, WebSocketSide, splice
from offload_relay.timeouts import timeout

__all__ = ["LoopbackPort"]

# Below Dask's 30 s for one connect: a relay that restarts is waited for here, once, instead of by
# a backoff in each worker that grows while nobody answers.
_WAIT_S = 25.0


class LoopbackPort:
    """Listens on 127.0.0.1; `secret` is the token that clients must send."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._server = StreamServer(self._serve, limit=LIMITS.message_bytes)
        self.secret = secrets.token_hex(16)
        self.address = ""

    async def start(self) -> None:
        """Listen on a free port."""
        await self._server.start(host="127.0.0.1", port=0)
        self.address = f"127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        """Close the port and all streams through it."""
        await self._server.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with timeout(LIMITS.first_message_s):
                head, early = await read_head(reader)
            if not hmac.compare_digest(head.bearer.encode(), self.secret.encode()):
                writer.write(render_response_head(407, "not the payload of this agent"))
                return
            endpoint = Endpoint.parse(head.target)
        except RemoteProtocolError as error:
            writer.write(render_response_head(400, error.message))
            return
        try:
            if head.method == "CONNECT":
                await self._connect(endpoint, reader, writer, early)
            elif head.method == "REGISTER":
                serves = SERVES_HEADER.lower() in head.headers
                await self._register(endpoint, reader, writer, serves=serves)
            else:
                writer.write(render_response_head(405, "CONNECT or REGISTER"))
        except RelayError as error:
            writer.write(render_response_head(502, error.message))

    async def _connect(
        self,
        endpoint: Endpoint,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        early: bytes,
    ) -> None:
        async with timeout(_WAIT_S):
            websocket = await self._link.dial(endpoint)
        writer.write(render_response_head(200, "connected"))
        with self._link.stream(websocket):
            await splice(TcpSide(reader, writer, early), WebSocketSide(websocket))

    async def _register(
        self,
        endpoint: Endpoint,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        serves: bool,
    ) -> None:
        try:
            async with timeout(_WAIT_S):
                await self._link.register(endpoint, writer, serves=serves)
            writer.write(render_response_head(200, "registered"))
            await writer.drain()
            while await reader.read(4096):
                pass  # nothing is said on this connection; only its end counts
        finally:
            await self._link.unregister(endpoint, writer)
