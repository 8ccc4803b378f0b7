"""Names, messages and heads: what a peer sends is understood or refused, never half used."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_relay import heads, protocol
from offload_relay.errors import RemoteProtocolError
from offload_relay.protocol import Endpoint, encode, in_scope, parse_message
from offload_relay.server.control import in_parts

MESSAGES = [
    protocol.Hello(1, {"python": "3.11"}),
    protocol.Welcome(1, 4, 20.0),
    protocol.Register("127.0.0.1.j1.naples.c7:40001"),
    protocol.Registered("127.0.0.1.j1.naples.c7:40001"),
    protocol.Refused("127.0.0.1.j1.naples.c7:40001", "not yours"),
    protocol.Unregister("127.0.0.1.j1.naples.c7:40001"),
    protocol.Want(3),
    protocol.Ping(),
    protocol.Ended(75, "its walltime was used up", "ask for more"),
    protocol.Gone("its cluster has ended", ["c7-1"]),
    protocol.Open("127.0.0.1.j1.naples.c7:40001"),
    protocol.Agents([{"job": "c7-1", "state": "connected"}]),
]

labels = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
nets = st.lists(labels, min_size=1, max_size=4).map(".".join)
ips = st.ip_addresses(v=4).map(str)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.type)
def test_a_message_arrives_as_it_was_sent(message):
    assert parse_message(encode(message)) == message


@given(ips, nets, st.integers(0, 65535))
def test_an_endpoint_survives_its_text(ip, net, port):
    endpoint = Endpoint(ip, net, port)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:80",
        "127.0.0.1.hub",
        "127.0.0.1.hub:",
        "127.0.0.1.hub:65536",
        "127.0.0.1.hub:-1",
        "127.0.0.1.hub:٣",
        "256.0.0.1.hub:80",
        "127.0.0.1.HUB:80",
        "127.0.0.1.hub:80\n",
        "127.0.0.1..hub:80",
        "127.0.0.1.hub.:80",
        "127.0.0.1.1hub:80",
        "localhost.hub:80",
        "127.0.0.1." + "a" * 300 + ":80",
        "::1.hub:80",
    ],
)
def test_what_is_no_endpoint_is_refused_with_the_value(text):
    with pytest.raises(RemoteProtocolError, match="is not|is above"):
        Endpoint.parse(text)


@given(st.text(max_size=300))
def test_any_text_is_an_endpoint_or_a_protocol_error(text):
    try:
        endpoint = Endpoint.parse(text)
    except RemoteProtocolError:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint


def test_a_scope_holds_itself_and_what_is_inside_it_and_nothing_that_only_looks_alike():
    assert in_scope("j1.naples.c7", "j1.naples.c7")
    assert in_scope("j1.naples.c7", "naples.c7")
    assert not in_scope("j1.naples.c77", "naples.c7")
    assert not in_scope("naples.c7", "j1.naples.c7")
    assert not in_scope("evilnaples.c7", "naples.c7")


@given(st.text(max_size=2000))
def test_any_text_is_a_message_or_a_protocol_error(text):
    try:
        parse_message(text)
    except RemoteProtocolError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_message_with_any_field_replaced_is_refused_or_has_the_right_types(message, data):
    value = json.loads(encode(message))
    name = data.draw(st.sampled_from(sorted(value)))
    value[name] = data.draw(json_values)
    try:
        parsed = parse_message(json.dumps(value))
    except RemoteProtocolError:
        return
    if isinstance(parsed, protocol.Unknown):
        return
    assert type(parsed)(**vars(parsed)) == parsed
    assert parse_message(encode(parsed)) == parsed


def test_a_message_of_a_coming_version_is_ignored_not_refused():
    assert parse_message('{"type": "teleport", "to": "mars"}') == protocol.Unknown("teleport")
    newer = json.loads(encode(protocol.Want(3))) | {"urgently": True}
    assert parse_message(json.dumps(newer)) == protocol.Want(3)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"type": ' + "[" * 50_000, "NaN", "[]", "null"])
def test_hostile_json_is_a_protocol_error(text):
    with pytest.raises(RemoteProtocolError):
        parse_message(text, limit=10**6)


def test_a_message_over_the_limit_is_refused_before_it_is_parsed():
    with pytest.raises(RemoteProtocolError, match="at most 100"):
        parse_message(" " * 101, limit=100)


def test_a_request_head_is_found_however_it_is_cut():
    data = heads.render_request_head("CONNECT", "10.0.0.7.j1.c7:4", "tok.en") + b"\x16\x03tls"
    for cut in range(data.index(b"\r\n\r\n") + 4):
        assert heads.parse_request_head(data[:cut]) is None
    head, rest = heads.parse_request_head(data)
    assert (head.method, head.target, head.bearer) == ("CONNECT", "10.0.0.7.j1.c7:4", "tok.en")
    assert rest == b"\x16\x03tls"


def test_an_answer_never_breaks_into_two_lines():
    rendered = heads.render_response_head(504, "nobody\r\nX-Evil: 1\u2028 there")
    head, rest = heads.parse_response_head(rendered)
    assert (head.status, rest) == (504, b"")
    assert "\r" not in head.reason


@given(st.binary(max_size=400))
def test_any_bytes_are_a_head_or_incomplete_or_a_protocol_error(data):
    for parse in (heads.parse_request_head, heads.parse_response_head):
        try:
            parse(data)
        except RemoteProtocolError:
            continue


def test_a_head_that_does_not_end_is_refused_at_the_limit():
    with pytest.raises(RemoteProtocolError, match="more than 8192"):
        heads.parse_request_head(b"CONNECT x HTTP/1.1\r\nA: " + b"a" * 9000)


@pytest.mark.parametrize("code", list(protocol.CloseCode))
def test_close_codes_are_in_the_range_for_applications(code):
    assert 4000 <= code < 5000


@given(st.floats(1, 1e6), st.floats(0, 1e5), st.floats(0, 2e6))
def test_a_walltime_goes_from_work_to_drain_to_over_and_never_back(total, drain, elapsed):
    from offload_relay.agent.walltime import Phase, Walltime

    order = [Phase.WORK, Phase.DRAIN, Phase.OVER]
    walltime = Walltime(total, drain)
    assert 0 < walltime.drain_at_s <= walltime.over_at_s < total
    now, later = walltime.phase(elapsed), walltime.phase(elapsed + walltime.next_s(elapsed))
    assert order.index(now) <= order.index(later)
    assert walltime.phase(total) is Phase.OVER


def nested(levels):
    """Return lists in one another, this many of them."""
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [1, 4, 5, 100, 5000])
def test_how_deep_something_is_nested_is_told_without_looking_deeper_than_asked(levels):
    assert protocol.nested_within(nested(levels), 4) is (levels <= 4)
    assert protocol.nested_within({"a": {"b": nested(levels)}}, 6) is (levels <= 4)


@pytest.mark.parametrize("levels", range(900, 1100, 7))
def test_a_value_that_is_nested_too_deep_for_its_text_is_a_protocol_error(levels):
    text = f'{{"type": "register", "endpoint": {"[" * levels}{"]" * levels}}}'
    with pytest.raises(RemoteProtocolError):
        protocol.parse_message(text)


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(400, 2000))
def test_changes_of_many_agents_travel_whole_in_messages_of_a_limited_size(sizes, limit):
    entries = [{"job": f"c7-{n}", "reason": "\N{PARTY POPPER}" * (n % 25)} for n in sizes]
    parts = list(in_parts(entries, limit))
    assert [entry for part in parts for entry in part] == entries
    assert all(len(protocol.encode(protocol.Agents(part))) <= limit for part in parts)
    assert len(parts) == 1 or all(parts)
