"""What a hostile or broken peer can do to a relay: be refused, and nothing else."""

import asyncio
import http.client
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from offload_relay import protocol
from offload_relay.owner import Owner
from offload_relay.protocol import CloseCode, encode, parse_message
from tests.support.relaykit import FAST, Kit, endpoint
from tests.support.waiting import eventually, scaled

INSTANCE = {protocol.INSTANCE_HEADER: "0123456789abcdef"}


def opened(kit, path, token=None, **headers):
    fields = {**INSTANCE, **headers}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    return connect(kit.url + path, additional_headers=fields, compression=None, proxy=None)


async def hello(kit, number=1, **headers):
    control = await opened(kit, "/agent", kit.token("agent", number), **headers)
    await control.send(encode(protocol.Hello(1)))
    assert isinstance(parse_message(await control.recv()), protocol.Welcome)
    return control


async def close_code(websocket):
    with pytest.raises(ConnectionClosed):
        while True:
            await asyncio.wait_for(websocket.recv(), scaled(20))
    return websocket.close_code


@pytest.mark.parametrize("path", ["/agent", "/park", "/dial/127.0.0.1.j1.local.c7:4", "/watch"])
@pytest.mark.parametrize("token", [None, "", "x", "a.b.c"])
async def test_without_a_lease_there_is_no_websocket(kit, path, token):
    with pytest.raises(InvalidStatus) as refused:
        await opened(kit, path, token)
    assert refused.value.response.status_code == 401


async def test_a_lease_for_an_agent_does_not_watch_and_one_for_an_owner_is_no_agent(kit):
    for path, role in (("/watch", "agent"), ("/agent", "owner"), ("/park", "owner")):
        with pytest.raises(InvalidStatus) as refused:
            await opened(kit, path, kit.token(role))
        assert refused.value.response.status_code == 403


async def test_an_unknown_path_is_not_found(kit):
    with pytest.raises(InvalidStatus) as refused:
        await opened(kit, "/admin", kit.token())
    assert refused.value.response.status_code == 404


async def test_paths_work_behind_a_proxy_that_puts_a_prefix_before_them(kit):
    async with opened(kit, "/services/relay/agent", kit.token("agent")) as control:
        await control.send(encode(protocol.Hello(1)))
        assert isinstance(parse_message(await control.recv()), protocol.Welcome)


async def test_health_is_public_and_says_nothing_more(kit):
    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", kit.ports[0], timeout=10)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    assert await asyncio.to_thread(ask) == (200, b"ok\n")


async def test_an_agent_that_says_nothing_is_dropped(kit):
    control = await opened(kit, "/agent", kit.token("agent"))
    assert await close_code(control) == CloseCode.TOO_SLOW


@pytest.mark.parametrize(
    "frame", ["", "{}", "[]", '{"type": "want", "count": 1}', b"\x00", "x" * 70_000]
)
async def test_an_agent_that_talks_nonsense_is_dropped(kit, frame):
    control = await opened(kit, "/agent", kit.token("agent"))
    await control.send(frame)
    assert await close_code(control) == CloseCode.BAD_MESSAGE


async def test_nonsense_after_hello_drops_the_connection_and_not_the_relay(kit):
    control = await hello(kit)
    await control.send('{"type": "register", "endpoint": 7}')
    assert await close_code(control) == CloseCode.BAD_MESSAGE
    again = await hello(kit)
    await again.close()


async def test_a_message_over_the_limit_is_refused_before_it_is_held_in_memory(kit):
    control = await hello(kit)
    with pytest.raises(ConnectionClosed):
        await control.send(b"x" * (protocol.LIMITS.message_bytes + 1))
        await control.recv()
    assert control.close_code == 1009


async def test_an_endpoint_outside_its_net_is_refused_by_name(kit):
    control = await hello(kit)
    await control.send(encode(protocol.Register("127.0.0.1.j2.local.c7:40001")))
    answer = parse_message(await control.recv())
    assert isinstance(answer, protocol.Refused)
    assert "j1.local.c7" in answer.reason
    await control.close()


async def test_parked_connections_are_limited(tmp_path):
    kit = Kit(tmp_path, protocol.Limits(parked=3, heartbeat_s=FAST.heartbeat_s * 20))
    await kit.start()
    control = await hello(kit)
    parked = [await opened(kit, "/park", kit.token("agent")) for _ in range(3)]
    [at_relay] = kit.relay.directory.agents()
    await eventually(lambda: len(at_relay.parked) == 3)
    one_more = await opened(kit, "/park", kit.token("agent"))
    assert await close_code(one_more) == CloseCode.TOO_MANY
    for websocket in [*parked, control]:
        await websocket.close()
    await kit.close()


async def test_connections_of_one_lease_are_limited(tmp_path):
    kit = Kit(tmp_path, protocol.Limits(streams=3, first_message_s=scaled(20)))
    await kit.start()
    token = kit.token("agent")
    silent = [await opened(kit, "/agent", token) for _ in range(3)]
    one_more = await opened(kit, "/agent", token)
    assert await close_code(one_more) == CloseCode.TOO_MANY
    for websocket in silent:
        await websocket.close()
    await kit.close()


