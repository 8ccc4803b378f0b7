"""What an owner says to a relay, and keeps of its agents, over a long time."""

import asyncio

from offload_relay import protocol
from offload_relay.owner import Owner
from offload_relay.protocol import encode


class SlowRelay:
    """The WebSocket to a relay that takes its time for each message."""

    def __init__(self):
        self.heard = []

    async def send(self, text):
        await asyncio.sleep(0)
        self.heard.append(protocol.parse_message(text))

    async def recv(self):
        await asyncio.Event().wait()


async def test_more_may_be_gone_while_it_is_said_again_who_is():
    owner, relay = Owner("ws://127.0.0.1:1", str), SlowRelay()
    await owner.gone(["c7-1", "c7-2"], "enough")
    watching = asyncio.create_task(owner._watch(relay))
    await asyncio.sleep(0)
    await owner.gone(["c7-3"], "enough")
    while len(relay.heard) < 2:
        assert not watching.done(), watching.exception()
        await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert [message.jobs for message in relay.heard[:2]] == [["c7-1"], ["c7-2"]]


async def test_agents_that_have_gone_are_forgotten_with_their_jobs():
    owner = Owner("ws://127.0.0.1:1", str)
    states = {"c7-1": "ended", "c7-2": "ended", "c7-3": "connected", "c7-4": "lost"}
    entries = [{"job": job, "state": state} for job, state in states.items()]
    await owner.gone(["c7-1"], "enough")
    owner._hear(protocol.parse_message(encode(protocol.Agents(entries))))
    owner.forget_others({"c7-2"})
    assert set(owner.agents) == {"c7-2", "c7-3"}
    assert owner._gone == {}
