"""A real browser, if this machine has one."""

import shutil
from contextlib import contextmanager

from tests.support.tiers import lacking

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing that calls home, and no sandbox: the tests may run as root, in a container.
_QUIET = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def a_browser(config):
    """Start a browser, for the tests of one module."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        lacking(config, "browser", "no chromium here: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking(config, "browser", "the Python package playwright is missing: make setup")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_QUIET)
        yield browser
        browser.close()
