"""Relay and service, started as the chart says."""

import pytest

from dask_offload import OffloadCluster
from tests.helm.conftest import OUR_CHART, SITE_VALUES, merged
from tests.helm.pods import Pods
from tests.support.clusterkit import environment, settings
from tests.support.processes import assert_no_process_below
from tests.support.servicekit import FakeHub
from tests.support.waiting import scaled

pytestmark = pytest.mark.helm

CATALOG = """
sites:
  here: {{kind: local, title: This machine, max_walltime: 1h, directory: {place}/site}}
images:
  python: {{title: This Python, python: current}}
profiles:
  one: {{title: One core, sites: [here], images: [python], resources: {{cpus: 1, memory: 1GiB}}}}
"""
ON_LOOPBACK = {"service": {"proxyNetworks": ["127.0.0.0/8"]}}


@pytest.fixture
def hub():
    hub = FakeHub()
    yield hub
    hub.close()


@pytest.fixture
def pods(helm, hub, tmp_path):
    chart = helm(OUR_CHART, merged(SITE_VALUES, ON_LOOPBACK))
    pods = Pods(chart, tmp_path, hub_api=hub.url)
    pods.catalog.write_text(CATALOG.format(place=tmp_path))
    try:
        yield pods
    finally:
        pods.close()
        assert_no_process_below(tmp_path)
        for name in pods.processes:
            print(f"--- {name}\n{pods.log(name)}")


def test_probes_are_content_and_a_notebook_has_its_workers(pods, hub, tmp_path, monkeypatch):
    for name in ("offload-relay", "offload-service"):
        pods.start(name)
        for probe in ("readinessProbe", "livenessProbe"):
            assert pods.probe(name, probe)
    of_the_session = {
        **environment(tmp_path),
        "OFFLOAD_SERVICE_URL": f"http://127.0.0.1:{pods.ports['http']}/services/offload",
        "JUPYTERHUB_API_TOKEN": hub.user("alice"),
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
