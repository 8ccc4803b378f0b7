"""Whether a server answers, asked as the hub does."""

import asyncio
import contextlib

import pytest

from interlink_spawner.probe import answers
from offload_cli.demo.programs import free_ports
from tests.support.waiting import scaled

pytestmark = pytest.mark.timeout(scaled(60))


@contextlib.asynccontextmanager
async def serving(answer):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/user/ann/api"


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "403 Forbidden", "404 Not Found"])
async def test_any_word_of_the_server_itself_is_an_answer(status):
    head = f"HTTP/1.1 {status}\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with serving(head.encode()) as url:
        assert await answers(url)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 20",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_what_breaks_off_as_of_a_relay_that_is_killed_is_no_answer_and_no_error(said):
    async with serving(said) as url:
        assert not await answers(url)


async def test_nobody_there_is_no_answer_and_no_error():
    assert not await answers(f"http://127.0.0.1:{free_ports(1)[0]}/user/ann/api")
