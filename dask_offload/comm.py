"""The `relay://` comm of Dask: direct TLS within reach, through the relay elsewhere.

An address is `relay://<ip>.<net>:<port>`. A listener binds `<ip>` and is found by others under its
net; a connector compares the net with what it can reach itself (its *scope*) and dials the IP
directly, or asks a dial port for the endpoint. TLS is end to end in both cases: the relay sees
encrypted bytes only.

Travels in the agent's archive: `distributed` and the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from ssl import SSLCertVerificationError, SSLError
from typing import Any

import dask.config
from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import FatalCommClosedError
from distributed.comm.registry import Backend
from distributed.comm.tcp import (
    MAX_BUFFER_SIZE,
    TLS,
    BaseTCPConnector,
    TLSConnector,
    TLSListener,
    convert_stream_closed_error,
    get_stream_address,
)
from tornado.iostream import IOStream, StreamClosedError

from offload_relay.errors import RelayError, RemoteProtocolError
from offload_relay.heads import parse_response_head, render_request_head
from offload_relay.protocol import HUB_NET, LIMITS, Endpoint, in_scope

__all__ = ["Reach", "RelayBackend", "RelayConnector", "RelayListener", "set_reach"]

# Answers of a dial port that the same dial will get again.
_FINAL = (400, 403, 405, 407)
# A hub starts a relay that was killed again after half a minute.
_REGISTER_S = 45.0
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Reach:
    """What this process reaches by itself, and where it dials for the rest.

    Parameters
    ----------
    scope : str
        Net whose endpoints are dialled directly, with all nets inside it.
    dial : str
        `host:port` of the dial port (the relay's, or the agent's on loopback); empty for none.
    token : str
        What the dial port wants to see.
    register : bool
        Whether listeners have to be registered at the dial port: true behind an agent.
    """

    scope: str = HUB_NET
    dial: str = ""
    token: str = ""
    register: bool = False

    def __repr__(self) -> str:
        return f"Reach({self.scope!r}, dial={self.dial!r})"  # without the token


_reach: Reach | None = None


def set_reach(reach: Reach | None) -> None:
    """Set what this process reaches; None goes back to Dask's configuration."""
    global _reach  # noqa: PLW0603  # comms are made by scheme, with no other way to be told
    _reach = reach


def _current(connection_args: dict[str, Any]) -> Reach:
    """Return the reach for one connection: of its Security object, of the process, of the config.

    A notebook may hold several clusters, each behind a relay of its own, hence the first.
    """
    own = (connection_args.get("extra_conn_args") or {}).get("relay")
    if isinstance(own, Reach):
        return own
    if _reach is not None:
        return _reach
    config = dask.config.get("offload.reach", {}) or {}
    return Reach(
        scope=str(config.get("scope") or HUB_NET),
        dial=str(config.get("dial") or ""),
        token=str(config.get("token") or ""),
    )


async def _own_cluster(address: str) -> dict[str, Any]:
    """Return how to connect to a scheduler of this user's, for a client that knows only where it is.

    Raises
    ------
    FatalCommClosedError
        It is none of this user's, on this computer.
    """
    try:
        from dask_offload.attach import connection_args_for
    except ImportError:  # in a job: there everybody has a certificate
        found = None
    else:
        found = await connection_args_for(RelayConnector.prefix + address)
    if found is None:
        raise FatalCommClosedError(
            f"relay://{address} wants a certificate of its cluster, and no cluster of yours on this "
            "computer has its scheduler there; use cluster.get_client()"
        )
    return found


class RelayConnector(TLSConnector):
    """Connects to an endpoint, directly or through a dial port."""

    prefix = "relay://"

    async def connect(self, address: str, deserialize: bool = True, **connection_args: Any) -> TLS:
        """Return a comm to `address` (`<ip>.<net>:<port>`).

        Raises
        ------
        OSError
            Nobody answers at present; `distributed` tries again until its connect timeout.
        FatalCommClosedError
            The dial is refused, or the certificate is of another cluster; trying again is no use.
        """
        try:
            endpoint = Endpoint.parse(address)
        except RemoteProtocolError as error:
            raise FatalCommClosedError(f"relay://{address}: {error}") from error
        if connection_args.get("ssl_context") is None:
            connection_args = await _own_cluster(address)
        reach = _current(connection_args)
        if in_scope(endpoint.net, reach.scope):
            inner = unparse_host_port(endpoint.ip, endpoint.port)
            comm = await BaseTCPConnector.connect(self, inner, deserialize, **connection_args)
            comm._peer_addr = self.prefix + address  # noqa: SLF001  # as core.connect itself uses it
            return comm
        return await self._through(reach, endpoint, deserialize, connection_args)

    async def _through(
        self, reach: Reach, endpoint: Endpoint, deserialize: bool, connection_args: dict[str, Any]
    ) -> TLS:
        if not reach.dial:
            raise FatalCommClosedError(
                f"{endpoint} is not reachable from {reach.scope!r}, and no relay is configured"
            )
        host, port = parse_host_port(reach.dial)
        address = self.prefix + str(endpoint)
        try:
            stream = await self.client.connect(host, port, max_buffer_size=MAX_BUFFER_SIZE)
            try:
                await _handshake(stream, "CONNECT", endpoint, reach.token)
                stream = await stream.start_tls(False, **self._get_connect_args(**connection_args))
            except BaseException:
                # A stream that was on its way to TLS has given its socket away.
                if stream.socket is not None:
                    stream.close()
                raise
            if stream.closed() and stream.error:
                raise StreamClosedError(stream.error)
            return TLS(stream, self.prefix + get_stream_address(stream), address, deserialize)
        except StreamClosedError as error:
            convert_stream_closed_error(self, error)
        except SSLCertVerificationError as error:
            raise FatalCommClosedError(
                f"{address} shows the certificate of another Dask cluster"
            ) from error
        except SSLError as error:
            raise FatalCommClosedError(f"{address}: no TLS connection") from error


