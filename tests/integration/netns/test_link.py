"""An agent and its relay on two sides of a real network: it loses everything, and it is slow.

A test's time runs thirty times as fast as the protocol's own: its minute takes two seconds.
"""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from offload_relay.agent.main import EXIT_UNREACHABLE
from offload_relay.protocol import SILENT_BEATS
from tests.support.relaykit import FAST
from tests.support.waiting import eventually, scaled

pytestmark = pytest.mark.netns

SILENT_S = SILENT_BEATS * FAST.heartbeat_s


def phase(kit):
    [agent] = kit.relay.directory.agents()
    return agent.phase.value


async def carry(stream, data):
    """Return what an echo payload sends back, whatever its size."""

    async def send():
        stream.writer.write(data)
        await stream.writer.drain()

    _, back = await asyncio.gather(send(), stream.reader.readexactly(len(data)))
    return back


async def test_a_payload_that_listens_for_its_own_node_alone_is_served_through_the_relay(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    port = int(name.rpartition(":")[2])
    probe = f"import socket; socket.create_connection(('10.98.1.11', {port}), {scaled(2)})"
    there = [*kit.networks.inside("hub"), sys.executable, "-c", probe]
    direct = await asyncio.to_thread(subprocess.run, there, capture_output=True)
    assert b"ConnectionRefusedError" in direct.stderr  # it listens on its own loopback address
    stream = await kit.connected(name)
    assert await stream.echo(b"through the relay") == b"through the relay"


async def test_an_agent_is_back_with_its_endpoint_after_a_minute_without_a_network(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    stream = await kit.connected(name)
    kit.networks.cut()
    await eventually(lambda: phase(kit) == "lost")
    assert await stream.ended() == b""
    # Meanwhile a thief with the same lease knocks, on the hub's side of the broken network.
    kit.inside = kit.networks.inside("hub")
    thief = await kit.agent()
    await eventually(lambda: "another agent of job c7-1 is lost" in thief.log())
    kit.networks.heal()
    await eventually(lambda: phase(kit) == "connected", within_s=20)
    again = await kit.connected(name)
    assert await again.echo(b"still the first one") == b"still the first one"
    assert not (thief.folder / "endpoint").exists()
    assert agent.process.returncode is None


async def test_what_is_sent_while_the_network_blinks_arrives_once_it_is_back(kit):
    stream = await kit.connected(await (await kit.agent()).endpoint())
    kit.networks.cut()
    data = os.urandom(3_000_000)
    back = asyncio.create_task(carry(stream, data))
    began_s = time.monotonic()
    # Packets are lost for a third of the time after which an agent would count as lost.
    await eventually(lambda: time.monotonic() - began_s > SILENT_S / 3)
    assert not back.done()
    kit.networks.heal()
    assert await asyncio.wait_for(back, scaled(30)) == data
    assert phase(kit) == "connected"


async def test_a_job_without_a_network_ends_itself_after_its_grace_time_with_all_it_started(kit):
    agent = await kit.agent(unreachable_s=scaled(2.0))
    await agent.endpoint()
    kit.networks.cut()
    assert await agent.wait() == EXIT_UNREACHABLE
    await eventually(lambda: not pids(kit, "node1"))
    await eventually(lambda: phase(kit) == "lost")


def pids(kit, place):
    listed = ["ip", "netns", "pids", kit.networks.name(place)]
    return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


async def test_a_relay_whose_machine_is_gone_for_good_is_noticed_without_a_reset(kit):
    agent = await kit.agent()
    await agent.endpoint()
    kit.networks.cut()
    await eventually(lambda: "relay:" in agent.log(), within_s=3 * SILENT_S)
    # The relay, too, has let go: no stream or parked connection of the dead network is kept.
    await eventually(lambda: phase(kit) == "lost")
    [at_relay] = kit.relay.directory.agents()
    await eventually(lambda: not at_relay.parked and not at_relay.streams)


async def test_a_big_transfer_over_a_slow_link_is_whole_and_the_agent_stays_connected(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    kit.networks.slow(mbit_per_s=40)
    stream = await kit.connected(name)
    data = os.urandom(10_000_000)  # two seconds each way, both ways at once
    began_s = time.monotonic()
    seen = set()

    async def watch():
        while True:
            seen.add(phase(kit))
            await asyncio.sleep(0.01)

    watcher = asyncio.create_task(watch())
    assert await asyncio.wait_for(carry(stream, data), scaled(60)) == data
    watcher.cancel()
    assert time.monotonic() - began_s > 10_000_000 * 8 / 40e6 * 0.9  # it was slow indeed
    assert seen == {"connected"}


async def test_a_small_message_is_not_stuck_behind_a_big_transfer_on_a_slow_link(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    kit.networks.slow(mbit_per_s=20)
    big, small = await kit.connected(name), await kit.connected(name)
    transfer = asyncio.create_task(carry(big, os.urandom(5_000_000)))
    answered = 0
    while not transfer.done():
        assert await small.echo(b"quick") == b"quick"
        answered += 1
    assert await transfer
    assert answered >= 3


async def test_a_slow_reader_behind_a_slow_link_costs_the_relay_no_memory(kit):
    import psutil

    agent = await kit.agent()
    stream = await kit.connected(await agent.endpoint())
    kit.networks.slow(mbit_per_s=8)
    before = psutil.Process().memory_info().rss
    chunk = bytes(1_000_000)
    stream.writer.transport.set_write_buffer_limits(high=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(scaled(3)):
            while True:  # 200 times as fast as the link could carry it
                stream.writer.write(chunk)
                await stream.writer.drain()
    assert psutil.Process().memory_info().rss - before < 30e6
