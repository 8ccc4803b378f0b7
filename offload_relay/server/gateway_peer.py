"""One HTTP/1.1 peer of the gateway: `h11` over bytes from a client's TCP or an agent's WebSocket."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Protocol

import h11
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from offload_relay.server.endpoints import Agent

__all__ = ["Peer", "Pipe", "StalledError", "TcpPipe", "WebSocketPipe"]


# Where h11 sees the end of a head, and what it takes within one although others read it differently: a
# line that does not end with CR LF, and one that goes on in the next. Both may be refused (RFC 9112,
# 2.2 and 5.2), and requests are smuggled with them where two programs disagree.
_HEAD_END = re.compile(rb"\n\r?\n")
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]")


class StalledError(Exception):
    """The client neither sent nor took anything for as long as a body may stand still."""


class Pipe(Protocol):
    """Bytes both ways."""

    async def read(self) -> bytes:
        """Return what arrives next; empty at the end. Raises OSError if it broke off."""

    async def write(self, data: bytes) -> None:
        """Send, waiting while the other end is slow. Raises OSError if it broke off."""


class TcpPipe:
    """A client's connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        chunk_bytes: int,
        stall_s: float,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._chunk_bytes = chunk_bytes
        self._stall_s = stall_s

    async def read(self) -> bytes:
        """Return what arrives next; empty at the end."""
        return await self.reader.read(self._chunk_bytes)

    async def write(self, data: bytes) -> None:
        """Send; a client that takes nothing for too long is given up with `StalledError`."""
        self.writer.write(data)
        transport = self.writer.transport
        while transport.get_write_buffer_size() or transport.is_closing():
            before = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._stall_s):
                    await self.writer.drain()
            except TimeoutError:
                if transport.get_write_buffer_size() >= before:
                    raise StalledError from None
            else:
                return


class WebSocketPipe:
    """A stream to an agent; counts what it carries."""

    def __init__(self, websocket: ServerConnection, agent: Agent, chunk_bytes: int) -> None:
        self._websocket = websocket
        self._agent = agent
        self._chunk_bytes = chunk_bytes

    async def read(self) -> bytes:
        """Return the next binary message; empty after an orderly close."""
        try:
            while True:
                message = await self._websocket.recv()
                if isinstance(message, bytes) and message:
                    self._agent.bytes_in += len(message)
                    return message
        except ConnectionClosedOK:
            return b""
        except ConnectionClosed as error:
            raise ConnectionResetError from error

    async def write(self, data: bytes) -> None:
        """Send as messages of a size that the agent takes."""
        try:
            for start in range(0, len(data), self._chunk_bytes):
                await self._websocket.send(data[start : start + self._chunk_bytes])
        except ConnectionClosed as error:
            raise ConnectionResetError from error
        self._agent.bytes_out += len(data)


class Peer:
    """The state of HTTP on one connection."""

    def __init__(self, role: type[h11.CLIENT | h11.SERVER], pipe: Pipe, head_bytes: int) -> None:
        self.pipe = pipe
        self.http = h11.Connection(role, max_incomplete_event_size=head_bytes)
        #: Something has arrived; whoever starts a new exchange sets it back.
        self.heard = False
        #: Nothing more will arrive.
        self.ended = False

    async def event(self) -> Any:
        """Return the next event. Cancelling is safe: nothing that was read is lost.

        Raises
        ------
        h11.RemoteProtocolError
            The other side does not speak HTTP, or broke off in the middle; a client may not leave it
            open where a line of its head ends.
        OSError
            The connection broke.
        """
        while True:
            if self.http.their_role is h11.CLIENT and self.http.their_state is h11.IDLE:
                _check_lines(self.http.trailing_data[0])
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self.pipe.read()
            self.heard = self.heard or bool(data)
            self.ended = not data
            self.http.receive_data(data)

    async def send(self, event: h11.Event) -> None:
        """Send `event`, waiting while the other side is slow. Raises OSError if it is gone."""
        data = self.http.send(event)
        if data:
            await self.pipe.write(data)

    @property
    def reusable(self) -> bool:
        """True if both sides are done and may go on with another request."""
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE


def _check_lines(data: bytes) -> None:
    """Raise if lines of the head at the start of `data`, which may go on, do not end as they should."""
    end = _HEAD_END.search(data)
    if _AMBIGUOUS.search(data, 0, end.end() if end else len(data)):
        raise h11.RemoteProtocolError("a line of the head is folded, or does not end with CR LF")
