"""What the gateway costs: the same requests to the same server, through it and directly."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from websockets.asyncio.client import connect

from bench.processes import Measured, Stopwatch, until
from offload_relay.agent.config import AgentConfig
from offload_relay.agent.link import Link
from offload_relay.bundle import write_agent
from offload_relay.lease import Lease, new_key, sign
from offload_relay.protocol import Endpoint

__all__ = ["KINDS", "measure", "measure_idle"]

KINDS = ("direct", "gateway")
_ROUTE = "/user/alice/"
_DOMAIN = "bench"
_MIB = 2**20
_CONNECTIONS = 16
_START_S = 60.0


def measure(
    *, repeat: int, requests: int, transfer_mib: int, say=print
) -> dict[str, list[dict[str, float]]]:
    """Measure each kind `repeat` times, in turn, and return the rounds by kind.

    Parameters
    ----------
    repeat : int
        Rounds; in each the kinds follow one another, so that both see the same machine.
    requests, transfer_mib : int
        How many small requests to send, and how much to carry each way, in one round.
    """
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _setup(Path(folder)) as one:
        for number in range(repeat):
            for kind in KINDS:
                values = asyncio.run(_one(one, kind, requests, transfer_mib))
                found[kind].append(values)
                short = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
                say(f"gateway, round {number + 1}, {kind}: {short}")
    return dict(found)


def measure_idle(sessions: int, idle_s: float, say=print) -> dict[str, float]:
    """Return what `sessions` that nobody uses cost the relay."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        _relay(Path(folder)) as (relay, key, ports),
    ):
        values = asyncio.run(_idle(relay, key, ports[0], sessions, idle_s))
    say(f"{sessions} idle sessions: {values}")
    return values


# --- what runs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Setup:
    relay: Measured
    agent: Measured
    gateway: int
    direct: int

    def port(self, kind: str) -> int:
        return self.gateway if kind == "gateway" else self.direct

    def stopwatch(self, kind: str) -> Stopwatch:
        return Stopwatch(relay=self.relay, agent=self.agent) if kind == "gateway" else Stopwatch()


@contextlib.contextmanager
def _relay(place: Path) -> Iterator[tuple[Measured, bytes, list[int]]]:
    key, file = new_key(), place / "relay.key"
    file.touch(mode=0o600)
    file.write_bytes(key)
    argv = ["python", "-m", "offload_cli", "relay", "--key-file", str(file)]
    for name in ("--public", "--dial", "--gateway"):
        argv += [name, "127.0.0.1:0"]
    with Measured(argv, place) as relay:
        until(lambda: "dial port" in relay.log.read_text(), _START_S, [relay])
        words = relay.log.read_text().replace(",", " ").split()
        numbers = [int(word) for word in words if word.isdigit() and int(word) > 1024]
        gateway, public, dial = numbers[-3:]
        yield relay, key, [public, dial, gateway]


@contextlib.contextmanager
def _setup(place: Path) -> Iterator[_Setup]:
    with _relay(place) as (relay, key, (public, _, gateway)):
        job = place / "job"
        job.mkdir()
        server = Path(__file__).with_name("session_server.py")
        config = AgentConfig(
            relay=f"ws://127.0.0.1:{public}",
            lease=_lease(key, 1, _ROUTE),
            job=f"{_DOMAIN}-1",
            net=f"j1.{_DOMAIN}",
            payload=["{python}", str(server)],
            walltime_s=7200.0,
            environment={"ROUTE": _ROUTE},
        )
        (job / "agent.json").write_bytes(config.render())
        with Measured(["python", str(write_agent(place)), "agent.json"], job) as agent:
            until((job / "port").exists, _START_S, [relay, agent])
            # A relay that is young waits for agents of other sessions to come back.
            time.sleep(5.0)
            yield _Setup(relay, agent, gateway, int((job / "port").read_text()))


def _lease(key: bytes, number: int, route: str) -> str:
    return sign(
        Lease(
            role="agent",
            user="alice",
            domain=_DOMAIN,
            expires=datetime.now(UTC) + timedelta(hours=2),
            job=f"{_DOMAIN}-{number}",
            net=f"j{number}.{_DOMAIN}",
            route=route,
            unwatched_s=7200.0,
        ),
        key,
    )


# --- what is measured ----------------------------------------------------------------------------


