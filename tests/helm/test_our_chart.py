"""The chart interlink-offload, as helm renders it."""

import re

import pytest
import yaml

from tests.helm.conftest import NAMESPACE, OUR_CHART, ROOT, SITE_VALUES, HelmError, merged
from tests.support.kubetypes import type_problems

pytestmark = pytest.mark.helm

KUBERNETES_CATALOG = (ROOT / "examples/catalogs/kubernetes.yaml").read_text()
# The same, with its pods where the hub is.
HOME_CATALOG = re.sub(r"\n    namespace: .*", "", KUBERNETES_CATALOG)


def containers(deployment):
    return deployment["spec"]["template"]["spec"]["containers"]


def deployments(chart):
    return chart.of_kind("Deployment").values()


def selects(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items()


def pod_labels(chart, name):
    return chart["Deployment", name]["spec"]["template"]["metadata"]["labels"]


def test_every_object_is_of_the_types_of_the_api(ours):
    assert {name: type_problems(one) for name, one in ours.objects.items()} == {
        name: [] for name in ours.objects
    }


def test_the_linter_has_no_complaint(ours):
    assert [one for one in ours.lint if one["severity"] > 1] == []


def test_the_chart_has_the_version_of_the_package():
    chart = yaml.safe_load((OUR_CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert (chart["version"], chart["appVersion"]) == (version, version)


@pytest.mark.parametrize("name", ["offload-relay", "offload-service"])
def test_a_deployment_has_probes_on_ports_that_it_has(ours, name):
    [container] = containers(ours["Deployment", name])
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
        assert container[probe]["httpGet"]["path"].endswith("/health")


@pytest.mark.parametrize("name", ["offload-relay", "offload-service"])
def test_the_name_of_a_service_leads_to_the_ports_of_its_pods(ours, name):
    service = ours["Service", name]["spec"]
    assert service["selector"].items() <= pod_labels(ours, name).items()
    [container] = containers(ours["Deployment", name])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert all(port["targetPort"] in ports for port in service["ports"])


@pytest.mark.parametrize("name", ["offload-relay", "offload-service"])
def test_a_disruption_budget_is_for_its_deployment_alone(ours, name):
    selector = ours["PodDisruptionBudget", name]["spec"]["selector"]
    selected = [
        one["metadata"]["name"]
        for one in deployments(ours)
        if selects(selector, one["spec"]["template"]["metadata"]["labels"])
    ]
    assert selected == [name]


def test_a_drain_waits_for_the_relay_to_be_moved_and_a_new_one_is_there_before_the_old_one_goes(
    ours,
):
    assert ours["PodDisruptionBudget", "offload-relay"]["spec"]["minAvailable"] == 1
    rolling = ours["Deployment", "offload-relay"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_there_is_one_relay_and_one_service_and_no_value_makes_it_two(ours):
    assert [one["spec"]["replicas"] for one in deployments(ours)] == [1, 1]
    assert ours["Deployment", "offload-service"]["spec"]["strategy"] == {"type": "Recreate"}


def test_pods_run_without_rights_on_their_machine(ours):
    for deployment in deployments(ours):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert "memory" in container["resources"]["limits"]


def test_what_is_secret_comes_from_secrets_that_the_chart_does_not_make(ours):
    assert ours.of_kind("Secret") == {}
    for deployment in deployments(ours):
        for variable in containers(deployment)[0].get("env", []):
            if re.search("TOKEN|PASSWORD|SECRET|KEY", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_keys_of_leases_can_be_read_by_the_group_of_the_pod_and_no_one_else(ours):
    for deployment in deployments(ours):
        pod = deployment["spec"]["template"]["spec"]
        [keys] = [one["secret"] for one in pod["volumes"] if one["name"] == "lease-keys"]
        assert keys["defaultMode"] == 0o440
        assert keys["secretName"] == "offload-relay"
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_a_second_key_is_believed_while_the_first_is_being_replaced(helm):
    chart = helm(OUR_CHART, merged(SITE_VALUES, {"relay": {"keys": {"names": ["new", "old"]}}}))
    [container] = containers(chart["Deployment", "offload-relay"])
    given = [one for one in container["args"] if one.startswith("--key-file")]
    assert given == ["--key-file=/etc/offload/keys/new", "--key-file=/etc/offload/keys/old"]


def test_a_relay_cannot_ask_the_api_of_the_cluster(ours):
    pod = ours["Deployment", "offload-relay"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod


def test_rights_are_bound_to_hub_and_service_where_jobs_run(helm):
    jobs = {"namespaces": ["cpu-jobs", "gpu-jobs"]}
    chart = helm(OUR_CHART, merged(SITE_VALUES, {"jobs": jobs, "rbac": {"nodes": True}}))
    subjects = [("offload-service", NAMESPACE), ("hub", NAMESPACE)]
    for namespace in jobs["namespaces"]:
        binding = chart["RoleBinding", "offload-jobs", namespace]
        assert [(one["name"], one["namespace"]) for one in binding["subjects"]] == subjects
        assert (
            binding["roleRef"]["name"]
            == chart["Role", "offload-jobs", namespace]["metadata"]["name"]
        )
    nodes = chart["ClusterRole", f"{NAMESPACE}-offload-nodes"]
    assert nodes["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]


def test_no_role_is_wider_than_named_resources_and_verbs(ours):
    for kind in ("Role", "ClusterRole"):
        for role in ours.of_kind(kind).values():
            for rule in role["rules"]:
                assert "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]
                assert not set(rule["resources"]) & {
                    "pods/exec",
                    "pods/attach",
                    "serviceaccounts/token",
                }


def test_without_sites_on_virtual_nodes_nothing_is_asked_of_the_whole_cluster(helm):
    chart = helm(OUR_CHART, merged(SITE_VALUES, {"rbac": {"nodes": False}}))
    assert chart.of_kind("ClusterRole") == chart.of_kind("ClusterRoleBinding") == {}


def test_the_catalog_is_mounted_as_a_folder_so_that_edits_arrive(ours):
    [container] = containers(ours["Deployment", "offload-service"])
    [mount] = [one for one in container["volumeMounts"] if one["name"] == "catalog"]
    assert "subPath" not in mount
    assert (
        ours["ConfigMap", "offload-catalog"]["data"]["catalog.yaml"]
        == SITE_VALUES["catalog"]["text"]
    )


def test_a_config_map_of_ones_own_takes_the_place_of_the_catalog(helm):
    values = merged(SITE_VALUES, {"catalog": {"text": "", "existingConfigMap": "mine"}})
    chart = helm(OUR_CHART, values)
    assert chart.of_kind("ConfigMap") == {}
    pod = chart["Deployment", "offload-service"]["spec"]["template"]["spec"]
    assert {"name": "catalog", "configMap": {"name": "mine"}} in pod["volumes"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": {"name": ""}}, "image.name"),
        ({"catalog": {"text": ""}}, "catalog.text"),
        ({"ingress": {"host": ""}}, "ingress.host"),
        ({"relay": {"replicas": 2}}, "replicas"),
        ({"relay": {"keys": {"names": []}}}, "names"),
        ({"service": {"ledger": {"url": "postgresql://offload:hunter2@db/offload"}}}, "url"),
        ({"catalog": {"text": HOME_CATALOG}}, "jobs.networkPolicy.betweenJobs"),
        ({"catalog": {"text": "sites: [unclosed"}}, "catalog.text is not YAML"),
        (
            {
                "catalog": {"text": KUBERNETES_CATALOG},
                "jobs": {"networkPolicy": {"betweenJobs": True}},
            },
            "would start sessions as pods in the namespace analysis-jobs",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_installed(helm, change, said):
    with pytest.raises(HelmError, match=re.escape(said)):
        helm(OUR_CHART, merged(SITE_VALUES, change))


def test_workers_of_a_site_that_says_so_may_reach_one_another(helm):
    change = {
        "catalog": {"text": HOME_CATALOG},
        "jobs": {"networkPolicy": {"betweenJobs": True}},
    }
    policy = helm(OUR_CHART, merged(SITE_VALUES, change))["NetworkPolicy", "offload-jobs"]["spec"]
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]


def test_the_ledger_is_a_volume_that_outlives_the_release_or_a_database(helm, ours):
    kept = ours["PersistentVolumeClaim", "offload-service"]["metadata"]["annotations"]
    assert kept == {"helm.sh/resource-policy": "keep"}
    ledger = {
        "url": "postgresql://offload@postgres/offload",
        "passwordSecret": {"name": "offload-ledger"},
    }
    chart = helm(OUR_CHART, merged(SITE_VALUES, {"service": {"ledger": ledger}}))
    assert chart.of_kind("PersistentVolumeClaim") == {}
    [container] = containers(chart["Deployment", "offload-service"])
    password = {"name": "offload-ledger", "key": "password"}
    assert {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": password}} in container["env"]


def test_worker_nodes_reach_the_relay_on_the_hub_s_own_name(ours):
    ingress = ours["Ingress", "offload-relay"]["spec"]
    [rule] = ingress["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"]) == ("hub.example.org", "/offload-relay")
    assert path["backend"]["service"] == {"name": "offload-relay", "port": {"name": "public"}}
    assert ingress["tls"] == [{"hosts": ["hub.example.org"], "secretName": "hub-tls"}]


def test_a_gateway_route_can_take_the_place_of_the_ingress(helm):
    route = {"enabled": True, "hostnames": ["hub.example.org"], "parentRefs": [{"name": "web"}]}
    chart = helm(
        OUR_CHART, merged(SITE_VALUES, {"ingress": {"enabled": False}, "httpRoute": route})
    )
    assert chart.of_kind("Ingress") == {}
    [rule] = chart["HTTPRoute", "offload-relay"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "offload-relay", "port": 8300}]


def test_workers_may_have_a_namespace_of_their_own(helm):
    text = KUBERNETES_CATALOG.replace("    sites:", "    for: [workers]\n    sites:")
    jobs = {"networkPolicy": {"betweenJobs": True}}
    chart = helm(OUR_CHART, merged(SITE_VALUES, {"catalog": {"text": text}, "jobs": jobs}))
    for kind in ("Role", "RoleBinding", "NetworkPolicy"):
        of_jobs = [key for key in chart.of_kind(kind) if key[0] == "offload-jobs"]
        assert of_jobs == [("offload-jobs", "analysis-jobs")]


def test_without_pods_the_service_has_no_rights_at_all(helm):
    text = (ROOT / "examples/catalogs/htcondor-ce.yaml").read_text()
    change = {"catalog": {"text": text}, "rbac": {"nodes": False}}
    chart = helm(OUR_CHART, merged(SITE_VALUES, change))
    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        assert chart.of_kind(kind) == {}


def test_all_paths_of_the_service_follow_that_of_the_hub(helm):
    values = merged(SITE_VALUES, {"hub": {"publicUrl": "https://example.org/highrate/"}})
    [container] = containers(helm(OUR_CHART, values)["Deployment", "offload-service"])
    assert container["livenessProbe"]["httpGet"]["path"] == "/highrate/services/offload/health"
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["JUPYTERHUB_API_URL"] == "http://hub:8081/highrate/hub/api"
    assert env["JUPYTERHUB_SERVICE_PREFIX"] == "/highrate/services/offload/"
    assert "--relay=wss://example.org/offload-relay" in container["args"]
