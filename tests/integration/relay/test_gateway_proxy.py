"""Two users behind a hub's real proxy, which keeps its sockets to the gateway in one pool."""

import asyncio
import os
import random
import secrets

import aiohttp
import pytest

from tests.support.hubkit import PROXY, free_ports, node
from tests.support.tiers import lacking
from tests.support.waiting import eventually, scaled

pytestmark = pytest.mark.hub

ALICE, BOB = "/user/alice/", "/user/bob/"


@pytest.fixture
async def proxied(gateway, request):
    """The gateway behind a proxy that has a route for each of two users, as a hub makes them."""
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    [port, api], token = free_ports(2), secrets.token_hex(16)
    with (gateway.folder / "proxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(node(), str(PROXY), "--ip", "127.0.0.1", "--port", str(port)),
            *("--api-ip", "127.0.0.1", "--api-port", str(api)),
            env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": token},
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"token {token}"}) as hub:

            async def routed(user):
                try:
                    answer = await hub.post(
                        f"http://127.0.0.1:{api}/api/routes{user[:-1]}",
                        json={"target": gateway.base},
                    )
                except aiohttp.ClientError:
                    return False
                return answer.status == 201

            for user in (ALICE, BOB):
                await eventually(lambda user=user: routed(user), within_s=30)
            yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        await process.wait()
        print((gateway.folder / "proxy.log").read_text())


async def test_interleaved_requests_of_two_users_never_cross(gateway, proxied):
    base, _ = proxied
    await gateway.session(ALICE, 1)
    await gateway.session(BOB, 2)
    rng = random.Random(3)
    # Fewer sockets than requests: the proxy's pool has to share them among the users.
    connector = aiohttp.TCPConnector(limit=12)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def one(number):
            user = rng.choice([ALICE, BOB])
            size = rng.choice([0, 10, 70_000])
            url = f"{base}{user}x?n={number}"
            async with http.request(rng.choice(["POST", "PUT"]), url, data=b"x" * size) as answer:
                body = await answer.json()
            assert (answer.status, body["who"], body["body"]) == (200, user, size)
            assert body["target"] == f"{user}x?n={number}"

        await asyncio.gather(*(one(number) for number in range(400)))
    agents = list(gateway.relay.directory.agents())
    assert {agent.lease.route for agent in agents if agent.bytes_in} == {ALICE, BOB}


async def test_websockets_events_and_transfers_pass_beside_each_other(gateway, proxied):
    base, _ = proxied
    await gateway.session(ALICE, 1)
    await gateway.session(BOB, 2)
    async with aiohttp.ClientSession() as http:

        async def kernel(user):
            async with http.ws_connect(f"{base}{user}ws", max_msg_size=0) as websocket:
                assert await websocket.receive_str() == user
                for turn in range(20):
                    data = random.Random(turn).randbytes(100_000)
                    await websocket.send_bytes(data)
                    assert await websocket.receive_bytes() == data

        async def download(user):
            async with http.get(f"{base}{user}blob?size=20000000") as answer:
                body = await answer.read()
            assert len(body) == 20_000_000
            assert body.startswith(user.encode())
            other = ALICE if user == BOB else BOB
            assert other.encode() not in body

        async def upload(user):
            async def body():
                for _ in range(200):
                    yield b"x" * 100_000

            async with http.post(f"{base}{user}sink", data=body()) as answer:
                said = await answer.json()
            assert (said["who"], said["size"]) == (user, 20_000_000)

        await asyncio.gather(
            *(job(user) for user in (ALICE, BOB) for job in (kernel, download, upload))
        )


async def test_the_proxy_passes_our_page_on_while_nobody_is_there(gateway, proxied):
    base, _ = proxied
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{base}{ALICE}lab", headers={"Accept": "text/html"}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "3"
            assert "The session is not there yet" in await answer.text()
        await gateway.session(ALICE)
        async with http.get(f"{base}{ALICE}api") as answer:
            assert answer.headers["X-JupyterHub-Version"] == "6.1.1"


async def test_a_browser_that_leaves_ends_its_request_at_the_server(gateway, proxied):
    base, _ = proxied
    agent = await gateway.session(ALICE)
    async with aiohttp.ClientSession() as http:
        asking = asyncio.ensure_future(http.get(f"{base}{ALICE}wait"))
        await eventually((agent.folder / "waiting").exists)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await http.close()
    await eventually(lambda: not (agent.folder / "waiting").exists(), within_s=scaled(10))
