"""The promises of a comm of distributed, kept by `relay://` within reach and through the relay.

The checks follow those that distributed runs on each of its own transports.
"""

import asyncio
import contextlib
import os

import numpy as np
import pytest
from distributed.comm import CommClosedError, connect, listen
from distributed.comm.addressing import get_address_host, get_address_host_port, resolve_address
from distributed.comm.core import FatalCommClosedError
from distributed.protocol import Serialized, to_serialize

from dask_offload.comm import Reach, set_reach
from dask_offload.tls import ClusterAuthority
from tests.integration.dask.conftest import security
from tests.support.waiting import eventually, scaled


async def echo(comm):
    try:
        while True:
            await comm.write(await comm.read())
    except CommClosedError:
        pass


async def listening(route, handler=echo, **kwargs):
    listener = listen(route.listen, handler, **kwargs, **route.listen_args)
    await listener.start()
    return listener


async def connected(route, listener, **kwargs):
    return await connect(
        listener.contact_address, timeout=scaled(10), **kwargs, **route.connect_args
    )


async def test_messages_go_both_ways(route):
    listener = await listening(route)
    comm = await connected(route, listener)
    for message in ({"op": "ping"}, [1, 2.5, "three", None, b"\x00"], {"x": {"y": True}}):
        await comm.write(message)
        assert await comm.read() == (tuple(message) if isinstance(message, list) else message)
    await comm.close()
    listener.stop()


async def test_addresses_name_the_net_and_can_be_taken_apart(route):
    listener = await listening(route)
    net = route.listen.removeprefix("relay://127.0.0.1.").removesuffix(":0")
    address = listener.contact_address
    assert address.startswith(f"relay://127.0.0.1.{net}:")
    assert address == listener.listen_address
    assert get_address_host(address) == f"127.0.0.1.{net}"
    assert get_address_host_port(address)[1] == int(address.rpartition(":")[2]) > 0
    assert resolve_address(address) == address
    comm = await connected(route, listener)
    assert comm.peer_address == address
    assert comm.local_address.startswith("relay://")
    assert comm.extra_info["cipher"]
    await comm.close()
    listener.stop()


async def test_many_listeners_have_addresses_of_their_own(route):
    listeners = [await listening(route) for _ in range(20)]
    assert len({listener.contact_address for listener in listeners}) == 20
    for listener in listeners:
        comm = await connected(route, listener)
        await comm.write("hello")
        assert await comm.read() == "hello"
        await comm.close()
        listener.stop()


async def test_large_numpy_arrays_arrive_whole(route):
    listener = await listening(route, deserialize=True)
    comm = await connected(route, listener, deserialize=True)
    data = np.random.default_rng(7).integers(0, 255, 30_000_000, dtype=np.uint8)
    await comm.write({"data": to_serialize(data)})
    back = (await comm.read())["data"]
    assert (back == data).all()
    await comm.close()
    listener.stop()


async def test_what_is_not_to_be_deserialized_stays_as_it_came(route):
    seen = []

    async def keep(comm):
        seen.append(await comm.read())
        await comm.close()

    listener = await listening(route, keep, deserialize=False)
    comm = await connected(route, listener, deserialize=False)
    await comm.write({"x": to_serialize(np.arange(10)), "y": 3})
    await eventually(lambda: seen)
    assert isinstance(seen[0]["x"], Serialized)
    assert seen[0]["y"] == 3
    await comm.close()
    listener.stop()


async def test_many_streams_at_once_do_not_mix(route):
    listener = await listening(route)

    async def one(number):
        comm = await connected(route, listener)
        for turn in range(10):
            message = {"who": number, "turn": turn, "data": os.urandom(1000 * (number % 7))}
            await comm.write(message)
            assert await comm.read() == message
        await comm.close()

    await asyncio.gather(*(one(number) for number in range(40)))
    listener.stop()


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_the_end_of_one_side_is_an_error_of_the_other(route, how):
    async def leave(comm):
        await comm.read()
        if how == "close":
            await comm.close()
        else:
            comm.abort()

    listener = await listening(route, leave)
    comm = await connected(route, listener)
    await comm.write("go")
    with pytest.raises(CommClosedError):
        await asyncio.wait_for(comm.read(), scaled(10))
    assert comm.closed()
    listener.stop()


async def test_a_closed_comm_refuses_to_read_and_write(route):
    listener = await listening(route)
    comm = await connected(route, listener)
    await comm.close()
    with pytest.raises(CommClosedError):
        await comm.write("x")
    with pytest.raises(CommClosedError):
        await comm.read()
    listener.stop()


