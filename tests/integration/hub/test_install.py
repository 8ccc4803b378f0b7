"""The parts of a configuration are settings that JupyterHub has, and ten lines make a hub of ours."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from interlink_spawner.hub_services import culling_service
from offload_cli.demo.hub import LocalHub
from offload_cli.demo.programs import free_ports
from offload_sites.load import load_catalog
from tests.docs import pages
from tests.support import kernelkit
from tests.support.hubkit import PROXY, HubKit
from tests.support.tiers import lacking
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "jupyterhub_config"
PARTS = sorted(path.stem for path in FOLDER.glob("*.py"))
PAGE = ROOT / "docs" / "howto" / "install-beside-an-existing-hub.md"


def load(configs, folder):
    """Return what a hub makes of configurations, each a list of parts, in the same order."""
    files = []
    for number, parts in enumerate(configs):
        files.append(folder / f"config{number}.py")
        text = "".join(f"load_subconfig({str(FOLDER / part)!r} + '.py')\n" for part in parts)
        files[-1].write_text(text)
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "load_config.py"), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_every_setting_of_a_part_is_one_that_its_class_has_and_takes(tmp_path):
    for part, loaded in zip(
        PARTS, load([["spawner", one] for one in PARTS], tmp_path), strict=True
    ):
        assert loaded["config"], part
        assert loaded["unknown"] == [], part
        assert loaded["refused"] == [], part


def test_every_part_holds_settings_alone_and_says_why():
    for part in PARTS:
        lines = (FOLDER / f"{part}.py").read_text().splitlines()
        assert not [one for one in lines if one.startswith(("def ", "class ", "if ", "for "))], part
        settings = [number for number, line in enumerate(lines) if line.startswith("c.")]
        # A reason above each, or above a few that belong together.
        bare = [lines[n] for n in settings if not lines[n - 1].startswith(("#", "c."))]
        assert bare == [], part


def test_the_whole_hub_is_all_parts_but_the_demos(tmp_path):
    text = (FOLDER / "jupyterhub_config.py").read_text()
    loaded = [part for part in PARTS if f'"{part}.py"' in text]
    assert set(PARTS) - set(loaded) == {"jupyterhub_config", "authentication_demo"}
    # A file that is not there would be passed over without a word.
    whole, parts = (one["config"] for one in load([["jupyterhub_config"], loaded], tmp_path))
    assert [name for name in parts if not set(parts[name]) <= set(whole.get(name, ()))] == []


def test_every_part_is_in_the_table_of_its_readme():
    text = (FOLDER / "README.md").read_text()
    listed = {pages.links(row[0])[0] for row in pages.rows(text) if pages.links(row[0])}
    assert listed == {f"{part}.py" for part in PARTS} | {"catalog.example.yaml"}


def test_the_example_of_a_catalog_is_good():
    assert set(load_catalog(FOLDER / "catalog.example.yaml").profiles) == {"small", "cores", "a100"}


# --- a hub that exists already -------------------------------------------------------------------

# What the hub had before.
_BEFORE = """
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.DummyAuthenticator.password = "secret"
"""
# Ports of its own; and the culler, which a test starts when it wants to.
_AFTER = """
from interlink_spawner.hub_services import CULLING_ROLE
c.InterLinkSpawner.relay_gateway = "{gateway}"
c.JupyterHub.services.append({{"name": "offload-culler", "api_token": "{culler}"}})
c.JupyterHub.load_roles.append(CULLING_ROLE)
"""

CATALOG = """
sites:
  here:
    kind: local
    title: Here
    max_walltime: 1h
    directory: {place}/site
    home: "{place}/home/{{user}}"
  narrow: {{kind: local, title: Narrow, max_walltime: 1h, directory: {place}/narrow, max_jobs: 1}}
images:
  python: {{title: This Python, python: current}}
profiles:
  one: {{title: One core, sites: [here], images: [python], resources: {{cpus: 1, memory: 1GiB}}}}
  queue: {{title: A queue, sites: [narrow], images: [python], resources: {{cpus: 1, memory: 1GiB}}}}
