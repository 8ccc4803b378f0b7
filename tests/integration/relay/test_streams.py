"""Bytes travel through a real relay and a real agent, and nothing else does."""

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from offload_relay.owner import Owner
from tests.support.relaykit import DOMAIN, ECHO, endpoint
from tests.support.waiting import eventually, scaled
from tests.support.wire import Wire


def pythons():
    """All interpreters of this machine that the agent promises to run on."""
    found = {}
    places = [Path(p) for p in os.environ.get("PATH", "").split(":")]
    places += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for place in places:
        for minor in range(9, 15):
            python = shutil.which(f"python3.{minor}", path=str(place))
            if minor not in found and python and "shims" not in python:
                ran = subprocess.run([python, "-c", ""], check=False, capture_output=True)
                if ran.returncode == 0:
                    found[minor] = python
    return [pytest.param(found[minor], id=f"3.{minor}") for minor in sorted(found)]


@pytest.mark.parametrize("python", pythons())
async def test_an_agent_in_any_python_since_3_9_serves_its_payload(kit, python):
    agent = await kit.agent(python=python)
    stream = await kit.connected(await agent.endpoint())
    assert await stream.echo(b"hello") == b"hello"


async def test_what_is_sent_arrives_whole_in_order_on_many_streams_at_once(kit):
    agent = await kit.agent()
    name = await agent.endpoint()

    async def one(seed):
        stream = await kit.connected(name)
        rng = random.Random(seed)
        for _ in range(20):
            data = rng.randbytes(rng.choice([1, 100, 65_537, 300_000]))
            assert hashlib.sha256(await stream.echo(data)).digest() == hashlib.sha256(data).digest()
        stream.close()

    await asyncio.gather(*(one(seed) for seed in range(12)))
    [at_relay] = kit.relay.directory.agents()
    await eventually(lambda: not at_relay.streams)
    assert at_relay.bytes_in == at_relay.bytes_out > 12 * 20


