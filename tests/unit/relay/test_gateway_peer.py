"""A client that takes nothing is given up; one that takes a little is not."""

import asyncio

import pytest

from offload_relay.server.gateway_peer import StalledError, TcpPipe


class Writer:
    """Holds `held` bytes, and lets go of `pace` of them each time that somebody has waited."""

    def __init__(self, held, pace):
        self.transport = self
        self.held = held
        self.pace = pace

    def write(self, data):
        self.held += len(data)

    async def drain(self):
        while self.held:
            try:
                await asyncio.sleep(3600)
            finally:
                self.held = max(0, self.held - self.pace)

    def get_write_buffer_size(self):
        return self.held

    def is_closing(self):
        return False


# What asyncio holds before it stops a writer, and less than a chunk.
@pytest.mark.parametrize("held", [1, 70_000, 10_000_000])
async def test_a_client_that_takes_nothing_is_given_up(held):
    with pytest.raises(StalledError):
        await TcpPipe(None, Writer(held, 0), 128 * 1024, stall_s=0.001).write(b"x")


async def test_a_client_that_takes_a_little_is_waited_for():
    writer = Writer(50, 10)
    await TcpPipe(None, writer, 128 * 1024, stall_s=0.001).write(b"x")
    assert writer.held == 0
