"""A piece of network between two programs on loopback: it can be cut, and it can be slow."""

from __future__ import annotations

import asyncio
import contextlib


class Wire:
    """Forwards TCP connections to `port`. While cut, nothing passes and nothing is closed.

    Parameters
    ----------
    port : int
        Where it leads to, on 127.0.0.1.
    delay_s : float
        Added to each chunk, each way.
    bytes_per_s : float or None
        Throughput of each connection, each way.
    """

    def __init__(
        self, port: int, *, delay_s: float = 0.0, bytes_per_s: float | None = None
    ) -> None:
        self.target = port
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        #: All that has passed, both ways.
        self.seen = bytearray()
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Lose everything that is sent from now on, like a firewall that drops packets."""
        self._whole.clear()

    def heal(self) -> None:
        """Let new connections through. Those from before the cut stay dead, as with lost state."""
        for writer in list(self._writers):
            writer.transport.abort()
        self._whole.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._whole.wait()
            with contextlib.suppress(OSError):
                onward, out = await asyncio.open_connection("127.0.0.1", self.target)
                self._writers.add(out)
                try:
                    await asyncio.gather(self._carry(reader, out), self._carry(onward, writer))
                finally:
                    self._writers.discard(out)
                    out.transport.abort()
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            chunk = await reader.read(65536)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
            await self._whole.wait()
            if not chunk:
                raise ConnectionResetError
            self.seen += chunk
            writer.write(chunk)
            await writer.drain()