async def _one(one: _Setup, kind: str, requests: int, transfer_mib: int) -> dict[str, float]:
    async with _client(one.port(kind)) as client:
        await client.get("small")  # first use
        return {
            **await _latency(client, requests // 5),
            **await _throughput(one, kind, requests),
            **await _download(one, kind, client, transfer_mib),
            **await _upload(one, kind, client, transfer_mib),
            **await _websocket(one.port(kind), requests // 5),
        }


async def _latency(client: _Client, requests: int) -> dict[str, float]:
    took_ms = []
    for _ in range(requests):
        began_s = time.perf_counter()
        await client.get("small")
        took_ms.append(1e3 * (time.perf_counter() - began_s))
    return {
        "latency_ms": statistics.median(took_ms),
        "latency_p99_ms": statistics.quantiles(took_ms, n=100)[98],
    }


async def _throughput(one: _Setup, kind: str, requests: int) -> dict[str, float]:
    async def some(count: int) -> None:
        async with _client(one.port(kind)) as client:
            for _ in range(count):
                await client.get("small")

    with one.stopwatch(kind) as watch:
        await asyncio.gather(*(some(requests // _CONNECTIONS) for _ in range(_CONNECTIONS)))
    return {
        "requests_per_s": requests / watch.wall_s,
        **_cpu(watch, "ms_per_request", 1e3 / requests),
    }


async def _download(one: _Setup, kind: str, client: _Client, size: int) -> dict[str, float]:
    with one.stopwatch(kind) as watch:
        assert await client.get(f"download?size={size * _MIB}") == size * _MIB
    return {
        "download_mib_per_s": size / watch.wall_s,
        **_cpu(watch, "ms_per_mib_down", 1e3 / size),
    }


async def _upload(one: _Setup, kind: str, client: _Client, size: int) -> dict[str, float]:
    with one.stopwatch(kind) as watch:
        await client.put("upload", size * _MIB)
    return {"upload_mib_per_s": size / watch.wall_s, **_cpu(watch, "ms_per_mib_up", 1e3 / size)}


async def _websocket(port: int, messages: int) -> dict[str, float]:
    text, took_ms = secrets.token_hex(200), []
    url = f"ws://127.0.0.1:{port}{_ROUTE}echo"
    async with connect(
        url, compression=None, proxy=None, origin=f"http://127.0.0.1:{port}"
    ) as echo:
        for _ in range(messages):
            began_s = time.perf_counter()
            await echo.send(text)
            await echo.recv()
            took_ms.append(1e3 * (time.perf_counter() - began_s))
    return {"websocket_ms": statistics.median(took_ms)}


def _cpu(watch: Stopwatch, name: str, factor: float) -> dict[str, float]:
    return {f"{who}_cpu_{name}": used_s * factor for who, used_s in watch.cpu_s.items()}


async def _idle(
    relay: Measured, key: bytes, port: int, sessions: int, idle_s: float
) -> dict[str, float]:
    before = relay.rss_bytes()
    links = []
    for number in range(1, sessions + 1):
        route, net = f"/user/user{number}/", f"j{number}.{_DOMAIN}"
        lease = _lease(key, number, route)
        config = AgentConfig(f"ws://127.0.0.1:{port}", lease, f"{_DOMAIN}-{number}", net, [], 7200)
        link = Link(config, {}, lambda _reason: None)
        links.append(asyncio.create_task(link.run()))
        await link.register(Endpoint("127.0.0.1", net, 8888), link, serves=True)
    await asyncio.sleep(idle_s / 5)
    with Stopwatch(relay=relay) as watch:
        await asyncio.sleep(idle_s)
    for task in links:
        task.cancel()
    await asyncio.gather(*links, return_exceptions=True)
    return {
        "relay_mb_per_session": (relay.rss_bytes() - before) / 1e6 / sessions,
        "idle_relay_percent_of_core": 100 * watch.cpu_s["relay"] / watch.wall_s,
    }


# --- a client that costs little itself -----------------------------------------------------------


class _Client:
    """One kept connection; reads answers whose length is given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def get(self, name: str) -> int:
        """Return the length of the answer."""
        self._writer.write(f"GET {_ROUTE}{name} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        return await self._answer()

    async def put(self, name: str, size: int) -> None:
        head = f"PUT {_ROUTE}{name} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n"
        self._writer.write(head.encode())
        block = bytes(256 * 1024)
        for _ in range(size // len(block)):
            self._writer.write(block)
            await self._writer.drain()
        await self._answer()

    async def _answer(self) -> int:
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        size = left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while left:
            chunk = await self._reader.read(min(left, _MIB))
            assert chunk
            left -= len(chunk)
        return size


@contextlib.asynccontextmanager
async def _client(port: int) -> AsyncIterator[_Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_MIB)
    try:
        yield _Client(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
