"""Sessions of a real hub through a real relay: that they work, and that they stay apart."""

import json
import re

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from offload_sites.testing import eventually_sync, scaled
from tests.support.hubkit import HubKit, pretty
from tests.support.kernelkit import run_in_kernel, run_in_terminal
from tests.support.processes import processes_below

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def alice(hub: HubKit):
    """A user with a server that runs."""
    hub.add_user("alice")
    answer = hub.spawn("alice", profile="plain")
    assert answer.status_code in (201, 202), pretty(answer)
    hub.wait_ready("alice")
    return "alice"


def test_a_session_is_a_jupyterlab_as_ever(hub, alice):
    status = hub.lab("GET", alice, "api/status")
    assert status.status_code == 200
    assert hub.lab("GET", alice, "lab").status_code == 200


def test_a_kernel_computes_in_it(hub, alice):
    assert run_in_kernel(hub, alice, "print(6 * 7)") == "42\n"


def test_a_terminal_answers_in_it(hub, alice):
    assert "1764" in run_in_terminal(hub, alice, "echo $((42 * 42))")


def test_its_environment_holds_what_a_session_needs_and_no_more(hub, alice):
    names = json.loads(
        run_in_kernel(hub, alice, "import json, os; print(json.dumps(sorted(os.environ)))")
    )
    assert {"JUPYTERHUB_API_TOKEN", "OFFLOAD_PROFILE", "OFFLOAD_JOB", "OFFLOAD_ENDS_AT"} <= set(
        names
    )
    assert not [name for name in names if "CONFIGPROXY" in name or "KEY" in name.split("_")]


def test_a_large_file_comes_back_as_it_was_sent(hub, alice):
    content = "x" * 2**20 + "\n"
    model = {"type": "file", "format": "text", "content": content}
    assert hub.lab("PUT", alice, "api/contents/large.txt", json=model).status_code == 201
    assert hub.lab("GET", alice, "files/large.txt").text == content


def test_two_servers_of_one_user_are_two_sessions(hub, alice):
    hub.spawn(alice, "second", profile="plain", cpus=2)
    hub.wait_ready(alice, "second")
    run_in_kernel(hub, alice, "open('mine.txt', 'w').write('1')")
    assert hub.lab("GET", alice, "api/contents/mine.txt").status_code == 200
    assert hub.lab("GET", alice, "api/contents/mine.txt", server="second").status_code == 404
    hub.stop(alice, "second")
    assert hub.lab("GET", alice, "api/status").status_code == 200


def test_a_user_cannot_reach_anothers_session_by_any_way(hub, alice):
    mallory = hub.add_user("mallory")
    hub.spawn("mallory", profile="plain")
    hub.wait_ready("mallory")
    for path in ("api/status", "api/contents", "lab", "files/mine.txt"):
        assert hub.lab("GET", alice, path, token=mallory).status_code in (403, 404)
    # A path that only looks like one's own.
    for path in ("/user/mallory/../alice/api/contents", "/user/mallory/%2e%2e/alice/api/contents"):
        request = requests.Request("GET", hub.url)
        prepared = request.prepare()
        prepared.url = hub.url + path
        prepared.headers["Authorization"] = f"token {mallory}"
        answer = requests.Session().send(prepared, allow_redirects=False, timeout=scaled(30))
        assert answer.status_code >= 300, path
        assert "mine.txt" not in answer.text
    for method, path in (
        ("DELETE", "users/alice/server"),
        ("POST", "users/alice/servers/third"),
        ("GET", "users/alice"),
        ("GET", "users/alice/server/progress"),
    ):
        assert hub.api(method, path, token=mallory).status_code in (403, 404), path
    browser = hub.sign_in("mallory")
    for path in ("log/alice", "report/alice"):
        assert browser.get(f"{hub.url}/hub/offload/{path}").status_code in (403, 404)
    xsrf = re.search(r'"_xsrf" value="([^"]+)"', browser.get(f"{hub.url}/hub/spawn").text)
    answer = browser.post(
        f"{hub.url}/hub/offload/cancel/alice", data={"_xsrf": xsrf[1] if xsrf else ""}
    )
    assert answer.status_code in (403, 404)
    assert hub.server(alice)["ready"]
    hub.stop("mallory")


def test_a_kernel_socket_of_another_user_is_refused(hub, alice):
    token = hub.add_user("eve")
    kernel = hub.lab("POST", alice, "api/kernels").json()["id"]
    url = f"ws://127.0.0.1:{hub.public}/user/alice/api/kernels/{kernel}/channels"
    headers = {"Authorization": f"token {token}"}
    with (
        pytest.raises(InvalidStatus, match="HTTP 40[34]"),
        connect(url, additional_headers=headers, proxy=None),
    ):
        pass


def test_a_stopped_session_leaves_no_job_and_no_process(hub):
    hub.add_user("carol")
    hub.spawn("carol", profile="plain")
    hub.wait_ready("carol")
    key = hub.server("carol")["state"]["offload"]["session"]["key"]
    hub.stop("carol")
    runs = f"{hub.place}/site/jobs/{key}"
    eventually_sync(lambda: not processes_below(runs), within_s=20)
    assert hub.lab("GET", "carol", "api/status").status_code in (404, 424, 503)


def test_the_next_session_of_a_user_is_a_new_one(hub):
    hub.add_user("dave")
    for _ in range(2):
        hub.spawn("dave", profile="plain")
        hub.wait_ready("dave")
        assert hub.lab("GET", "dave", "api/contents/left.txt").status_code == 404
        run_in_kernel(hub, "dave", "open('left.txt', 'w').write('1')")
        hub.stop("dave")


def test_the_hub_needs_no_kubernetes(hub):
    assert "kube" not in hub.log("hub").lower().replace("kubespawner", "")
