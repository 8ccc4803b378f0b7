"""What a user sees when something does not work, and that the hub goes on."""

import os
import re
import signal

import pytest

from offload_sites.testing import eventually_sync
from tests.support.hubkit import pretty
from tests.support.processes import processes_below

FRESH = """  fresh:
    title: A fresh profile
    sites: [here]
    images: [lab]
    resources: {cpus: 1, memory: 1GiB}
"""

PODS = """  pods:
    kind: kubernetes
    title: The hub's machines
    max_walltime: 2h
images:
"""
IN_A_POD = """  pods:
    title: Here at the hub
    sites: [pods]
    for: [session]
    images: [lab]
    resources: {cpus: 1, memory: 1GiB}
"""

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def _good_mood(hub):
    yield
    hub.mood()


def failure_page(hub, user):
    answer = hub.sign_in(user).get(f"{hub.url}/hub/spawn-pending/{user}")
    return re.sub(r"\s+", " ", answer.text)


def test_an_image_without_a_server_is_a_sentence_with_something_to_do(hub):
    hub.add_user("ann")
    answer = hub.spawn("ann", profile="broken")
    assert answer.status_code == 424, pretty(answer)
    assert "this image has no jupyterhub-singleuser" in answer.json()["message"]
    page = failure_page(hub, "ann")
    assert "Your server did not start: this image has no jupyterhub-singleuser" in page
    assert "Choose an image with jupyterhub and jupyterlab in it" in page
    browser = hub.sign_in("ann")
    report = browser.get(f"{hub.url}/hub/offload/report/ann")
    assert report.headers["Content-Type"].startswith("text/plain")
    assert "Exit code 78" in report.text
    assert (
        "offload-agent: connected to the relay"
        in browser.get(f"{hub.url}/hub/offload/log/ann").text
    )
    # An administrator may read both.
    assert hub.sign_in("root").get(f"{hub.url}/hub/offload/report/ann").text == report.text


def test_a_site_that_refuses_says_so_and_nothing_is_tried_again(hub):
    hub.add_user("bob")
    hub.mood("reject")
    answer = hub.spawn("bob", profile="moody")
    assert answer.status_code == 424
    page = failure_page(hub, "bob")
    assert "Moody refused the job" in page
    assert "The moody site has no such node." in page
    assert not hub.server("bob")


def test_a_site_that_is_removed_from_the_catalog_while_it_is_silent_is_a_sentence(hub):
    hub.add_user("bea")
    hub.mood("silent")
    assert hub.spawn("bea", profile="moody").status_code == 202
    catalog = hub.place / "catalog.yaml"
    whole = catalog.read_text()
    try:
        catalog.write_text(
            whole.replace("  moody:\n    kind", "  other:\n    kind").replace("[moody", "[other")
        )
        eventually_sync(lambda: not hub.server("bea"), within_s=60, saying=hub.log("hub"))
        assert "There is no site &#39;moody&#39; in the catalog any more." in failure_page(
            hub, "bea"
        )
    finally:
        catalog.write_text(whole)


def test_of_two_sites_the_other_one_takes_what_the_first_refuses(hub):
    hub.add_user("cat")
    hub.mood("reject")
    hub.spawn("cat", profile="either")
    hub.wait_ready("cat")
    assert hub.server("cat")["state"]["offload"]["session"]["site"] == "here"
    hub.stop("cat")


def test_a_site_that_is_down_is_passed_over(hub):
    hub.add_user("cis")
    hub.mood("down")
    browser = hub.sign_in("cis")

    def form():
        text = browser.get(f"{hub.url}/hub/spawn").text
        return text if "Maintenance until 18:00" in text else ""

    page = eventually_sync(form, within_s=60)
    assert re.search(r'id="p-moody"[^>]*disabled', page)
    assert not re.search(r'id="p-either"[^>]*disabled', page)
    hub.spawn("cis", profile="either")
    hub.wait_ready("cis")
    assert hub.server("cis")["state"]["offload"]["session"]["site"] == "here"
    hub.stop("cis")


def test_a_queued_start_is_cancelled_by_the_page_without_a_script(hub):
    hub.add_user("dan")
    hub.mood("hold")
    hub.spawn("dan", profile="moody")
    browser = hub.sign_in("dan")
    page = browser.get(f"{hub.url}/hub/spawn-pending/dan").text
    assert 'http-equiv="refresh"' in page
    form = re.search(r'action="([^"]+/cancel/[^"]+)">\s*<input[^>]+value="([^"]+)"', page)
    key = hub.server("dan")["state"]["offload"]["session"]["key"]
    hub.mood()
    answer = browser.post(hub.url + form[1], data={"_xsrf": form[2]})
    assert answer.url.endswith("/hub/spawn/dan"), answer.url
    assert not hub.server("dan")
    eventually_sync(lambda: not processes_below(f"{hub.place}/moody/site/jobs/{key}"))


