"""What users of sessions see of relays, agents and servers that go away: little, and the truth."""

import asyncio
import os
import signal
import time

import aiohttp
import pytest

from offload_relay.protocol import LIMITS, Ended
from offload_relay.server.gateway_limits import GatewayLimits
from tests.support.gatewaykit import SCRIPTED, GatewayKit, InProcess, script
from tests.support.waiting import eventually, scaled
from tests.support.wire import Wire

ALICE, GPU = "/user/alice/", "/user/alice/gpu/"
HTML = "Accept: text/html"


@pytest.fixture
async def patient(tmp_path):
    """A gateway with its real times, for what depends on how fast agents come back."""
    kit = GatewayKit(tmp_path, GatewayLimits(settle_s=scaled(5.0)))
    kit.limits = LIMITS
    await kit.start()
    yield kit
    for agent in kit.agents:
        print(f"--- log of {agent.folder.name}\n{agent.log()}")
    await kit.close()


async def test_a_relay_that_restarts_is_not_noticed_by_requests(patient):
    agent = await patient.session(ALICE)
    client = await patient.raw()
    _, before = await client.ask(ALICE)
    for _ in range(3):
        await patient.stop()
        await patient.start()
        begun_s = time.monotonic()
        client = await patient.raw()
        status, body = await client.ask(ALICE)
        assert (status, body["pid"]) == (200, before["pid"])
        assert time.monotonic() - begun_s < scaled(10)
    assert agent.process.returncode is None


async def test_a_websocket_can_be_opened_again_after_a_restart_of_the_relay(patient):
    await patient.session(ALICE)
    async with aiohttp.ClientSession() as http:
        first = await http.ws_connect(f"{patient.base}{ALICE}ws")
        assert await first.receive_str() == ALICE
        await patient.stop()
        assert (await first.receive(timeout=scaled(10))).type is not aiohttp.WSMsgType.TEXT
        await patient.start()
        second = await http.ws_connect(f"{patient.base}{ALICE}ws")
        assert await second.receive_str() == ALICE
        await second.close()


async def test_another_session_of_the_user_never_answers_for_one_that_is_not_back_yet(patient):
    await patient.session(ALICE, 1)
    gpu = await patient.session(GPU, 2)
    gpu.process.send_signal(signal.SIGSTOP)
    await patient.stop()
    await patient.start()
    client = await patient.raw()
    asking = asyncio.ensure_future(client.ask(GPU + "api/kernels/1"))
    await eventually(lambda: any(a.served for a in patient.relay.directory.agents()), within_s=10)
    gpu.process.send_signal(signal.SIGCONT)
    status, body = await asyncio.wait_for(asking, scaled(20))
    assert (status, body["who"]) == (200, GPU)


async def test_a_session_whose_network_is_cut_says_so_and_goes_on(gateway):
    async with Wire(gateway.ports[0]) as wire:
        await gateway.session(ALICE, relay=wire.url)
        [agent] = gateway.relay.directory.agents()
        client = await gateway.raw()
        before = (await client.ask(ALICE))[1]["pid"]
        wire.cut()
        await eventually(lambda: agent.phase.value == "lost")
        await eventually(lambda: not agent.streams)
        await asyncio.sleep(gateway.gateway_limits.settle_s)
        status, body = await client.ask(ALICE)
        assert (status, body["reason"]) == (503, "The connection to the session is lost")
        status, page = await client.ask(ALICE, "GET", HTML)
        assert b"Kernels go on meanwhile" in page
        wire.heal()
        await eventually(lambda: agent.phase.value == "connected" and agent.served, within_s=10)
        assert (await client.ask(ALICE))[1]["pid"] == before


