"""The agent's side of the relay: control connection, parked connections, streams out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import ssl
import time
from collections.abc import Iterator
from typing import Any, Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offload_relay import protocol
from offload_relay.agent.config import AgentConfig
from offload_relay.dialling import LOST, proxy_for, words_of
from offload_relay.errors import RelayError, RemoteProtocolError, TunnelClosedError
from offload_relay.protocol import LIMITS, CloseCode, Ended, Endpoint, encode, parse_message
from offload_relay.splice import TcpSide, WebSocketSide, splice
from offload_relay.timeouts import timeout

__all__ = ["Link"]

log = logging.getLogger("offload-agent")

_OPEN_S = 10.0
# An agent is back at most this long after its relay is: DESIGN promises 10 s.
_BACKOFF_S = 4.0
_KEEPALIVE_S = 30.0
_NORMAL = 1000


class Link:
    """Keeps the agent connected to the relay.

    Parameters
    ----------
    config : AgentConfig
        Where the relay is, and the lease.
    info : dict
        What the relay's watchers are told of this agent.
    on_gone : callable
        Called with a sentence when nobody needs this job any more.
    """

    def __init__(
        self,
        config: AgentConfig,
        info: dict[str, Any],
        on_gone: Callable[[str], None],
    ) -> None:
        self._config = config
        self._info = info
        self._on_gone = on_gone
        self._headers = {
            "Authorization": f"Bearer {config.lease}",
            protocol.INSTANCE_HEADER: secrets.token_hex(16),
        }
        self._base = config.relay.rstrip("/")
        self._tls = _tls_context(config)
        self._control: ClientConnection | None = None
        self._connected = asyncio.Event()
        self._endpoints: dict[str, asyncio.Future[None]] = {}
        self._holders: dict[str, object] = {}
        self._serving: set[str] = set()
        self._target = 0
        self._heartbeat_s = LIMITS.heartbeat_s
        self._want = 0
        self._opening = 0
        self._parked: set[ClientConnection] = set()
        self._streams: set[ClientConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Since when (monotonic) the relay has not been reached; None while it is.
        self.unreachable_since_s: float | None = time.monotonic()
        #: Why it was not reached the last time, for the log and the agent's last words.
        self.trouble = ""

    # --- control connection --------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and connect again, until cancelled. Cancelling closes every connection."""
        attempt = 0
        try:
            while True:
                before_s = time.monotonic()
                await self._once()
                attempt = 0 if time.monotonic() - before_s > _BACKOFF_S else attempt + 1
                await asyncio.sleep(random.uniform(0.05, min(_BACKOFF_S, 0.2 * 2**attempt)))  # noqa: S311
        finally:
            self._drop_all()

    async def connected(self) -> None:
        """Wait until the relay has welcomed this agent."""
        await self._connected.wait()

    async def _once(self) -> None:
        try:
            async with self._open(protocol.PATH_AGENT) as control:
                await self._converse(control)
        except InvalidStatus as error:
            self._refused(error.response.status_code, bytes(error.response.body or b""))
        except ConnectionClosed as error:
            self._closed(error)
        except LOST as error:
            self._trouble(words_of(error))

    async def _converse(self, control: ClientConnection) -> None:
        await control.send(encode(protocol.Hello(protocol.VERSION, self._info)))
        welcome = parse_message(await _text(control, LIMITS.first_message_s))
        if not isinstance(welcome, protocol.Welcome):
            raise RemoteProtocolError("the relay's first message is not welcome")
        self._control, self.unreachable_since_s, self.trouble = control, None, ""
        self._target, self._want = welcome.parked, 0
        self._heartbeat_s = welcome.heartbeat_s
        log.info("connected to the relay")
        beat = asyncio.ensure_future(self._heartbeat(control))
        try:
            for endpoint in list(self._endpoints):
                await control.send(self._registration(endpoint))
            self._connected.set()
            self._top_up()
            await self._messages(control)
        except asyncio.TimeoutError:
            # Silence means a dead network: streams would hang in it until their own end.
            self._drop_all()
            raise
        finally:
            beat.cancel()
            self._control = None
            self._connected.clear()
            self.unreachable_since_s = time.monotonic()

    async def _messages(self, control: ClientConnection) -> None:
        while True:
            message = parse_message(await _text(control, protocol.SILENT_BEATS * self._heartbeat_s))
            if isinstance(message, protocol.Gone):
                self._on_gone(message.reason)
            elif isinstance(message, protocol.Want):
                self._want = max(self._want, message.count)
                self._top_up()
            elif isinstance(message, protocol.Registered):
                self._settle(message.endpoint, None)
            elif isinstance(message, protocol.Refused):
                self._settle(message.endpoint, RelayError(message.reason))

    async def _heartbeat(self, control: ClientConnection) -> None:
        turn = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self._heartbeat_s)
                await control.send(encode(protocol.Ping()))
                turn += 1
                # Proxies on the way drop WebSockets that are silent for a minute or so.
                if turn * self._heartbeat_s >= _KEEPALIVE_S:
                    turn = 0
                    for websocket in [*self._parked, *self._streams]:
                        await _keep_alive(websocket)

    def _refused(self, status: int, body: bytes) -> None:
        sentence = body.decode(errors="replace").strip()[:200] or f"HTTP status {status}"
        self._trouble(f"the relay refuses this agent: {sentence}")

    def _closed(self, error: ConnectionClosed) -> None:
        code = error.rcvd.code if error.rcvd is not None else 0
        reason = error.rcvd.reason if error.rcvd is not None else ""
        if code == CloseCode.GONE:
            self._on_gone(reason)
        elif code == _NORMAL:
            return
        self._trouble(f"the connection was closed ({code or 'broken'}) {reason}".strip())

    def _trouble(self, sentence: str) -> None:
        if sentence != self.trouble:
            log.warning("relay: %s", sentence)
        self.trouble = sentence

    async def last_words(self, words: Ended, within_s: float) -> None:
        """Tell the relay how the payload ended, if it can be reached within `within_s` seconds."""
        try:
            async with timeout(within_s):
                await self._connected.wait()
            if self._control is not None:
                await self._control.send(encode(words))
                async with timeout(within_s):
                    await self._control.wait_closed()
        except (asyncio.TimeoutError, ConnectionClosed):
            log.warning("the relay did not hear how the payload ended")

    # --- endpoints -----------------------------------------------------------------------------

    async def register(self, endpoint: Endpoint, holder: object, *, serves: bool = False) -> None:
        """Hold `endpoint` at the relay, now and after each reconnect.

        Parameters
        ----------
        endpoint : Endpoint
            What the payload listens at.
        holder : object
            For whom. The last one counts: a process that was started again may get the same port
            before the end of the former one has been noticed.
        serves : bool
            It is the server that answers for the route of the lease.

        Raises
        ------
        RelayError
            The relay refuses it; the same endpoint will be refused again.
        """
        name = str(endpoint)
        settled = self._endpoints.setdefault(name, asyncio.get_event_loop().create_future())
        self._holders[name] = holder
        if serves:
            self._serving.add(name)
        if self._control is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._control.send(self._registration(name))
        await asyncio.shield(settled)

    async def unregister(self, endpoint: Endpoint, holder: object) -> None:
        """Give `endpoint` back, unless somebody else holds it by now."""
        name = str(endpoint)
        if self._holders.get(name) is not holder:
            return
        del self._holders[name]
        settled = self._endpoints.pop(name, None)
        self._serving.discard(name)
        if settled is not None:
            settled.cancel()
            if self._control is not None:
                with contextlib.suppress(ConnectionClosed):
                    await self._control.send(encode(protocol.Unregister(name)))

    def _registration(self, name: str) -> str:
        return encode(protocol.Register(name, name in self._serving))

    def _settle(self, endpoint: str, error: RelayError | None) -> None:
        settled = self._endpoints.get(endpoint)
        if settled is None or settled.done():
            return
        if error is None:
            settled.set_result(None)
        else:
            settled.set_exception(error)

    # --- streams -------------------------------------------------------------------------------

    async def dial(self, endpoint: Endpoint) -> ClientConnection:
        """Open a stream to `endpoint`, waiting for the relay while it is away.

        Raises
        ------
        RelayError
            The relay refuses; transient if it may agree later.
        """
        while True:
            await self._connected.wait()
            try:
                return await self._open(protocol.PATH_DIAL + str(endpoint))
            except InvalidStatus as error:
                status = error.response.status_code
                raise RelayError(f"the relay answers {status} to a dial of {endpoint}") from error
            except LOST as error:
                if self._connected.is_set():
                    raise TunnelClosedError(f"cannot dial {endpoint}") from error

    @contextlib.contextmanager
    def stream(self, websocket: ClientConnection) -> Iterator[None]:
        """Count `websocket` as an open stream: kept alive, and dropped with a dead network."""
        self._streams.add(websocket)
        try:
            yield
        finally:
            self._streams.discard(websocket)

    def _top_up(self) -> None:
        """Open as many parked connections as are asked for and not yet on their way."""
        while self._control is not None and self._lacking():
            self._opening += 1
            task = asyncio.ensure_future(self._park())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _lacking(self) -> bool:
        wanted = min(self._target + self._want, LIMITS.parked)
        return len(self._parked) + self._opening < wanted

    async def _park(self) -> None:
        counted = True
        try:
            async with self._open(protocol.PATH_PARK) as websocket:
                self._opening -= 1
                counted = False
                self._parked.add(websocket)
                try:
                    order = parse_message(await _text(websocket, None))
                finally:
                    self._parked.discard(websocket)
                    self._want = max(0, self._want - 1)
                self._top_up()
                if isinstance(order, protocol.Open):
                    await self._serve(websocket, order.endpoint)
        except LOST as error:
            log.debug("a parked connection ended: %s", error)
        finally:
            if counted:
                self._opening -= 1
        # The relay may be refusing: come back to it at the pace of the control connection.
        await asyncio.sleep(random.uniform(0.05, 1.0))  # noqa: S311
        self._top_up()

    async def _serve(self, websocket: ClientConnection, name: str) -> None:
        endpoint = Endpoint.parse(name)
        if name not in self._endpoints:
            await websocket.close(CloseCode.NO_ENDPOINT, "nobody listens there")
            return
        try:
            async with timeout(_OPEN_S):
                reader, writer = await asyncio.open_connection(
                    endpoint.ip, endpoint.port, limit=LIMITS.message_bytes
                )
        except (OSError, asyncio.TimeoutError):
            await websocket.close(CloseCode.TARGET_REFUSED, "the payload does not answer")
            return
        with self.stream(websocket):
            await splice(WebSocketSide(websocket), TcpSide(reader, writer))

    def _open(self, path: str) -> connect:
        return connect(
            self._base + path,
            additional_headers=self._headers,
            ssl=self._tls,
            open_timeout=_OPEN_S,
            close_timeout=2,
            compression=None,
            ping_interval=None,
            max_size=LIMITS.message_bytes,
            max_queue=2,
            write_limit=LIMITS.message_bytes,
            user_agent_header=None,
            **proxy_for(self._base),
        )

    def _drop_all(self) -> None:
        for websocket in [*self._parked, *self._streams]:
            websocket.transport.abort()


async def _keep_alive(websocket: ClientConnection) -> None:
    # Where bytes wait to go out, a ping would wait behind them, for as long as a reader is stopped:
    # so would the heartbeat, and the relay would take this agent for lost.
    if websocket.transport.get_write_buffer_size() == 0:
        with contextlib.suppress(ConnectionClosed):
            await websocket.ping()


async def _text(websocket: ClientConnection, timeout_s: float | None) -> str:
    async with timeout(timeout_s):
        message = await websocket.recv()
    if not isinstance(message, str):
        raise RemoteProtocolError("a binary message where text was expected")
    return message


def _tls_context(config: AgentConfig) -> ssl.SSLContext | None:
    if not config.relay.startswith("wss://"):
        return None
    return ssl.create_default_context(cadata=config.relay_ca or None)
