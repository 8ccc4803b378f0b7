"""Whatever is sent as options: a good session or a sentence, never a broken hub."""

import json

import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from offload_sites.testing import scaled
from tests.support.hubkit import pretty

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]

BAD = [
    *({"profile": name} for name in ("nope", "", "PLAIN", "plain ", "../plain", "a" * 5000)),
    *({"profile": value} for value in (1, 1.5, True, [], ["plain"], {}, {"plain": 1})),
    {"profile": "plain", "cpus": 10**400},
    *({"profile": "plain", "cpus": value} for value in (0, -1, 3, 1.0, True, "1", [1], {})),
    *({"profile": "plain", "walltime": value} for value in ("99h", "0s", "", "1", 3600, [], "-1h")),
    *({"profile": "plain", "image": value} for value in ("nope", "/etc", "/cvmfs/x", 1, [])),
    *({"profile": "plain", "site": value} for value in ("nope", "moody", 1, [])),
    {"profile": "gpu"},
    {"image--unlisted-choice": "registry.example/other:latest"},
    {"profile": "", "image--unlisted-choice": "registry.example/other:latest"},
    {"profile": "plain", "image--unlisted-choice": "registry.example/other:latest"},
    {"profile": "plain", "kubespawner_override": {"image": "x"}},
    {"node_selector": {"a": "b"}, "environment": {"LD_PRELOAD": "/tmp/x"}, "cmd": ["sh"]},
    {"profile": "{0}"},
    {"profile": "{userid.__class__}"},
    {"profile": "%s%s%s%n"},
    {"profile": "\ud800"},
    {"profile": "plain\u0000"},
    {"__jupyterhub_bytes__": True, "data": "x"},
    {"profile": {"__jupyterhub_bytes__": True, "data": "AAAA"}},
    {"user_options": {"profile": "nope"}},
]
ODD = [
    "[]",
    "[1]",
    '"plain"',
    "7",
    "true",
    "1e400",
    '{"a": NaN}',
    "{",
    "",
    "null",
    "\x00",
    "[" * 900,
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("profile", "cpus", "walltime", "image", "site", "resources", "environment", "cmd")
# Any field may hold anything, but one that cannot be right is always among them.
HOSTILE = st.builds(
    lambda fields, name, value: {**fields, name: value},
    st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON, max_size=6),
    st.sampled_from(("profile", "cpus", "walltime", "image", "site")),
    st.dictionaries(st.text(), JSON, min_size=1, max_size=3) | st.lists(JSON, min_size=1),
)


def post(hub, user, body, path="server"):
    return requests.post(
        f"{hub.url}/hub/api/users/{user}/{path}",
        data=body.encode("utf-8", "surrogatepass"),
        headers={"Authorization": f"token {hub.token}"},
        timeout=scaled(60),
    )


@pytest.fixture
def nobody(hub):
    """A user for whom nothing was ever started, and nothing may be."""
    hub.add_user("nobody")
    before = hub.jobs()
    yield "nobody"
    assert hub.jobs() == before
    assert hub.processes["hub"].poll() is None, hub.log("hub")


@pytest.mark.parametrize("options", BAD, ids=[f"{number}" for number in range(len(BAD))])
def test_bad_options_are_a_400_with_a_sentence(hub, nobody, options):
    answer = post(hub, nobody, json.dumps(options))
    assert answer.status_code == 400, pretty(answer)
    message = answer.json()["message"]
    assert 10 < len(message) < 1000
    assert "Traceback" not in message
    assert not hub.server(nobody)


@examples(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(options=HOSTILE)
def test_options_at_random_are_refused_and_start_nothing(hub, nobody, options):
    answer = post(hub, nobody, json.dumps(options))
    assert answer.status_code == 400, pretty(answer)
    assert "Traceback" not in answer.json()["message"]
    assert not hub.server(nobody)


@pytest.mark.parametrize("body", ODD, ids=[f"{number}" for number in range(len(ODD))])
def test_a_body_of_any_sort_never_is_the_hubs_error(hub, body):
    hub.add_user("odd")
    answer = post(hub, "odd", body)
    assert answer.status_code < 500, pretty(answer)
    if answer.status_code < 300:  # nothing asked for: the first profile
        hub.wait_ready("odd")
        hub.stop("odd")
    assert hub.processes["hub"].poll() is None
    assert not hub.server("odd")


def test_bad_options_are_not_kept_for_the_next_time(hub):
    hub.add_user("ray")
    hub.spawn("ray", profile="plain", cpus=2)
    hub.wait_ready("ray")
    hub.stop("ray")
    assert post(hub, "ray", '{"profile": "nope"}').status_code == 400
    # Without options: as last time.
    assert post(hub, "ray", "").status_code in (201, 202)
    hub.wait_ready("ray")
    assert hub.server("ray")["user_options"] == {"profile": "plain", "cpus": 2}
    hub.stop("ray")


def test_a_profile_of_a_group_starts_for_its_members_only(hub):
    assert hub.spawn("grace", profile="gpu").status_code in (201, 202)
    hub.wait_ready("grace")
    hub.stop("grace")


def test_a_form_with_a_bad_value_comes_back_with_the_field_and_all_choices(hub):
    hub.add_user("form")
    browser = hub.sign_in("form")
    page = browser.get(f"{hub.url}/hub/spawn").text
    token = page.split('name="_xsrf" value="')[1].split('"')[0]
    fields = {
        "_xsrf": token,
        "profile": "plain",
        "plain.image": "lab",
        "plain.cpus": "2",
        "plain.walltime": "77h",
    }
    answer = browser.post(f"{hub.url}/hub/spawn", data=fields)
    assert answer.status_code == 400
    assert "A walltime of 3 d 5 h is not possible with profile &#39;plain&#39;" in answer.text
    assert 'id="plain-cpus-2" value="2" data-short="2 CPUs, 1 GiB" checked' in answer.text
    assert 'id="p-gpu"' not in answer.text


def test_a_link_starts_a_session_and_a_bad_link_shows_the_form(hub):
    hub.add_user("link")
    browser = hub.sign_in("link")
    answer = browser.get(f"{hub.url}/hub/spawn?profile=nope")
    assert answer.status_code == 400
    assert "There is no profile &#39;nope&#39;" in answer.text
    browser.get(f"{hub.url}/hub/spawn?profile=plain&cpus=2")
    hub.wait_ready("link")
    assert hub.server("link")["user_options"] == {"profile": "plain", "cpus": 2}
    hub.stop("link")
