"""A hub with pages that one would show, and a real browser to look at them with."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.hubkit import PROXY, HubKit
from tests.support.hublogs import hub_logs, pytest_runtest_makereport  # noqa: F401
from tests.support.processes import processes_below
from tests.support.tiers import lacking
from tests.support.waiting import eventually_sync, scaled

CATALOG = """
sites:
  naples:
    kind: local
    title: RAC Naples
    max_walltime: 48h
    directory: {place}/naples
    max_jobs: 1
  leonardo:
    kind: local
    title: Leonardo
    max_walltime: 24h
    directory: {place}/leonardo
images:
  highrate: {{title: "AlmaLinux 9, high-rate analysis", python: {python}}}
  minimal: {{title: A minimal image, python: {place}/bare-python}}
profiles:
  htc:
    title: HTC cores
    description: Analysis of a few files; scale out with Dask
    sites: [naples]
    images: [highrate]
    resources: {{cpus: {{choices: [1, 2, 4]}}, memory: {{per_cpu: 2GiB}}}}
    walltime: {{default: 8h, max: 24h}}
  hpc:
    title: HPC node
    description: Training and large fits
    sites: [leonardo]
    images: [highrate]
    resources: {{cpus: 8, memory: 32GiB}}
    walltime: {{default: 10m, max: 24h}}
    groups: [gpu]
  own:
    title: An image without JupyterLab
    description: Shows what a session says that cannot start
    sites: [leonardo]
    images: [minimal]
    resources: {{cpus: 1, memory: 2GiB}}
"""

PANEL = """
# As docs/howto/dask-panel.md says.
c.Spawner.environment = {
    "DASK_LABEXTENSION__FACTORY__MODULE": "dask_offload",
    "DASK_LABEXTENSION__FACTORY__CLASS": "OffloadCluster",
}
"""


@pytest.fixture(scope="module")
def hub(request):
    if not PROXY.exists():
        lacking(request.config, "browser", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = HubKit(place)
    kit.write_catalog()
    (place / "catalog.yaml").write_text(CATALOG.format(place=place, python=sys.executable))
    kit.add_service("--owner-grace", f"{scaled(8):.0f}s")
    kit.config_more += PANEL
    try:
        kit.start()
        yield kit
    finally:
        try:
            kit.stop_all_servers()
            # The service ends what notebooks have left; it could not once the hub has ended it.
            eventually_sync(lambda: not workers_below(place), within_s=60)
            kit.close()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def workers_below(place):
    return [line for line in processes_below(place).values() if "dask_offload.worker" in line]


@pytest.fixture
def visit(chromium, hub, request):
    """Sign a user in, in a browser window of their own; options as of a playwright context."""
    contexts = []

    def sign_in(name, **options):
        context = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "base_url": hub.url, **options}
        )
        context.set_default_timeout(scaled(60) * 1000)
        contexts.append(context)
        page = context.new_page()
        page.goto("/hub/login")
        page.fill("#username_input", name)
        page.fill("#password_input", "secret")
        page.click("#login_submit")
        # The form, or the server that runs already.
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    yield sign_in
    for context in contexts:
        if getattr(request.node, "failed_report", None):
            for number, page in enumerate(context.pages):
                page.screenshot(path=str(shots() / f"failed-{request.node.name}-{number}.png"))
        context.close()


def shots():
    """Return where pictures go: `OFFLOAD_SCREENSHOTS`, or a folder that git ignores."""
    folder = Path(os.environ.get("OFFLOAD_SCREENSHOTS") or "artefacts/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def shoot():
    def take(page, name):
        page.screenshot(path=str(shots() / f"{name}.png"))

    return take
