"""Requests find their session through a real gateway and real agents, and nothing crosses."""

import asyncio
import random

import aiohttp
import pytest

from offload_relay.owner import Owner
from tests.support.gatewaykit import SCRIPTED, SERVER, script, seen
from tests.support.relaykit import DOMAIN
from tests.support.waiting import eventually, scaled

ALICE, BOB, GPU = "/user/alice/", "/user/bob/", "/user/alice/gpu/"


# --- whose it is -------------------------------------------------------------------------------------


async def test_requests_of_two_users_on_shared_connections_never_cross(gateway):
    await gateway.session(ALICE, 1)
    await gateway.session(BOB, 2)
    pool = [await gateway.raw() for _ in range(4)]
    rng = random.Random(7)

    async def on(client, number):
        for turn in range(60):
            who = rng.choice([ALICE, BOB])
            target = f"{who}x?n={number}-{turn}"
            status, body = await client.ask(target, rng.choice(["GET", "PUT", "DELETE"]))
            assert (status, body["who"], body["target"]) == (200, who, target)

    await asyncio.gather(*(on(client, number) for number, client in enumerate(pool)))


async def test_impatient_requests_of_two_users_are_answered_in_their_order(gateway):
    await gateway.session(ALICE, 1)
    await gateway.session(BOB, 2)
    client = await gateway.raw()
    order = [ALICE, BOB, BOB, ALICE, BOB, ALICE, ALICE] * 5
    heads = [f"GET {who}x?{n} HTTP/1.1\r\nHost: h\r\n\r\n" for n, who in enumerate(order)]
    await client.send("".join(heads))
    for number, who in enumerate(order):
        status, _, body = await client.answer()
        assert status == 200
        assert f'"target": "{who}x?{number}"'.encode() in body
        assert f'"who": "{who}"'.encode() in body


async def test_a_named_server_is_another_session_than_the_default_one(gateway):
    await gateway.session(ALICE, 1)
    client = await gateway.raw()
    # Nobody has said that there is such a server: the default one says that it has no such page.
    assert (await client.ask(GPU + "api"))[1]["who"] == ALICE
    await gateway.session(GPU, 2)
    assert (await client.ask(GPU + "api"))[1]["who"] == GPU
    assert (await client.ask(ALICE + "api"))[1]["who"] == ALICE


async def test_a_session_that_is_awaited_is_not_answered_for_by_another_one(gateway):
    await gateway.session(ALICE, 1)
    client = await gateway.raw()
    async with Owner(gateway.url, lambda: gateway.token(domain="c8", route=GPU)) as owner:
        await eventually(lambda: not owner.trouble)
        await eventually(lambda: gateway.relay.watchers.get("c8"))
        assert (await client.ask(GPU + "api"))[0] == 503
        assert (await client.ask(ALICE + "api"))[0] == 200


async def test_a_session_that_was_started_anew_answers_in_place_of_the_older_one(gateway):
    await gateway.session(ALICE, 1, who="older")
    await gateway.session(ALICE, 2, who="newer")
    client = await gateway.raw()
    assert (await client.ask(ALICE))[1]["who"] == "newer"


@pytest.mark.parametrize(
    "target",
    [
        "/user/alice/../bob/api",
        "/user/alice/%2e%2e/bob/api",
        "/user/alice/..%2fbob/api",
        "//user/bob/api",
        "http://hub.example.org/user/bob/api",
        "/user/alice/%2E%2e%5cbob/api",
        "*",
    ],
)
async def test_no_trick_with_a_path_reaches_another_users_session(gateway, target):
    await gateway.session(ALICE, 1)
    bob = await gateway.session(BOB, 2, payload=SCRIPTED)
    client = await gateway.raw()
    status, body = await client.ask(target)
    assert status == 400
    assert "message" in body
    assert not (bob.folder / "connections").exists()


@pytest.mark.parametrize("target", ["/user/BOB/api", "/USER/bob/api", "/user%2fbob/api", "/bob/"])
async def test_a_path_that_is_nobodys_is_not_there(gateway, target):
    await gateway.session(BOB)
    client = await gateway.raw()
    assert (await client.ask(target))[0] == 503


async def test_a_worker_of_the_same_user_serves_no_route(gateway):
    agent = await gateway.agent(payload=SERVER, environment={"WHO": "w", "ROUTE": ALICE})
    await agent.endpoint()
    client = await gateway.raw()
    assert (await client.ask(ALICE))[0] == 503


# --- what HTTP allows --------------------------------------------------------------------------------


