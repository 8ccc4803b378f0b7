"""What an agent's payload starts is ended; what cannot be ended is not waited for."""

import asyncio
import os
import signal
import sys

from offload_relay.agent import payload as module
from offload_relay.agent.payload import Payload


async def test_a_process_that_cannot_be_killed_is_named_and_not_waited_for(
    tmp_path, monkeypatch, caplog
):
    # As one that waits for a dead file server, or has become another user.
    spared = []
    monkeypatch.setattr(module, "_kill", spared.append)
    monkeypatch.setattr(module, "_KILL_S", 0.2)
    payload = Payload([sys.executable, "-c", "import time; time.sleep(600)"], os.environ, tmp_path)
    monkeypatch.setattr(payload, "ask_to_finish", lambda: None)
    await payload.start()
    pid = payload._process.pid
    try:
        await asyncio.wait_for(payload.end(0.01), 10)
        assert pid in spared
        assert str(pid) in caplog.text
    finally:
        os.kill(pid, signal.SIGKILL)
        await payload.wait()
