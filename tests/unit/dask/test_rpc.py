"""Calls over a private socket: errors arrive as they were raised, and nobody waits for nothing."""

import asyncio
import contextlib
import json
import stat

import pytest

from dask_offload import rpc
from dask_offload.rpc import RpcClient, RpcServer
from offload_sites.errors import InvalidOptionsError, OffloadError, SiteUnavailableError
from tests.support.waiting import eventually, scaled


class Desk:
    """Handlers, and what they saw."""

    def __init__(self):
        self.log = []
        self.gone = []
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.callers = set()

    @property
    def handlers(self):
        return {
            name: getattr(self, name)
            for name in ("add", "fail", "crash", "wait", "whoami", "unsendable", "large")
        }

    async def add(self, _, a, b=1):
        return a + b

    async def fail(self, _, kind):
        raise {
            "options": InvalidOptionsError("no profile is called 'x'", "choose htc"),
            "silent": SiteUnavailableError("the site does not answer", "wait"),
            "bare": OffloadError("it failed"),
        }[kind]

    async def crash(self, _):
        raise RuntimeError("token=secret")

    async def wait(self, _, word=""):
        self.waiting.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.log.append(f"canceled {word}")
            raise
        self.log.append(f"done {word}")
        return word

    async def whoami(self, caller):
        self.callers.add(caller)
        caller.data["calls"] = caller.data.get("calls", 0) + 1
        return caller.data["calls"]

    async def unsendable(self, _):
        return {1, 2}

    async def large(self, _, size):
        return "x" * size


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("s") / "s.sock"  # short enough for a socket


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
async def server(path, desk):
    async with RpcServer(path, desk.handlers, desk.gone.append) as server:
        yield server


@pytest.fixture
async def client(server, path):
    client = await RpcClient.connect(path)
    yield client
    await client.close()


@pytest.fixture
async def raw(server, path):
    """A caller that sends what it likes."""
    reader, writer = await asyncio.open_unix_connection(path)
    yield reader, writer
    writer.close()
    await writer.wait_closed()


def soon():
    return asyncio.timeout(scaled(10))


# --- results -------------------------------------------------------------------------------------


async def test_a_call_returns_what_its_handler_returns(client):
    assert await client.call("add", a=2, b=3) == 5
    assert await client.call("add", a=2) == 3


async def test_answers_find_their_calls_in_whatever_order_they_come(client, desk):
    slow = asyncio.create_task(client.call("wait", word="slow"))
    assert await asyncio.gather(*(client.call("add", a=n) for n in range(50))) == [*range(1, 51)]
    assert not slow.done()
    desk.go_on.set()
    async with soon():
        assert await slow == "slow"


async def test_an_answer_may_be_longer_than_a_usual_line(client):
    assert len(await client.call("large", size=1_000_000)) == 1_000_000


async def test_each_connection_is_a_caller_of_its_own(client, desk, path):
    other = await RpcClient.connect(path)
    assert [await client.call("whoami"), await client.call("whoami")] == [1, 2]
    assert await other.call("whoami") == 1
    assert len(desk.callers) == 2
    await other.close()


async def test_the_socket_is_for_its_user_alone_and_goes_with_the_server(path, desk):
    path.touch()  # left by a server that was killed
    async with RpcServer(path, desk.handlers):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert not path.exists()


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message", "hint", "transient"),
    [
        ("options", "no profile is called 'x'", "choose htc", False),
        ("silent", "the site does not answer", "wait", True),
        ("bare", "it failed", "", False),
    ],
)
async def test_an_error_arrives_with_its_hint(client, kind, message, hint, transient):
    with pytest.raises(OffloadError) as raised:
        await client.call("fail", kind=kind)
    error = raised.value
    assert (error.message, error.hint, error.transient) == (message, hint, transient)


async def test_the_text_of_an_unforeseen_error_stays_in_the_log_of_the_server(client, caplog):
    with pytest.raises(OffloadError, match="internal error: RuntimeError") as raised:
        await client.call("crash")
    assert "secret" not in str(raised.value)
    assert "RuntimeError: token=secret" in caplog.text
    assert await client.call("add", a=1) == 2


async def test_a_call_that_the_server_does_not_know_is_refused_in_a_sentence(client):
    with pytest.raises(OffloadError, match="knows no call 'sing'") as raised:
        await client.call("sing", loudly=True)
    assert "another release" in raised.value.hint
    assert await client.call("add", a=1) == 2


