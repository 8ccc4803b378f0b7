"""Control and watch connections, and how a dial gets hold of a parked connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from offload_relay import protocol
from offload_relay.errors import RemoteProtocolError
from offload_relay.lease import Lease, has_expired
from offload_relay.protocol import CloseCode, Endpoint, Limits, encode, parse_message
from offload_relay.server.endpoints import Agent, Directory, Domain, RefusedError

if TYPE_CHECKING:
    from offload_relay.server.app import Relay

__all__ = [
    "Arrivals",
    "Parked",
    "Watcher",
    "cut",
    "drop_streams",
    "in_parts",
    "offer",
    "send_gone",
    "serve_agent",
    "serve_owner",
    "take",
]

log = logging.getLogger(__name__)

# Parked from the start; more are asked for as soon as one is taken (`Want`).
_PARKED = 4
# Changes of many agents at once (200 workers coming back) travel as one message.
_COALESCE_S = 0.05
_COUNTERS_S = 1.0
# Of a message `Agents` around its entries.
_FRAME_BYTES = 64


@dataclass(eq=False)
class Parked:
    """A parked connection; `taken` gets the event that is set when its stream is over."""

    websocket: ServerConnection
    taken: asyncio.Future[asyncio.Event]


# --- parked connections --------------------------------------------------------------------------


def offer(agent: Agent, slot: Parked) -> None:
    """Give `slot` to the dial that has waited longest, or keep it parked."""
    while agent.waiting:
        waiter: asyncio.Future[Parked] = agent.waiting.popleft()
        if not waiter.done():
            waiter.set_result(slot)
            return
    agent.parked.append(slot)


async def take(
    agent: Agent, endpoint: Endpoint, released: asyncio.Event, to_agent: ServerConnection | None
) -> ServerConnection:
    """Return a parked connection that has been told to open `endpoint`; wait for one.

    `released` is to be set when the stream is over. Cancelling is safe: a connection that arrives
    for a waiter that has left is parked.
    """
    while True:
        slot = await _slot(agent, to_agent)
        slot.taken.set_result(released)
        try:
            await slot.websocket.send(encode(protocol.Open(str(endpoint))))
        except ConnectionClosed:
            continue
        return slot.websocket


async def _slot(agent: Agent, to_agent: ServerConnection | None) -> Parked:
    while agent.parked:
        # The newest one is the least likely to have been dropped by a middlebox.
        slot: Parked = agent.parked.pop()
        if not slot.taken.done() and slot.websocket.close_code is None:
            return slot
    waiter: asyncio.Future[Parked] = asyncio.get_running_loop().create_future()
    agent.waiting.append(waiter)
    try:
        if to_agent is not None:
            with contextlib.suppress(ConnectionClosed):
                await to_agent.send(encode(protocol.Want(len(agent.waiting))))
        return await waiter
    except BaseException:
        with contextlib.suppress(ValueError):
            agent.waiting.remove(waiter)
        if waiter.done() and not waiter.cancelled():
            offer(agent, waiter.result())
        raise


class Arrivals:
    """Dials that wait for an agent which is not there, or not yet."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._count: Counter[str] = Counter()

    def announce(self, endpoint: str) -> None:
        """Wake the dials that wait for `endpoint`."""
        for waiter in self._waiters.pop(endpoint, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def agent(self, directory: Directory, lease: Lease, endpoint: Endpoint) -> Agent:
        """Return the agent at `endpoint`, waiting until it is there. Cancelling is safe.

        Raises
        ------
        RefusedError
            Too many dials of this lease wait already.
        """
        with self._counted(lease, directory.limits):
            while True:
                agent = directory.lookup(endpoint)
                if agent is not None:
                    return agent
                await self._wait(str(endpoint))

    async def _wait(self, endpoint: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(endpoint, set())
        waiters.add(waiter)
        try:
            await waiter
        finally:
            waiters.discard(waiter)
            if not waiters and self._waiters.get(endpoint) is waiters:
                del self._waiters[endpoint]

    @contextlib.contextmanager
    def _counted(self, lease: Lease, limits: Limits) -> Iterator[None]:
        if self._count[lease.id] >= limits.waiting_dials:
            raise RefusedError(CloseCode.TOO_MANY, f"{limits.waiting_dials} dials wait already")
        self._count[lease.id] += 1
        try:
            yield
        finally:
            self._count[lease.id] -= 1
            if not self._count[lease.id]:
                del self._count[lease.id]


# --- agents --------------------------------------------------------------------------------------


async def serve_agent(
    relay: Relay, websocket: ServerConnection, lease: Lease, instance: str
) -> None:
    """Serve one control connection until it ends.

    Raises
    ------
    RefusedError, RemoteProtocolError, TimeoutError
        What the agent did wrong, to be said in the close frame.
    """
    if not 8 <= len(instance) <= 64:
        raise RemoteProtocolError(f"the header {protocol.INSTANCE_HEADER} is missing or odd")
    async with asyncio.timeout(relay.limits.first_message_s):
        hello = parse_message(await _text(websocket))
    if not isinstance(hello, protocol.Hello):
        raise RemoteProtocolError("the first message is not hello")
    _check_info(hello.info, relay.limits)
    agent = relay.directory.connect(lease, instance, time.time())
    agent.info = hello.info
    # Let go of an older connection of the same agent: its network blinked, and only it noticed.
    older = relay.controls.pop(agent, None)
    relay.controls[agent] = websocket
    if older is not None:
        drop_streams(agent)
        older.transport.abort()
    silent = False
    try:
        await websocket.send(_welcome(relay))
        log.info("agent of job %s connected (lease %s)", lease.job, lease.id)
        _changed(relay, agent)
        async with _heartbeat(websocket, relay.limits):
            await _agent_messages(relay, websocket, agent)
    except TimeoutError:
        silent = True
        raise
    finally:
        if relay.controls.get(agent) is websocket:
            del relay.controls[agent]
            relay.directory.lose(agent, time.time())
            if silent:
                drop_streams(agent)
            _changed(relay, agent)
            log.info("agent of job %s: %s", lease.job, agent.phase.value)


def _check_info(info: dict[str, Any], limits: Limits) -> None:
    """Raise RemoteProtocolError for more than owners want to be told of an agent."""
    if not protocol.nested_within(info, limits.info_depth):
        raise RemoteProtocolError(f"hello with info nested more than {limits.info_depth} deep")
    if len(json.dumps(info)) > limits.info_bytes:
        raise RemoteProtocolError(f"hello with more than {limits.info_bytes} bytes of info")


async def _agent_messages(relay: Relay, websocket: ServerConnection, agent: Agent) -> None:
    while True:
        async with asyncio.timeout(protocol.SILENT_BEATS * relay.limits.heartbeat_s):
            message = parse_message(await _text(websocket))
        match message:
            case protocol.Register(endpoint=endpoint, serves=serves):
                refused = relay.directory.register(agent, endpoint, serves=serves)
                answer = (
                    protocol.Refused(endpoint, refused)
                    if refused
                    else protocol.Registered(endpoint)
                )
                await websocket.send(encode(answer))
                if not refused:
                    relay.arrivals.announce(endpoint)
                    if serves:
                        relay.announce_server()
                    _changed(relay, agent)
            case protocol.Unregister(endpoint=endpoint):
                relay.directory.unregister(agent, endpoint)
                _changed(relay, agent)
            case protocol.Ended():
                relay.directory.end(agent, message, time.time())
                await websocket.close(1000, "noted")
                return
            case _:
                pass


def drop_streams(agent: Agent) -> None:
    """Cut all streams of an agent that is not there any more, so that both ends notice at once."""
    for slot in agent.parked:
        slot.websocket.transport.abort()
    for websocket in agent.streams:
        websocket.transport.abort()


async def send_gone(relay: Relay, agent: Agent) -> None:
    """Tell a connected agent that nobody needs its job any more."""
    websocket = relay.controls.get(agent)
    if websocket is None:
        return
    domain = relay.directory.domains[agent.lease.domain]
    reason = domain.gone_reason(agent.lease.job) or ""
    if agent.told_gone_s is None:
        agent.told_gone_s = time.time()
        log.info("agent of job %s is told gone: %s", agent.lease.job, reason)
    with contextlib.suppress(ConnectionClosed):
        try:
            # One that takes nothing must not keep us from telling the others.
            async with asyncio.timeout(relay.limits.first_message_s):
                await websocket.send(encode(protocol.Gone(reason)))
        except TimeoutError:
            cut(relay, agent)


def cut(relay: Relay, agent: Agent) -> None:
    """End all connections of an agent that was told gone and did not go."""
    log.warning("agent of job %s was told gone and did not end: cutting it off", agent.lease.job)
    drop_streams(agent)
    websocket = relay.controls.get(agent)
    if websocket is not None:
        websocket.transport.abort()


# --- owners --------------------------------------------------------------------------------------


class Watcher:
    """One watch connection: which agents of its domain it has not been told of yet."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._dirty: set[Agent] = set(domain.agents.values())
        self._event = asyncio.Event()
        self._event.set()
        self._bytes: dict[Agent, int] = {}

    def mark(self, agent: Agent) -> None:
        """Note that `agent` has changed."""
        self._dirty.add(agent)
        self._event.set()

    async def changes(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield entries of agents that have changed; the first time, of all."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_COUNTERS_S):
                    await self._event.wait()
            await asyncio.sleep(_COALESCE_S)
            first = not self._bytes and self._event.is_set()
            self._event.clear()
            dirty, self._dirty = self._dirty, set()
            dirty |= {a for a in self._domain.agents.values() if self._moved(a)}
            self._bytes = {a: a.bytes_in + a.bytes_out for a in self._domain.agents.values()}
            if dirty or first:
                yield [agent.describe() for agent in dirty]

    def _moved(self, agent: Agent) -> bool:
        return self._bytes.get(agent, 0) != agent.bytes_in + agent.bytes_out


def _changed(relay: Relay, agent: Agent) -> None:
    for watcher in relay.watchers.get(agent.lease.domain, ()):
        watcher.mark(agent)


async def serve_owner(relay: Relay, websocket: ServerConnection, lease: Lease) -> None:
    """Serve one watch connection until it ends. Raises as `serve_agent` does."""
    domain = relay.directory.watch(lease.domain, time.time())
    watcher = Watcher(domain)
    relay.directory.routes.keep(lease.route, 1)
    relay.watchers.setdefault(lease.domain, set()).add(watcher)
    try:
        await websocket.send(_welcome(relay))
        async with asyncio.TaskGroup() as group, _heartbeat(websocket, relay.limits):
            sender = group.create_task(_send_changes(websocket, watcher))
            await _owner_messages(relay, websocket, lease, domain)
            sender.cancel()
    except* ConnectionClosed:
        pass
    except* TimeoutError:
        raise TimeoutError from None
    except* (RemoteProtocolError, RefusedError) as group_error:
        raise group_error.exceptions[0] from None
    finally:
        domain.owners -= 1
        relay.directory.routes.keep(lease.route, -1)
        domain.owner_seen_s = time.time()
        relay.watchers[lease.domain].discard(watcher)
        if not relay.watchers[lease.domain]:
            del relay.watchers[lease.domain]


async def _send_changes(websocket: ServerConnection, watcher: Watcher) -> None:
    async for entries in watcher.changes():
        for part in in_parts(entries, protocol.LIMITS.control_bytes):
            await websocket.send(encode(protocol.Agents(part)))


def in_parts(entries: list[dict[str, Any]], most_bytes: int) -> Iterator[list[dict[str, Any]]]:
    """Yield `entries` in lists that each fit a message of `most_bytes`; one empty list for none.

    A single entry always does: what agents say of themselves, and at their end, is limited.
    """
    part: list[dict[str, Any]] = []
    size = _FRAME_BYTES
    for entry in entries:
        entry_bytes = len(json.dumps(entry)) + 1
        if part and size + entry_bytes > most_bytes:
            yield part
            part, size = [], _FRAME_BYTES
        part.append(entry)
        size += entry_bytes
    yield part


async def _owner_messages(
    relay: Relay, websocket: ServerConnection, lease: Lease, domain: Domain
) -> None:
    while True:
        async with asyncio.timeout(protocol.SILENT_BEATS * relay.limits.heartbeat_s):
            message = parse_message(await _text(websocket))
        # At the latest with the next beat: no right outlives its lease.
        if has_expired(lease, time.time()):
            raise RefusedError(CloseCode.LEASE_REFUSED, f"the lease {lease.id} has expired")
        if isinstance(message, protocol.Gone):
            log.info("domain %s: gone: %s", lease.domain, ", ".join(message.jobs) or "all jobs")
            reason = message.reason or "its owner has ended it"
            for agent in relay.directory.tell_gone(domain, message.jobs, reason):
                await send_gone(relay, agent)


# --- both ----------------------------------------------------------------------------------------


def _welcome(relay: Relay) -> str:
    return encode(protocol.Welcome(protocol.VERSION, _PARKED, relay.limits.heartbeat_s))


async def _text(websocket: ServerConnection) -> str:
    message = await websocket.recv()
    if not isinstance(message, str):
        raise RemoteProtocolError("a binary message on a control connection")
    return message


@contextlib.asynccontextmanager
async def _heartbeat(websocket: ServerConnection, limits: Limits) -> AsyncIterator[None]:
    async def beat() -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(limits.heartbeat_s)
                await websocket.send(encode(protocol.Ping()))

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
