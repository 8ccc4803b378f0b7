"""The relay server: its public WebSocket port, its private dial port, and what joins them."""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import resource
import socket
import ssl
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from offload_relay import protocol
from offload_relay.errors import LeaseError, RelayError, RemoteProtocolError
from offload_relay.lease import Lease, may_dial, verify
from offload_relay.protocol import CloseCode, Endpoint, Limits
from offload_relay.server import control
from offload_relay.server.dialport import DialPort, listen_on
from offload_relay.server.endpoints import Agent, Directory, RefusedError
from offload_relay.server.gateway_limits import GatewayLimits
from offload_relay.server.metrics import Metrics
from offload_relay.splice import Side, TcpSide, WebSocketSide, splice

if TYPE_CHECKING:
    from offload_relay.server.gateway import Gateway

__all__ = ["Relay", "RelaySettings"]

log = logging.getLogger(__name__)

_SWEEP_S = 5.0
_CONNECT_S = 10.0
_CLOSE_S = 3.0


@dataclass(frozen=True)
class RelaySettings:
    """How a relay listens.

    Parameters
    ----------
    keys : sequence of bytes
        Keys that leases may be signed with; more than one while a key is being replaced.
    public : (str, int) or socket
        Where agents connect (WebSocket): host and port (0 takes a free one), or a bound socket.
        A socket that outlives the relay keeps its port, and holds connections while it restarts.
    dial : (str, int) or socket
        Where hub-side programs connect (HTTP CONNECT, `/health`, `/metrics`). Keep it private.
    gateway : (str, int), socket or None
        Where the proxy of a hub connects (HTTP); None for a relay without sessions. Keep it private.
        Needs the extra `gateway` of this project.
    tls : SSLContext or None
        For the public port; None behind a proxy that ends TLS.
    limits : Limits
        What one peer may cost.
    gateway_limits : GatewayLimits
        What one user of the gateway may cost.
    """

    keys: Sequence[bytes]
    public: tuple[str, int] | socket.socket = ("127.0.0.1", 0)
    dial: tuple[str, int] | socket.socket = ("127.0.0.1", 0)
    gateway: tuple[str, int] | socket.socket | None = None
    tls: ssl.SSLContext | None = None
    limits: Limits = protocol.LIMITS
    gateway_limits: GatewayLimits = field(default_factory=GatewayLimits)


