"""A real browser, if this machine has one."""

import shutil
from contextlib import contextmanager

from tests.support.tiers import lacking

__all__ = ["a_browser", "chromium", "installed"]

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


def installed():
    """Return the path of the browser of this machine; None if it has none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def chromium(path):
    """Run the browser at `path` without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def a_browser(config):
    """Start a browser, for the tests of one module."""
    path = installed()
    if path is None:
        lacking(config, "browser", "no chromium here: apt-get install chromium")
    with chromium(path) as browser:
        yield browser
