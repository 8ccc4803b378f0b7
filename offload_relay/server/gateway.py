"""The gateway: a private HTTP port that leads each request to the session that its path belongs to.

Theory of operation
-------------------
A hub's proxy keeps connections to one address in a pool and sends requests of all users over each
of them. So every request is read, finds its session by its path, and travels on over a stream of
that session's agent. Streams are kept for the next request of the *same* session. A request that
becomes a WebSocket takes its connection with it.

::

    head ──► route ──► stream ──► answer ──► next head        (client's connection kept)
              │          │          └─ 101 ──► bytes both ways until one side ends
              └──────────┴─► 503 and a page: no agent, or none with a server, is there at present

A request waits, briefly, for an agent that may be back at any moment: one whose connection has just
broken, and every one while the relay itself is young. So a relay that restarts is not noticed, and
the server of another session of the same user is not asked in the place of one that is still coming.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import h11

from offload_relay.listener import StreamServer
from offload_relay.server.dialport import listen_on
from offload_relay.server.endpoints import Agent, Phase, RefusedError
from offload_relay.server.gateway_exchange import BrokenError, ClientGoneError, Exchange
from offload_relay.server.gateway_heads import Forward, RefusedRequestError, check_request
from offload_relay.server.gateway_pages import Answer, not_there, render
from offload_relay.server.gateway_peer import Peer, StalledError, TcpPipe
from offload_relay.server.gateway_pool import Pool, Upstream

if TYPE_CHECKING:
    from offload_relay.server.app import Relay

__all__ = ["Gateway"]

log = logging.getLogger(__name__)

# The one route that another may lie below: `/user/<name>/`, and `/user/<name>/<server>/`.
_SHARED_ROUTE = re.compile(r".*/user/[^/]+/")
_SWEEP_S = 5.0
_LINGER_S = 5.0
_LINGER_BYTES = 16 * 1024**2


class _NotThereError(Exception):
    """No agent with a server answers for this path at present."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.title)
        self.answer = answer


