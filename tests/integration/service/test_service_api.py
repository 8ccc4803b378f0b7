"""The API: whose is what, what is refused, and what is told."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload_service import api
from tests.support.servicedesk import ACCESS, Desk
from tests.support.servicekit import PREFIX
from tests.support.waiting import eventually


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    async with Desk(tmp_path, monkeypatch) as desk:
        yield desk


# Every request about one cluster; bodies are good ones.
OF_A_CLUSTER = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("POST", "/heartbeat", {"api": 1}),
    ("POST", "/scale", {"workers": 3}),
    ("POST", "/adapt", {"minimum": 1, "maximum": 3}),
    ("POST", "/retry", {}),
    ("GET", "/jobs", None),
    ("GET", "/logs", None),
]
FOR_USERS = [
    ("GET", "", None),
    ("GET", "/offers", None),
    ("GET", "/clusters", None),
    ("POST", "/clusters", {"api": 1, "name": "c"}),
    ("GET", "/jobs", None),
]
FOR_ADMINS = [
    ("GET", "/jobs?all=yes", None),
    ("GET", "/sites", None),
    ("GET", "/catalog", None),
    ("POST", "/catalog/check", {"text": "sites: {}"}),
]


def test_these_are_all_requests_that_there_are():
    routes = {route[0]: route[1] for route in api.routes("/")}
    named = {
        *((method, f"/api/clusters/c{path}") for method, path, _ in OF_A_CLUSTER),
        *((method, f"/api{path}".partition("?")[0]) for method, path, _ in FOR_USERS),
        *((method, f"/api{path}".partition("?")[0]) for method, path, _ in FOR_ADMINS),
    }
    there = set()
    for pattern, handler in routes.items():
        if handler is api.Nothing:
            continue
        path = next(p for _, p in named if re.fullmatch(pattern, p))
        there |= {
            (verb.upper(), path) for verb in ("get", "post", "delete") if verb in vars(handler)
        }
    assert there == named


# --- whose is what -------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), OF_A_CLUSTER)
async def test_nobody_can_see_or_touch_the_cluster_of_another(desk, method, path, body):
    hers = await desk.notebook(desk.alice)
    his = await desk.notebook(desk.bob)
    await hers.beat()
    await hers.scale(2)
    await hers.submitted(1)
    before = await desk.call(desk.alice, "GET", f"/clusters/{hers.id}/jobs")
    assert [job["status"]["state"] for job in before[1]]
    nobodys = await desk.call(desk.bob, method, f"/clusters/no-such-1{path}", body)
    for token in (desk.bob, his.secret, "ofl-" + "x" * 43):
        status, answer = await desk.call(token, method, f"/clusters/{hers.id}{path}", body)
        assert status == 404
        # It cannot even be told from one that never was.
        assert answer["message"] == nobodys[1]["message"].replace("no-such-1", hers.id)
        assert answer["gone"] is True
    after = await desk.call(desk.alice, "GET", f"/clusters/{hers.id}/jobs")
    assert [job["key"] for job in after[1]] == [job["key"] for job in before[1]]
    assert [job for job in after[1] if job["leaving"]] == []
    assert desk.farm.calls == [call for call in desk.farm.calls if call.method != "cancel"]
    assert (await desk.call(desk.alice, "GET", f"/clusters/{hers.id}"))[1]["wanted"] == 2


@pytest.mark.parametrize(("method", "path", "body"), [*OF_A_CLUSTER, *FOR_USERS, *FOR_ADMINS])
async def test_without_the_right_token_nothing_is_done(desk, method, path, body):
    hers = await desk.notebook()
    if (method, path, body) in OF_A_CLUSTER:
        path = f"/clusters/{hers.id}{path}"
    stranger = desk.hub.user("mallory", scopes=[])
    other = desk.hub.user("mallory", scopes=["access:services!service=other"])
    service = desk.hub.user("culler", kind="service")
    for token, expected in (
        (None, 401),
        ("nobody's", 401),
        (stranger, 403),
        (other, 403),
        (service, 403),
    ):
        status, answer = await desk.call(token, method, path, body)
        assert status == expected
        assert answer["message"]
    assert len((await desk.call(desk.alice, "GET", "/clusters"))[1]) == 1


@pytest.mark.parametrize(("method", "path", "body"), [*FOR_USERS, *FOR_ADMINS])
async def test_the_token_of_a_cluster_is_good_for_that_cluster_only(desk, method, path, body):
    hers = await desk.notebook()
    status, _ = await desk.call(hers.secret, method, path, body)
    assert status in (403, 404)
    assert len((await desk.call(desk.alice, "GET", "/clusters"))[1]) == 1


@pytest.mark.parametrize(("method", "path", "body"), FOR_ADMINS)
async def test_what_is_for_administrators_is_for_nobody_else(desk, method, path, body):
    assert (await desk.call(desk.root, method, path, body))[0] == 200
    assert (await desk.call(desk.bob, method, path, body))[0] == 403


@pytest.mark.parametrize(("method", "path", "body"), OF_A_CLUSTER[2:])
async def test_an_administrator_may_do_what_the_user_may(desk, method, path, body):
    hers = await desk.notebook()
    status, _ = await desk.call(desk.root, method, f"/clusters/{hers.id}{path}", body)
    assert status == 200


async def test_lists_hold_only_what_is_the_callers(desk):
    hers, his = await desk.notebook(desk.alice), await desk.notebook(desk.bob)
    for notebook in (hers, his):
        await notebook.beat()
        await notebook.scale(1)
        await notebook.submitted(1)

    async def recorded():
        return len((await desk.call(desk.root, "GET", "/jobs?all=yes"))[1]) == 2

    await eventually(recorded)
    for token, own in ((desk.alice, hers), (desk.bob, his)):
        assert [c["id"] for c in (await desk.call(token, "GET", "/clusters"))[1]] == [own.id]
        assert [j["group"] for j in (await desk.call(token, "GET", "/jobs"))[1]] == [own.id]


async def test_a_member_of_an_admin_group_is_an_administrator(tmp_path, monkeypatch):
    async with Desk(tmp_path, monkeypatch, admin_groups=frozenset({"/gpu"})) as desk:
        assert (await desk.call(desk.bob, "GET", "/sites"))[0] == 200
        assert (await desk.call(desk.alice, "GET", "/sites"))[0] == 403


async def test_a_cookie_alone_makes_nothing_happen(desk):
    hers = await desk.notebook()
    cookie = f"service-offload={desk.alice}"
    for path in ("/clusters", f"/clusters/{hers.id}/scale"):
        status, _ = await desk.call(None, "POST", path, {"workers": 1}, Cookie=cookie)
        assert status in (401, 403)


async def test_the_page_of_another_site_cannot_send_a_form(desk):
    answer = await desk.request(
        desk.alice, "POST", "/api/clusters", b"{}", Content_Type="text/plain"
    )
    assert answer.code == 400
    assert "Content-Type" in json.loads(answer.body)["message"]


# --- what is refused -----------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["ofl-", "../..", "{0}", "<script>", "\x00", "a" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["api", "name", "choice", "workers", "jobs", "crew", "minimum"])
            | st.text(max_size=10),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
good_fields = st.fixed_dictionaries(
    {},
    optional={
        "api": st.just(1) | json_values,
        "name": st.just("c") | json_values,
        "choice": json_values,
        "session": json_values,
        "queue_budget_s": json_values,
        "workers": json_values,
        "minimum": json_values,
        "maximum": json_values,
        "jobs": json_values,
        "seen": json_values,
        "retired": json_values,
        "adaptive": json_values,
        "crew": json_values,
        "text": json_values,
    },
)
raw = (json_values | good_fields).map(lambda v: json.dumps(v).encode()) | st.binary(max_size=200)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    content=raw, which=st.sampled_from(["create", "heartbeat", "scale", "adapt", "retry", "check"])
)
def test_no_body_whatever_breaks_anything(request, content, which):
    # One service for all examples: hypothesis and fixtures of an event loop do not mix otherwise.
    runner = request.getfixturevalue("hostile")
    status, answer = runner(which, content)
    assert 200 <= status < 500, (which, content, answer)
    if status >= 400:
        assert answer["message"]
        assert len(answer["message"]) < 1000


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    import asyncio

    place = tmp_path_factory.mktemp("hostile")
    patch = pytest.MonkeyPatch()
    loop = asyncio.new_event_loop()
    desk = Desk(place, patch)
    loop.run_until_complete(desk.__aenter__())
    hers = loop.run_until_complete(desk.notebook())
    loop.run_until_complete(hers.beat())

    async def send(which, content):
        if which == "create":
            status, answer = await desk.call(desk.alice, "POST", "/clusters", content)
            if status == 201:
                await desk.call(desk.alice, "DELETE", f"/clusters/{answer['id']}")
            return status, answer
        if which == "check":
            return await desk.call(desk.root, "POST", "/catalog/check", content)
        status, answer = await hers.call("POST", f"/{which}", content)
        assert (await desk.call(desk.alice, "GET", ""))[0] == 200
        return status, answer

    yield lambda which, content: loop.run_until_complete(send(which, content))
    listed = loop.run_until_complete(desk.call(desk.alice, "GET", "/clusters"))[1]
    assert [cluster["id"] for cluster in listed] == [hers.id]
    loop.run_until_complete(desk.__aexit__(None, None, None))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    patch.undo()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "api is missing"),
        (b"nonsense", "the request is not JSON"),
        (b"\xff\xfe", "the request is not JSON"),
        (b"[" * 5000 + b"]" * 5000, "the request is not JSON"),
        (b"[]", "it should be an object, got an empty list"),
        ({"api": 1, "name": "c", "admin": True}, "admin is not known here"),
        ({"api": 1, "name": "../x"}, "name: "),
        ({"api": 1, "name": "c", "choice": {"cpus": True}}, "choice.cpus: "),
        ({"api": 1, "name": "c", "choice": {"cpus": "1"}}, "choice.cpus: "),
        ({"api": 1, "name": "c", "choice": {"image": "x" * 2000}}, "choice.image: "),
        ({"api": 1, "name": "c", "choice": {"user": "bob"}}, "choice.user is not known here"),
        ({"api": 1, "name": "c", "queue_budget_s": -1}, "queue_budget_s: "),
        (b'{"api": 1, "name": "c", "queue_budget_s": NaN}', "it should be a finite number"),
        ({"api": 1, "name": "c", "choice": {"image": "../../etc"}}, "has no image '../../etc'"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong_and_leaves_nothing(desk, body, said):
    status, answer = await desk.call(desk.alice, "POST", "/clusters", body)
    assert status == 400
    assert said in answer["message"]
    assert (await desk.call(desk.alice, "GET", "/clusters"))[1] == []


async def test_a_request_that_is_too_large_is_not_read(desk):
    answer = await desk.request(desk.alice, "POST", "/api/clusters", b"x" * (2 * 2**20))
    assert answer.code in (400, 413, 599)
    assert (await desk.call(desk.alice, "GET", "/clusters"))[1] == []


@pytest.mark.parametrize(
    "path", ["/nothing", "/clusters/x/nothing", "/clusters/UPPER", "/clusters//"]
)
async def test_a_path_that_is_not_there_is_a_404_with_a_sentence(desk, path):
    status, answer = await desk.call(desk.alice, "GET", path)
    assert status == 404
    assert PREFIX in answer["message"]
    assert "gone" not in answer


@pytest.mark.parametrize(
    "address",
    [
        "relay://10.9.8.7.hub:22",
        "relay://127.0.0.1.j1.leonardo.s1.u-bob-aaaaaaaa:8786",
        "relay://127.0.0.1.hub:0",
        "relay://127.0.0.1.hub:99999",
        "tcp://127.0.0.1:8786",
        "127.0.0.1.hub:8786",
        "relay://localhost.hub:8786",
        "relay://127.0.0.1.hub:8786/../x",
    ],
)
async def test_workers_get_no_lease_to_dial_what_is_not_their_scheduler(desk, address):
    hers = await desk.notebook()
    status, answer = await hers.beat(crew={**hers.crew, "scheduler": address})
    assert status == 400
    assert "the scheduler" in answer["message"]
    await hers.scale(1)
    status, answer = await hers.beat(crew=None)
    assert answer["crew"] is True
    assert "farm" not in desk.sites or desk.farm.jobs == {}


async def test_a_user_may_have_so_many_clusters_and_workers(desk):
    notebooks = [await desk.notebook() for _ in range(5)]
    status, answer = await desk.call(desk.alice, "POST", "/clusters", {"api": 1, "name": "c"})
    assert status == 403
    assert "you have 5 clusters" in answer["message"]
    await notebooks[0].scale(40)
    status, answer = await notebooks[1].call("POST", "/scale", {"workers": 11})
    assert status == 403
    assert "11 workers are more than the 10" in answer["message"]
    assert (await notebooks[1].scale(10))["most"] == 10
    # Less is always possible, and others are not concerned.
    assert (await notebooks[0].scale(30))["most"] == 40
    assert (await (await desk.notebook(desk.bob)).scale(50))["fleet"]["wanted"] == 50


async def test_the_seed_of_a_site_is_shared_by_users_then_by_the_clusters_of_each(desk):
    await desk.stop()
    desk.write_catalog(seed=9)
    await desk.start()
    first, second = await desk.notebook(), await desk.notebook()
    his = await desk.notebook(desk.bob)
    adaptive = {"adaptive": [0, 20]}

    async def shares():
        for one in (first, second, his):
            await one.beat(**adaptive)
        return [(await one.beat(**adaptive))[1]["seed"] for one in (first, second, his)]

    # Who only keeps a fixed number of workers takes no share from others.
    assert first.created["seed"] == 9
    assert (await first.beat(**adaptive))[1]["seed"] == 9
    assert (await second.beat())[1]["seed"] in (4, 5)
    assert (await first.beat(**adaptive))[1]["seed"] == 9
    *hers, for_him = await shares()
    assert (sorted(hers), for_him) == ([2, 3], 4)
    await second.call("DELETE")
    assert sorted([(await one.beat(**adaptive))[1]["seed"] for one in (first, his)]) == [4, 5]
    await his.call("DELETE")
    assert (await first.beat(**adaptive))[1]["seed"] == 9


async def test_a_share_of_a_seed_is_no_more_than_what_a_user_may_have(desk):
    await desk.stop()
    desk.write_catalog(seed=60)
    await desk.start()
    first, second = await desk.notebook(), await desk.notebook()
    await first.scale(45)
    _, answer = await second.beat(adaptive=[0, 200])
    assert (answer["most"], answer["seed"]) == (5, 5)
    await first.scale(50)
    assert (await second.beat(adaptive=[0, 200]))[1]["seed"] == 0


# --- what is told --------------------------------------------------------------------------------


async def test_offers_are_what_the_caller_may_use(desk):
    _, hers = await desk.call(desk.alice, "GET", "/offers")
    assert [profile["name"] for profile in hers["profiles"]] == ["cores", "lab"]
    assert [site["name"] for site in hers["sites"]] == ["farm"]
    _, his = await desk.call(desk.bob, "GET", "/offers")
    gpu = his["profiles"][1]
    assert gpu["name"] == "gpu"
    assert gpu["for"] == ["session", "workers"]
    assert gpu["walltime_s"] == {"default": None, "max": 3600}
    assert gpu["sites"][0]["waits"] == {
        "jobs": 0,
        "p50_s": None,
        "p90_s": None,
        "text": "not known yet",
    }
    assert his["sites"][1] == {
        "name": "annex",
        "title": "The annex",
        "state": "up",
        "reason": "",
        "free_cpus": None,
    }


async def test_what_a_job_has_printed_is_given_as_text(desk):
    hers = await desk.notebook()
    await hers.beat()
    await hers.scale(1)
    [key] = await hers.submitted(1)
    desk.farm.start(key)
    desk.farm.print(key, "<script>alert(1)</script>\n", "error")
    answer = await desk.request(desk.alice, "GET", f"/api/clusters/{hers.id}/logs?job={key}")
    assert json.loads(answer.body) == {key: "<script>alert(1)</script>\n\nerror"}
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    status, said = await desk.call(desk.alice, "GET", f"/clusters/{hers.id}/logs?job=other")
    assert status == 400
    assert "no job of this cluster is called 'other'" in said["message"]


async def test_a_catalog_is_checked_without_being_used(desk):
    text = desk.catalog.read_text().replace("kind: local", "kind: lokal")
    status, answer = await desk.call(desk.root, "POST", "/catalog/check", {"text": text})
    assert status == 200
    assert "did you mean 'local'?" in answer["problems"][0]
    assert (await desk.call(desk.root, "GET", "/catalog"))[1]["problems"] == []


async def test_secrets_are_in_no_answer_and_not_in_the_ledger(desk):
    hers = await desk.notebook()
    await hers.beat()
    await hers.scale(1)
    [key] = await hers.submitted(1)
    told = [
        (await desk.request(desk.alice, "GET", f"/api{path}")).body.decode()
        for path in (
            "",
            "/offers",
            "/clusters",
            "/jobs",
            f"/clusters/{hers.id}",
            f"/clusters/{hers.id}/jobs",
        )
    ]
    kept = b"".join(path.read_bytes() for path in desk.place.glob("ledger.sqlite*"))
    secret = [hers.secret, desk.alice, *hers.crew["tls"]["key"].splitlines()[1:-1]]
    secret += [desk.farm.jobs[key].secrets["agent.json"].decode().partition('"lease": "')[2][:60]]
    for one in secret:
        assert one
        assert not any(one in text for text in told)
        assert one.encode() not in kept


def test_the_access_that_is_needed_is_the_one_of_the_documentation():
    assert ACCESS == "access:services!service=offload"
