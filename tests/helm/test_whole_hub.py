"""The hub as both charts configure it, on this machine: sign-in, a session, workers from its notebook.

The configuration is the chart's own, with our values, loaded by a real hub behind its real proxy; relay
and service are started as our chart says. Put in place of the cluster are names, ports and folders, and
a password in place of the IAM.
"""

import base64
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import requests

from tests.helm.conftest import (
    HUB_RELEASE,
    OUR_CHART,
    ROOT,
    SITE_VALUES,
    hub_values,
    merged,
)
from tests.helm.hub_pod import environment, lay_out
from tests.helm.pods import Pods
from tests.helm.test_rendered_run import ON_LOOPBACK
from tests.support.hubkit import PROXY, HubKit
from tests.support.kernelkit import run_in_kernel
from tests.support.tiers import lacking
from tests.support.waiting import eventually_sync, scaled

pytestmark = [pytest.mark.helm, pytest.mark.hub]

CATALOG = """
sites:
  here: {{kind: local, title: This machine, max_walltime: 1h, directory: {place}/site}}
images:
  python: {{title: This Python, python: {python}}}
profiles:
  lab:
    title: A session
    sites: [here]
    images: [python]
    resources: {{cpus: 1, memory: 2GiB}}
"""
CELL = """
from dask_offload import OffloadCluster
with OffloadCluster(1, quiet=True) as cluster, cluster.get_client() as client:
    print("answer", client.submit(sum, [20, 22]).result(timeout=120))
"""


class ChartHub(HubKit):
    """A hub whose configuration is that of the chart."""

    def __init__(self, place, helm, hub_chart):
        super().__init__(place)
        ours = helm(OUR_CHART, merged(SITE_VALUES, ON_LOOPBACK))
        self.pods = Pods(
            ours,
            place,
            hub_api=f"http://127.0.0.1:{self.hub_port}/hub/api",
            secret=self._secret,
        )
        self.gateway = self.pods.ports["gateway"]
        self.chart = helm(hub_chart, self._values(), release=HUB_RELEASE)
        self.pods.catalog.write_text(CATALOG.format(place=place, python=sys.executable))
        self.programs.environment |= environment() | {
            "CONFIGPROXY_AUTH_TOKEN": self.token,
            # The names of Services become names of variables.
            "LOCALHOST_SERVICE_PORT": str(self.hub_port),
            "127.0.0.1_SERVICE_PORT": str(self.proxy_api),
            "OAUTH_CLIENT_ID": "none",
            "OAUTH_CLIENT_SECRET": "none",
        }

    def _values(self):
        """Return our values, with what a cluster would have on this machine."""
        here, ports = self.pods.here, self.pods.ports
        values = hub_values("jupyterhub.yaml", "site.example.yaml")
        spawner = {
            name: here(value) for name, value in values["hub"]["config"]["InterLinkSpawner"].items()
        }
        spawner |= {
            "relay_gateway": f"127.0.0.1:{ports['gateway']}",
            "ledger_url": f"sqlite:///{self.place}/ledger.sqlite",
            "service_url": f"{self.url}/services/offload",
            "public_hub_connect_url": "",
        }
        change = {
            "config": {
                "JupyterHub": {"authenticator_class": "dummy"},
                "DummyAuthenticator": {"password": "secret"},
                "Authenticator": {"allow_all": True},
                "InterLinkSpawner": spawner,
            },
            "services": {
                "offload": {"url": f"http://127.0.0.1:{ports['http']}"},
                "tests": {"apiToken": self.token},
            },
            "loadRoles": {
                "tests": {
                    "services": ["tests"],
                    "scopes": ["admin:users", "admin:servers", "access:servers", "tokens"],
                }
            },
        }
        return merged(values, {"hub": change})

    def _secret(self, wanted):
        """Return what the hub's chart has put into a Secret, as a pod of ours gets it."""
        return base64.b64decode(
            self.chart["Secret", wanted["name"]]["data"][wanted["key"]]
        ).decode()

    def write_catalog(self, **_):
        """Do nothing: the relay's pods have it."""

    def config(self):
        lay_out(self.chart, self.place, ROOT / "images/hub/jupyterhub_config.d")
        (self.place / "config" / "hub").write_text("localhost")
        (self.place / "config" / "proxy-api").write_text("127.0.0.1")
        text = (self.place / "jupyterhub_config.py").read_text()
        return text.replace("8081", str(self.hub_port))

    def start_relay(self):
        self.pods.start("offload-relay")

    def start_hub(self):
        super().start_hub()
        self.pods.start("offload-service")

    def close(self):
        if "hub" in self.processes:
            self.stop_all_servers()
        self.pods.close()
        super().close()


@pytest.fixture(scope="module")
def hub(request, helm, hub_chart):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="chart-hub-"))
    kit = ChartHub(place, helm, hub_chart)
    try:
        kit.start()
        yield kit
    finally:
        try:
            kit.close()
        finally:
            for log in place.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-8000:]}")
            shutil.rmtree(place, ignore_errors=True)


def test_proxy_and_hub_know_the_service(hub):
    def well():
        answer = requests.get(f"{hub.url}/services/offload/health", timeout=scaled(10))
        return (answer.status_code, answer.text) == (200, "ok\n")

    eventually_sync(well, within_s=30)


def test_a_user_signs_in_and_has_a_form_of_the_catalog_s_profiles(hub):
    session = hub.sign_in("alice")
    page = session.get(f"{hub.url}/hub/spawn", timeout=scaled(30)).text
    assert "A session" in page


def test_a_session_starts_behind_the_relay_and_its_notebook_gets_workers_from_the_service(hub):
    hub.add_user("bob")
    assert hub.spawn("bob", profile="lab").status_code in (201, 202)
    hub.wait_ready("bob", within_s=120)
    assert hub.lab("GET", "bob", "api/status").status_code == 200
    assert "answer 42" in run_in_kernel(hub, "bob", CELL, within_s=180)
    hub.stop("bob")


def test_a_user_s_own_token_is_good_for_the_service(hub):
    token = hub.add_user("carol")
    answer = requests.get(
        f"{hub.url}/services/offload/api",
        headers={"Authorization": f"token {token}"},
        timeout=scaled(30),
    )
    assert answer.json()["user"] == "carol"
