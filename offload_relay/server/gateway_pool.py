"""Streams from the gateway to the servers of sessions: opened, kept for the next request, bounded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import h11
from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from offload_relay.protocol import CloseCode, Endpoint
from offload_relay.server import control
from offload_relay.server.endpoints import Agent, RefusedError
from offload_relay.server.gateway_limits import GatewayLimits
from offload_relay.server.gateway_peer import Peer, WebSocketPipe

if TYPE_CHECKING:
    from offload_relay.server.app import Relay

__all__ = ["Pool", "Upstream"]


class Upstream(Peer):
    """One stream to the server of a session."""

    def __init__(
        self,
        agent: Agent,
        endpoint: str,
        websocket: ServerConnection,
        released: asyncio.Event,
        limits: GatewayLimits,
    ) -> None:
        pipe = WebSocketPipe(websocket, agent, limits.chunk_bytes)
        super().__init__(h11.CLIENT, pipe, limits.head_bytes)
        self.agent = agent
        self.endpoint = endpoint
        self.websocket = websocket
        self.released = released
        self.idle_since_s = 0.0
        #: True from the second request on: the server may just be closing it.
        self.used = False

    @property
    def alive(self) -> bool:
        """True if nothing has closed it, as far as is known here."""
        return self.websocket.state is State.OPEN


class Pool:
    """All streams of the gateway. `close` ends them."""

    def __init__(self, relay: Relay, limits: GatewayLimits) -> None:
        self._relay = relay
        self._limits = limits
        self._idle: dict[Agent, list[Upstream]] = {}
        self._open: Counter[Agent] = Counter()

    @property
    def open(self) -> int:
        """Streams that are open."""
        return self._open.total()

    @property
    def idle(self) -> int:
        """Streams of these that wait for a request."""
        return sum(map(len, self._idle.values()))

    async def acquire(self, agent: Agent, *, repeatable: bool) -> Upstream:
        """Return a stream to the server behind `agent`. Cancelling is safe.

        Parameters
        ----------
        agent : Agent
            Connected, with a registered server.
        repeatable : bool
            The request can be sent again, should the server just be closing the stream.

        Raises
        ------
        RefusedError
            The session has too many, or its agent opens none in time.
        """
        kept = self._take_idle(agent, repeatable)
        if kept is not None:
            kept.used = True
            return kept
        if self._open[agent] >= self._limits.streams:
            raise RefusedError(
                CloseCode.TOO_MANY, f"{self._limits.streams} requests of this session are open"
            )
        self._open[agent] += 1
        try:
            return await self._new(agent)
        except BaseException:
            self._closed(agent)
            raise

    def _take_idle(self, agent: Agent, repeatable: bool) -> Upstream | None:
        idle = self._idle.get(agent, [])
        oldest_s = time.monotonic() - self._limits.fresh_s
        while idle and (repeatable or idle[-1].idle_since_s > oldest_s):
            upstream = idle.pop()
            if upstream.alive and upstream.endpoint == agent.served:
                return upstream
            self.discard(upstream)
        return None

    async def _new(self, agent: Agent) -> Upstream:
        endpoint = agent.served
        released = asyncio.Event()
        try:
            async with asyncio.timeout(self._limits.open_s):
                websocket = await control.take(
                    agent, Endpoint.parse(endpoint), released, self._relay.controls.get(agent)
                )
        except BaseException as error:
            released.set()
            if isinstance(error, TimeoutError):
                raise RefusedError(CloseCode.NO_ENDPOINT, "the agent opens no stream") from None
            raise
        self._relay.metrics.dials.labels("session").inc()
        agent.streams.add(websocket)
        return Upstream(agent, endpoint, websocket, released, self._limits)

    def release(self, upstream: Upstream) -> None:
        """Keep the stream for another request if it is whole, else close it."""
        idle = self._idle.setdefault(upstream.agent, [])
        # Bytes behind an answer would be taken for the beginning of the next one.
        whole = upstream.reusable and upstream.alive and not upstream.http.trailing_data[0]
        if not whole or len(idle) >= self._limits.pooled:
            self.discard(upstream)
            return
        upstream.http.start_next_cycle()
        upstream.idle_since_s = time.monotonic()
        idle.append(upstream)

    def discard(self, upstream: Upstream) -> None:
        """Close the stream at once, with whatever is under way in it."""
        upstream.websocket.transport.abort()
        upstream.agent.streams.discard(upstream.websocket)
        upstream.released.set()
        self._closed(upstream.agent)

    def _closed(self, agent: Agent) -> None:
        self._open[agent] -= 1
        if not self._open[agent]:
            del self._open[agent]

    def sweep(self) -> None:
        """Close streams that have idled for too long, or whose other end has gone."""
        oldest_s = time.monotonic() - self._limits.pooled_s
        for agent, idle in list(self._idle.items()):
            for upstream in [u for u in idle if not u.alive or u.idle_since_s < oldest_s]:
                idle.remove(upstream)
                self.discard(upstream)
            if not idle:
                del self._idle[agent]

    def close(self) -> None:
        """Close all idle streams. Those in use belong to their requests."""
        for idle in self._idle.values():
            for upstream in idle:
                self.discard(upstream)
        self._idle.clear()