class Gateway:
    """Listens for the proxy of a hub. An async context manager: leaving ends every request."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._limits = relay.settings.gateway_limits
        self._server = StreamServer(self._serve, limit=self._limits.chunk_bytes)
        self._settled_at_s = 0.0
        self._sweeper: asyncio.Task[None] | None = None
        self._pool = Pool(relay, self._limits)
        self._websockets = 0
        relay.metrics.gateway = self._counts

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    async def __aenter__(self) -> Self:
        assert self._relay.settings.gateway is not None  # noqa: S101  # else there is no gateway
        await self._server.start(**listen_on(self._relay.settings.gateway))
        self._settled_at_s = time.monotonic() + self._limits.settle_s
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._server.stop()
        self._pool.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._limits.pooled_s / 4))
            self._pool.sweep()

    def _counts(self) -> tuple[int, int, int]:
        return self._pool.open - self._pool.idle, self._pool.idle, self._websockets

    # --- one connection of a client ------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = TcpPipe(reader, writer, self._limits.chunk_bytes, self._limits.stall_s)
        client = Peer(h11.SERVER, pipe, self._limits.head_bytes)
        try:
            while await self._one(client):
                client.http.start_next_cycle()
            await self._linger(client)
        except (ClientGoneError, StalledError, OSError):
            writer.transport.abort()

    async def _one(self, client: Peer) -> bool:
        """Answer one request; return True if another may follow."""
        request = None
        try:
            request = await self._head(client)
            if request is None:
                return False
            await self._answer(client, request)
        except RefusedRequestError as error:
            self._relay.refuse(f"gateway_{error.status}")
            await self._say(client, request, Answer(error.status, error.phrase, error.sentence))
        except _NotThereError as error:
            await self._say(client, request, error.answer)
        return client.reusable

    async def _head(self, client: Peer) -> h11.Request | None:
        """Return the next request; None if the client has left, or waited for too long."""
        try:
            if not client.http.trailing_data[0]:
                async with asyncio.timeout(self._limits.idle_s):
                    client.http.receive_data(await client.pipe.read())
        except TimeoutError:
            return None
        try:
            async with asyncio.timeout(self._limits.head_s):
                event = await client.event()
        except TimeoutError:
            raise RefusedRequestError(408, "the head of the request took too long") from None
        except h11.RemoteProtocolError as error:
            raise RefusedRequestError(error.error_status_hint, "this is not HTTP") from error
        return event if isinstance(event, h11.Request) else None

    async def _say(self, client: Peer, request: h11.Request | None, answer: Answer) -> None:
        """Answer in the gateway's own name."""
        self._count(answer.status)
        headers, body = render(request, answer)
        if client.http.their_state is not h11.DONE:
            # What is left of the request is not read.
            headers.append(("Connection", "close"))
        try:
            await client.send(h11.Response(status_code=answer.status, headers=headers))
            if request is None or request.method != b"HEAD":
                await client.send(h11.Data(data=body))
            await client.send(h11.EndOfMessage())
        except OSError as error:
            raise ClientGoneError from error

    def _count(self, status: int) -> None:
        self._relay.metrics.requests.labels(f"{status // 100}xx").inc()

    async def _linger(self, client: Peer) -> None:
        """Let the client read its answer: closing while it still sends would destroy that."""
        pipe = client.pipe
        assert isinstance(pipe, TcpPipe)  # noqa: S101  # a client
        state, unread = client.http.their_state, client.http.trailing_data[0]
        if state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED) or (state is h11.IDLE and not unread):
            return
        with contextlib.suppress(TimeoutError, OSError):
            pipe.writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                left = _LINGER_BYTES
                while left > 0 and (data := await pipe.read()):
                    left -= len(data)

    # --- one request ---------------------------------------------------------------------------

    async def _answer(self, client: Peer, request: h11.Request) -> None:
        begun_s = time.monotonic()
        forward = check_request(request, self._limits.head_bytes)
        if not forward.has_body:
            client.http.next_event()  # the end of the request, which needs no more bytes
        try:
            if not (forward.repeatable and await self._carry(client, forward, once=False)):
                await self._carry(client, forward, once=True)
        finally:
            # Never the query: it may hold a token.
            took_ms = 1e3 * (time.monotonic() - begun_s)
            log.debug("%s %s: %.0f ms", request.method.decode(), forward.path, took_ms)

    async def _carry(self, client: Peer, forward: Forward, *, once: bool) -> bool:
        """Carry a request and its answer; return False if it may be tried again (not `once`)."""
        agent = await self._agent(forward.path)
        server = await self._stream(agent, repeatable=not once)
        exchange = Exchange(client, server, forward, self._limits.stall_s)
        try:
            await exchange.run()
            self._count(exchange.status)
            if exchange.status == 101:
                with self._one_websocket():
                    await exchange.splice()
        except BrokenError as error:
            log.debug("job %s: %s", agent.lease.job, error.reason)
            if error.silent and not once:
                self._relay.metrics.repeated.inc()
                return False
            if exchange.status:
                raise ClientGoneError from error  # half an answer cannot be taken back
            raise _NotThereError(_broken(agent, error)) from error
        except h11.RemoteProtocolError as error:
            if exchange.status:
                raise ClientGoneError from error
            raise RefusedRequestError(400, "the body of the request is not HTTP") from error
        except StalledError:
            if exchange.status:
                raise
            raise RefusedRequestError(408, "the body of the request took too long") from None
        finally:
            self._pool.release(server)
        return True

    async def _stream(self, agent: Agent, *, repeatable: bool) -> Upstream:
        try:
            return await self._pool.acquire(agent, repeatable=repeatable)
        except RefusedError as error:
            log.debug("job %s: %s", agent.lease.job, error.reason)
            raise _NotThereError(Answer(503, "The session is too busy", error.reason)) from error

    @contextlib.contextmanager
    def _one_websocket(self) -> Iterator[None]:
        self._websockets += 1
        try:
            yield
        finally:
            self._websockets -= 1

    # --- whose it is ---------------------------------------------------------------------------

    async def _agent(self, path: str) -> Agent:
        """Return the agent whose server answers for `path`, waiting for one that may be back soon.

        Raises
        ------
        _NotThereError
            There is none at present.
        """
        while True:
            served = self._relay.served
            agent = self._relay.directory.routes.find(path)
            ready = agent is not None and agent.phase is Phase.CONNECTED and agent.served
            patience_s = self._patience_s(agent)
            if agent is not None and ready and patience_s <= 0:
                return agent
            if patience_s <= 0:
                raise _NotThereError(_absent(agent))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await served.wait()

    def _patience_s(self, agent: Agent | None) -> float:
        """Return for how long what is known of its path is not to be relied upon."""
        young_s = self._settled_at_s - time.monotonic()
        if agent is None:
            return young_s
        if agent.phase is Phase.CONNECTED and agent.served:
            # Below the route of one server there may be that of another, which is not back yet.
            shared = _SHARED_ROUTE.fullmatch(agent.lease.route)
            return young_s if shared else 0.0
        if agent.phase is Phase.ENDED:
            return 0.0
        return max(young_s, agent.since_s + self._limits.settle_s - time.time())


def _absent(agent: Agent | None) -> Answer:
    if agent is None:
        return not_there("")
    route = agent.lease.route
    return not_there(route, lost=agent.phase is Phase.LOST, ended=agent.phase is Phase.ENDED)


def _broken(agent: Agent, error: BrokenError) -> Answer:
    if error.garbled:
        return Answer(502, "The server's answer cannot be read", error.reason)
    return not_there(agent.lease.route, lost=True)
