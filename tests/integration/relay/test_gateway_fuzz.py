"""Whatever bytes a client sends, the gateway lives, and nobody is sent what they did not ask for."""

import asyncio
import contextlib
import os
import random
import re

import h11
import pytest

from tests.support.gatewaykit import GatewayLimits, InProcess
from tests.support.waiting import scaled

ALICE, BOB = "/user/alice/", "/user/bob/"
ROUNDS = int(os.environ.get("OFFLOAD_TEST_FUZZ_ROUNDS", "12"))
PARALLEL = 100

# What smuggling is made of: lengths given twice, spaces and controls where none belong, bare line
# feeds, folded lines, names that look alike, a second request where a body might be.
LINES = [
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Content-Length: 5, 6",
    "Content-Length : 5",
    "Content-Length: 0x5",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999999",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: Chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: x, chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding\t: chunked",
    "Transfer_Encoding: chunked",
    " Transfer-Encoding: chunked",
    "Connection: close",
    "Connection: Content-Length",
    "Connection: keep-alive, Host",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "Host: other.example.org",
    "X: a\r\n folded",
    "X: \x00",
    "X: \xff\xfe",
    ": empty",
    "X" * 300 + ": y",
    "X: " + "y" * 70_000,
]
ENDS = ["\r\n"] * 60 + ["\n", "\r", "\r\n\r\n", "\n\n", "\r\n \r\n"]
TARGETS = [
    ALICE,
    ALICE + "x",
    ALICE + "../bob/",
    BOB.upper(),
    "*",
    "//user/bob/",
    "/user/alice",
    "",
]
METHODS = ["GET", "POST", "PUT", "HEAD", "DELETE", "get", "G\x00T", "CONNECT", "TRACE", "PRI", ""]
VERSIONS = ["HTTP/1.1"] * 40 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", ""]
BODIES = [
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "5\nhello\n0\n\n",
    "5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFFFFFF\r\nx",
    "-1\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\n" + "X: y\r\n" * 20_000,
]
SECRET = f"GET {BOB}stolen HTTP/1.1\r\nHost: h\r\n\r\n"


