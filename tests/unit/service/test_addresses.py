"""Whose request it is, and which scheduler workers may be told to dial."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_relay.access import user_label
from offload_service.addresses import LOOPBACK, caller_address, check_scheduler
from offload_service.errors import BadRequestError

ALICE = user_label("alice")


@pytest.mark.parametrize(
    ("peer", "header", "expected"),
    [
        ("10.1.2.3", "", "10.1.2.3"),
        ("127.0.0.1", "10.1.2.3", "10.1.2.3"),
        # Only what the last proxy has added is its own.
        ("127.0.0.1", "10.9.9.9, 10.1.2.3", "10.1.2.3"),
        ("::1", "::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:127.0.0.1", "10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "::1", "127.0.0.1"),
        # Whoever is no proxy may say what they like.
        ("10.1.2.3", "127.0.0.1", "10.1.2.3"),
        ("127.0.0.1", "not an address", "not an address"),
    ],
)
def test_who_calls_is_told_by_proxies_that_are_believed(peer, header, expected):
    assert caller_address(peer, header, LOOPBACK) == expected


def test_a_proxy_elsewhere_is_believed_if_its_network_is_named():
    assert caller_address("10.0.0.9", "10.1.2.3", ()) == "10.0.0.9"
    assert caller_address("10.0.0.9", "10.1.2.3", ("10.0.0.0/24",)) == "10.1.2.3"


@pytest.mark.parametrize(
    "address",
    [
        "relay://10.1.2.3.hub:40001",
        f"relay://127.0.0.1.j1.leonardo.s1.{ALICE}:40001",
        f"relay://10.9.9.9.j1.leonardo.s1.{ALICE}:22",
    ],
)
def test_a_scheduler_is_where_the_notebook_is_or_in_a_job_of_the_same_user(address):
    assert check_scheduler(address, user="alice", caller="10.1.2.3") == address


@pytest.mark.parametrize(
    "address",
    [
        "relay://10.1.2.4.hub:40001",
        "relay://127.0.0.1.hub:8001",
        f"relay://127.0.0.1.j1.leonardo.s1.{user_label('bob')}:40001",
        f"relay://127.0.0.1.j1.x{ALICE}:40001",
        f"relay://127.0.0.1.{ALICE}.evil:40001",
        "relay://10.1.2.3.hub.evil:1",
        "relay://10.1.2.3.hub:0",
        "tls://10.1.2.3:40001",
        "",
    ],
)
def test_nothing_else_is_a_scheduler(address):
    with pytest.raises(BadRequestError):
        check_scheduler(address, user="alice", caller="10.1.2.3")


def test_a_network_of_notebooks_can_be_allowed():
    address = "relay://10.1.7.7.hub:40001"
    networks = ("10.1.0.0/16",)
    assert check_scheduler(address, user="alice", caller="10.0.0.9", networks=networks) == address
    with pytest.raises(BadRequestError, match="proxy-network"):
        check_scheduler(
            "relay://10.2.0.1.hub:4", user="alice", caller="10.0.0.9", networks=networks
        )


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_refused(text):
    with contextlib.suppress(BadRequestError):
        assert check_scheduler(text, user="alice", caller="10.1.2.3") == text