async def test_until_the_server_listens_there_is_a_page_that_looks_again(gateway):
    client = await gateway.raw()
    await asyncio.sleep(gateway.gateway_limits.settle_s)
    status, body = await client.ask(ALICE + "api")
    assert (status, body["reason"]) == (503, "The session is not there yet")
    await client.send(f"GET {ALICE}lab HTTP/1.1\r\nHost: h\r\n{HTML}\r\n\r\n")
    status, headers, page = await client.answer()
    assert (status, headers["retry-after"]) == (503, "3")
    assert b'http-equiv="refresh"' in page
    # The agent is connected, and its payload has not registered anything.
    await gateway.agent(
        payload="import time; time.sleep(600)", lease=gateway.token("agent", 1, route=ALICE)
    )
    await eventually(lambda: any(gateway.relay.directory.agents()))
    assert (await client.ask(ALICE + "api"))[0] == 503
    # And all of this on one connection.
    assert (await client.ask(ALICE + "api", "POST"))[0] == 503


async def test_a_session_that_has_ended_says_so(gateway):
    await gateway.session(ALICE)
    [agent] = gateway.relay.directory.agents()
    client = await gateway.raw()
    gateway.relay.directory.end(agent, Ended(0, "its walltime was used up"), time.time())
    status, body = await client.ask(ALICE)
    assert (status, body["reason"]) == (503, "The session has ended")
    assert "walltime" not in str(body)


async def test_a_server_that_does_not_answer_any_more_is_a_503(gateway):
    agent = await gateway.session(ALICE, payload=SCRIPTED)
    client = await gateway.raw()
    for method in ("GET", "POST"):
        status, body = await client.ask(ALICE + script(then="close"), method)
        assert (status, body["reason"]) == (503, "The connection to the session is lost")
    # What may have had an effect was sent once, the other request twice.
    assert (agent.folder / "requests").read_bytes().count(b"HTTP/1.1\r\n") == 3


async def test_a_server_that_is_not_there_any_more_is_a_503_at_once(gateway):
    async with InProcess(gateway, ALICE, 1, lambda _reader, _writer: asyncio.sleep(0)) as session:
        session.server.close()
        client = await gateway.raw()
        assert (await asyncio.wait_for(client.ask(ALICE), scaled(5)))[0] == 503


@pytest.mark.parametrize(
    "nonsense",
    [
        b"220 smtp.example.org ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nX\x00: y\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_a_502(gateway, nonsense):
    await gateway.session(ALICE, 1, payload=SCRIPTED)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(nonsense)
        await writer.drain()
        await reader.read()

    async with InProcess(gateway, "/user/bob/", 2, serve):
        client = await gateway.raw()
        assert (await client.ask("/user/bob/"))[0] == 502
        ok = script(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await client.ask(ALICE + ok))[0] == 200


async def test_bytes_behind_an_answer_are_never_the_beginning_of_another(gateway):
    agent = await gateway.session(ALICE, payload=SCRIPTED)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    client = await gateway.raw()
    for _ in range(3):
        assert await client.ask(ALICE + script(ok + ok.replace(b"ok", b"no"))) == (200, b"ok")
    assert (agent.folder / "connections").read_text() == "xxx"


@pytest.mark.parametrize("framing", ["", "&chunked"])
async def test_half_an_answer_is_never_taken_for_a_whole_one(gateway, framing):
    agent = await gateway.session(ALICE)
    url = f"{gateway.base}{ALICE}blob?size={2**30}{framing}"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        await response.content.readexactly(2**20)
        os.kill(agent.process.pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_leaving_ends_every_request_and_every_websocket(gateway):
    agent = await gateway.session(ALICE)
    client = await gateway.raw()
    await client.send(f"GET {ALICE}wait HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually((agent.folder / "waiting").exists)
    async with aiohttp.ClientSession() as http:
        websocket = await http.ws_connect(f"{gateway.base}{ALICE}ws")
        await websocket.receive_str()
        await asyncio.wait_for(gateway.stop(), scaled(10))
        assert await client.ended() == b""
        await websocket.receive(timeout=scaled(10))
