"""What must survive, and what must end: faults of relay, network, site and owner."""

import asyncio
import contextlib
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from offload_relay.agent import link as agent_link
from offload_relay.agent.config import AgentConfig
from offload_relay.agent.main import EXIT_REFUSED, EXIT_UNREACHABLE
from offload_relay.listener import StreamServer
from offload_relay.owner import Owner
from offload_relay.protocol import EXIT_WALLTIME, SILENT_BEATS, Endpoint
from tests.support.relaykit import ECHO, FAST, endpoint
from tests.support.waiting import eventually, scaled
from tests.support.wire import Wire

# Starts a child that leaves its process group and its session, as daemons do; then waits.
DAEMON = """
import os, pathlib, subprocess, sys, time
child = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child, "offload-test-daemon"]).wait()
pathlib.Path("ready").write_text("yes")
time.sleep(600)
"""
IGNORES_TERM = "import pathlib, signal, time\nsignal.signal(15, signal.SIG_IGN)\n" + DAEMON


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


async def test_a_relay_that_restarts_has_its_agents_back_within_ten_seconds(kit):
    agent = await kit.agent()
    name = await agent.endpoint()
    stream = await kit.connected(name)
    for _ in range(3):
        await kit.stop()
        assert await stream.ended() == b""
        await kit.start()
        status, stream = await asyncio.wait_for(kit.dial(name), scaled(10))
        assert status == 200
        assert await stream.echo(b"again") == b"again"
    assert agent.process.returncode is None


async def test_an_agent_whose_network_was_cut_reconnects_and_keeps_its_endpoint(kit):
    async with Wire(kit.ports[0]) as wire:
        agent = await kit.agent(relay=wire.url)
        name = await agent.endpoint()
        stream = await kit.connected(name)
        [at_relay] = kit.relay.directory.agents()
        wire.cut()
        # Sixty seconds in real time are two in this test's: more than the relay waits in silence.
        await eventually(lambda: at_relay.phase.value == "lost")
        assert await stream.ended() == b""
        # Meanwhile a thief with the same lease knocks, from a network that is fine.
        thief = await kit.agent()
        await eventually(lambda: "another agent of job c7-1 is lost" in thief.log())
        wire.heal()
        await eventually(lambda: at_relay.phase.value == "connected", within_s=10)
        again = await kit.connected(name)
        assert await again.echo(b"still the first one") == b"still the first one"
        assert not (thief.folder / "endpoint").exists()
        assert agent.process.returncode is None


async def test_a_stream_over_a_slow_link_is_slow_and_whole(kit):
    async with Wire(kit.ports[0], delay_s=0.05, bytes_per_s=2e6) as wire:
        agent = await kit.agent(relay=wire.url)
        stream = await kit.connected(await agent.endpoint())
        data = os.urandom(500_000)
        assert await stream.echo(data) == data


async def test_a_reader_that_has_stopped_costs_the_agent_nothing_but_that_stream(kit, monkeypatch):
    monkeypatch.setattr(agent_link, "_KEEPALIVE_S", 0.0)  # pings with every heartbeat

    async def flood(_reader, writer):
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)

    config = AgentConfig(kit.url, kit.token("agent"), "c7-1", "j1.local.c7", [], 600)
    link = agent_link.Link(config, {}, lambda reason: pytest.fail(f"gone: {reason}"))
    running = asyncio.create_task(link.run())
    servers = [StreamServer(serve, limit=65536) for serve in (flood, echo)]
    for server in servers:
        await server.start(host="127.0.0.1", port=0)
        await link.register(Endpoint("127.0.0.1", "j1.local.c7", server.port), server)
    stopped, going = [await kit.connected(endpoint(port=server.port)) for server in servers]
    [at_relay] = kit.relay.directory.agents()
    began_s = time.monotonic()
    while time.monotonic() - began_s < 3 * SILENT_BEATS * FAST.heartbeat_s:
        assert await going.echo(b"still here") == b"still here"
        assert at_relay.phase.value == "connected"
        await asyncio.sleep(0.05)
    stopped.close()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    for server in servers:
        await server.stop()


async def test_the_end_of_the_walltime_is_told_right_though_the_relay_was_waited_for(kit):
    await kit.stop()
    began_s = time.time()
    payload = (
        "import os, pathlib, time; pathlib.Path('at').write_text(os.environ['OFFLOAD_ENDS_AT'])"
    )
    agent = await kit.agent(payload=payload)
    await eventually(lambda: time.time() - began_s > 3 and "relay:" in agent.log())
    await kit.start()
    assert await agent.wait() == 0
    ends_at_s = int((agent.folder / "at").read_text())
    assert ends_at_s - began_s < 600 + 2


