"""What a person sees who follows what `make demo` prints: sign in, start, run the notebook."""

import shutil
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from offload_cli.demo.setting import USERS, DemoHub
from tests.support.hubkit import PROXY
from tests.support.tiers import lacking
from tests.support.waiting import scaled

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture
def demo(request):
    if not PROXY.exists():
        lacking(request.config, "browser", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="offload-demo-"))
    hub = DemoHub(place, place / "home")
    try:
        hub.start()
        yield hub
    finally:
        hub.close()
        shutil.rmtree(place, ignore_errors=True)
    assert not hub.killed


@pytest.fixture(autouse=True)
def _patience():
    expect.set_options(timeout=scaled(90) * 1000)


def test_the_notebook_that_users_find_in_their_folder_runs_and_plots(demo, chromium, shoot):
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, base_url=demo.url)
    context.set_default_timeout(scaled(90) * 1000)
    page = context.new_page()
    page.goto("/")
    page.fill("#username_input", "alice")
    page.fill("#password_input", demo.password(USERS[0]))
    page.click("#login_submit")
    page.get_by_role("radio", name="One core").check()
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/user/alice/lab**")
    page.get_by_text("dimuon.ipynb").dblclick()
    notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(notebook.get_by_role("heading", name="Two muons")).to_be_visible()
    idle = page.get_by_text("Python 3 (ipykernel) | Idle")
    expect(idle).to_be_visible()  # before there is a kernel, JupyterLab runs nothing
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    outputs = notebook.locator(".jp-OutputArea-output")
    expect(outputs.get_by_text("through the relay")).to_be_visible()
    expect(outputs.locator("img")).to_be_visible()
    # All is done, the last cell too; and a new user has been asked whether they want news.
    expect(idle).to_be_visible()
    page.get_by_role("button", name="No", exact=True).click()
    expect(page.get_by_text("official Jupyter news")).to_be_hidden()
    shoot(page, "demo")
    context.close()