async def test_nobody_there_is_an_oserror_in_the_given_time(route):
    listener = await listening(route)
    address = listener.contact_address
    listener.stop()
    with pytest.raises(OSError, match="Timed out"):
        await connect(address, timeout=scaled(1.5), **route.connect_args)


async def test_a_message_cut_off_in_the_middle_is_an_error(route):
    async def cut(comm):
        await comm.read()
        await comm.stream.write(b"\x00" * 7)
        comm.abort()

    listener = await listening(route, cut)
    comm = await connected(route, listener)
    await comm.write("go")
    with pytest.raises(CommClosedError):
        await asyncio.wait_for(comm.read(), scaled(10))
    listener.stop()


async def test_a_certificate_of_another_cluster_is_refused_at_once(route):
    listener = await listening(route)
    other = security(ClusterAuthority("c8"), route.connect_args["extra_conn_args"]["relay"])
    began = asyncio.get_running_loop().time()
    with pytest.raises((FatalCommClosedError, OSError)):
        await connect(
            listener.contact_address, timeout=scaled(10), **other.get_connection_args("client")
        )
    assert asyncio.get_running_loop().time() - began < scaled(8)
    listener.stop()


async def test_without_a_certificate_there_is_no_comm(route):
    listener = await listening(route)
    with pytest.raises(FatalCommClosedError, match="wants a certificate of its cluster"):
        await connect(
            listener.contact_address,
            timeout=scaled(5),
            extra_conn_args=route.connect_args["extra_conn_args"],
        )
    listener.stop()


async def test_a_dial_that_the_relay_refuses_is_final_and_says_why(kit, authority):
    reach = Reach("hub", f"127.0.0.1:{kit.ports[1]}", token=kit.token(domain="c8"))
    args = security(authority, reach).get_connection_args("client")
    with pytest.raises(FatalCommClosedError, match="403 the lease does not allow"):
        await connect("relay://127.0.0.1.j1.local.c7:4", timeout=scaled(10), **args)


async def test_an_address_out_of_reach_without_a_relay_is_final_and_says_why(authority):
    args = security(authority, Reach("hub")).get_connection_args("client")
    with pytest.raises(FatalCommClosedError, match="no relay is configured"):
        await connect("relay://127.0.0.1.j1.local.c7:4", timeout=scaled(10), **args)


@pytest.mark.parametrize("address", ["relay://", "relay://localhost:80", "relay://1.2.3.4:80"])
async def test_an_address_of_another_form_is_final(authority, address):
    args = security(authority, Reach("hub")).get_connection_args("client")
    with pytest.raises(FatalCommClosedError, match="is not an endpoint"):
        await connect(address, timeout=scaled(10), **args)


def test_the_token_of_a_dial_port_is_in_no_repr():
    assert "secret" not in repr(Reach("hub", "127.0.0.1:1", "secret"))


def test_the_scheme_is_found_by_its_entry_point():
    from importlib.metadata import entry_points

    from distributed.comm.registry import get_backend

    [entry] = entry_points(group="distributed.comm.backends", name="relay")
    assert isinstance(get_backend("relay"), entry.load())


@contextlib.asynccontextmanager
async def dial_port(*statuses):
    """A dial port that answers with these, one after the other, and holds the last one."""
    left, served = list(statuses), asyncio.Semaphore(0)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        status = left.pop(0)
        writer.write(f"HTTP/1.1 {status} no reason\r\n\r\n".encode())
        if status == 200:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        served.release()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        set_reach(Reach("j1.local.c7", dial=f"{host}:{port}", register=True))
        try:
            yield left
            for _ in range(len(statuses) - len(left)):
                await served.acquire()
        finally:
            set_reach(None)


async def test_a_listener_waits_for_a_relay_that_is_restarting(authority):
    ours = security(authority).get_listen_args("worker")
    async with dial_port(502, 502, 200) as left:
        listener = listen("relay://127.0.0.1.j1.local.c7:0", None, **ours)
        await listener.start()
        listener.stop()
        assert left == []


async def test_a_listener_whose_endpoint_is_refused_does_not_ask_again(authority):
    ours = security(authority).get_listen_args("worker")
    async with dial_port(403, 200) as left:
        listener = listen("relay://127.0.0.1.j1.local.c7:0", None, **ours)
        with pytest.raises(FatalCommClosedError, match="the relay refuses"):
            await listener.start()
        listener.stop()
        assert left == [200]
