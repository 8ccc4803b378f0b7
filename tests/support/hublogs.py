"""What the processes of a hub have said, behind the failure of a test: import both into a conftest."""

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        item.failed_report = report


@pytest.fixture(autouse=True)
def hub_logs(request):
    """Print the end of each process's log if a test fails."""
    yield
    if getattr(request.node, "failed_report", None) and "hub" in request.fixturenames:
        kit = request.getfixturevalue("hub")
        for name in ("hub", "relay"):
            print(f"--- {name}\n{kit.log(name)[-6000:]}")
