"""Sessions behind a gateway: real agents whose payload is a real HTTP server, and a scripted one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import h11

from offload_relay.agent.config import AgentConfig
from offload_relay.agent.link import Link
from offload_relay.protocol import Endpoint
from offload_relay.server.gateway_limits import GatewayLimits
from tests.support.relaykit import DOMAIN, FAST, AgentProcess, Kit
from tests.support.waiting import eventually, scaled

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: Times of the gateway in tests, scaled for slow machines.
FAST_GATEWAY = GatewayLimits(
    head_s=scaled(2.0),
    stall_s=scaled(3.0),
    settle_s=scaled(0.3),
    open_s=scaled(6.0),
    pooled_s=scaled(2.0),
)

# Registers `port` as the server of this session, and waits until its agent has gone.
_REGISTER = """
async def register(port):
    name = f"127.0.0.1.{os.environ['OFFLOAD_NET']}:{port}"
    host, agent = os.environ["OFFLOAD_DIAL"].split(":")
    reader, writer = await asyncio.open_connection(host, int(agent))
    writer.write(f"REGISTER {name} HTTP/1.1\\r\\nProxy-Authorization: Bearer "
                 f"{os.environ['OFFLOAD_DIAL_TOKEN']}\\r\\nOffload-Serves: yes\\r\\n\\r\\n".encode())
    answer = await reader.readline()
    pathlib.Path("endpoint.tmp").write_text(name + " " + answer.decode().strip())
    os.rename("endpoint.tmp", "endpoint")
    await reader.read()
"""

#: An HTTP server that says who it is, echoes, streams, and speaks WebSocket.
SERVER = (
    """
import asyncio, hashlib, json, os, pathlib
from aiohttp import WSMsgType, web
who = os.environ.get("WHO", "")
ticks = asyncio.Event()
async def whoami(request):
    body = await request.read()
    return web.json_response(
        {"who": who, "target": request.raw_path, "method": request.method,
         "headers": list(map(list, request.headers.items())), "body": len(body),
         "pid": os.getpid(), "peer": request.transport.get_extra_info("peername")[1]},
        headers={"X-JupyterHub-Version": "6.1.1"})
async def sink(request):
    digest, size = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        size += len(chunk)
    return web.json_response({"who": who, "size": size, "sha256": digest.hexdigest()})
async def blob(request):
    left = int(request.query["size"])
    block = (who + "x" * 65536).encode()[:65536]
    answer = web.StreamResponse(headers={"X-Who": who})
    if "chunked" not in request.query:
        answer.content_length = left
    await answer.prepare(request)
    if request.method == "HEAD":
        return answer
    while left:
        await answer.write(block[:left])
        left -= min(left, len(block))
    return answer
async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    pathlib.Path("events").touch()
    number = 0
    try:
        while True:
            await ticks.wait()
            ticks.clear()
            number += 1
            await answer.write(f"data: {number}\\n\\n".encode())
    finally:
        pathlib.Path("events").unlink()
async def tick(request):
    ticks.set()
    return web.Response()
async def wait(request):
    pathlib.Path("waiting").touch()
    try:
        await asyncio.sleep(3600)
    finally:
        pathlib.Path("waiting").unlink()
async def websocket(request):
    socket = web.WebSocketResponse(protocols=["v1.kernel.websocket.jupyter.org"], max_msg_size=0)
    await socket.prepare(request)
    await socket.send_str(who)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    return socket
"""
    + _REGISTER
    + """
async def main():
    app = web.Application(client_max_size=2**40)
    for name, handler in [("sink", sink), ("blob", blob), ("events", events), ("tick", tick),
                          ("ws", websocket), ("wait", wait), ("{rest:.*}", whoami)]:
        app.router.add_route("*", os.environ["ROUTE"] + name, handler)
    runner = web.AppRunner(app, handler_cancellation=True, keepalive_timeout=3600)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await register(site._server.sockets[0].getsockname()[1])
asyncio.run(main())
"""
)

#: Answers with exactly the bytes that the request's query names, in base64: `?answer=…&then=close`
#: (or `then=linger`, which reads what still comes before it closes).
#: Writes each request as it came, with its body so far, into the file `requests`.
SCRIPTED = (
    """
import asyncio, base64, os, pathlib, urllib.parse
async def serve(reader, writer):
    pathlib.Path("connections").open("a").write("x")
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(head.split(b" ")[1].decode()).query)
            with pathlib.Path("requests").open("ab") as file:
                file.write(head)
            if "body" in query:
                body = await reader.readexactly(int(query["body"][0]))
                with pathlib.Path("requests").open("ab") as file:
                    file.write(body)
            for part in query.get("answer", []):
                writer.write(base64.urlsafe_b64decode(part))
                await writer.drain()
            if "more" in query:
                with pathlib.Path("requests").open("ab") as file:
                    file.write(await reader.readexactly(int(query["more"][0])))
            for part in query.get("finally", []):
                writer.write(base64.urlsafe_b64decode(part))
                await writer.drain()
            if query.get("then") == ["linger"]:
                while await reader.read(65536):
                    pass
            if "then" in query:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()
