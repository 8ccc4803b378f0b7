"""A relay's connections wait for nothing, whoever has made the socket it listens on."""

import socket

import pytest

from offload_relay.server.dialport import listen_on


def detected(listener):
    """Return the same socket as a process that has inherited it sees it."""
    return socket.socket(fileno=listener.detach())


@pytest.mark.parametrize("made", [lambda s: s, detected], ids=["made here", "inherited"])
def test_small_answers_are_sent_at_once(made):
    with made(socket.create_server(("127.0.0.1", 0))) as listener:
        assert listen_on(listener) == {"sock": listener}
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
