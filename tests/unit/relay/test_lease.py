"""A lease gives exactly the right that was signed, for exactly as long."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_relay.errors import LeaseError
from offload_relay.lease import Lease, may_dial, may_register, new_key, sign, verify
from offload_relay.protocol import Endpoint

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KEY = b"k" * 32


def agent(**changes):
    fields = {
        "role": "agent",
        "user": "alice",
        "domain": "c7",
        "expires": NOW + timedelta(hours=1),
        "job": "c7-1",
        "net": "j1.naples.c7",
        "dial": ("127.0.0.1.hub:8786", "*.c7"),
    }
    return Lease(**{**fields, **changes})


def test_a_lease_arrives_as_it_was_signed():
    lease = agent()
    assert verify(sign(lease, KEY), [KEY], NOW) == lease


def test_a_session_says_its_route_and_how_long_it_goes_on_unwatched():
    lease = agent(route="/user/alice/", unwatched_s=7200.0)
    assert verify(sign(lease, KEY), [KEY], NOW) == lease
    assert agent().unwatched_s is None


def test_a_lease_signed_with_a_former_key_is_good_while_that_key_is_listed():
    lease = agent()
    assert verify(sign(lease, KEY), [new_key(), KEY], NOW) == lease
    with pytest.raises(LeaseError, match="not signed for this relay"):
        verify(sign(lease, KEY), [new_key()], NOW)


def test_a_lease_ends():
    token = sign(agent(), KEY)
    verify(token, [KEY], NOW + timedelta(hours=1))
    with pytest.raises(LeaseError, match="expired at 2026-11-01 01:00:00 UTC"):
        verify(token, [KEY], NOW + timedelta(hours=1, seconds=31))


def test_a_refusal_never_shows_the_token():
    token = sign(agent(), KEY)
    with pytest.raises(LeaseError) as refused:
        verify(token, [new_key()], NOW)
    assert token[:20] not in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_refused(text):
    with pytest.raises(LeaseError):
        verify(text, [KEY], NOW)


@given(st.data())
def test_a_token_with_one_character_changed_is_refused(data):
    token = sign(agent(), KEY)
    place = data.draw(
        st.integers(0, len(token) - 2)
    )  # the last one holds bits that count for nothing
    letter = data.draw(st.sampled_from("ABCDxyz019_-."))
    if token[place] == letter:
        return
    changed = token[:place] + letter + token[place + 1 :]
    with pytest.raises(LeaseError):
        verify(changed, [KEY], NOW)


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_another_algorithm_is_refused(algorithm):
    claims = jwt.decode(sign(agent(), KEY), options={"verify_signature": False})
    key = None if algorithm == "none" else KEY * 2
    with pytest.raises(LeaseError):
        verify(jwt.encode(claims, key, algorithm=algorithm), [KEY * 2], NOW)


claim_values = st.none() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)


@given(
    st.sampled_from(["exp", "sub", "jti", "role", "domain", "job", "net", "dial", "aud"]),
    claim_values,
)
def test_signed_but_odd_claims_are_refused_or_harmless(name, value):
    claims = jwt.decode(sign(agent(), KEY), options={"verify_signature": False})
    try:
        token = jwt.encode({**claims, name: value}, KEY, algorithm="HS256")
    except TypeError:  # PyJWT itself will not write this
        return
    try:
        lease = verify(token, [KEY], NOW)
    except LeaseError:
        return
    assert isinstance(lease.user, str)
    assert all(isinstance(rule, str) for rule in lease.dial)


def test_an_agent_registers_in_its_own_net_only():
    good = Endpoint("10.0.0.7", "j1.naples.c7", 40001)
    assert may_register(agent(), good)
    for other in ("j2.naples.c7", "naples.c7", "x.j1.naples.c7", "hub"):
        assert not may_register(agent(), Endpoint("10.0.0.7", other, 40001))
    assert not may_register(agent(), Endpoint("10.0.0.7", "j1.naples.c7", 0))
    owner = Lease("owner", "alice", "c7", NOW + timedelta(hours=1), dial=("*.c7",))
    assert not may_register(owner, good)


def test_a_lease_dials_what_it_lists_and_nothing_else():
    assert may_dial(agent(), Endpoint("127.0.0.1", "hub", 8786))
    assert may_dial(agent(), Endpoint("10.0.0.7", "j2.bari.c7", 1))
    for endpoint in (
        Endpoint("127.0.0.1", "hub", 8787),
        Endpoint("127.0.0.2", "hub", 8786),
        Endpoint("10.0.0.7", "j1.naples.c8", 40001),
        Endpoint("10.0.0.7", "xc7", 40001),
    ):
        assert not may_dial(agent(), endpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "root"},
        {"net": "j1.naples.c8"},
        {"net": ""},
        {"job": ""},
        {"domain": "C7"},
        {"net": "j1.naples.c7:80"},
    ],
)
def test_a_lease_that_makes_no_sense_cannot_be_made(changes):
    with pytest.raises(LeaseError):
        agent(**changes)