class Relay:
    """One relay. An async context manager: entering listens, leaving closes every connection."""

    def __init__(self, settings: RelaySettings) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.directory = Directory(settings.limits)
        self.metrics = Metrics(self.directory)
        self.arrivals = control.Arrivals()
        self.controls: dict[Agent, ServerConnection] = {}
        self.watchers: dict[str, set[control.Watcher]] = {}
        self._leases: weakref.WeakKeyDictionary[ServerConnection, Lease] = (
            weakref.WeakKeyDictionary()
        )
        self._open: Counter[str] = Counter()
        self._connections: set[ServerConnection] = set()
        self._stack = contextlib.AsyncExitStack()
        self._public: Server | None = None
        self._dial_port = DialPort(self)
        self._gateway = _gateway(self) if settings.gateway is not None else None
        #: Set, and replaced, when an agent has registered the server of a session.
        self.served = asyncio.Event()

    @property
    def public_port(self) -> int:
        """The port that agents connect to."""
        assert self._public is not None  # noqa: S101  # entered
        return int(next(iter(self._public.sockets)).getsockname()[1])

    @property
    def dial_port(self) -> int:
        """The port that hub-side programs connect to."""
        return self._dial_port.port

    @property
    def gateway_port(self) -> int:
        """The port that the proxy of a hub connects to."""
        assert self._gateway is not None  # noqa: S101  # asked for
        return self._gateway.port

    async def __aenter__(self) -> Self:
        _raise_file_limit()
        await self._stack.__aenter__()
        await self._stack.enter_async_context(self._dial_port)
        self._public = await self._stack.enter_async_context(
            serve(
                self._handle,
                **listen_on(self.settings.public),
                ssl=self.settings.tls,
                process_request=self._admit,
                open_timeout=self.limits.first_message_s,
                max_size=self.limits.message_bytes,
                # A reader slower than its writer stops the writer after this many messages.
                max_queue=2,
                write_limit=self.limits.message_bytes,
                close_timeout=5,
                # Only control connections have a heartbeat of their own (protocol.Ping).
                ping_interval=None,
                compression=None,
                server_header=None,
                logger=logging.getLogger("offload_relay.websockets"),
            )
        )
        await self._stack.enter_async_context(_background(self._sweep()))
        if self._gateway is not None:
            await self._stack.enter_async_context(self._gateway)
            log.info("gateway listens on port %d", self.gateway_port)
        log.info("relay listens on port %d, dial port %d", self.public_port, self.dial_port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Closing waits until what was sent before is on its way: for ever, if a peer takes nothing.
        late = asyncio.get_running_loop().call_later(_CLOSE_S, self._cut_all)
        try:
            await self._stack.aclose()
        finally:
            late.cancel()

    def _cut_all(self) -> None:
        for websocket in self._connections:
            websocket.transport.abort()

    # --- public port ---------------------------------------------------------------------------

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request by HTTP, or let it become a WebSocket: only with a good lease."""
        path = request.path.partition("?")[0]
        if path.endswith("/health"):
            return connection.respond(http.HTTPStatus.OK, "ok\n")
        if _route(path) is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such path\n")
        try:
            lease = self.verify(_bearer(request))
        except LeaseError as error:
            self.refuse("lease")
            log.info("refused a connection to %s: %s", _route(path), error.message)
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, error.message + "\n")
        wanted = "owner" if _route(path) == protocol.PATH_WATCH else "agent"
        if lease.role != wanted:
            self.refuse("role")
            return connection.respond(
                http.HTTPStatus.FORBIDDEN, f"a lease for an {wanted} is needed here\n"
            )
        self._leases[connection] = lease
        return None

    def verify(self, token: str) -> Lease:
        """Return the lease in `token`; raises LeaseError."""
        return verify(token.strip(), self.settings.keys, datetime.now(UTC))

    def announce_server(self) -> None:
        """Wake the requests that wait for the server of a session."""
        self.served.set()
        self.served = asyncio.Event()

    def refuse(self, reason: str) -> None:
        """Count one refusal."""
        self.metrics.refused.labels(reason).inc()

    async def _handle(self, websocket: ServerConnection) -> None:
        lease = self._leases.pop(websocket)
        path = websocket.request.path.partition("?")[0] if websocket.request else ""
        instance = (
            websocket.request.headers.get(protocol.INSTANCE_HEADER, "") if websocket.request else ""
        )
        self._open[lease.id] += 1
        self._connections.add(websocket)
        try:
            await self._serve(websocket, lease, path, instance)
        except RefusedError as error:
            await self._close(websocket, error.code, error.reason)
        except TimeoutError:
            await self._close(websocket, CloseCode.TOO_SLOW, "nothing heard in time")
        except RemoteProtocolError as error:
            await self._close(websocket, CloseCode.BAD_MESSAGE, error.message)
        except ConnectionClosed:
            pass
        finally:
            self._connections.discard(websocket)
            self._open[lease.id] -= 1
            if not self._open[lease.id]:
                del self._open[lease.id]

    async def _serve(
        self, websocket: ServerConnection, lease: Lease, path: str, instance: str
    ) -> None:
        if self._open[lease.id] > self.limits.streams:
            raise RefusedError(CloseCode.TOO_MANY, f"at most {self.limits.streams} connections")
        match _route(path):
            case protocol.PATH_AGENT:
                await control.serve_agent(self, websocket, lease, instance)
            case protocol.PATH_WATCH:
                await control.serve_owner(self, websocket, lease)
            case protocol.PATH_PARK:
                await self._park(websocket, self.directory.find(lease, instance))
            case protocol.PATH_DIAL:
                agent = self.directory.find(lease, instance)
                await self._dial_from_site(websocket, agent, lease, _endpoint_of(path))

    async def _close(self, websocket: ServerConnection, code: CloseCode, reason: str) -> None:
        self.refuse(code.name.lower())
        log.info("closing a connection: %s: %s", code.name, reason)
        # A close frame holds at most 123 bytes of reason.
        await websocket.close(code, reason.encode()[:120].decode(errors="ignore"))

    async def _park(self, websocket: ServerConnection, agent: Agent) -> None:
        if len(agent.parked) >= self.limits.parked:
            raise RefusedError(CloseCode.TOO_MANY, f"at most {self.limits.parked} parked")
        taken: asyncio.Future[asyncio.Event] = asyncio.get_running_loop().create_future()
        slot = control.Parked(websocket, taken)
        control.offer(agent, slot)
        closed = asyncio.create_task(websocket.wait_closed())
        ends: set[asyncio.Future[Any]] = {taken, closed}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                # The dialling side splices; this coroutine only keeps the connection open.
                await taken.result().wait()
        finally:
            closed.cancel()
            with contextlib.suppress(ValueError):
                agent.parked.remove(slot)

    async def _dial_from_site(
        self, websocket: ServerConnection, agent: Agent, lease: Lease, endpoint: Endpoint
    ) -> None:
        if not may_dial(lease, endpoint):
            raise RefusedError(CloseCode.NOT_ALLOWED, f"the lease does not allow {endpoint}")
        with _stream(agent, websocket):
            source = WebSocketSide(websocket)
            if endpoint.net == protocol.HUB_NET:
                await self._to_hub(source, agent, endpoint)
            else:
                await self.to_site(source, lease, endpoint, source=agent)

    async def _to_hub(self, source: Side, agent: Agent, endpoint: Endpoint) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(endpoint.ip, endpoint.port)
        except OSError as error:
            raise RefusedError(CloseCode.TARGET_REFUSED, f"{endpoint} does not answer") from error
        self.metrics.dials.labels("hub").inc()

        def count(sent: int, received: int) -> None:
            agent.bytes_in += sent
            agent.bytes_out += received

        await splice(source, TcpSide(reader, writer), count)

    # --- streams towards a site ----------------------------------------------------------------

    async def to_site(
        self, side: Side, lease: Lease, endpoint: Endpoint, *, source: Agent | None = None
    ) -> None:
        """Join `side` to the payload at `endpoint` until one of them ends.

        Raises
        ------
        RefusedError
            Its agent did not come, or had no connection free, within `Limits.dial_wait_s`.
        """
        async with self.taken(lease, endpoint) as (agent, websocket):
            await self.join(side, agent, websocket, source=source)

    async def join(
        self, side: Side, agent: Agent, websocket: ServerConnection, *, source: Agent | None = None
    ) -> None:
        """Splice `side` with a connection taken from `agent`, counting the bytes of both agents."""

        def count(sent: int, received: int) -> None:
            agent.bytes_out += sent
            agent.bytes_in += received
            if source is not None:
                source.bytes_in += sent
                source.bytes_out += received

        with _stream(agent, websocket):
            await splice(side, WebSocketSide(websocket), count)

    @contextlib.asynccontextmanager
    async def taken(
        self, lease: Lease, endpoint: Endpoint
    ) -> AsyncIterator[tuple[Agent, ServerConnection]]:
        """Take a parked connection of the agent at `endpoint`, told to open it; wait for one.

        Raises
        ------
        RefusedError
            The agent did not come, or had no connection free, within `Limits.dial_wait_s`.
        """
        released = asyncio.Event()
        try:
            try:
                async with asyncio.timeout(self.limits.dial_wait_s):
                    agent = await self.arrivals.agent(self.directory, lease, endpoint)
                    websocket = await control.take(
                        agent, endpoint, released, self.controls.get(agent)
                    )
            except TimeoutError:
                raise RefusedError(
                    CloseCode.NO_ENDPOINT, f"no agent serves {endpoint} at present"
                ) from None
            self.metrics.dials.labels("site").inc()
            yield agent, websocket
        finally:
            released.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_S, self.limits.lost_grace_s / 4))
            try:
                told = self.directory.sweep(time.time())
                await asyncio.gather(*(control.send_gone(self, agent) for agent in told))
                for agent in self.directory.overdue(time.time()):
                    control.cut(self, agent)
                # Streams live without their agent's control connection, but not for ever.
                while self.directory.forgotten:
                    control.drop_streams(self.directory.forgotten.pop())
            except Exception:  # the relay goes on; the traceback is logged
                log.exception("a sweep failed")


def _gateway(relay: Relay) -> Gateway:
    try:
        from offload_relay.server.gateway import Gateway
    except ImportError as error:
        raise RelayError(
            "the gateway of the relay needs h11, which is not installed",
            "pip install 'interlink-offload[gateway]'",
        ) from error
    return Gateway(relay)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise LeaseError("a lease is needed in the header Authorization: Bearer")
    return token


@contextlib.contextmanager
def _stream(agent: Agent, websocket: ServerConnection) -> Iterator[None]:
    agent.streams.add(websocket)
    try:
        yield
    finally:
        agent.streams.discard(websocket)


def _route(path: str) -> str | None:
    """Return which of our paths `path` ends in; a proxy may have put a prefix before it."""
    for known in (protocol.PATH_AGENT, protocol.PATH_PARK, protocol.PATH_WATCH):
        if path.endswith(known):
            return known
    return protocol.PATH_DIAL if protocol.PATH_DIAL in path else None


def _endpoint_of(path: str) -> Endpoint:
    return Endpoint.parse(path.rpartition(protocol.PATH_DIAL)[2])


@contextlib.asynccontextmanager
async def _background(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _raise_file_limit() -> None:
    """Let this process have as many files as it may: each stream is two of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
