"""Relay and service, started as the chart says, with addresses and folders of this machine in place."""

import contextlib
import os
import socket
import subprocess
import sys
import urllib.request

import pytest

from dask_offload import OffloadCluster
from offload_relay.lease import new_key
from tests.helm.conftest import OUR_CHART, SITE_VALUES, merged
from tests.support.clusterkit import environment, settings
from tests.support.processes import assert_no_process_below
from tests.support.servicekit import FakeHub
from tests.support.waiting import eventually_sync, scaled

pytestmark = pytest.mark.helm

CATALOG = """
sites:
  here: {{kind: local, title: This machine, max_walltime: 1h, directory: {place}/site}}
images:
  python: {{title: This Python, python: current}}
profiles:
  one: {{title: One core, sites: [here], images: [python], resources: {{cpus: 1, memory: 1GiB}}}}
"""


def free_ports(*names):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}


class Pods:
    """The containers of the rendered chart, as processes of this machine."""

    def __init__(self, chart, place):
        self.chart, self.place, self.hub = chart, place, FakeHub()
        self.processes = {}
        self.ports = free_ports("public", "dial", "gateway", "http")
        for folder in ("keys", "catalog", "state"):
            (place / folder).mkdir()
        key = place / "keys" / "lease.key"
        key.write_bytes(new_key())
        key.chmod(0o440 if os.getuid() == 0 else 0o400)
        (place / "catalog" / "catalog.yaml").write_text(CATALOG.format(place=place))

    def here(self, text):
        """Return a text of the chart with what it names in the cluster on this machine."""
        public, dial = self.ports["public"], self.ports["dial"]
        for there, instead in {
            "/etc/offload/keys": f"{self.place}/keys",
            "/etc/offload/catalog": f"{self.place}/catalog",
            "/var/lib/offload": f"{self.place}/state",
            "wss://hub.example.org/offload-relay": f"ws://127.0.0.1:{public}",
            "offload-relay.highrate.svc:8301": f"127.0.0.1:{dial}",
            "http://hub:8081/hub/api": self.hub.url,
            "0.0.0.0:8300": f"127.0.0.1:{public}",
            "0.0.0.0:8301": f"127.0.0.1:{dial}",
            "0.0.0.0:8302": f"127.0.0.1:{self.ports['gateway']}",
            "0.0.0.0:8400": f"127.0.0.1:{self.ports['http']}",
        }.items():
            text = text.replace(there, instead)
        return text

    def container(self, name):
        [one] = self.chart["Deployment", name]["spec"]["template"]["spec"]["containers"]
        return one

    def start(self, name):
        container = self.container(name)
        given = {
            # A value from a Secret; the fake hub never asks for it.
            one["name"]: self.here(one["value"]) if "value" in one else "from-a-secret"
            for one in container.get("env", [])
        }
        variables = {"PATH": os.environ["PATH"], "TMPDIR": str(self.place), **given}
        with (self.place / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "offload_cli", *map(self.here, container["args"])],
                cwd=self.place,
                env=variables,
                stdout=log,
                stderr=log,
            )
        eventually_sync(lambda: self.probe(name, "startupProbe"), within_s=40, saying=name)

    def probe(self, name, which):
        """Ask what the kubelet would ask; tell whether it would be content."""
        assert self.processes[name].poll() is None, (self.place / f"{name}.log").read_text()
        asked = self.container(name)[which]["httpGet"]
        url = f"http://127.0.0.1:{self.ports[asked['port']]}{asked['path']}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return 200 <= answer.status < 400
        return False

    def close(self):
        for process in self.processes.values():
            process.terminate()
            assert process.wait(scaled(30)) == 0
        self.hub.close()


@pytest.fixture
def pods(helm, tmp_path):
    change = {"service": {"proxyNetworks": ["127.0.0.0/8"]}}
    pods = Pods(helm(OUR_CHART, merged(SITE_VALUES, change)), tmp_path)
    try:
        yield pods
    finally:
        pods.close()
        assert_no_process_below(tmp_path)
        for log in tmp_path.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text()}")


def test_probes_are_content_and_a_notebook_has_its_workers(pods, tmp_path, monkeypatch):
    for name in ("offload-relay", "offload-service"):
        pods.start(name)
        for probe in ("readinessProbe", "livenessProbe"):
            assert pods.probe(name, probe)
    of_the_session = {
        **environment(tmp_path),
        "OFFLOAD_SERVICE_URL": f"http://127.0.0.1:{pods.ports['http']}/services/offload",
        "JUPYTERHUB_API_TOKEN": pods.hub.user("alice"),
        "OFFLOAD_PROFILE": "one",
    }
    for name, value in of_the_session.items():
        monkeypatch.setenv(name, value)
    with (
        settings(owner_grace=f"{scaled(20)}s"),
        OffloadCluster(1, quiet=True) as cluster,
        cluster.get_client() as client,
    ):
        assert client.submit(sum, [20, 22]).result(timeout=scaled(60)) == 42