async def test_a_hundred_dials_at_once_are_all_served(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    streams = await asyncio.gather(*(kit.connected(name) for _ in range(100)))
    assert await asyncio.gather(*(s.echo(b"x" * i) for i, s in enumerate(streams, 1)))


async def test_the_end_of_one_side_is_the_end_of_the_other(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    stream = await kit.connected(name)
    await stream.echo(b"one")
    await agent.kill()
    assert await stream.ended() == b""


async def test_a_slow_reader_stops_the_writer_instead_of_filling_memory(kit):
    flood = ECHO.replace(
        "while data := await reader.read(65536):\n        writer.write(data)",
        "while True:\n        writer.write(b'x' * 262144)",
    )
    agent = await kit.agent(payload=flood)
    stream = await kit.connected(await agent.endpoint())
    [at_relay] = kit.relay.directory.agents()
    await eventually(lambda: at_relay.bytes_in > 0)

    async def stalled():
        before = at_relay.bytes_in
        await asyncio.sleep(scaled(0.5))
        return at_relay.bytes_in == before

    await eventually(stalled, within_s=30)
    # Buffers of the kernel and of three programs, none of which grows.
    assert at_relay.bytes_in < 40 * 2**20
    stream.writer.transport.abort()


async def test_an_endpoint_that_nobody_serves_is_refused_after_a_while_with_a_sentence(kit):
    status, stream = await kit.dial(endpoint(9))
    assert status == 504
    stream.close()


async def test_a_dial_waits_for_an_agent_that_is_on_its_way(kit):
    dial = asyncio.create_task(kit.dial("127.0.0.1.j1.local.c7:45999"))
    await asyncio.sleep(0)
    fixed = ECHO.replace('"127.0.0.1", 0)', '"127.0.0.1", 45999)')
    await kit.agent(payload=fixed)
    status, stream = await dial
    assert status == 200
    assert await stream.echo(b"late") == b"late"


async def test_a_payload_reaches_another_payload_through_the_relay(kit):
    server = await kit.agent(1)
    name = await server.endpoint()
    client = (
        "import os, pathlib, socket\n"
        "host, port = os.environ['OFFLOAD_DIAL'].split(':')\n"
        "s = socket.create_connection((host, int(port)))\n"
        f"s.sendall(('CONNECT {name} HTTP/1.1\\r\\nProxy-Authorization: Bearer '"
        " + os.environ['OFFLOAD_DIAL_TOKEN'] + '\\r\\n\\r\\n').encode())\n"
        "head = s.recv(1000)\n"
        "s.sendall(b'hello'); got = s.recv(100)\n"
        "pathlib.Path('got').write_bytes(head.split(b' ')[1] + b' ' + got)\n"
    )
    agent = await kit.agent(2, payload=client)
    assert await agent.wait() == 0
    assert (agent.folder / "got").read_bytes() == b"200 hello"


async def test_a_payload_reaches_only_those_hub_programs_that_its_lease_names(kit):
    async def greet(_reader, writer):
        writer.write(b"hub")
        await writer.drain()
        writer.close()

    hub = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = hub.sockets[0].getsockname()[1]
    client = (
        "import os, pathlib, socket\n"
        "host, port = os.environ['OFFLOAD_DIAL'].split(':')\n"
        "s = socket.create_connection((host, int(port)))\n"
        f"s.sendall(('CONNECT 127.0.0.1.hub:{port} HTTP/1.1\\r\\nProxy-Authorization: Bearer '"
        " + os.environ['OFFLOAD_DIAL_TOKEN'] + '\\r\\n\\r\\n').encode())\n"
        "data = b''\n"
        "while more := s.recv(1000): data += more\n"
        "pathlib.Path('got').write_bytes(data[-3:])\n"
    )
    named = await kit.agent(1, client, lease=kit.token("agent", 1, dial=(f"127.0.0.1.hub:{port}",)))
    other = await kit.agent(2, client)
    assert await named.wait() == 0
    assert await other.wait() == 0
    assert (named.folder / "got").read_bytes() == b"hub"
    assert (other.folder / "got").read_bytes() != b"hub"
    hub.close()


async def test_another_process_on_the_node_cannot_use_the_agents_port(kit):
    leak = ECHO.replace(
        "answer = await reader.readline()",
        "pathlib.Path('dial').write_text(os.environ['OFFLOAD_DIAL'])\n"
        "    answer = await reader.readline()",
    )
    agent = await kit.agent(payload=leak)
    name = await agent.endpoint()
    host, port = (agent.folder / "dial").read_text().split(":")
    for token in ("", "wrong"):
        reader, writer = await asyncio.open_connection(host, int(port))
        bearer = f"Proxy-Authorization: Bearer {token}\r\n" if token else ""
        writer.write(f"CONNECT {name} HTTP/1.1\r\n{bearer}\r\n".encode())
        assert b" 407 " in await reader.readline()
        writer.close()


async def test_an_endpoint_goes_when_the_process_that_listens_dies(kit):
    mortal = ECHO.replace("await reader.read()\n", "os.kill(os.getpid(), 9)\n")
    parent = (
        "import pathlib, subprocess, sys, time\n"
        "pathlib.Path('child.py').write_text(" + repr(mortal) + ")\n"
        "subprocess.run([sys.executable, 'child.py'])\n"
        "time.sleep(600)\n"
    )
    agent = await kit.agent(payload=parent)
    await agent.endpoint()
    [at_relay] = kit.relay.directory.agents()
    await eventually(lambda: not at_relay.endpoints)


async def test_an_owner_sees_its_agents_come_and_go_and_their_last_words(kit):
    async with Owner(kit.url, kit.token) as owner:
        agent = await kit.agent(payload="import sys; sys.exit(3)")
        seen = await eventually(
            lambda: owner.agents.get("c7-1", {}).get("state") == "ended" and owner.agents["c7-1"]
        )
        assert seen["exit_code"] == 3
        assert seen["reason"] == "the payload ended with exit code 3"
        assert seen["info"]["python"]
        assert await agent.wait() == 3


async def test_an_owner_sees_nothing_of_others(kit):
    async with (
        Owner(kit.url, lambda: kit.token(domain="c8")) as stranger,
        Owner(kit.url, kit.token) as own,
    ):
        await kit.agent()
        await eventually(lambda: own.agents)
        await stranger.gone([], "mischief")
        await eventually(lambda: "c8" in kit.relay.directory.domains)
        assert not stranger.agents
        [at_relay] = kit.relay.directory.agents()
        assert at_relay.phase.value == "connected"
        assert at_relay.lease.domain == DOMAIN


async def test_metrics_and_health_are_on_the_private_port_and_name_nobody(kit):
    agent = await kit.agent()
    await agent.endpoint()

    async def get(path):
        reader, writer = await asyncio.open_connection("127.0.0.1", kit.ports[1])
        writer.write(f"GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return text

    assert "200 OK" in await get("/health")
    metrics = await get("/metrics")
    assert 'offload_relay_agents{state="connected"} 1.0' in metrics
    assert "offload_relay_bytes_total" in metrics
    assert "alice" not in metrics
    assert "404" in await get("/")


async def test_what_a_payload_sends_is_on_the_wire_as_it_is_since_masking_costs_more_than_all_else(
    kit,
):
    async with Wire(kit.ports[0]) as wire:
        agent = await kit.agent(relay=wire.url)
        stream = await kit.connected(await agent.endpoint())
        data = os.urandom(1000)
        assert await stream.echo(data) == data
    # On its way there a server's frame is never masked; on the way back an agent's frame has key 0.
    assert wire.seen.count(data) == 2


# Registers one endpoint twice, as a process that was started again on the same port does, and lets
# the first registration go only then. A second endpoint tells when the relay has heard all of it.
TWICE = ECHO.replace(
    "await reader.read()\n",
    """
    async def hold(name):
        reader, writer = await asyncio.open_connection(host, int(agent))
        writer.write(f"REGISTER {name} HTTP/1.1\\r\\nProxy-Authorization: Bearer "
                     f"{os.environ['OFFLOAD_DIAL_TOKEN']}\\r\\n\\r\\n".encode())
        assert b" 200 " in await reader.readline()
        return writer
    again = await hold(name)
    writer.close()
    await writer.wait_closed()
    other = await hold(f"127.0.0.1.{os.environ['OFFLOAD_NET']}:9")
    pathlib.Path("twice").touch()
    await asyncio.sleep(600)
""",
)


async def test_an_endpoint_that_is_held_anew_stays_when_its_former_holder_goes(kit):
    agent = await kit.agent(payload=TWICE)
    name = await agent.endpoint()
    await eventually((agent.folder / "twice").exists, saying=agent.log())
    stream = await kit.connected(name)
    assert await stream.echo(b"still there") == b"still there"


# Sends as many bytes as it is asked for, and closes at once.
SENDS = ECHO.replace(
    """    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
""",
    """    writer.write(bytes(int(await reader.readexactly(8))))
    await writer.drain()
""",
)


async def test_what_was_sent_before_the_end_reaches_a_reader_that_pauses(kit):
    agent = await kit.agent(payload=SENDS)
    name = await agent.endpoint()

    async def lost(size):
        """Return how many of `size` bytes are missing if the reader pauses before it reads."""
        stream = await kit.connected(name)
        stream.writer.write(b"%8d" % size)
        # Longer than a WebSocket waits for the other side's word when it closes (5 s at most).
        began_s = time.monotonic()
        await eventually(lambda: time.monotonic() - began_s > 7)
        got = 0
        while data := await asyncio.wait_for(stream.reader.read(2**20), scaled(60)):
            got += len(data)
        return size - got

    # What the system's own buffers hold is not known: of many sizes some end in ours.
    sizes = [250_000 * number for number in range(4, 60)]
    assert await asyncio.gather(*map(lost, sizes)) == [0] * len(sizes)
