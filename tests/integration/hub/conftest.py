"""One real hub for the tests of a module; most of them share it, and each has users of its own."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.hubkit import PROXY, HubKit
from tests.support.tiers import lacking


@pytest.fixture(scope="module")
def hub(request):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    # A short path: it becomes a part of the paths of sockets.
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = HubKit(place)
    try:
        kit.start()
        yield kit
    finally:
        try:
            kit.close()
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def _logs(request):
    """Print the end of each process's log if a test fails."""
    yield
    report = getattr(request.node, "failed_report", None)
    if report and "hub" in request.fixturenames:
        kit = request.getfixturevalue("hub")
        for name in ("hub", "relay"):
            print(f"--- {name}\n{kit.log(name)[-6000:]}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        item.failed_report = report