async def test_a_request_and_its_answer_arrive_as_they_were_sent(gateway):
    await gateway.session(ALICE)
    client = await gateway.raw()
    await client.send(
        f"POST {ALICE}a%20b/%C3%A9?token=t&x=/../ HTTP/1.1\r\nHost: hub.example.org\r\n"
        "X-Mine: 1\r\nCookie: a=b\r\nContent-Length: 3\r\n\r\nabc"
    )
    status, headers, body = await client.answer()
    assert status == 200
    assert headers["x-jupyterhub-version"] == "6.1.1"
    assert b'"target": "/user/alice/a%20b/%C3%A9?token=t&x=/../"' in body
    assert b'["Cookie", "a=b"]' in body
    assert b'"body": 3' in body


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_head_answers_without_a_body(gateway, status):
    await gateway.session(ALICE, payload=SCRIPTED)
    answer = f"HTTP/1.1 {status} Fine\r\nContent-Length: 1234\r\nETag: e\r\n\r\n".encode()
    client = await gateway.raw()
    for _ in range(2):
        await client.send(f"HEAD {ALICE}{script(answer)} HTTP/1.1\r\nHost: h\r\n\r\n")
        found, headers, _ = await client.head()
        assert (found, headers["content-length"], headers["etag"]) == (status, "1234", "e")


@pytest.mark.parametrize("status", [204, 304])
async def test_some_answers_have_no_body_by_their_nature(gateway, status):
    await gateway.session(ALICE, payload=SCRIPTED)
    client = await gateway.raw()
    for _ in range(2):
        answer = f"HTTP/1.1 {status} Nothing\r\nX-A: b\r\n\r\n".encode()
        await client.send(f"GET {ALICE}{script(answer)} HTTP/1.1\r\nHost: h\r\n\r\n")
        found, headers, reason = await client.head()
        assert (found, headers["x-a"], reason) == (status, "b", "Nothing")


