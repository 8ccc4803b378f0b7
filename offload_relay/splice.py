"""Join two byte streams until one of them ends. Never holds more than a few chunks of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from offload_relay.protocol import LIMITS
from offload_relay.timeouts import timeout

__all__ = ["TcpSide", "WebSocketSide", "splice"]


# A person may stop a download for a while.
_FLUSH_S = 600.0


class Side(Protocol):
    """One end of a splice."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield what arrives, in chunks of at most `Limits.message_bytes`, until the end."""

    async def send(self, chunk: bytes) -> None:
        """Send, waiting while the other end is slow. Raises OSError if it is gone."""

    async def flush(self) -> None:
        """Wait until all that was sent is on its way; returns if the end is gone. Never raises."""

    async def close(self) -> None:
        """Close; never raises."""


class TcpSide:
    """A plain TCP connection; `early` are bytes already read behind its head."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes = b""
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._early = early

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what arrives until the end; a reset is an end."""
        if self._early:
            yield self._early
        try:
            while chunk := await self._reader.read(LIMITS.message_bytes):
                yield chunk
        except OSError:
            return

    async def send(self, chunk: bytes) -> None:
        """Send, waiting while the other end is slow."""
        self._writer.write(chunk)
        await self._writer.drain()

    async def flush(self) -> None:
        """Do nothing: closing loses nothing."""

    async def close(self) -> None:
        """Close; what is still unsent goes out in the background."""
        self._writer.close()


class WebSocketSide:
    """One WebSocket: binary messages are the stream, text is passed over."""

    def __init__(self, websocket: Connection) -> None:
        self._websocket = websocket

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the binary messages until the end."""
        try:
            while True:
                message = await self._websocket.recv()
                if isinstance(message, bytes):
                    yield message
        except ConnectionClosed:
            return

    async def send(self, chunk: bytes) -> None:
        """Send, waiting while the other end is slow."""
        try:
            await self._websocket.send(chunk)
        except ConnectionClosed as error:
            raise ConnectionResetError from error

    async def flush(self) -> None:
        """Wait until nothing is unsent, for as long as a reader may pause.

        `close` waits a few seconds only, for the other side's answer, and then drops what is left.
        """
        try:
            # With a limit of zero `drain` waits for the last byte.
            self._websocket.transport.set_write_buffer_limits(high=0)
            async with timeout(_FLUSH_S):
                await self._websocket.drain()
        except (OSError, asyncio.TimeoutError):
            return

    async def close(self) -> None:
        """Close with the normal code."""
        await self._websocket.close()


async def splice(
    left: Side, right: Side, count: Callable[[int, int], None] = lambda _right, _left: None
) -> None:
    """Carry bytes both ways until either side ends, then close both.

    Parameters
    ----------
    left, right : Side
        The two ends.
    count : callable
        Called with (bytes sent to the right, bytes sent to the left) for each chunk.

    Notes
    -----
    An end of one direction ends both: TLS, HTTP and Dask never use half-closed connections. What was
    sent before reaches a reader that is slow or pauses; cancelling does not wait for that. Cancelling
    is safe; both sides are closed.
    """

    async def to_right() -> None:
        async for chunk in left.chunks():
            await right.send(chunk)
            count(len(chunk), 0)

    async def to_left() -> None:
        async for chunk in right.chunks():
            await left.send(chunk)
            count(0, len(chunk))

    try:
        await _first_of(to_right(), to_left())
        await asyncio.gather(left.flush(), right.flush())
    finally:
        await left.close()
        await right.close()


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, OSError):
            raise result
