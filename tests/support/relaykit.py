"""A real relay in this process and real agents in processes of their own, for tests and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from offload_relay.agent.config import AgentConfig
from offload_relay.bundle import write_agent
from offload_relay.heads import parse_response_head, render_request_head
from offload_relay.lease import Lease, new_key, sign
from offload_relay.protocol import Endpoint, Limits
from offload_relay.server import Relay, RelaySettings
from offload_relay.server.gateway_limits import GatewayLimits
from tests.support.waiting import eventually, scaled

#: Times of the protocol in tests: one thirtieth of the real ones, scaled for slow machines.
FAST = Limits(
    heartbeat_s=scaled(0.7),
    lost_grace_s=scaled(6.0),
    owner_grace_s=scaled(60.0),
    first_message_s=scaled(2.0),
    dial_wait_s=scaled(4.0),
    gone_grace_s=scaled(2.0),
)

DOMAIN = "c7"

# Listens, registers, and echoes; writes its endpoint to the file `endpoint`.
ECHO = """
import asyncio, os, pathlib
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    name = f"127.0.0.1.{os.environ['OFFLOAD_NET']}:{port}"
    host, agent = os.environ["OFFLOAD_DIAL"].split(":")
    reader, writer = await asyncio.open_connection(host, int(agent))
    writer.write(f"REGISTER {name} HTTP/1.1\\r\\nProxy-Authorization: Bearer "
                 f"{os.environ['OFFLOAD_DIAL_TOKEN']}\\r\\n\\r\\n".encode())
    answer = await reader.readline()
    pathlib.Path("endpoint.tmp").write_text(name + " " + answer.decode().strip())
    os.rename("endpoint.tmp", "endpoint")
    await reader.read()
asyncio.run(main())
"""


class Kit:
    """A relay with what is needed to use it. `port`s stay the same over `restart`."""

    def __init__(
        self, folder: Path, limits: Limits = FAST, gateway: GatewayLimits | None = None
    ) -> None:
        self.folder = folder
        self.limits = limits
        self.gateway_limits = gateway
        self.key = new_key()
        self.relay: Relay | None = None
        self.ports = (0, 0, 0)
        self.host = "127.0.0.1"
        # Words before an agent's command: what has it run somewhere else.
        self.inside: list[str] = []
        self.agents: list[AgentProcess] = []
        self.streams: list[Stream] = []
        self.archive = write_agent(folder)

    async def start(self) -> None:
        public, dial, gateway = self.ports
        settings = RelaySettings(
            [self.key],
            public=self.public(public),
            dial=("127.0.0.1", dial),
            gateway=("127.0.0.1", gateway) if self.gateway_limits else None,
            limits=self.limits,
            gateway_limits=self.gateway_limits or GatewayLimits(),
        )
        self.relay = await Relay(settings).__aenter__()
        gateway = self.relay.gateway_port if self.gateway_limits else 0
        self.ports = (self.relay.public_port, self.relay.dial_port, gateway)

    def public(self, port: int) -> tuple[str, int] | socket.socket:
        """Return where the relay's public port is to be."""
        return self.host, port

    async def stop(self) -> None:
        relay, self.relay = self.relay, None
        if relay is not None:
            await relay.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.ports[0]}"

    def token(self, role: str = "owner", number: int = 1, **changes: object) -> str:
        return sign(self.lease(role, number, **changes), self.key)

    def lease(self, role: str = "owner", number: int = 1, **changes: object) -> Lease:
        domain = str(changes.get("domain", DOMAIN))
        fields: dict[str, object] = {
            "role": role,
            "user": "alice",
            "domain": domain,
            "expires": datetime.now(UTC) + timedelta(hours=1),
            "dial": (f"*.{domain}",),
        }
        if role == "agent":
            fields |= {"job": f"{domain}-{number}", "net": f"j{number}.local.{domain}"}
        return Lease(**{**fields, **changes})

    async def agent(self, number: int = 1, payload: str = ECHO, **changes: object) -> AgentProcess:
        folder = self.folder / f"job{number}-{len(self.agents)}"
        folder.mkdir()
        (folder / "payload.py").write_text(payload)
        fields: dict[str, object] = {
            "relay": self.url,
            "lease": self.token("agent", number),
            "job": f"{DOMAIN}-{number}",
            "net": f"j{number}.local.{DOMAIN}",
            "payload": ["{python}", "payload.py"],
            "walltime_s": 600.0,
            "unreachable_s": scaled(20.0),
        }
        python = str(changes.pop("python", sys.executable))
        config = AgentConfig(**{**fields, **changes})
        (folder / "agent.json").write_bytes(config.render())
        process = AgentProcess(folder)
        with (folder / "log").open("wb") as log:
            process.process = await asyncio.create_subprocess_exec(
                *(*self.inside, python, str(self.archive), "agent.json"),
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        self.agents.append(process)
        return process

    async def dial(self, endpoint: str, token: str | None = None) -> tuple[int, Stream]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[1])
        stream = Stream(reader, writer)
        self.streams.append(stream)
        token = self.token() if token is None else token
        writer.write(render_request_head("CONNECT", endpoint, token))
        return await stream.status(), stream

    async def connected(self, endpoint: str) -> Stream:
        status, stream = await self.dial(endpoint)
        assert status == 200
        return stream

    async def close(self) -> None:
        for agent in self.agents:
            await agent.kill()
        for stream in self.streams:
            await stream.closed()
        await self.stop()


class Stream:
    """A dialled TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def status(self) -> int:
        data = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), scaled(20))
        head, _ = parse_response_head(data)
        return head.status

    async def echo(self, data: bytes) -> bytes:
        self.writer.write(data)
        await self.writer.drain()
        return await asyncio.wait_for(self.reader.readexactly(len(data)), scaled(20))

    async def ended(self) -> bytes:
        """Return what is left to read once the other side has closed."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), scaled(20))
        return b""

    def close(self) -> None:
        self.writer.close()

    async def closed(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class AgentProcess:
    """An agent with its working directory."""

    process: asyncio.subprocess.Process

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def endpoint(self) -> str:
        """Return the endpoint of an echo payload once it is registered."""
        file = self.folder / "endpoint"
        await eventually(file.exists, within_s=20, saying=self.log())
        name, _, answer = file.read_text().partition(" ")
        assert " 200 " in answer, answer
        return name

    async def wait(self) -> int:
        return await asyncio.wait_for(self.process.wait(), scaled(30))

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "log").read_text()
        return ""

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def endpoint(number: int = 1, port: int = 4) -> str:
    return str(Endpoint("127.0.0.1", f"j{number}.local.{DOMAIN}", port))


def as_json(text: str) -> dict[str, object]:
    return dict(json.loads(text))