async def test_dials_that_wait_are_limited_for_each_lease(tmp_path):
    kit = Kit(tmp_path, protocol.Limits(waiting_dials=2, dial_wait_s=scaled(3)))
    await kit.start()
    token = kit.token()
    waiting = [asyncio.create_task(kit.dial(endpoint(), token)) for _ in range(2)]
    await eventually(lambda: len(kit.relay.arrivals._waiters.get(endpoint(), ())) == 2)
    status, _ = await kit.dial(endpoint(), token)
    assert status == 429
    assert [status for status, _ in await asyncio.gather(*waiting)] == [504, 504]
    await kit.close()


async def test_a_stolen_lease_cannot_park_beside_the_real_agent(kit):
    control = await hello(kit)
    thief = await opened(
        kit, "/park", kit.token("agent"), **{protocol.INSTANCE_HEADER: "fedcba9876543210"}
    )
    assert await close_code(thief) == CloseCode.TRY_AGAIN
    await control.close()


async def test_an_agent_that_does_not_go_when_it_is_told_to_is_cut_off_with_its_streams(kit):
    control = await hello(kit)
    await control.send(encode(protocol.Register(endpoint())))
    parked = await opened(kit, "/park", kit.token("agent"))
    status, stream = await kit.dial(endpoint())
    assert status == 200
    async with Owner(kit.url, kit.token) as owner:
        await owner.gone(["c7-1"], "its owner has had enough")
        # It hears so, and goes on as if it had not: it is alive, and its streams are open.
        with pytest.raises(ConnectionClosed):
            while True:
                await control.send(encode(protocol.Ping()))
                await asyncio.sleep(FAST.heartbeat_s / 3)
        assert await stream.ended() == b""
        assert await close_code(parked) == 1006
        again = await opened(kit, "/agent", kit.token("agent"))
        await again.send(encode(protocol.Hello(1)))
        assert await close_code(again) == CloseCode.GONE


async def test_an_agent_cannot_say_more_of_itself_than_its_owner_wants_to_read(kit):
    control = await opened(kit, "/agent", kit.token("agent"))
    await control.send(encode(protocol.Hello(1, {"host": "x" * 5000})))
    assert await close_code(control) == CloseCode.BAD_MESSAGE


async def test_an_agent_cannot_say_what_is_too_deep_to_be_told_its_owner(kit):
    deep = []
    for _ in range(500):
        deep = [deep]
    control = await opened(kit, "/agent", kit.token("agent"))
    await control.send(json.dumps({"type": "hello", "version": 1, "info": {"a": deep}}))
    assert await close_code(control) == CloseCode.BAD_MESSAGE


async def test_streams_do_not_outlive_the_time_that_a_lost_agent_is_kept(tmp_path):
    kit = Kit(tmp_path, replace(FAST, lost_grace_s=scaled(1.0)))
    await kit.start()
    control = await hello(kit)
    await control.send(encode(protocol.Register(endpoint())))
    parked = [await opened(kit, "/park", kit.token("agent")) for _ in range(2)]
    status, stream = await kit.dial(endpoint())
    assert status == 200
    # Whoever holds a lease could otherwise keep them for longer than the lease is good.
    await control.close()
    assert await stream.ended() == b""
    assert [await close_code(websocket) for websocket in parked] == [1006, 1006]
    await kit.close()


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("127.0.0.1.hub:22", CloseCode.NOT_ALLOWED),
        ("169.254.169.254.hub:80", CloseCode.NOT_ALLOWED),
        ("127.0.0.1.j1.local.c8:1", CloseCode.NOT_ALLOWED),
        ("nonsense", CloseCode.BAD_MESSAGE),
        ("127.0.0.1.j1.local.c7:1/../../x", CloseCode.BAD_MESSAGE),
    ],
)
async def test_an_agent_dials_only_what_its_lease_names(kit, target, code):
    control = await hello(kit)
    stream = await opened(kit, f"/dial/{target}", kit.token("agent"))
    assert await close_code(stream) == code
    await control.close()


async def test_a_hub_program_that_does_not_answer_is_said_to_the_agent(kit):
    token = kit.token("agent", dial=("127.0.0.1.hub:1",))
    control = await hello(kit)
    stream = await opened(kit, "/dial/127.0.0.1.hub:1", token)
    assert await close_code(stream) == CloseCode.TARGET_REFUSED
    await control.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"CONNECT 127.0.0.1.j1.local.c7:4 HTTP/1.1\r\n\r\n", b" 407 "),
        (b"CONNECT nonsense HTTP/1.1\r\n\r\n", b" 407 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b" 400 "),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b" 404 "),
        (b"DELETE /health HTTP/1.1\r\n\r\n", b" 404 "),
        (b"A" * 10_000, b" 400 "),
    ],
)
async def test_the_dial_port_refuses_what_is_no_dial(kit, request_bytes, status):
    reader, writer = await asyncio.open_connection("127.0.0.1", kit.ports[1])
    writer.write(request_bytes)
    assert status in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_dial_with_a_lease_of_another_cluster_is_refused(kit):
    status, _ = await kit.dial(endpoint(), kit.token(domain="c8"))
    assert status == 403


async def test_a_dial_with_an_expired_lease_is_refused(kit):
    old = kit.token(expires=datetime.now(UTC) - timedelta(hours=1))
    status, _ = await kit.dial(endpoint(), old)
    assert status == 407


async def test_a_client_that_connects_and_says_nothing_is_dropped(kit):
    reader, writer = await asyncio.open_connection("127.0.0.1", kit.ports[1])
    assert await asyncio.wait_for(reader.read(), scaled(20)) == b""
    writer.close()
    await writer.wait_closed()