async def test_chunks_and_trailers_of_an_answer_travel_on(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Digest\r\n\r\n"
        b"5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\nX-Digest: d\r\n\r\n"
    )
    client = await gateway.raw()
    await client.send(f"GET {ALICE}{script(answer)} HTTP/1.1\r\nHost: h\r\n\r\n")
    data = await asyncio.wait_for(client.reader.readuntil(b"X-Digest: d\r\n\r\n"), scaled(20))
    assert b"5\r\nhello\r\n1\r\n!\r\n0\r\n" in data
    assert (await client.ask(ALICE + script(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")))[
        0
    ] == 200


async def test_chunks_of_a_request_travel_on_and_its_trailers_are_left_out(gateway):
    await gateway.session(ALICE, 1)
    client = await gateway.raw()
    await client.send(
        f"POST {ALICE}sink HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Digest: d\r\n\r\n"
    )
    status, _, body = await client.answer()
    assert status == 200
    assert b'"size": 11' in body
    agent = await gateway.session(BOB, 2, payload=SCRIPTED)
    target = BOB + script(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", body=15)
    await client.send(
        f"POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        "5\r\nhello\r\n0\r\nX-Digest: d\r\n\r\n"
    )
    assert (await client.answer())[0] == 200
    assert b"X-Digest" not in await seen(agent, b"5\r\nhello\r\n0\r\n\r\n")


async def test_a_client_may_wait_until_the_server_wants_its_body(gateway):
    agent = await gateway.session(ALICE, payload=SCRIPTED)
    target = ALICE + script(
        b"HTTP/1.1 100 Continue\r\n\r\n",
        more=5,
        finally_=b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    )
    client = await gateway.raw()
    await client.send(
        f"PUT {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    assert (await client.head())[0] == 100
    await client.send("hello")
    assert (await client.head())[0] == 201
    await seen(agent, b"hello")


async def test_a_server_that_does_not_want_the_body_says_so_at_once(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"
    client = await gateway.raw()
    await client.send(
        f"PUT {ALICE}{script(refusal, then='close')} HTTP/1.1\r\nHost: h\r\n"
        "Expect: 100-continue\r\nContent-Length: 5000000\r\n\r\n"
    )
    status, _, body = await client.answer()
    assert (status, body) == (413, b"no!")


async def test_an_answer_that_comes_before_the_body_is_complete_is_not_lost(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"
    client = await gateway.raw()
    size = 2_000_000
    await client.send(
        f"PUT {ALICE}{script(refusal, then='linger')} HTTP/1.1\r\nHost: h\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    sending = asyncio.ensure_future(client.send(b"x" * (size - 1)))
    status, _, body = await client.answer()
    assert (status, body) == (413, b"no!")
    await asyncio.gather(sending, return_exceptions=True)


async def test_early_hints_travel_on(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    client = await gateway.raw()
    await client.send(f"GET {ALICE}{script(hints, answer)} HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await client.head())[1]["link"] == "</x>"
    assert (await client.head())[0] == 200


async def test_an_answer_that_ends_with_its_connection_is_whole(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    answer = b"HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\nas long as it lasts"
    client = await gateway.raw()
    for _ in range(2):
        await client.send(f"GET {ALICE}{script(answer, then='close')} HTTP/1.1\r\nHost: h\r\n\r\n")
        status, headers, body = await client.answer()
        assert (status, body) == (200, b"as long as it lasts")
        assert headers["transfer-encoding"] == "chunked"


async def test_a_client_of_http_1_0_gets_an_answer_that_it_can_read(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    client = await gateway.raw()
    await client.send(f"GET {ALICE}{script(chunks)} HTTP/1.0\r\n\r\n")
    status, headers, _ = await client.head()
    assert status == 200
    assert "transfer-encoding" not in headers
    assert await client.ended() == b"abc"


# --- WebSockets --------------------------------------------------------------------------------------


async def test_websockets_carry_text_and_megabytes_both_ways(gateway):
    await gateway.session(ALICE, 1)
    await gateway.session(BOB, 2)

    async def one(who, number):
        protocol = "v1.kernel.websocket.jupyter.org"
        async with http.ws_connect(
            f"{gateway.base}{who}ws?token=t", protocols=[protocol], max_msg_size=0
        ) as websocket:
            assert websocket.protocol == protocol
            assert await websocket.receive_str() == who
            for turn in range(10):
                await websocket.send_str(f"{number}-{turn}")
                assert await websocket.receive_str() == f"{number}-{turn}"
            data = random.Random(number).randbytes(2_000_000)
            await websocket.send_bytes(data)
            assert await websocket.receive_bytes() == data

    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(one([ALICE, BOB][n % 2], n) for n in range(10)))
    await eventually(lambda: b"gateway_websockets 0.0" in gateway.relay.metrics.render())


async def test_a_websocket_that_the_server_refuses_is_refused(gateway):
    await gateway.session(ALICE, payload=SCRIPTED)
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    client = await gateway.raw()
    for _ in range(2):
        await client.send(
            f"GET {ALICE}{script(refusal)} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        status, _, body = await client.answer()
        assert (status, body) == (403, b"no")


async def test_bytes_that_follow_the_switch_at_once_are_carried(gateway):
    agent = await gateway.session(ALICE, payload=SCRIPTED)
    switch = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: a\r\n\r\nfirst"
    )
    client = await gateway.raw()
    await client.send(
        f"GET {ALICE}{script(switch, more=5, finally_=b'last', then='close')} HTTP/1.1\r\nHost: h\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly"
    )
    status, headers, _ = await client.head()
    assert (status, headers["sec-websocket-accept"]) == (101, "a")
    assert await client.ended() == b"firstlast"
    await seen(agent, b"early")


async def test_a_websocket_ends_at_both_ends(gateway):
    agent = await gateway.session(ALICE)
    async with aiohttp.ClientSession() as http:
        one = await http.ws_connect(f"{gateway.base}{ALICE}ws")
        await one.receive_str()
        await one.close()
        two = await http.ws_connect(f"{gateway.base}{ALICE}ws")
        await two.receive_str()
        await agent.kill()
        assert (await two.receive(timeout=scaled(20))).type in (
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.CLOSE,
        )


# --- streams are kept --------------------------------------------------------------------------------


async def test_a_stream_is_kept_for_the_next_requests_of_its_session(gateway):
    await gateway.session(ALICE)
    clients = [await gateway.raw() for _ in range(3)]
    peers = {(await client.ask(ALICE))[1]["peer"] for client in clients for _ in range(5)}
    assert len(peers) == 1
    assert b'gateway_streams{state="idle"} 1.0' in gateway.relay.metrics.render()
    await eventually(lambda: b'streams{state="idle"} 0.0' in gateway.relay.metrics.render())
    [agent] = gateway.relay.directory.agents()
    assert not agent.streams


async def test_a_stream_that_its_server_closed_meanwhile_costs_nobody_an_answer(gateway):
    agent = await gateway.session(ALICE, payload=SCRIPTED)
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    client = await gateway.raw()
    # The server closes right after its answer, without having said that it would.
    for _ in range(5):
        assert await client.ask(ALICE + script(ok, then="close")) == (200, b"ok")
    assert (agent.folder / "connections").read_text() == "xxxxx"


async def test_a_session_has_only_so_many_requests_at_once(gateway):
    gateway.gateway_limits = type(gateway.gateway_limits)(streams=3, settle_s=0.1)
    await gateway.stop()
    await gateway.start()
    await gateway.session(ALICE)
    clients = [await gateway.raw() for _ in range(5)]
    for client in clients[:3]:
        await client.send(f"GET {ALICE}wait HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually(lambda: b'streams{state="busy"} 3.0' in gateway.relay.metrics.render())
    status, body = await clients[4].ask(ALICE)
    assert (status, body["reason"]) == (503, "The session is too busy")
    clients[0].writer.close()
    await eventually(lambda: b'streams{state="busy"} 2.0' in gateway.relay.metrics.render())
    assert (await clients[4].ask(ALICE))[0] == 200


async def test_a_client_that_leaves_ends_what_it_asked_for(gateway):
    agent = await gateway.session(ALICE)
    client = await gateway.raw()
    await client.send(f"GET {ALICE}wait HTTP/1.1\r\nHost: h\r\n\r\n")
    await eventually((agent.folder / "waiting").exists)
    client.writer.close()
    await eventually(lambda: not (agent.folder / "waiting").exists())


async def test_the_domain_of_a_session_counts_what_the_gateway_carries(gateway):
    await gateway.session(ALICE)
    client = await gateway.raw()
    await client.send(f"GET {ALICE}blob?size=100000 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert len((await client.answer())[2]) == 100_000
    async with Owner(gateway.url, gateway.token) as owner:
        entry = await eventually(lambda: owner.agents.get(f"{DOMAIN}-1"))
    assert entry["serves"] is True
    assert entry["bytes_in"] > 100_000
