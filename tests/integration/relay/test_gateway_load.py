"""Fifty sessions through one relay, all at work."""

import asyncio
import contextlib
import random

import aiohttp
import pytest

from offload_relay.protocol import LIMITS
from tests.support.gatewaykit import GatewayKit, InProcess, RelayProcess
from tests.support.waiting import eventually, scaled

SESSIONS = 50
MIB = 2**20


def route(number):
    return f"/user/user{number}/" if number % 5 else f"/user/user{number}/gpu/"


def server(name):
    """Return a small HTTP server that says whose it is, echoes, and sends a given number of bytes."""

    async def serve(reader, writer):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            target = head.split(" ")[1]
            assert target.startswith(name), "a request of another session"
            if "upgrade: websocket" in head.lower():
                writer.write(
                    b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
                return
            body = name.encode() * (int(target.partition("size=")[2] or 1))
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()

    return serve


@pytest.fixture
async def relay(tmp_path):
    kit = GatewayKit(tmp_path)
    kit.limits = LIMITS
    async with RelayProcess(kit) as relay:
        yield kit, relay
        await kit.close()
        print((tmp_path / "relay.log").read_text()[-5000:])


@pytest.mark.timeout(600)
async def test_fifty_sessions_work_side_by_side_through_one_relay(relay):
    kit, process = relay
    rng = random.Random(50)
    async with contextlib.AsyncExitStack() as stack:
        before = process.memory_bytes
        for number in range(SESSIONS):
            session = InProcess(kit, route(number), number, server(route(number)))
            await stack.enter_async_context(session)
        idle = process.memory_bytes
        # An idle session is one control connection, and four that are parked.
        assert (idle - before) / SESSIONS < MIB
        connector = aiohttp.TCPConnector(limit=100)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

        async def request(number):
            size = rng.choice([1, 10, 1000, 50_000])
            async with http.get(f"{kit.base}{route(number)}x?size={size}") as answer:
                assert await answer.read() == route(number).encode() * size

        async def websocket(number):
            client = await kit.raw()
            await client.send(
                f"GET {route(number)}ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
            )
            assert (await client.head())[0] == 101
            for _ in range(10):
                data = rng.randbytes(20_000)
                await client.send(data)
                assert await asyncio.wait_for(client.reader.readexactly(20_000), scaled(60)) == data
            await client.closed()

        work = [request(n) for n in range(SESSIONS) for _ in range(20)]
        work += [websocket(n) for n in range(SESSIONS) for _ in range(2)]
        rng.shuffle(work)
        await asyncio.gather(*work)
        await eventually(lambda: process.memory_bytes - before < 200 * MIB)