"""


class ExistingHub(HubKit):
    """A hub whose configuration ends with the lines of the page."""

    def __init__(self, place):
        super().__init__(place)
        port, service_port, dial, gateway = free_ports(4)
        lines = pages.blocks(PAGE.read_text(), "python")[0]
        relay = f'port={port}, dial="127.0.0.1:{dial}", gateway="127.0.0.1:{gateway}", '
        for old, new in (
            ("/etc/offload", str(place)),
            ("/var/lib/offload", str(place)),
            ("wss://hub.example.org", f"ws://127.0.0.1:{self.public}"),
            ("https://hub.example.org", self.url),
            ("relay_service(key", f"relay_service({relay}key"),
            (
                "offload_service(",
                f'offload_service(port={service_port}, relay_dial="127.0.0.1:{dial}", ',
            ),
        ):
            assert old in lines, old
            lines = lines.replace(old, new)
        self.culler = secrets.token_hex(16)
        self.lines = lines + _AFTER.format(gateway=f"127.0.0.1:{gateway}", culler=self.culler)

    def config(self):
        return LocalHub.config(self) + _BEFORE + self.lines

    def start(self):
        (self.place / "catalog.yaml").write_text(CATALOG.format(place=self.place))
        self.start_proxy()
        self.start_hub()
        for service in ("relay", "offload"):
            self.wait_for(f"/services/{service}/health")


@pytest.fixture(scope="module")
def existing(request):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    hub = ExistingHub(place)
    try:
        hub.start()
        yield hub
    finally:
        print(hub.programs.log("hub"))
        hub.close()
        shutil.rmtree(place, ignore_errors=True)


def test_the_ten_lines_are_ten_settings_at_most():
    lines = pages.blocks(PAGE.read_text(), "python")[0].splitlines()
    assert len([one for one in lines if one.startswith("c.")]) <= 10


_NOTEBOOK = """
from dask_offload import OffloadCluster
with OffloadCluster(1, quiet=True) as cluster, cluster.get_client() as client:
    cluster.wait_for_workers(1, timeout=120)
    print(client.submit(sum, [1, 2, 3]).result())
"""


def test_with_the_ten_lines_sessions_start_and_their_notebooks_get_workers(existing):
    existing.add_user("ann")
    existing.spawn("ann", profile="one")
    existing.wait_ready("ann")
    assert kernelkit.run_in_kernel(existing, "ann", _NOTEBOOK, within_s=180).strip() == "6"
    assert existing.server("ann")["state"]["offload"]["session"]["site"] == "here"
    existing.stop("ann")


def test_a_home_folder_of_a_site_is_there_again_in_the_next_session_and_for_its_user_alone(
    existing,
):
    for user, found in ("bea", "new"), ("bea", "kept"), ("cat", "new"):
        existing.add_user(user)
        existing.spawn(user, profile="one")
        existing.wait_ready(user)
        code = (
            "from pathlib import Path; p = Path.home() / 'kept.txt'\n"
            "print('kept' if p.exists() else 'new'); p.touch()\n"
            "print(Path.home().stat().st_mode & 0o777 == 0o700, Path.home() == Path.cwd())"
        )
        assert kernelkit.run_in_kernel(existing, user, code).split() == [found, "True", "True"]
        existing.stop(user)


# --- culling -------------------------------------------------------------------------------------


def cull_once(hub, idle_s):
    """Let the culler look at all servers, and end it when it has stopped one; return its log."""
    command = culling_service(idle=timedelta(seconds=idle_s), options=["--cull-every=3600"])
    variables = {"JUPYTERHUB_API_TOKEN": hub.culler, "JUPYTERHUB_API_URL": f"{hub.url}/hub/api"}
    log = hub.place / "culler.log"
    with log.open("wb") as out:
        program = subprocess.Popen(
            [*command["command"], "--Culler.log_level=INFO"],
            env={**os.environ, **variables},
            stdout=out,
            stderr=out,
        )
    try:
        eventually_sync(lambda: "Culling server" in log.read_text(), within_s=60)
    finally:
        program.terminate()
        program.wait()
    return log.read_text()


def test_an_idle_session_is_stopped_and_one_that_waits_in_a_queue_is_not(existing):
    for user in ("dan", "eve"):
        existing.add_user(user)
    existing.spawn("dan", profile="queue")
    existing.wait_ready("dan")
    existing.spawn("eve", profile="queue")
    assert existing.server("eve")["pending"] == "spawn"

    def idle():
        seen = existing.server("dan")["state"]["offload"]["session"]["ready"]
        return datetime.now(UTC) - datetime.fromisoformat(seen) > timedelta(seconds=3)

    eventually_sync(idle, within_s=20)
    assert "eve" not in cull_once(existing, idle_s=3)
    eventually_sync(
        lambda: not existing.server("dan"), within_s=60, saying="the idle one is stopped"
    )
    existing.wait_ready("eve")  # it was its turn
    existing.stop("eve")
