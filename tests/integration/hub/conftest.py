"""One real hub for the tests of a module; most of them share it, and each has users of its own."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.hubkit import PROXY, HubKit
from tests.support.hublogs import hub_logs, pytest_runtest_makereport  # noqa: F401
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