async def _handshake(stream: IOStream, method: str, endpoint: Endpoint, token: str) -> None:
    await stream.write(render_request_head(method, str(endpoint), token))
    data = await stream.read_until(b"\r\n\r\n", max_bytes=LIMITS.head_bytes)
    try:
        parsed = parse_response_head(data)
    except RelayError as error:
        raise OSError(f"the dial port of the relay answers in no known way: {error}") from error
    if parsed is None:
        raise OSError("the dial port of the relay has closed the connection")
    head, _ = parsed
    if head.status in _FINAL:
        raise FatalCommClosedError(f"the relay refuses {endpoint}: {head.status} {head.reason}")
    if head.status != 200:
        raise OSError(f"the relay does not reach {endpoint}: {head.status} {head.reason}")


class RelayListener(TLSListener):
    """Listens on `<ip>` and is known as `<ip>.<net>:<port>`; behind an agent, registers there."""

    prefix = "relay://"

    def __init__(
        self, address: str, comm_handler: Any, deserialize: bool = True, **connection_args: Any
    ) -> None:
        wanted = Endpoint.parse(address)
        self._net = wanted.net
        self._held: IOStream | None = None
        connection_args.pop("default_host", None)
        inner = unparse_host_port(wanted.ip, wanted.port)
        super().__init__(inner, comm_handler, deserialize, **connection_args)

    async def start(self) -> None:
        """Bind the port and, behind an agent, register it.

        Raises
        ------
        OSError
            The port is taken, or the agent has not reached the relay for a while.
        FatalCommClosedError
            The relay refuses the endpoint.
        """
        await super().start()
        reach = _current({})
        if reach.register:
            self._held = await self._register(reach)

    async def _register(self, reach: Reach) -> IOStream:
        """Register with a relay that may be restarting: nothing here could be started again for it."""
        deadline_s = time.monotonic() + _REGISTER_S
        while True:
            try:
                return await self._register_once(reach)
            except FatalCommClosedError:
                raise
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(_PAUSE_S)

    async def _register_once(self, reach: Reach) -> IOStream:
        host, port = parse_host_port(reach.dial)
        stream = await BaseTCPConnector.client.connect(host, port)
        try:
            await _handshake(stream, "REGISTER", self.endpoint, reach.token)
        except BaseException:
            stream.close()
            raise
        # The agent holds the endpoint for as long as this connection is open.
        return stream

    def stop(self) -> None:
        """Close the port and give the endpoint back."""
        if self._held is not None:
            self._held.close()
            self._held = None
        super().stop()

    @property
    def endpoint(self) -> Endpoint:
        """The name under which others dial this listener."""
        host, port = self.get_host_port()
        return Endpoint(host, self._net, port)

    @property
    def listen_address(self) -> str:
        """The same as the contact address: the net is part of the name."""
        return self.prefix + str(self.endpoint)

    @property
    def contact_address(self) -> str:
        """The address that others connect to."""
        return self.prefix + str(self.endpoint)


class RelayBackend(Backend):
    """The scheme `relay`, found by `distributed` through its entry point."""

    def get_connector(self) -> RelayConnector:
        """Return a connector."""
        return RelayConnector()

    def get_listener(
        self, loc: str, handle_comm: Any, deserialize: bool, **connection_args: Any
    ) -> RelayListener:
        """Return a listener that is not started yet."""
        return RelayListener(loc, handle_comm, deserialize, **connection_args)

    # The scheduler calls these at each heartbeat: text only, never a name server.

    def get_address_host(self, loc: str) -> str:
        """Return `<ip>.<net>`: equal for the workers of one job, which Dask then prefers."""
        with contextlib.suppress(RemoteProtocolError):
            return Endpoint.parse(loc).host
        return str(parse_host_port(loc, 0)[0])

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        """Return host, as above, and port."""
        return self.get_address_host(loc), int(parse_host_port(loc, 0)[1])

    def resolve_address(self, loc: str) -> str:
        """Return `loc`: the name is the address."""
        return loc

    def get_local_address_for(self, loc: str) -> str:
        """Return where this process would listen for a peer at `loc`."""
        return f"127.0.0.1.{_current({}).scope}:0"
