"""The owner's side of the relay: watch the agents of a domain, and tell them that they are gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offload_relay import protocol
from offload_relay.dialling import LOST, proxy_for, words_of
from offload_relay.protocol import LIMITS, encode, parse_message

__all__ = ["Owner"]

log = logging.getLogger(__name__)

_BACKOFF_S = 4.0


class Owner:
    """Watches one domain. An async context manager; reconnects by itself.

    Parameters
    ----------
    url : str
        Base URL of the relay's public port, `ws://` or `wss://`.
    lease : callable
        Returns a token for the role `owner`; called for each connection, so that it need not be good
        for longer than one.
    on_change : callable
        Called without arguments when an agent, or the connection, has changed.
    tls : SSLContext or None
        For `wss://`; None for the system's authorities.
    """

    def __init__(
        self,
        url: str,
        lease: Callable[[], str],
        on_change: Callable[[], None] = lambda: None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/") + protocol.PATH_WATCH
        self._lease = lease
        self._on_change = on_change
        self._tls = tls
        self._heartbeat_s = LIMITS.heartbeat_s
        self._agents: dict[str, dict[str, Any]] = {}
        self._gone: dict[str, str] = {}
        self._all_gone: str | None = None
        self._websocket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        #: Why the relay cannot be reached; empty while it is.
        self.trouble = "not connected yet"

    @property
    def agents(self) -> Mapping[str, Mapping[str, Any]]:
        """Key of the job to the entry of its agent (`protocol.Agents`), as far as is known.

        Kept while the relay is away: a relay that restarts has lost no agent.
        """
        return self._agents

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._task is not None  # noqa: S101  # entered
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def gone(self, jobs: list[str], reason: str) -> None:
        """Tell the agents of `jobs` (none: of the whole domain) that nobody needs them any more.

        Said again after each reconnect: a relay that restarts has forgotten it.
        """
        if jobs:
            self._gone.update(dict.fromkeys(jobs, reason))
        else:
            self._all_gone = reason
        if self._websocket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._websocket.send(encode(protocol.Gone(reason, jobs)))

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                async with connect(
                    self._url,
                    additional_headers={"Authorization": f"Bearer {self._lease()}"},
                    ssl=self._tls,
                    compression=None,
                    ping_interval=None,
                    open_timeout=10,
                    close_timeout=2,
                    user_agent_header=None,
                    **proxy_for(self._url),
                ) as websocket:
                    attempt = 0
                    await self._watch(websocket)
            except InvalidStatus as error:
                body = bytes(error.response.body or b"").decode(errors="replace").strip()
                self._lost(f"the relay refuses: {body[:200]}")
            except LOST as error:
                self._lost(words_of(error))
            attempt += 1
            await asyncio.sleep(random.uniform(0.05, min(_BACKOFF_S, 0.2 * 2**attempt)))  # noqa: S311

    def _lost(self, trouble: str) -> None:
        if not self.trouble:
            log.warning("relay: %s", trouble)
        self.trouble = trouble
        self._websocket = None
        self._on_change()

    async def _watch(self, websocket: ClientConnection) -> None:
        # A copy: while this waits for a slow relay, more may be gone, or forgotten.
        for job, reason in list(self._gone.items()):
            await websocket.send(encode(protocol.Gone(reason, [job])))
        if self._all_gone is not None:
            await websocket.send(encode(protocol.Gone(self._all_gone)))
        self._websocket, self.trouble = websocket, ""
        # A relay that has restarted lists only agents that are back; the others are lost so far.
        for job, entry in self._agents.items():
            if entry.get("state") == "connected":
                self._agents[job] = {**entry, "state": "lost", "since_s": time.time()}
        beat = asyncio.create_task(self._beat(websocket))
        try:
            while True:
                # Not wait_for: before Python 3.12 it can swallow a cancellation, and never end.
                async with asyncio.timeout(protocol.SILENT_BEATS * self._heartbeat_s):
                    text = await websocket.recv()
                if isinstance(text, str):
                    self._hear(parse_message(text, limit=2**20))
        finally:
            beat.cancel()

    def _hear(self, message: object) -> None:
        if isinstance(message, protocol.Welcome):
            self._heartbeat_s = message.heartbeat_s
        if isinstance(message, protocol.Agents):
            for entry in message.agents:
                if isinstance(entry.get("job"), str):
                    self._agents[entry["job"]] = entry
            self._on_change()

    async def _beat(self, websocket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await websocket.send(encode(protocol.Ping()))
                await asyncio.sleep(self._heartbeat_s)

    def forget_others(self, jobs: Collection[str]) -> None:
        """Drop what is known of agents that are not there, but for those of `jobs`."""
        for job, entry in list(self._agents.items()):
            if job not in jobs and entry.get("state") != "connected":
                del self._agents[job]
                self._gone.pop(job, None)