def message(rng):
    """Return the bytes of something like a request, behind which another one may hide."""
    line = [rng.choice(METHODS[:5] * 9 + METHODS), rng.choice(TARGETS[:2] * 9 + TARGETS)]
    text = " ".join([*line, rng.choice(VERSIONS)]) + rng.choice(ENDS)
    text += "Host: h" + rng.choice(ENDS)
    for header in rng.sample(LINES, rng.choice([0, 0, 1, 1, 2, 3])):
        text += header + rng.choice(ENDS)
    text += rng.choice(ENDS)
    hidden = SECRET if rng.random() < 0.5 else ""
    body = rng.choice(BODIES)
    # Inside of what is announced as a body it is a body; anywhere else it is a request of its own.
    text += body[:-3] + hidden + body[-3:] if rng.random() < 0.3 else body + hidden
    data = bytearray(text.encode("latin-1"))
    for _ in range(rng.choice([0, 0, 0, 0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def recording(name, heads):
    """Return a server as careful as h11, which records the targets of all requests it gets."""

    async def serve(reader, writer):
        connection = h11.Connection(h11.SERVER)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                heads.append((name, event.target.decode("latin-1")))
            elif isinstance(event, h11.EndOfMessage):
                answer = h11.Response(status_code=200, headers=[("Content-Length", "0")])
                for out in (answer, h11.EndOfMessage()):
                    writer.write(connection.send(out))
                if connection.our_state is not h11.DONE:
                    return
                connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed):
                return

    return serve


async def answers(kit, data):
    """Return what the gateway says to `data` until it says nothing more."""
    client = await kit.raw()
    kit.streams.remove(client)
    said = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        await client.send(data)
        while more := await asyncio.wait_for(client.reader.read(65536), scaled(0.4)):
            said += more
    await client.closed()
    return said


@pytest.fixture
async def sessions(gateway):
    limits = GatewayLimits(head_s=scaled(1.0), stall_s=scaled(1.0), settle_s=0.0)
    gateway.gateway_limits = limits
    await gateway.stop()
    await gateway.start()
    heads = []
    async with (
        InProcess(gateway, ALICE, 1, recording(ALICE, heads)),
        InProcess(gateway, BOB, 2, recording(BOB, heads)),
    ):
        yield heads


@pytest.mark.parametrize("seed", range(2))
async def test_no_bytes_reach_another_session_or_end_the_gateway(gateway, sessions, seed):
    rng = random.Random(seed)
    reached = {ALICE: 0, BOB: 0}
    for _ in range(ROUNDS):
        sent = [message(rng) for _ in range(PARALLEL)]
        for said in await asyncio.gather(*(answers(gateway, data) for data in sent)):
            # Either nothing at all, or well-formed answers.
            assert re.match(rb"\A(HTTP/1\.1 [1-5]\d\d [ -~]*\r\n|\Z)", said), (said, sent)
        for who, target in sessions:
            assert (target.partition("?")[0] + "/").startswith(who), (who, target, sent)
            reached[who] += 1
        sessions.clear()
    # It was worth the trouble: some of it was good, and some of what hid was a request of its own.
    assert min(reached.values()) > ROUNDS, reached
    client = await gateway.raw()
    assert (await client.ask(ALICE))[0] == 200
    assert (await client.ask(BOB))[0] == 200


@pytest.mark.parametrize("seed", range(2))
async def test_bytes_at_random_are_refused_in_http(gateway, sessions, seed):
    rng = random.Random(100 + seed)
    for _ in range(ROUNDS):
        sent = [rng.randbytes(rng.choice([1, 10, 1000, 100_000])) for _ in range(PARALLEL)]
        for said in await asyncio.gather(*(answers(gateway, data) for data in sent)):
            assert said == b"" or said.startswith(b"HTTP/1.1 4"), said
    assert sessions == []


CHUNKED = "Transfer-Encoding: chunked"
TWICE = [
    ("1.1", "Content-Length: {n}", CHUNKED),
    ("1.1", "Content-Length: 0", "Content-Length: {n}"),
    ("1.1", "Content-Length: 0, {n}"),
    ("1.1", "Content-Length : {n}"),
    ("1.1", CHUNKED, "Transfer-Encoding: identity"),
    ("1.1", "Host: another"),
    ("1.0", CHUNKED),
]


@pytest.mark.parametrize(("version", "lines"), [(first, rest) for first, *rest in TWICE])
async def test_a_length_that_two_readers_may_read_in_two_ways_ends_the_connection(
    gateway, sessions, version, lines
):
    head = "\r\n".join([f"POST {ALICE} HTTP/{version}", "Host: h", *lines, "", ""])
    said = await answers(gateway, (head.format(n=len(SECRET)) + SECRET).encode())
    assert re.match(rb"HTTP/1\.1 (400|501) ", said)
    assert said.count(b"HTTP/1.1 ") == 1
    assert sessions == []


@pytest.mark.parametrize(
    "head",
    [
        "GET {0} HTTP/1.1\nHost: h\n\n",
        "GET {0} HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        "GET {0} HTTP/1.1\r\nHost: h\r\n\n",
        "GET {0} HTTP/1.1\r\nHost: h\r\nX: y\r\n folded\r\n\r\n",
        "GET {0} HTTP/1.1\r\nHost: h\r\nX: y\r\n\tfolded\r\n\r\n",
        "POST {0} HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n 0\r\n\r\n",
        "GET {0} HTTP/1.1\r\nHost: h\rX: y\r\n\r\n",
    ],
)
@pytest.mark.parametrize("pause", ["whole", "bytewise"])
async def test_a_line_that_two_readers_may_end_at_two_places_ends_the_connection(
    gateway, sessions, head, pause
):
    client = await gateway.raw()
    good = f"GET {ALICE} HTTP/1.1\r\nHost: h\r\n\r\n"
    for part in [good, head.format(ALICE)] if pause == "whole" else [*good, *head.format(ALICE)]:
        await client.send(part)
    assert (await client.answer())[0] == 200  # the same, with the ends that it should have
    status, headers, body = await client.answer()
    assert (status, headers["connection"]) == (400, "close")
    assert b"not HTTP" in body
    assert await client.ended() == b""
    assert len(sessions) == 1
