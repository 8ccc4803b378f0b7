"""What a user of JupyterLab sees of the walltime, in a real browser."""

import json
import re
import shutil
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.hubkit import PROXY, HubKit
from tests.support.tiers import lacking
from tests.support.waiting import scaled

pytestmark = [pytest.mark.browser, pytest.mark.hub, pytest.mark.timeout(300)]

ITEM = ".ofl-walltime"
NOTICE = ".Toastify__toast"
MINUTE = 60


@pytest.fixture(scope="module")
def hub(request):
    if not PROXY.exists():
        lacking(request.config, "browser", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = HubKit(place)
    try:
        kit.start()
        kit.add_user("alice")
        kit.spawn("alice", profile="plain")
        kit.wait_ready("alice")
        yield kit
    finally:
        kit.close()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def page(chromium, hub):
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(1000 * scaled(60))
    page = context.new_page()
    page.goto(f"{hub.url}/hub/login")
    page.fill("#username_input", "alice")
    page.fill("#password_input", "secret")
    page.click("#login_submit")
    page.wait_for_url("**/user/alice/**")
    yield page
    context.close()


def told(hub):
    """Return the file in which JupyterLab reads until when its session may run."""
    [file] = hub.place.glob("site/jobs/*/*/offload/labextensions/*/static/session.json")
    return file


@pytest.fixture
def shown(hub):
    """Return what sets how much time JupyterLab is told to have left, in seconds."""
    file = told(hub)
    before = file.read_text()

    def left(seconds):
        file.write_text(json.dumps({**json.loads(before), "ends_at": time.time() + seconds}))

    yield left
    file.write_text(before)


def opened(hub, page):
    page.goto(f"{hub.url}/user/alice/lab")
    page.wait_for_selector(".jp-Launcher")
    return page.wait_for_selector(ITEM)


def no_notice(page):
    """Tell that there is none, after something that takes as long as showing one."""
    page.click(ITEM)
    page.wait_for_selector(".ofl-walltime-details")
    page.keyboard.press("Escape")
    page.wait_for_selector(".ofl-walltime-details", state="detached")
    return page.query_selector(NOTICE) is None


def test_the_time_that_is_left_stands_in_the_status_bar(hub, page, shown):
    shown(3 * 60 * MINUTE + 12 * MINUTE)
    item = opened(hub, page)
    assert item.inner_text() == "Here, 3 h 12 min left"
    assert item.get_attribute("data-tone") == "ok"
    assert no_notice(page)


def test_it_becomes_urgent_by_itself_and_says_so_once(hub, page, shown):
    shown(15 * MINUTE + 3)
    item = opened(hub, page)
    page.wait_for_selector(f"{ITEM}[data-tone=warn]")
    notice = page.wait_for_selector(NOTICE).inner_text()
    assert re.match(r"Here: this session ends at \d\d:\d\d, in 15 min\. Download what", notice)
    assert "…" not in notice
    assert item.inner_text() == "Here, 15 min left"
    # Neither another page nor the same one again tells it once more.
    item = opened(hub, page)
    page.wait_for_selector(f"{ITEM}[data-tone=warn]")
    assert no_notice(page)


def test_in_the_last_minutes_it_is_red_and_tells_of_those_alone(hub, page, shown):
    shown(4.6 * MINUTE)
    item = opened(hub, page)
    assert item.get_attribute("data-tone") == "bad"
    assert item.inner_text() == "Here, 5 min left"
    page.wait_for_selector(NOTICE)
    assert len(page.query_selector_all(NOTICE)) == 1


def test_a_session_whose_time_is_up_says_so(hub, page, shown):
    shown(-1)
    assert opened(hub, page).inner_text() == "Here, time is up"
    assert no_notice(page)


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_details_are_a_click_or_a_key_away(hub, page, shown, how):
    shown(60 * MINUTE)
    item = opened(hub, page)
    if how == "mouse":
        item.click()
    else:
        item.focus()
        page.keyboard.press("Enter")
    details = page.wait_for_selector(".ofl-walltime-details").inner_text()
    assert re.search(r"Site\s+Here\s+Started\s+\d\d:\d\d\s+Ends\s+\S", details)
    assert "Kernels and terminals end with the session. Download what you want to keep" in details
    page.keyboard.press("Escape")
    page.wait_for_selector(".ofl-walltime-details", state="detached")


def test_the_clock_of_the_node_counts_and_not_that_of_the_browser(hub, page, shown):
    shown(60 * MINUTE)
    page.clock.install(time=datetime.fromtimestamp(time.time() + 40 * MINUTE))  # noqa: DTZ006
    assert opened(hub, page).inner_text() == "Here, 1 h left"


def test_a_jupyterlab_without_what_the_agent_brings_is_the_same_without_the_item(hub, page):
    file = told(hub)
    before = file.read_text()
    file.unlink()
    try:
        page.goto(f"{hub.url}/user/alice/lab")
        page.wait_for_selector(".jp-Launcher")
        page.wait_for_selector("#jp-main-statusbar")
        assert page.query_selector(ITEM) is None
    finally:
        file.write_text(before)
