"""Bodies of any size and any pace pass through the gateway, and cost it a few chunks of memory."""

import asyncio
import hashlib
import io
import os
import time

import aiohttp
import pytest

from tests.support.gatewaykit import FAST_GATEWAY, GatewayKit, RelayProcess
from tests.support.waiting import eventually, scaled

ALICE = "/user/alice/"
MIB = 2**20
# The whole promise is for 1024: OFFLOAD_TEST_TRANSFER_MIB=1024.
SIZE = int(os.environ.get("OFFLOAD_TEST_TRANSFER_MIB", "128")) * MIB
#: A few chunks at each of the two ends, several of them at once, and what Python keeps of it.
ROOM = 24 * MIB


@pytest.fixture
async def measured(tmp_path):
    kit = GatewayKit(tmp_path)
    async with RelayProcess(kit) as relay:
        await kit.session(ALICE)
        async with aiohttp.ClientSession() as http:
            yield relay, http, kit.base + ALICE
        await kit.close()
        print((tmp_path / "relay.log").read_text())


async def received(response):
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
    return size


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("framing", ["", "&chunked"])
async def test_a_download_is_whole_and_passes_through_little_memory(measured, framing):
    relay, http, base = measured
    await (await http.get(base + f"blob?size={MIB}{framing}")).read()
    before = relay.memory_bytes
    async with http.get(base + f"blob?size={SIZE}{framing}", timeout=None) as response:
        assert await received(response) == SIZE
    assert relay.peak_bytes - before < ROOM


@pytest.mark.timeout(1200)
async def test_an_upload_is_whole_and_passes_through_little_memory(measured):
    relay, http, base = measured
    await (await http.post(base + "sink", data=b"x" * MIB)).read()
    before = relay.memory_bytes
    digest = hashlib.sha256()

    async def body():
        block = os.urandom(MIB)
        for number in range(SIZE // MIB):
            part = number.to_bytes(8, "big") + block[8:]
            digest.update(part)
            yield part

    async with http.post(base + "sink", data=body(), timeout=None) as response:
        said = await response.json()
    assert said["size"] == SIZE
    assert said["sha256"] == digest.hexdigest()
    assert relay.peak_bytes - before < ROOM


@pytest.mark.timeout(1200)
async def test_many_transfers_at_once_share_little_memory(measured):
    relay, http, base = measured
    before = relay.memory_bytes

    async def down():
        async with http.get(base + f"blob?size={SIZE // 8}", timeout=None) as response:
            assert await received(response) == SIZE // 8

    async def up():
        data = io.BytesIO(b"x" * (SIZE // 8))
        async with http.post(base + "sink", data=data, timeout=None) as response:
            assert (await response.json())["size"] == SIZE // 8

    await asyncio.gather(*(down() for _ in range(4)), *(up() for _ in range(4)))
    assert relay.peak_bytes - before < 2 * ROOM


async def test_a_client_that_does_not_read_stops_its_server(gateway):
    await gateway.session(ALICE)
    [agent] = gateway.relay.directory.agents()
    client = await gateway.raw()
    await client.send(f"GET {ALICE}blob?size={64 * MIB} HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await client.head())[0] == 200

    async def stands_still():
        carried = agent.bytes_in
        await asyncio.sleep(scaled(0.3))
        return agent.bytes_in == carried > 0

    deadline_s = time.monotonic() + scaled(20)
    while not await stands_still():
        assert time.monotonic() < deadline_s
    # Sockets between the two hold some megabytes themselves, as the kernel sees fit.
    assert agent.bytes_in < 32 * MIB
    assert len(await asyncio.wait_for(client.reader.readexactly(64 * MIB), scaled(60))) == 64 * MIB


async def test_a_client_that_reads_nothing_for_too_long_is_given_up(gateway):
    await gateway.session(ALICE)
    [agent] = gateway.relay.directory.agents()
    client = await gateway.raw()
    await client.send(f"GET {ALICE}blob?size={64 * MIB} HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: agent.streams)
    await eventually(lambda: not agent.streams, within_s=30)
    assert len(await client.ended()) < 64 * MIB


async def test_a_client_that_reads_slowly_gets_all_of_it(gateway):
    await gateway.session(ALICE)
    client = await gateway.raw()
    await client.send(f"GET {ALICE}blob?size={16 * MIB} HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await client.head())[0] == 200
    begun_s, size = time.monotonic(), 0
    while size < 16 * MIB:
        size += len(await asyncio.wait_for(client.reader.read(256 * 1024), scaled(20)))
        if time.monotonic() - begun_s < 1.5 * FAST_GATEWAY.stall_s:
            await asyncio.sleep(0.15)
    assert time.monotonic() - begun_s > FAST_GATEWAY.stall_s
    assert size == 16 * MIB


async def test_a_body_that_trickles_may_take_as_long_as_it_likes(gateway):
    await gateway.session(ALICE)
    client = await gateway.raw()
    begun_s, size = time.monotonic(), 20
    await client.send(f"POST {ALICE}sink HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n")
    for _ in range(size):
        await client.send("x")
        await asyncio.sleep(1.5 * FAST_GATEWAY.stall_s / size)
    status, _, body = await client.answer()
    assert status == 200
    assert b'"size": 20' in body
    assert time.monotonic() - begun_s > FAST_GATEWAY.stall_s


async def test_a_body_that_stands_still_is_given_up(gateway):
    await gateway.session(ALICE)
    client = await gateway.raw()
    await client.send(f"POST {ALICE}sink HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (408, "close")
    [agent] = gateway.relay.directory.agents()
    await eventually(lambda: not agent.streams)


@pytest.mark.parametrize("begun", ["GET ", "GET / HTTP/1.1\r\nHost: h\r\n", "\r\n\r\nGET /"])
async def test_a_head_that_is_never_complete_is_given_up(gateway, begun):
    client = await gateway.raw()
    await client.send(begun)
    status, headers, _ = await client.answer()
    assert status in (400, 408)
    assert headers["connection"] == "close"
    assert await client.ended() == b""


async def test_a_client_that_says_nothing_between_two_requests_is_left_alone(gateway):
    await gateway.session(ALICE)
    client = await gateway.raw()
    assert (await client.ask(ALICE))[0] == 200
    await asyncio.sleep(1.2 * FAST_GATEWAY.head_s)
    assert (await client.ask(ALICE))[0] == 200


async def test_each_event_of_a_server_arrives_when_it_is_sent(gateway):
    agent = await gateway.session(ALICE)
    client, other = await gateway.raw(), await gateway.raw()
    await client.send(f"GET {ALICE}events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
    assert (await client.head())[1]["content-type"] == "text/event-stream"
    for number in range(1, 6):
        assert (await other.ask(ALICE + "tick"))[0] == 200
        event = await asyncio.wait_for(client.reader.readuntil(b"\n\n\r\n"), scaled(10))
        assert f"data: {number}\n\n".encode() in event
    client.writer.close()
    await eventually(lambda: not (agent.folder / "events").exists())
