"""Every spelling of a path finds the session it names, and none finds another's."""

from datetime import UTC, datetime
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_relay.errors import RemoteProtocolError
from offload_relay.lease import Lease
from offload_relay.protocol import Ended
from offload_relay.server.endpoints import Agent
from offload_relay.server.routes import Routes, canonical_path

ALICE, GPU, BOB = "/user/alice/", "/user/alice/gpu/", "/user/bob/"


def agent(route, number=1):
    end = datetime(2030, 1, 1, tzinfo=UTC)
    lease = Lease("agent", "x", "c7", end, job=f"c7-{number}", net=f"j{number}.c7", route=route)
    return Agent(lease, "instance", 0.0)


def routes(*agents):
    table = Routes()
    for one in agents:
        table.add(one)
    return table


def found(table, target):
    hit = table.find(canonical_path(target))
    return hit.lease.route if hit else None


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/user/alice/lab", ALICE),
        ("/user/alice/", ALICE),
        ("/user/alice", ALICE),
        ("/user/alice/gpu/lab", GPU),
        ("/user/alice/gpu", GPU),
        ("/user/alice/gpux/lab", ALICE),
        ("/user/bob/api/contents/a%2Fb", BOB),
        ("/user/%61lice/lab", ALICE),
        ("/user/bob/files/%25..%25", BOB),
        ("/user/bobby/lab", None),
        ("/user/Bob/lab", None),
        ("/user/", None),
        ("/", None),
        ("/user%2Fbob/lab", None),
        ("/user/bob%2Flab", None),
        ("/user/bob%2flab/x", None),
        ("/user/bob;/lab", None),
        ("/x/user/bob/lab", None),
    ],
)
def test_the_longest_route_that_a_path_begins_with_counts(path, route):
    assert found(routes(agent(ALICE), agent(GPU, 2), agent(BOB, 3)), path) == route


@pytest.mark.parametrize(
    "path",
    [
        "",
        "user/bob/",
        "//user/bob/",
        "http://hub.example.org/user/bob/",
        "*",
        "hub.example.org:443",
        "/user/alice/../bob/",
        "/user/alice/%2e%2e/bob/",
        "/user/alice/.%2E/bob/",
        "/user/alice/..%2fbob/",
        "/user/alice/..%5Cbob/",
        "/user/alice/%2e%2e%2fbob/",
        "/user/alice/x/..",
        "/user/./bob/",
        "/user/alice\\..\\bob",
        "/user/alice/#/../bob",
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(path):
    with pytest.raises(RemoteProtocolError):
        canonical_path(path)


NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/"))


def escaped(name):
    """Return a user's name as JupyterHub writes it into a path."""
    return quote(name, safe="@~")


@given(NAMES.filter(lambda n: n not in ("", ".", "..")), st.data())
def test_a_name_is_found_however_its_characters_are_encoded(name, data):
    route = f"/user/{escaped(name)}/"
    try:
        table = routes(agent(route))
    except RemoteProtocolError:
        return  # a name like "..\\x", which is as good as a step upwards
    encoded = "".join(
        f"%{ord(c):02{data.draw(st.sampled_from('xX'))}}" if data.draw(st.booleans()) else quote(c)
        for c in name
    )
    assert found(table, f"/user/{encoded}/lab") == route


@given(
    st.lists(
        st.sampled_from(
            [
                "..",
                ".",
                "%2e",
                "%2E",
                "/",
                "%2f",
                "\\",
                "%5c",
                "alice",
                "bob",
                "user",
                "%",
                "25",
                "2e",
                "BOB",
                "?",
                "#",
                ";",
                "gpu",
            ]
        ),
        max_size=12,
    )
)
def test_whatever_a_server_may_make_of_a_path_it_never_leaves_its_session(parts):  # fmt: skip
    path = "/user/alice/" + "".join(parts)
    try:
        route = found(routes(agent(ALICE), agent(GPU, 2), agent(BOB, 3)), path.partition("?")[0])
    except RemoteProtocolError:
        return
    # As the most careless server reads it: decoded once, with every slash a slash.
    steps = []
    for step in unquote(path.partition("?")[0]).replace("\\", "/").split("/"):
        if step == "..":
            steps = steps[:-1]
        elif step not in ("", "."):
            steps.append(step)
    assert steps[:2] == ["user", "alice"]
    assert route in (ALICE, GPU)


def test_the_newest_agent_answers_and_an_ended_one_only_if_there_is_no_other():
    older, newer = agent(ALICE, 1), agent(ALICE, 2)
    table = routes(older, newer)
    assert table.find("/user/alice/lab") is newer
    newer.ended = Ended(0)
    assert table.find("/user/alice/lab") is older
    older.ended = Ended(0)
    assert table.find("/user/alice/lab") is newer
    table.remove(newer)
    table.remove(older)
    assert table.find("/user/alice/lab") is None


def test_a_route_that_an_owner_keeps_is_not_answered_by_another_session():
    table = routes(agent(ALICE))
    assert found(table, "/user/alice/gpu/api") == ALICE
    table.keep(GPU, 1)
    table.keep(GPU, 1)
    assert found(table, "/user/alice/gpu/api") is None
    assert found(table, "/user/alice/api") == ALICE
    table.keep(GPU, -1)
    assert found(table, "/user/alice/gpu/api") is None
    table.keep(GPU, -1)
    assert found(table, "/user/alice/gpu/api") == ALICE


def test_agents_without_a_route_are_none_of_its_business():
    table = routes(agent(""))
    assert table.find("/") is None
    table.remove(agent(""))


def test_a_long_path_costs_little():
    table = routes(agent(ALICE))
    assert found(table, "/user/alice/" + "x/" * 30_000) == ALICE
    assert found(table, "/y/" + "x/" * 30_000) is None