def test_a_cancelled_start_while_the_site_hangs_frees_the_user_at_once(hub):
    hub.add_user("eva")
    hub.mood("hang")
    hub.spawn("eva", profile="moody")
    hub.api("DELETE", "users/eva/server")
    # The site cannot confirm; the hub goes on past `stop_timeout`, the site is asked on.
    eventually_sync(lambda: not hub.server("eva"), within_s=60)
    hub.mood()
    hub.spawn("eva", profile="plain")
    hub.wait_ready("eva")
    hub.stop("eva")


def test_a_silent_site_ends_nothing(hub):
    hub.add_user("fred")
    hub.spawn("fred", profile="moody")
    hub.wait_ready("fred")
    hub.mood("silent")

    def silent():
        session = hub.server("fred")["state"]["offload"]["session"]
        return session["silent_since"] and session["status"]["state"] == "running"

    eventually_sync(silent, within_s=60)
    assert hub.server("fred")["ready"]
    assert hub.lab("GET", "fred", "api/status").status_code == 200
    hub.mood()
    hub.stop("fred")


def test_a_killed_job_is_noticed_and_explained(hub):
    hub.add_user("gail")
    hub.spawn("gail", profile="plain")
    hub.wait_ready("gail")
    key = hub.server("gail")["state"]["offload"]["session"]["key"]
    for pid, line in processes_below(f"{hub.place}/site/jobs/{key}").items():
        if "agent.json" in line:
            os.kill(pid, signal.SIGKILL)
    eventually_sync(lambda: not hub.server("gail"), within_s=30)
    page = hub.sign_in("gail").get(f"{hub.url}/hub/user/gail/").text
    assert "Your server ended: " in page
    assert "How far it came" in page


def test_a_walltime_that_is_over_is_said(hub):
    hub.add_user("hope")
    hub.spawn("hope", profile="plain", walltime="30s")
    hub.wait_ready("hope")
    eventually_sync(lambda: not hub.server("hope"), within_s=60)
    page = hub.sign_in("hope").get(f"{hub.url}/hub/user/hope/").text
    assert "Your server ended: its walltime of 30 s was used up" in page


def test_a_queue_budget_that_is_over_gives_up_and_takes_the_job_out(hub):
    hub.add_user("ian")
    hub.write_catalog(budget="3s", more=FRESH)
    browser = hub.sign_in("ian")
    # The budget of a profile is not shown; another one tells that the file was read.
    eventually_sync(lambda: "A fresh profile" in browser.get(f"{hub.url}/hub/spawn").text)
    hub.mood("hold")
    hub.spawn("ian", profile="moody")
    eventually_sync(lambda: not hub.server("ian"), within_s=40)
    assert "Moody did not start the job within 3 s" in failure_page(hub, "ian")
    hub.write_catalog()


def test_a_catalog_is_read_again_and_a_broken_edit_changes_nothing(hub):
    hub.add_user("joy")
    browser = hub.sign_in("joy")

    def shown(text):
        return lambda: text in browser.get(f"{hub.url}/hub/spawn").text

    hub.write_catalog(more=FRESH)
    eventually_sync(shown("A fresh profile"))
    (hub.place / "catalog.yaml").write_text("sites: {here: {kind: lokal}}")
    eventually_sync(lambda: "the last good one stays" in hub.log("hub"))
    assert shown("A fresh profile")()
    assert "catalog.yaml:1" in hub.log("hub")
    hub.write_catalog()
    eventually_sync(lambda: not shown("A fresh profile")())


def test_failures_of_sessions_never_stop_the_hub(hub):
    # The hub of these tests exits after five failures in a row that it counts.
    hub.add_user("kim")
    hub.mood("reject")
    for _ in range(7):
        assert hub.spawn("kim", profile="moody").status_code == 424
    assert hub.processes["hub"].poll() is None
    assert "consecutive spawn failures" not in hub.log("hub")


def test_a_hub_that_cannot_reach_kubernetes_says_so_at_profiles_that_need_it(hub):
    hub.add_user("zoe")
    hub.write_catalog(more=IN_A_POD)
    catalog = hub.place / "catalog.yaml"
    text = catalog.read_text().replace("images:\n", PODS, 1)
    text = text.replace("title: JupyterLab,", "title: JupyterLab, docker: example/lab:1,")
    catalog.write_text(text)
    browser = hub.sign_in("zoe")
    eventually_sync(lambda: "Here at the hub" in browser.get(f"{hub.url}/hub/spawn").text)
    answer = hub.spawn("zoe", profile="pods")
    assert answer.status_code == 424, pretty(answer)
    message = answer.json()["message"]
    assert message.startswith(
        "The session did not start at The hub's machines: the hub has no access"
    )
    assert "ask the administrator" in message
    # What a browser is shown that was on the progress page.
    assert "has no access to Kubernetes" in browser.get(f"{hub.url}/hub/spawn-pending/zoe").text
    hub.write_catalog()
