"""An agent that takes nothing any more costs its own connections, and no others'."""

import asyncio
import socket

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from offload_relay import protocol
from offload_relay.protocol import encode, parse_message
from tests.support.waiting import eventually, scaled


async def stalled_agent(kit, number=1, **changes):
    """Return the control connection of an agent that asks for much and reads none of the answers."""
    # A small window, so that little is on its way and the rest is with the relay.
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", kit.ports[0]))
    control = await connect(
        kit.url + "/agent",
        additional_headers={
            protocol.INSTANCE_HEADER: "0123456789abcdef",
            "Authorization": f"Bearer {kit.token('agent', number, **changes)}",
        },
        compression=None,
        proxy=None,
        sock=plain,
        max_queue=1,
    )
    await control.send(encode(protocol.Hello(1)))
    assert isinstance(parse_message(await control.recv()), protocol.Welcome)
    control.transport.pause_reading()
    agent = next(a for a in kit.relay.directory.agents() if a.lease.job == f"c7-{number}")
    there = kit.relay.controls[agent]
    there.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    # Each of them is answered, with its whole name twice, until the relay cannot send.
    order = encode(protocol.Register(f"10.0.0.7.{'.'.join(['x' * 60] * 3)}:1"))

    async def ask():
        try:
            while True:
                await control.send(order)
        except ConnectionClosed:
            return

    asking = asyncio.create_task(ask())
    await eventually(lambda: there.paused, within_s=20)
    return agent, asking


async def test_one_that_takes_nothing_is_cut_off_and_the_others_are_still_told_gone(kit):
    agent, asking = await stalled_agent(kit)
    domain = kit.relay.directory.domains["c7"]
    for number in (2, 3):
        await kit.agent(number)
    await eventually(lambda: len(domain.agents) == 3)
    # Nobody watches: the sweep tells all three that they are gone, the stalled one first.
    domain.owner_seen_s = 0.0
    codes = await asyncio.wait_for(asyncio.gather(*(one.wait() for one in kit.agents)), scaled(30))
    assert codes == [0, 0]
    await eventually(lambda: agent not in kit.relay.controls, within_s=30)
    await asyncio.wait_for(asking, scaled(10))


async def test_a_relay_stops_while_an_agent_takes_nothing(kit):
    _, asking = await stalled_agent(kit)
    await asyncio.wait_for(kit.stop(), scaled(30))
    await asyncio.wait_for(asking, scaled(10))
