"""Calls between the processes of one cluster: a line of JSON each way, on a private Unix socket.

The socket lies in a directory that only its user may enter, so it needs no password. An open
connection also says that the caller is alive, however busy its interpreter is: there is no
heartbeat that a long cell could miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

from offload_relay.listener import StreamServer
from offload_sites.errors import OffloadError

__all__ = ["Caller", "Handler", "RpcClient", "RpcServer"]

log = logging.getLogger(__name__)

# A line holds the snapshot of a cluster with some hundred jobs, or the tail of a log.
_LINE_BYTES = 64 * 1024 * 1024

Handler = Callable[..., Awaitable[Any]]


class Caller:
    """One connection to a server, as its handlers see it; `data` is theirs."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}


class RpcServer:
    """Serves `handlers` on a Unix socket. An async context manager.

    Parameters
    ----------
    path : Path
        The socket; its directory must be private.
    handlers : mapping
        Method to coroutine function; called with the caller and the parameters as keywords.
    on_close : callable
        Called with the caller when its connection is gone.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        on_close: Callable[[Caller], None] = lambda _caller: None,
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._on_close = on_close
        self._server = StreamServer(self._serve, limit=_LINE_BYTES)

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        await self._server.start(path=self._path)
        self._path.chmod(0o600)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._server.stop()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = Caller()
        calls: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                request = _request(line)
                call = asyncio.create_task(self._call(caller, request, writer))
                calls.add(call)
                call.add_done_callback(calls.discard)
        except (ValueError, RecursionError):
            # Too long a line, or no JSON: nobody knows which call it was, so all of them end.
            log.warning("a caller sent what is no call; its connection is closed")
        finally:
            for call in calls:
                call.cancel()
            self._on_close(caller)

    async def _call(
        self, caller: Caller, request: Mapping[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        number, method = request["id"], request["method"]
        try:
            result = await self._handler(method)(caller, **request["params"])
            line = json.dumps({"id": number, "result": result})
        except OffloadError as error:
            line = _failure(number, error)
        except Exception as error:
            log.exception("%s failed", method)
            text = f"internal error: {type(error).__name__}"
            line = _failure(number, OffloadError(text, "read its log"))
        with contextlib.suppress(OSError):
            writer.write(line.encode() + b"\n")
            await writer.drain()

    def _handler(self, method: str) -> Handler:
        try:
            return self._handlers[method]
        except KeyError:
            raise OffloadError(
                f"the other process knows no call {method!r}",
                "it may run another release of interlink-offload: start a new cluster",
            ) from None


def _request(line: bytes) -> dict[str, Any]:
    """Return the call in `line`; raises ValueError if it is none."""
    value = json.loads(line)
    if not (isinstance(value, dict) and value.keys() >= {"id", "method", "params"}):
        raise ValueError("not a call")
    return value


def _failure(number: object, error: OffloadError) -> str:
    return json.dumps({"id": number, "error": [error.message, error.hint, error.transient]})


class RpcClient:
    """Calls a server. Several calls may be under way at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._ids = itertools.count()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._listener = asyncio.create_task(self._listen(reader))

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Return a client of the server at `path`; raises OSError if there is none."""
        return cls(*await asyncio.open_unix_connection(path, limit=_LINE_BYTES))

    @property
    def closed(self) -> bool:
        """True once the server has gone, or `close` was called."""
        return self._listener.done()

    async def call(self, method: str, **params: Any) -> Any:
        """Return the result of `method`. Cancelling is safe; the call itself goes on.

        Raises
        ------
        OffloadError
            As the handler raised it.
        ConnectionError
            The server has gone; whether it did what was asked is not known.
        """
        if self.closed:
            raise ConnectionResetError("the other process has ended")
        number = next(self._ids)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "method": method, "params": params}
        try:
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()
            return await answer
        finally:
            self._calls.pop(number, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._settle(json.loads(line))
        except (OSError, ValueError):
            log.debug("the connection broke")
        finally:
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(ConnectionResetError("the other process has ended"))

    def _settle(self, answer: dict[str, Any]) -> None:
        call = self._calls.get(answer["id"])
        if call is None or call.done():
            return
        if "error" in answer:
            message, hint, transient = answer["error"]
            call.set_exception(OffloadError(message, hint, transient=transient))
        else:
            call.set_result(answer["result"])

    async def close(self) -> None:
        """Close the connection; calls under way raise ConnectionError."""
        self._writer.close()
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener
