"""What a gateway refuses, what of a head travels on, and what it says itself."""

import json

import h11
import pytest

from offload_relay.server.gateway_heads import (
    RefusedRequestError,
    check_request,
    response_headers,
    trailer_headers,
)
from offload_relay.server.gateway_pages import Answer, not_there, render

LIMIT = 64 * 1024
HOST = ("Host", "hub.example.org")


def request(*headers, method="GET", target="/user/alice/lab", version="1.1"):
    named = [HOST, *headers] if version == "1.1" else headers
    return h11.Request(method=method, target=target, headers=named, http_version=version)


def forwarded(*headers, **more):
    return check_request(request(*headers, **more), LIMIT)


def names(headers):
    return {name.lower() for name, _ in headers}


def test_a_request_travels_as_it_came():
    given = [("X-JupyterHub-Version", "6.1.1"), ("cookie", "a=b; c=d"), ("Expect", "100-continue")]
    forward = forwarded(*given, ("Content-Length", "5"), method="PUT", target="/user/a%20b/x?t=1&u")
    assert forward.request.target == b"/user/a%20b/x?t=1&u"
    assert forward.path == "/user/a%20b/x"
    sent = forward.request.headers.raw_items()
    assert [(n.decode(), v.decode()) for n, v in sent] == [HOST, *given, ("Content-Length", "5")]
    assert forward.has_body
    assert not forward.repeatable


@pytest.mark.parametrize(
    "name",
    ["Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Upgrade", "X-Mine"],
)
def test_what_is_for_the_next_hop_only_stays_here(name):
    forward = forwarded((name, "x"), ("Connection", "X-Mine, close"))
    assert name.lower().encode() not in names(forward.request.headers)
    assert b"connection" not in names(forward.request.headers)


def test_a_client_cannot_take_away_what_the_server_decides_by():
    forward = forwarded(("Cookie", "c"), ("Authorization", "t"), ("Connection", "cookie, host"))
    assert {b"cookie", b"host", b"authorization"} <= names(forward.request.headers)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_only_what_may_be_done_twice_is_done_again(method):
    assert forwarded(method=method).repeatable
    assert not forwarded(("Content-Length", "1"), method=method).repeatable
    assert not forwarded(("Transfer-Encoding", "chunked"), method=method).repeatable


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_what_changes_something_is_never_sent_twice(method):
    assert not forwarded(method=method).repeatable


WEBSOCKET = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")]


def test_a_request_for_a_websocket_stays_one():
    forward = forwarded(*WEBSOCKET, ("Sec-WebSocket-Key", "k"))
    assert forward.websocket
    assert not forward.repeatable
    headers = dict(forward.request.headers)
    assert (headers[b"connection"], headers[b"upgrade"]) == (b"Upgrade", b"websocket")
    assert headers[b"sec-websocket-key"] == b"k"


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ([("Connection", "Upgrade"), ("Upgrade", "h2c")], {}),
        ([("Upgrade", "websocket")], {}),
        (WEBSOCKET, {"method": "POST"}),
        (WEBSOCKET, {"version": "1.0"}),
    ],
)
def test_nothing_else_is_an_upgrade(headers, more):
    forward = forwarded(*headers, **more)
    assert not forward.websocket
    assert not {b"upgrade", b"connection"} & names(forward.request.headers)


@pytest.mark.parametrize(
    ("status", "headers", "more"),
    [
        (400, [("Content-Length", "5"), ("Transfer-Encoding", "chunked")], {}),
        (400, [("Transfer-Encoding", "chunked")], {"version": "1.0"}),
        (400, [], {"target": "http://hub.example.org/user/bob/"}),
        (400, [], {"target": "*", "method": "OPTIONS"}),
        (400, [], {"target": "//user/bob/"}),
        (400, [], {"target": "/user/alice/../bob/?x"}),
        (405, [], {"method": "TRACE"}),
        (405, [], {"method": "CONNECT", "target": "bob:443"}),
        (431, [("Cookie", "x" * LIMIT)], {}),
        (505, [], {"version": "2.0"}),
    ],
)
def test_what_is_ambiguous_or_not_for_a_gateway_is_refused_with_a_sentence(status, headers, more):
    with pytest.raises(RefusedRequestError) as refused:
        forwarded(*headers, **more)
    assert refused.value.status == status
    assert refused.value.sentence
    assert refused.value.phrase


def test_a_query_may_hold_what_a_path_may_not():
    assert forwarded(target="/user/alice/x?next=/../%2e%2e/#").path == "/user/alice/x"


def test_a_server_is_told_a_host_even_by_http_1_0():
    assert dict(forwarded(version="1.0").request.headers)[b"host"] == b"localhost"


def test_an_answer_travels_on_without_its_framing():
    response = h11.Response(
        status_code=200,
        headers=[
            ("X-JupyterHub-Version", "5.5.4"),
            ("Set-Cookie", "a"),
            ("Set-Cookie", "b"),
            ("Connection", "close, x-hop"),
            ("X-Hop", "x"),
            ("Transfer-Encoding", "chunked"),
        ],
    )
    kept = [(n.decode(), v.decode()) for n, v in response_headers(response)]
    assert kept == [("X-JupyterHub-Version", "5.5.4"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]


def test_trailers_cannot_change_what_a_head_has_decided():
    given = [(b"X-Digest", b"x"), (b"Content-Length", b"5"), (b"Set-Cookie", b"a")]
    assert trailer_headers(given) == [(b"X-Digest", b"x")]


# --- the gateway's own words -------------------------------------------------------------------------


def said(answer, accept=None, method="GET"):
    asked = request(*([("Accept", accept)] if accept else []), method=method)
    headers, body = render(asked, answer)
    return dict(headers), body


def test_people_get_a_page_that_looks_again_by_itself():
    headers, body = said(not_there("/user/alice/"), "text/html,application/xhtml+xml,*/*;q=0.8")
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Retry-After"] == "3"
    assert headers["Cache-Control"] == "no-store"
    assert b'<meta http-equiv="refresh" content="3">' in body
    assert b'href="/hub/home"' in body
    assert b"<script" not in body


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_programs_get_json_with_the_same_words(accept):
    headers, body = said(not_there("/user/alice/", lost=True), accept)
    assert headers["Content-Type"] == "application/json"
    assert headers["Retry-After"] == "3"
    assert json.loads(body)["message"].startswith("The connection to the session is lost. ")


def test_a_page_leads_back_to_the_hub_wherever_that_is():
    _, body = said(not_there("/jhub/user/alice/"), "text/html")
    assert b'href="/jhub/hub/home"' in body
    _, body = said(not_there('/"><script>/user/alice/'), "text/html")
    assert b"<script>" not in body


def test_a_session_that_has_ended_says_so_and_not_why():
    assert not_there("/user/alice/", ended=True).title == "The session has ended"


def test_a_refusal_is_not_to_be_repeated():
    headers, body = said(Answer(400, "Bad Request", "the path holds steps like '..'"), "text/html")
    assert "Retry-After" not in headers
    assert json.loads(body)["message"] == "Bad Request. the path holds steps like '..'"