async def test_parameters_that_a_handler_does_not_take_are_an_error_of_that_call(client):
    with pytest.raises(OffloadError, match="internal error: TypeError"):
        await client.call("add", c=1)
    assert await client.call("add", a=1) == 2


async def test_a_result_that_cannot_be_sent_is_an_error_and_not_silence(client):
    async with soon():
        with pytest.raises(OffloadError, match="internal error: TypeError"):
            await client.call("unsendable")
    assert await client.call("add", a=1) == 2


# --- callers that misbehave ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\n",
        b"\n",
        b"[]\n",
        b"7\n",
        b"{}\n",
        b'{"id": 1, "method": "add"}\n',
        b'{"id": 1, "params": {}}\n',
        b"[" * 100_000 + b"\n",
    ],
)
async def test_a_line_that_is_no_call_ends_its_connection_and_no_other(client, raw, desk, line):
    reader, writer = raw
    writer.write(line)
    async with soon():
        assert await reader.read() == b""
    assert len(desk.gone) == 1
    assert await client.call("add", a=1) == 2


async def test_a_line_that_is_too_long_ends_its_connection(monkeypatch, path, desk):
    monkeypatch.setattr(rpc, "_LINE_BYTES", 4096)
    async with RpcServer(path, desk.handlers, desk.gone.append):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * 100_000)
        async with soon():
            # What the server has not read is lost, which a Unix socket tells as a reset.
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        await eventually(lambda: len(desk.gone) == 1)
        writer.close()
        client = await RpcClient.connect(path)
        assert await client.call("add", a=1) == 2
        await client.close()


@pytest.mark.parametrize("params", [b"[]", b"null", b'"a"', b"1"])
async def test_odd_parameters_are_an_error_of_that_call_alone(raw, params):
    reader, writer = raw
    writer.write(b'{"id": 7, "method": "add", "params": ' + params + b"}\n")
    writer.write(b'{"id": 8, "method": ["add"], "params": {}}\n')
    writer.write(b'{"id": 9, "method": "add", "params": {"a": 1}}\n')
    async with soon():
        answers = {a["id"]: a for a in [json.loads(await reader.readline()) for _ in range(3)]}
    assert "error" in answers[7]
    assert "error" in answers[8]
    assert answers[9]["result"] == 2


async def test_a_caller_that_leaves_is_told_of_and_its_calls_are_canceled(server, path, desk):
    client = await RpcClient.connect(path)
    await client.call("whoami")
    call = asyncio.create_task(client.call("wait", word="a"))
    await desk.waiting.wait()
    assert desk.gone == []
    await client.close()
    with pytest.raises(ConnectionError):
        await call
    await eventually(lambda: desk.log == ["canceled a"])
    assert desk.gone == list(desk.callers)


async def test_a_caller_that_does_not_wait_for_its_answer_harms_nobody(client, raw, desk):
    _, writer = raw
    writer.write(b'{"id": 1, "method": "large", "params": {"size": 5000000}}\n')
    await writer.drain()
    writer.close()
    await eventually(lambda: len(desk.gone) == 1)
    assert await client.call("add", a=1) == 2


async def test_half_a_line_before_the_end_is_no_call(server, path, desk):
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"id": 1, "method": "wh')
    writer.close()
    await eventually(lambda: len(desk.gone) == 1)
    assert desk.callers == set()


# --- cancelling, and the end ---------------------------------------------------------------------


async def test_a_canceled_call_goes_on_and_its_answer_is_dropped(client, desk):
    call = asyncio.create_task(client.call("wait", word="a"))
    await desk.waiting.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    desk.go_on.set()
    assert await client.call("add", a=1) == 2
    assert desk.log == ["done a"]


async def test_a_call_under_way_fails_when_the_server_ends(path, desk):
    async with RpcServer(path, desk.handlers):
        client = await RpcClient.connect(path)
        call = asyncio.create_task(client.call("wait", word="a"))
        await desk.waiting.wait()
    async with soon():
        with pytest.raises(ConnectionError, match="the other process has ended"):
            await call
    assert desk.log == ["canceled a"]
    assert client.closed
    with pytest.raises(ConnectionError, match="the other process has ended"):
        await client.call("add", a=1)
    await client.close()


async def test_a_closed_client_refuses_calls(server, path):
    client = await RpcClient.connect(path)
    assert not client.closed
    await client.close()
    await client.close()
    assert client.closed
    with pytest.raises(ConnectionError):
        await client.call("add", a=1)


async def test_without_a_server_connecting_fails_at_once(path):
    with pytest.raises(OSError):
        await RpcClient.connect(path)