async def test_a_job_that_is_told_gone_ends_within_seconds_with_all_that_it_started(kit):
    agent = await kit.agent(payload=DAEMON)
    await eventually((agent.folder / "ready").exists)
    assert len(processes_in(agent.folder)) == 3
    async with Owner(kit.url, kit.token) as owner:
        await owner.gone(["c7-1"], "scaled down")
        assert await agent.wait() == 0
        seen = await eventually(lambda: owner.agents.get("c7-1", {}).get("reason"))
    assert seen == "nobody needs this job any more: scaled down"
    assert processes_in(agent.folder) == []


async def test_a_job_that_starts_after_its_cluster_has_gone_starts_no_payload(kit):
    async with Owner(kit.url, kit.token) as owner:
        await owner.gone([], "its cluster has ended")
        await eventually(lambda: "c7" in kit.relay.directory.domains)
        late = await kit.agent(payload="import pathlib; pathlib.Path('started').touch()")
        assert await late.wait() == 0
        assert not (late.folder / "started").exists()


async def test_an_owner_watches_with_a_new_lease_once_its_old_one_has_ended(kit):
    spare = timedelta(seconds=28)  # of the 30 s that clocks may differ
    ends = iter([datetime.now(UTC) - spare, datetime.now(UTC) + timedelta(hours=1)])
    signed, troubles = [], []

    def lease():
        signed.append(kit.token(expires=next(ends)))
        return signed[-1]

    def changed():
        troubles.append(owner.trouble)

    async with Owner(kit.url, lease, changed) as owner:
        await eventually(lambda: len(signed) == 2 and not owner.trouble)
        agent = await kit.agent()
        await eventually(lambda: "c7-1" in owner.agents)
        await owner.gone([], "enough")
        assert await agent.wait() == 0
    assert any("has expired" in trouble for trouble in troubles)


async def test_it_is_said_again_to_a_relay_that_has_forgotten_who_is_gone(kit):
    async with Owner(kit.url, kit.token) as owner:
        await eventually(lambda: not owner.trouble)
        await owner.gone(["c7-1"], "scaled down")
        await kit.stop()
        await kit.start()
        agent = await kit.agent()
        assert await agent.wait() == 0


@pytest.mark.parametrize("payload", [DAEMON, IGNORES_TERM], ids=["daemon", "ignores SIGTERM"])
async def test_a_job_that_its_site_ends_leaves_no_process(kit, payload):
    agent = await kit.agent(payload=payload)
    await eventually((agent.folder / "ready").exists)
    agent.process.terminate()
    assert await agent.wait() == 128 + signal.SIGTERM
    assert processes_in(agent.folder) == []


async def test_a_payload_does_not_outlive_its_agent(kit):
    agent = await kit.agent()
    await agent.endpoint()
    agent.process.kill()
    await eventually(lambda: processes_in(agent.folder) == [])


async def test_an_agent_that_cannot_reach_its_relay_ends_after_its_grace_time(kit):
    await kit.stop()
    agent = await kit.agent(unreachable_s=scaled(1.0))
    assert await agent.wait() == EXIT_UNREACHABLE
    assert "no connection to the relay for" in agent.log()


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("alice:secret@squid.invalid:3128", "what the environment names as the proxy is none"),
        ("http://alice:secret@squid.invalid:port", "ValueError"),
        ("socks5://alice:secret@127.0.0.1:1", "python-socks"),
    ],
)
async def test_a_proxy_that_is_none_ends_the_job_with_a_reason_and_no_password(
    kit, monkeypatch, proxy, said
):
    monkeypatch.setenv("http_proxy", proxy)
    agent = await kit.agent(relay="ws://relay.invalid:1", unreachable_s=scaled(2.0))
    assert await agent.wait() == EXIT_UNREACHABLE
    assert f"no connection to the relay for {scaled(2.0):.0f} s" in agent.log()
    assert said in agent.log()
    assert "secret" not in agent.log()


