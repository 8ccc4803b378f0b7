"""What a profile sets on a KubeSpawner, and a KubeSpawner without Kubernetes."""

from datetime import timedelta

import kubespawner.spawner

from interlink_spawner.kube import pod_settings, without_kubernetes
from offload_sites.catalog import KubernetesSite, Node, Toleration
from offload_sites.jobs import ImageRef, Resources
from offload_sites.resolve import Resolved

PRESENT = {
    "environment": {"A": "hub", "B": "hub"},
    "node_selector": {"pool": "users"},
    "extra_pod_config": {"restartPolicy": "OnFailure"},
    "extra_resource_limits": {},
    "extra_resource_guarantees": {},
    "tolerations": [{"key": "hub", "operator": "Exists"}],
    "image_pull_secrets": ["hub"],
}
RESOLVED = Resolved(
    profile="gpu",
    title="GPU",
    sites=("hub",),
    image=ImageRef("lab", docker="example.org/lab:v1"),
    resources=Resources(4, 8 * 1024**3, 1),
    walltime=timedelta(hours=2),
    queue_budget=timedelta(hours=1),
    preload=(),
    environment={"B": "profile"},
)
SITE = KubernetesSite(
    kind="kubernetes",
    title="Hub",
    max_walltime=timedelta(hours=24),
    node=Node(cpus=8, memory="16GiB"),
    namespace="users",
    node_selector={"gpu": "yes"},
    tolerations=[Toleration(key="gpu", value="yes", effect="NoSchedule"), Toleration(key="x")],
    image_pull_secrets=["registry"],
)


def test_resources_image_and_walltime_are_the_profiles():
    settings = pod_settings(RESOLVED, SITE, PRESENT)
    assert settings["image"] == "example.org/lab:v1"
    assert settings["cpu_limit"] == settings["cpu_guarantee"] == 4
    assert settings["mem_limit"] == 8 * 1024**3
    assert settings["extra_resource_limits"] == {"nvidia.com/gpu": "1"}
    assert settings["extra_pod_config"]["activeDeadlineSeconds"] == 7200
    assert settings["namespace"] == "users"


def test_what_the_administrator_has_set_stays():
    settings = pod_settings(RESOLVED, SITE, PRESENT)
    assert {"A": "hub", "B": "profile"}.items() <= settings["environment"].items()
    assert settings["node_selector"] == {"pool": "users", "gpu": "yes"}
    assert settings["extra_pod_config"]["restartPolicy"] == "OnFailure"
    assert settings["image_pull_secrets"] == ["hub", "registry"]
    assert settings["tolerations"] == [
        {"key": "hub", "operator": "Exists"},
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "x", "operator": "Exists"},
    ]


def test_a_spawner_is_made_without_a_kubeconfig_and_kubespawner_is_as_before(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    kept = kubespawner.spawner.load_config
    with without_kubernetes():
        assert kubespawner.spawner.load_config(host="x") is None
    assert kubespawner.spawner.load_config is kept


def test_a_notebook_in_a_pod_knows_its_profile_and_where_the_service_is():
    url = "http://proxy-public/services/offload"
    ours = {"OFFLOAD_PROFILE": "gpu", "OFFLOAD_IMAGE": "lab"}
    assert ours.items() <= pod_settings(RESOLVED, SITE, PRESENT)["environment"].items()
    found = pod_settings(RESOLVED, SITE, PRESENT, url)["environment"]
    assert found["OFFLOAD_SERVICE_URL"] == url
    mine = {**PRESENT, "environment": {"OFFLOAD_SERVICE_URL": "http://mine"}}
    assert (
        pod_settings(RESOLVED, SITE, mine, url)["environment"]["OFFLOAD_SERVICE_URL"]
        == "http://mine"
    )
