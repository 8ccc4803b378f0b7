"""What people see, in a real browser: sign-in, form, waiting, JupyterLab, failure, stop."""

import re

import pytest
from playwright.sync_api import expect

from tests.support.waiting import eventually_sync, scaled

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _patience():
    expect.set_options(timeout=scaled(60) * 1000)


@pytest.fixture
def clean(hub):
    """Leave no server to the next test."""
    yield
    hub.stop_all_servers()


def start(page, profile, *, walltime=""):
    page.goto("/hub/spawn")
    page.check(f"#p-{profile}")
    if walltime:
        page.check(f"input[name='{profile}.walltime'][value='{walltime}']")
    page.get_by_role("button", name="Start").last.click()


def test_the_form_shows_what_one_may_use_and_where_it_would_run(hub, visit, shoot):
    page = visit("alice")
    page.goto("/hub/spawn")
    expect(page.get_by_role("radio", name="HTC cores")).to_be_checked()
    expect(page.get_by_text("RAC Naples").first).to_be_visible()
    assert "HPC node" not in page.content(), "a profile of a group one is not in"
    grace = visit("grace")
    grace.goto("/hub/spawn")
    expect(grace.get_by_role("radio", name="HPC node")).to_be_visible()
    shoot(grace, "spawn")


def test_the_form_is_used_by_keyboard_and_its_settings_follow_the_choice(hub, visit):
    page = visit("grace")
    page.goto("/hub/spawn")
    page.get_by_role("radio", name="HTC cores").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="HPC node")).to_be_checked()
    expect(page.get_by_role("heading", name="Settings for HPC node")).to_be_visible()
    expect(page.get_by_role("heading", name="Settings for HTC cores")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("spawn-dark", {"color_scheme": "dark"}),
        ("spawn-phone", {"viewport": {"width": 390, "height": 844}}),
    ],
)
def test_the_form_fits_a_phone_and_a_dark_room(hub, visit, shoot, name, options):
    page = visit("grace", **options)
    page.goto("/hub/spawn")
    expect(page.get_by_role("radio", name="HTC cores")).to_be_visible()
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide, "the page scrolls sideways"
    shoot(page, name)


def test_a_queued_session_says_so_and_is_cancelled(hub, visit, shoot, clean):
    hub.add_user("first")
    hub.spawn("first", profile="htc")
    hub.wait_ready("first")
    page = visit("alice")
    start(page, "htc")
    expect(page.get_by_role("heading", name="Waiting for HTC cores at RAC Naples")).to_be_visible()
    expect(page.locator("body")).to_contain_text("Queued for")
    expect(page).to_have_title(re.compile("Queued"))
    shoot(page, "pending")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("body")).not_to_contain_text("Queued for")
    eventually_sync(lambda: not hub.server("alice"), within_s=60, saying="cancelled")


def test_jupyterlab_is_as_ever_with_a_kernel_and_a_terminal(hub, visit, shoot, clean):
    page = visit("grace")
    start(page, "hpc", walltime="10m")
    page.wait_for_url("**/user/grace/lab**")
    page.locator(".jp-LauncherCard[title*='Python 3']").first.click()
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
    cell = page.locator(".jp-Notebook .cm-content").first
    cell.click()
    page.keyboard.type("6 * 7")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("42")
    shoot(page, "lab")
    page.goto("/user/grace/lab?reset")
    page.locator(".jp-LauncherCard", has_text="Terminal").click()
    page.locator(".jp-Terminal").click()
    eventually_sync(lambda: _types(page, hub), within_s=60, saying="the terminal did as told")


def _types(page, hub):
    page.keyboard.type("touch made-in-terminal\n")
    return hub.lab("GET", "grace", "api/contents/made-in-terminal").status_code == 200


def test_a_session_that_cannot_start_says_why_and_what_to_do(hub, visit, shoot):
    page = visit("alice")
    start(page, "own")
    expect(page.locator("body")).to_contain_text("this image has no jupyterhub-singleuser")
    expect(page.locator("body")).to_contain_text("Choose an image with jupyterhub and jupyterlab")
    page.reload()
    expect(page.locator("body")).to_contain_text("this image has no jupyterhub-singleuser")
    shoot(page, "failed")


def test_without_javascript_a_session_still_starts_and_is_stopped(hub, visit, clean):
    page = visit("alice", java_script_enabled=False)
    start(page, "htc")
    eventually_sync(lambda: hub.server("alice").get("ready"), within_s=90, saying="ready")
    page.goto("/user/alice/lab")
    expect(page).to_have_title("JupyterLab")


def test_a_server_is_stopped_from_the_hubs_home(hub, visit, clean):
    hub.add_user("alice")
    hub.spawn("alice", profile="htc")
    hub.wait_ready("alice")
    page = visit("alice")
    page.goto("/hub/home")
    page.get_by_role("button", name="Stop My Server").or_(page.locator("#stop")).first.click()
    eventually_sync(lambda: not hub.server("alice"), within_s=60, saying="stopped")


def test_the_dask_panel_makes_and_scales_a_cluster(hub, visit, shoot, clean):
    page = visit("grace")
    start(page, "hpc", walltime="10m")
    page.wait_for_url("**/user/grace/lab**")
    page.get_by_role("tab", name="Dask").click()
    page.get_by_role("button", name="NEW").click()
    item = page.locator(".dask-ClusterListingItem").first
    expect(item).to_be_visible()
    item.get_by_role("button", name="SCALE").click()
    dialog = page.locator(".jp-Dialog")
    dialog.locator("input[type='number']").first.fill("2")
    dialog.get_by_role("button", name="SCALE").click()
    expect(item).to_contain_text("Number of Workers: 2")
    expect(item).to_contain_text("relay://")
    shoot(page, "panel")


def test_the_service_shows_jobs_and_sites(hub, visit, shoot):
    page = visit("root")
    page.goto("/services/offload/admin")
    expect(page.locator("body")).to_contain_text("RAC Naples")
    shoot(page, "admin")
