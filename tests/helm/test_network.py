"""Who reaches whom, by our policies alone and together with those of the hub's chart."""

import pytest

from tests.helm.conftest import NAMESPACE, OUR_CHART, SITE_VALUES, merged
from tests.helm.hub_chart import pod_labels
from tests.helm.policies import Outside, Pod, allowed

pytestmark = pytest.mark.helm

RELAY_PORTS = (("public", 8300), ("dial", 8301), ("gateway", 8302))
PUBLIC, DIAL, GATEWAY = (port for _, port in RELAY_PORTS)
SERVICE, HUB, NOTEBOOK = 8400, 8081, 8888
SCHEDULER = 34757
INTERNET = Outside("192.0.2.1")
#: Of most clouds; of roles of pods, in AWS; of Azure.
METADATA = (Outside("169.254.169.254"), Outside("169.254.170.23"), Outside("168.63.129.16"))
#: Pods and services of some clusters are in the network that carriers share.
API_SERVERS = (Outside("10.0.0.1"), Outside("100.64.0.1"))


def our_pod(chart, name, ports):
    labels = chart["Deployment", name]["spec"]["template"]["metadata"]["labels"]
    return Pod(labels, NAMESPACE, ports=ports)


@pytest.fixture
def who(ours):
    """Every kind of pod there is."""
    job = {"app.kubernetes.io/managed-by": "interlink-offload", "interlink-offload/job": "x"}
    return {
        "relay": our_pod(ours, "offload-relay", RELAY_PORTS),
        "service": our_pod(ours, "offload-service", (("http", SERVICE),)),
        "hub": Pod(pod_labels("hub"), NAMESPACE, ports=(("http", HUB),)),
        "proxy": Pod(pod_labels("proxy"), NAMESPACE, ports=(("http", 8000), ("api", 8001))),
        "alice": Pod(
            pod_labels("singleuser-server"), NAMESPACE, ports=(("notebook-port", NOTEBOOK),)
        ),
        "bob": Pod(
            pod_labels("singleuser-server"), NAMESPACE, ports=(("notebook-port", NOTEBOOK),)
        ),
        "job": Pod(job, NAMESPACE),
        "ingress": Pod({"app": "ingress-nginx"}, "ingress-nginx"),
        "stranger": Pod({"app": "somebody"}, "elsewhere"),
    }


#: Who dials whom, where; these have to work.
WANTED = [
    ("ingress", "relay", PUBLIC),
    ("job", "relay", PUBLIC),
    ("job", "ingress", 443),
    ("hub", "relay", PUBLIC),
    ("hub", "ingress", 443),
    ("service", "ingress", 443),
    ("service", "relay", PUBLIC),
    ("alice", "relay", DIAL),
    ("service", "relay", DIAL),
    ("relay", "alice", SCHEDULER),
    ("proxy", "relay", GATEWAY),
    ("hub", "relay", GATEWAY),
    ("proxy", "service", SERVICE),
    ("service", "hub", HUB),
    ("proxy", "alice", NOTEBOOK),
    ("hub", "alice", NOTEBOOK),
    ("alice", "hub", HUB),
    ("alice", "proxy", 8000),
]
#: These must not, whoever has which password or lease.
UNWANTED = [
    ("alice", "relay", GATEWAY),
    ("job", "relay", DIAL),
    ("job", "relay", GATEWAY),
    ("stranger", "relay", DIAL),
    ("stranger", "relay", GATEWAY),
    ("ingress", "relay", GATEWAY),
    ("alice", "service", SERVICE),
    ("job", "service", SERVICE),
    ("stranger", "service", SERVICE),
    ("relay", "hub", HUB),
    ("relay", "proxy", 8001),
    ("relay", "service", SERVICE),
    ("relay", "job", SCHEDULER),
    ("job", "job", SCHEDULER),
    ("alice", "job", SCHEDULER),
    ("job", "alice", SCHEDULER),
    ("job", "hub", HUB),
    ("job", "proxy", 8000),
]
#: What only the policies of the hub's chart forbid.
UNWANTED_BY_THE_HUB = [
    ("alice", "bob", SCHEDULER),
    ("alice", "bob", NOTEBOOK),
    ("service", "alice", SCHEDULER),
    ("stranger", "alice", SCHEDULER),
    ("stranger", "hub", HUB),
]


def policies(*charts):
    return [one for chart in charts for one in chart.of_kind("NetworkPolicy").values()]


@pytest.mark.parametrize(("source", "target", "port"), WANTED)
def test_what_has_to_work_is_allowed(ours, who, source, target, port):
    assert allowed(policies(ours), who[source], who[target], port)


@pytest.mark.parametrize(("source", "target", "port"), UNWANTED)
def test_what_nobody_needs_is_forbidden(ours, who, source, target, port):
    assert not allowed(policies(ours), who[source], who[target], port)


@pytest.mark.parametrize(("source", "target", "port"), WANTED)
def test_what_has_to_work_is_allowed_by_the_hub_s_policies_as_well(
    ours, hub, who, source, target, port
):
    assert allowed(policies(ours, hub), who[source], who[target], port)


@pytest.mark.parametrize(("source", "target", "port"), UNWANTED + UNWANTED_BY_THE_HUB)
def test_users_are_kept_apart(ours, hub, who, source, target, port):
    assert not allowed(policies(ours, hub), who[source], who[target], port)


@pytest.mark.parametrize("source", ["relay", "job"])
@pytest.mark.parametrize(
    ("target", "port"), [*((cloud, 80) for cloud in METADATA), *((api, 443) for api in API_SERVERS)]
)
def test_relay_and_jobs_reach_neither_the_cloud_s_metadata_nor_the_api(
    ours, who, source, target, port
):
    assert not allowed(policies(ours), who[source], target, port)


def test_pods_of_users_do_not_reach_the_cloud_s_metadata(ours, hub, who):
    assert not allowed(policies(ours, hub), who["alice"], METADATA[0], 80)
    assert allowed(policies(ours, hub), who["alice"], INTERNET, 443)


def test_jobs_get_data_from_the_internet_and_the_service_reaches_its_sites(ours, who):
    assert allowed(policies(ours), who["job"], INTERNET, 443)
    assert allowed(policies(ours), who["service"], INTERNET, 9619)
    assert all(allowed(policies(ours), who["service"], api, 443) for api in API_SERVERS)


def test_monitoring_may_read_metrics_if_it_is_let_in(helm, who):
    prometheus = Pod({"app": "prometheus"}, "monitoring")
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    chart = helm(OUR_CHART, merged(SITE_VALUES, {"monitoring": {"from": [peer]}}))
    assert allowed(policies(chart), prometheus, who["relay"], DIAL)
    assert not allowed(policies(chart), prometheus, who["relay"], GATEWAY)


def test_the_public_port_can_be_kept_for_the_ingress_alone(helm, who):
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    change = {"relay": {"networkPolicy": {"publicFrom": [peer]}}}
    rules = policies(helm(OUR_CHART, merged(SITE_VALUES, change)))
    assert allowed(rules, who["ingress"], who["relay"], PUBLIC)
    assert not allowed(rules, who["stranger"], who["relay"], PUBLIC)
