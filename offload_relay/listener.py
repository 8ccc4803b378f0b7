"""A server for byte streams that owns its connections: stopping it ends them all.

Used by the agent too: standard library only, Python 3.9.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any, Callable

from offload_relay.heads import RequestHead, parse_request_head

__all__ = ["StreamServer", "read_head"]

log = logging.getLogger("offload_relay.listener")

_BACKLOG = 1024


class StreamServer:
    """Runs `serve(reader, writer)` for each connection, and closes the connection after it.

    Parameters
    ----------
    serve : callable
        Coroutine function. An OSError or a time-out that it raises ends that connection only.
    limit : int
        Bytes that a reader holds before its writer has to wait.
    """

    def __init__(
        self,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        *,
        limit: int,
    ) -> None:
        self._serve = serve
        self._limit = limit
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self, **where: Any) -> None:
        """Listen: `host` and `port`, or `sock`, or `path` of a Unix socket."""
        begin = asyncio.start_unix_server if "path" in where else asyncio.start_server
        self._server = await begin(self._accept, limit=self._limit, backlog=_BACKLOG, **where)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        assert isinstance(self._server, asyncio.base_events.Server)  # noqa: S101  # started
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Listen no more, and end all connections."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this in a task
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.TimeoutError):
            log.debug("a connection broke off")
        except asyncio.CancelledError:
            # asyncio's own callback stumbles over a cancelled task (fixed in Python 3.12).
            if not self._stopping:
                raise
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> tuple[RequestHead, bytes]:
    """Return the head of a request and the bytes read behind it.

    Raises
    ------
    RemoteProtocolError
        It is no head, or too long.
    ConnectionResetError
        The stream ended before it was complete.
    """
    data = b""
    while True:
        parsed = parse_request_head(data)
        if parsed is not None:
            return parsed
        more = await reader.read(4096)
        if not more:
            raise ConnectionResetError
        data += more