"""
    + _REGISTER
    + """
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await register(server.sockets[0].getsockname()[1])
asyncio.run(main())
"""
)


class GatewayKit(Kit):
    """A relay with a gateway."""

    def __init__(self, folder: Path, limits: GatewayLimits = FAST_GATEWAY) -> None:
        super().__init__(folder, FAST, limits)

    @property
    def gateway_port(self) -> int:
        return self.ports[2]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.ports[2]}"

    async def session(
        self, route: str, number: int = 1, payload: str = SERVER, **changes: object
    ) -> AgentProcess:
        """Start a session that answers for `route`, and wait until its server is registered."""
        who = str(changes.pop("who", route))
        token = self.token("agent", number, route=route)
        environment = {"WHO": who, "ROUTE": route}
        agent = await self.agent(number, payload, lease=token, environment=environment, **changes)
        await agent.endpoint()
        return agent

    async def raw(self) -> RawClient:
        """Return a connection to the gateway, as a proxy keeps in its pool."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway_port)
        client = RawClient(reader, writer)
        self.streams.append(client)  # type: ignore[arg-type]
        return client


class InProcess:
    """An agent's link and a server, both in this process: for tests that need many, or fast ones.

    `serve(reader, writer)` answers one connection.
    """

    def __init__(self, kit: Kit, route: str, number: int, serve: Serve) -> None:
        self._kit = kit
        self._number = number
        self._serve = serve
        self._lease = kit.token("agent", number, route=route)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> InProcess:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        net = f"j{self._number}.local.{DOMAIN}"
        config = AgentConfig(self._kit.url, self._lease, f"{DOMAIN}-{self._number}", net, [], 600.0)
        self.link = Link(config, {}, lambda reason: None)
        self._run = asyncio.create_task(self.link.run())
        port = self.server.sockets[0].getsockname()[1]
        await self.link.register(Endpoint("127.0.0.1", net, port), self, serves=True)
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A cancellation, too: before Python 3.12 asyncio's server fails at a task that ends so.
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, h11.ProtocolError, asyncio.CancelledError
            ):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def __aexit__(self, *exc_info: object) -> None:
        self._run.cancel()
        await asyncio.gather(self._run, return_exceptions=True)
        self.server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class RelayProcess:
    """`offload relay` as a process of its own, to be measured, for a `Kit` that starts none."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def __aenter__(self) -> RelayProcess:
        sockets = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(3)]
        self._kit.ports = tuple(s.getsockname()[1] for s in sockets)
        key = self._kit.folder / "relay.key"
        key.touch(mode=0o600)
        key.write_bytes(self._kit.key)
        names = ("--public", "--dial", "--gateway")
        where = [
            word for n, s in zip(names, sockets, strict=True) for word in (n, f"fd:{s.fileno()}")
        ]
        with (self._kit.folder / "relay.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "offload_cli", "relay", "--key-file", str(key), *where),
                pass_fds=[s.fileno() for s in sockets],
                stderr=log,
            )
        for each in sockets:
            each.close()
        # The sockets have been there all the time: it lives when it answers.
        reader, writer = await asyncio.open_connection("127.0.0.1", self._kit.ports[1])
        writer.write(b"GET /health HTTP/1.1\r\n\r\n")
        assert b"ok" in await asyncio.wait_for(reader.read(), scaled(30))
        writer.close()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.process.terminate()
        await self.process.wait()

    @property
    def memory_bytes(self) -> int:
        """What it has in memory now."""
        return self._status("VmRSS")

    @property
    def peak_bytes(self) -> int:
        """The most that it ever had in memory."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in text.splitlines() if line.startswith(name + ":")]
        return int(line.split()[1]) * 1024


class RawClient:
    """Sends bytes as they are, and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str], str]:
        """Return status, headers and reason of the next answer."""
        data = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), scaled(20))
        first, *lines = data.decode("latin-1").split("\r\n")[:-2]
        _, status, reason = first.split(" ", 2)
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        return int(status), headers, reason

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return the next answer with its body, whose length is given or which is chunked."""
        status, headers, _ = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, await self._chunks()
        size = int(headers.get("content-length", "0"))
        return status, headers, await asyncio.wait_for(self.reader.readexactly(size), scaled(20))

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await asyncio.wait_for(self.reader.readline(), scaled(20)), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readline() == b"\r\n"
        while await self.reader.readline() != b"\r\n":
            pass
        return body

    async def ask(self, target: str, method: str = "GET", *headers: str) -> tuple[int, object]:
        """Return status and JSON of one request on this connection."""
        lines = [f"{method} {target} HTTP/1.1", "Host: hub.example.org", *headers]
        await self.send("\r\n".join(lines) + "\r\n\r\n")
        status, _, body = await self.answer()
        with contextlib.suppress(ValueError):
            return status, json.loads(body)
        return status, body

    async def ended(self) -> bytes:
        """Return what is left to read once the gateway has closed."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), scaled(20))
        return b""

    async def closed(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def script(*parts: bytes, then: str = "", finally_: bytes = b"", **numbers: int) -> str:
    """Return the query that makes `SCRIPTED` answer with `parts`."""
    query = [f"answer={quote(base64.urlsafe_b64encode(part))}" for part in parts]
    query += [f"{name}={number}" for name, number in numbers.items()]
    if finally_:
        query.append(f"finally={quote(base64.urlsafe_b64encode(finally_))}")
    if then:
        query.append(f"then={then}")
    return "?" + "&".join(query)


async def seen(agent: AgentProcess, text: bytes) -> bytes:
    """Return all that a scripted server has received once `text` is among it."""
    file = agent.folder / "requests"

    def has() -> bytes | None:
        data = file.read_bytes() if file.exists() else b""
        return data if text in data else None

    return await eventually(has)
