"""One request and its answer: bodies both ways at once, and what a request may turn into."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import h11

from offload_relay.server.gateway_heads import Forward, response_headers, trailer_headers
from offload_relay.server.gateway_peer import Peer, StalledError, TcpPipe
from offload_relay.server.gateway_pool import Upstream
from offload_relay.splice import TcpSide, WebSocketSide, splice

__all__ = ["BrokenError", "ClientGoneError", "Exchange"]


class BrokenError(Exception):
    """The stream to the server broke, or what came out of it is not HTTP.

    `silent`: it broke before a single byte of an answer, as a stream does that the server was just
    closing. `garbled`: what came is not HTTP.
    """

    def __init__(self, reason: str, *, silent: bool, garbled: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.silent = silent
        self.garbled = garbled


class ClientGoneError(Exception):
    """The client left before it had its answer."""


@dataclass
class Exchange:
    """One request that travels from `client` to `server`, and its answer.

    Parameters
    ----------
    client : Peer
        Over a `TcpPipe`; has received the head of the request.
    server : Upstream
        Idle.
    forward : Forward
        What travels.
    stall_s : float
        How long the body of the request may stand still.
    """

    client: Peer
    server: Upstream
    forward: Forward
    stall_s: float
    #: Of the answer; 0 until it has begun.
    status: int = 0

    async def run(self) -> None:
        """Carry it all. Cancelling is safe: the caller closes both connections.

        Raises
        ------
        BrokenError
            The server's stream broke; if `status` is 0 the client has got nothing of it.
        ClientGoneError, StalledError, h11.RemoteProtocolError
            The client left, stood still, or sent nonsense for a body.
        """
        self.server.heard = False
        await self._to_server(self.forward.request)
        if not self.forward.has_body:
            await self._to_server(h11.EndOfMessage())
        download = asyncio.create_task(self._download())
        upload = asyncio.create_task(self._upload())
        try:
            await asyncio.wait({download, upload}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done():
                await upload
            await download
        finally:
            # An answer may be complete before its request is: the rest is of no use then.
            for task in (upload, download):
                task.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)

    async def _upload(self) -> None:
        """Carry the body of the request, then watch whether the client is still there."""
        while self.forward.has_body:
            event = await self._from_client()
            # Trailers of a request are left out: few servers can read them (RFC 9110, 6.5.1).
            last = isinstance(event, h11.EndOfMessage)
            try:
                await self._to_server(h11.EndOfMessage() if last else event)
            except BrokenError:
                return  # it may have answered before; if not, the other direction says so
            if last:
                break
        await self._watch()

    async def _from_client(self) -> Any:
        # A client waits for "100 Continue" as long as it likes.
        waits = self.client.http.they_are_waiting_for_100_continue
        try:
            async with asyncio.timeout(None if waits else self.stall_s):
                return await self.client.event()
        except TimeoutError:
            raise StalledError from None
        except OSError:
            raise ClientGoneError from None

    async def _watch(self) -> None:
        try:
            data = await self.client.pipe.read()
        except OSError:
            data = b""
        if not data:
            raise ClientGoneError
        # The next request of an impatient client: it waits here, and is not read any further.
        self.client.http.receive_data(data)

    async def _download(self) -> None:
        while True:
            event = await self._from_server()
            match event:
                case h11.InformationalResponse(status_code=101):
                    await self._send(event, h11.InformationalResponse)
                    self.status = 101
                    return
                case h11.InformationalResponse():
                    if self.client.http.their_http_version != b"1.0":
                        await self._send(event, h11.InformationalResponse)
                case h11.Response():
                    self.status = event.status_code
                    await self._send(event, h11.Response)
                case h11.Data():
                    await self._to_client(h11.Data(data=event.data))
                case h11.EndOfMessage():
                    chunked = self.client.http.their_http_version != b"1.0"
                    trailers = trailer_headers(event.headers.raw_items()) if chunked else []
                    await self._to_client(h11.EndOfMessage(headers=trailers))
                    return
                case _:
                    raise self._broken("the server closed its connection")

    async def _send(
        self,
        event: h11.Response | h11.InformationalResponse,
        kind: type[h11.Response | h11.InformationalResponse],
    ) -> None:
        headers = response_headers(event)
        if event.status_code == 101:
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        await self._to_client(
            kind(status_code=event.status_code, headers=headers, reason=event.reason)
        )

    async def _to_client(self, event: h11.Event) -> None:
        try:
            await self.client.send(event)
        except OSError:
            raise ClientGoneError from None

    async def _from_server(self) -> Any:
        try:
            return await self.server.event()
        except h11.RemoteProtocolError as error:
            if self.server.ended:
                raise self._broken("the server broke off") from error
            reason = "the server's answer is not HTTP"
            raise BrokenError(reason, silent=False, garbled=True) from error
        except OSError as error:
            raise self._broken("the stream to the server broke") from error

    async def _to_server(self, event: Any) -> None:
        try:
            await self.server.send(event)
        except OSError as error:
            raise self._broken("the stream to the server broke") from error

    def _broken(self, reason: str) -> BrokenError:
        return BrokenError(reason, silent=not self.server.heard)

    async def splice(self) -> None:
        """Carry the bytes of a WebSocket both ways until one side ends."""
        pipe = self.client.pipe
        assert isinstance(pipe, TcpPipe)  # noqa: S101
        agent = self.server.agent

        def count(sent: int, received: int) -> None:
            agent.bytes_out += sent
            agent.bytes_in += received

        early = self.server.http.trailing_data[0]
        if early:
            await pipe.write(early)
        side = TcpSide(pipe.reader, pipe.writer, self.client.http.trailing_data[0])
        await splice(side, WebSocketSide(self.server.websocket), count)