async def test_something_else_at_the_address_of_the_relay_ends_the_job_with_a_reason(kit):
    async def redirect(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1/\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        agent = await kit.agent(relay=f"ws://127.0.0.1:{port}", unreachable_s=scaled(2.0))
        assert await agent.wait() == EXIT_UNREACHABLE
        assert "InvalidURI" in agent.log()
        async with Owner(f"ws://127.0.0.1:{port}", kit.token) as owner:
            await eventually(lambda: "InvalidURI" in owner.trouble)


async def test_an_agent_that_loses_its_relay_for_good_ends_its_payload(kit):
    agent = await kit.agent(unreachable_s=scaled(2.0))
    await agent.endpoint()
    await kit.stop()
    assert await agent.wait() == EXIT_UNREACHABLE
    assert processes_in(agent.folder) == []


async def test_a_lease_of_another_relay_ends_the_job_and_says_so(kit):
    kit_key, kit.key = kit.key, b"another key of thirty-two bytes!"
    forged = kit.token("agent", 1)
    kit.key = kit_key
    agent = await kit.agent(lease=forged, unreachable_s=scaled(1.0))
    assert await agent.wait() == EXIT_REFUSED
    assert "the lease was not signed for this relay" in agent.log()
    assert forged[:30] not in agent.log()


async def test_an_expired_lease_ends_the_job_and_says_so(kit):
    old = kit.token("agent", 1, expires=datetime.now(UTC) - timedelta(minutes=5))
    agent = await kit.agent(lease=old, unreachable_s=scaled(1.0))
    assert await agent.wait() == EXIT_REFUSED
    assert "expired at" in agent.log()


async def test_a_job_ends_when_its_lease_does_though_it_is_connected(kit):
    # A lease is good for half a minute longer than it says, since clocks differ.
    soon = datetime.now(UTC) - timedelta(seconds=30 - scaled(3))
    agent = await kit.agent(lease=kit.token("agent", 1, expires=soon))
    await agent.endpoint()
    assert await agent.wait() == 0
    assert "nobody needs this job any more: its lease has expired" in agent.log()
    assert processes_in(agent.folder) == []


async def test_near_the_end_of_the_walltime_the_payload_is_asked_to_finish(kit):
    polite = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(15, lambda *_: (pathlib.Path('asked').touch(), sys.exit(0)))\n"
        "time.sleep(600)\n"
    )
    agent = await kit.agent(payload=polite, walltime_s=scaled(4.0), drain_s=scaled(1.0))
    assert await agent.wait() == 0
    assert (agent.folder / "asked").exists()


async def test_a_payload_that_does_not_finish_is_ended_with_the_walltime(kit):
    agent = await kit.agent(payload=IGNORES_TERM, walltime_s=scaled(4.0), drain_s=scaled(1.0))
    assert await agent.wait() == EXIT_WALLTIME
    assert "its walltime was used up" in agent.log()
    assert processes_in(agent.folder) == []


async def test_a_payload_that_cannot_be_started_is_a_sentence_for_the_owner(kit):
    async with Owner(kit.url, kit.token) as owner:
        agent = await kit.agent(payload="", walltime_s=60.0)
        assert await agent.wait() == 0
        missing = await kit.agent(2, lease=kit.token("agent", 2), job="c7-2", net="j2.local.c7")
        await missing.kill()
        config = missing.folder / "agent.json"
        config.write_text(config.read_text().replace("{python}", "/no/such/jupyterhub-singleuser"))
        again = await asyncio.create_subprocess_exec(
            *_command(kit, missing), cwd=missing.folder, stderr=asyncio.subprocess.DEVNULL
        )
        assert await asyncio.wait_for(again.wait(), scaled(60)) == 78
        seen = await eventually(lambda: owner.agents.get("c7-2", {}).get("reason"))
        assert seen == "cannot start '/no/such/jupyterhub-singleuser': No such file or directory"


def _command(kit, agent):
    import sys

    return [sys.executable, str(kit.archive), str(agent.folder / "agent.json")]


async def test_a_payload_killed_by_a_signal_is_told_apart_from_one_that_failed(kit):
    async with Owner(kit.url, kit.token) as owner:
        agent = await kit.agent(payload="import os; os.kill(os.getpid(), 9)")
        assert await agent.wait() == 128 + 9
        seen = await eventually(lambda: owner.agents.get("c7-1", {}).get("reason"))
        assert seen == "the payload was killed by signal 9 (SIGKILL)"


async def test_agents_are_not_disturbed_when_their_owner_comes_and_goes(kit):
    agent = await kit.agent(payload=ECHO)
    name = await agent.endpoint()
    for _ in range(3):
        async with Owner(kit.url, kit.token) as owner:
            await eventually(lambda: owner.agents.get("c7-1"))
    stream = await kit.connected(name)
    assert await stream.echo(b"here") == b"here"


async def test_a_broken_configuration_is_a_sentence_and_an_exit_code(kit, tmp_path):
    import sys

    (tmp_path / "bad.json").write_text('{"lease": "secret-token"}')
    ran = await asyncio.create_subprocess_exec(
        sys.executable, str(kit.archive), str(tmp_path / "bad.json"), stderr=asyncio.subprocess.PIPE
    )
    _, said = await ran.communicate()
    assert ran.returncode == 2
    assert b"lacks a field" in said
    assert b"secret-token" not in said


async def test_an_agent_that_fails_itself_ends_its_job_and_says_so(kit):
    """Else it would hold its node for the rest of the walltime, with nothing in it."""
    agent = await kit.agent(environment={"NAME": "no system call takes a \0"})
    assert await agent.wait() == 70
    assert "ended: the agent itself has failed (ValueError)" in agent.log()


async def test_a_report_that_cannot_be_read_is_none(kit):
    deep = "import os; open(os.environ['OFFLOAD_REPORT'], 'w').write('[' * 60000)"
    agent = await kit.agent(payload=deep)
    assert await agent.wait() == 0
    assert "ended: the payload ended with exit code 0" in agent.log()
