"""Our values for the chart of the hub: what can be said without that chart, and what it makes of them."""

import base64
import re

import pytest
import yaml

from tests.helm.conftest import HUB_RELEASE, VALUES, HelmError, hub_values, merged
from tests.helm.hub_chart import COMPONENTS, DEFAULTS, HUB_CONFIG, at, pod_labels, value_paths

FILES = sorted(path.name for path in VALUES.glob("*.yaml"))
BASE = ["jupyterhub.yaml", "site.example.yaml"]


def load(name):
    return yaml.safe_load((VALUES / name).read_text())


def lines_of(name):
    """Return for each path of a values file the number of its line, and the file's lines."""
    text = (VALUES / name).read_text()
    found = {}

    def walk(node, prefix):
        for key, value in node.value:
            path = f"{prefix}{key.value}"
            found[path] = key.start_mark.line
            if isinstance(value, yaml.MappingNode):
                walk(value, f"{path}.")

    walk(yaml.compose(text), "")
    return found, text.splitlines()


def explained(path, lines, text):
    """Tell whether the value has a comment on its line, above it, or above its block."""
    number = lines[path]
    if re.search(r"\s#\s", text[number]):
        return True
    while number > 0:
        above = text[number - 1].strip()
        if above.startswith("#"):
            return True
        # The line above opens the block that this value is the first of.
        parent = path.rpartition(".")[0]
        if not parent or lines[parent] != number - 1 or "." not in parent:
            return False
        path, number = parent, number - 1
    return False


def leaves_of_config(name):
    """Return paths of single settings: below hub.config and other mappings a value is one trait."""
    lines, _ = lines_of(name)
    config = [one for one in lines if one.startswith(f"{HUB_CONFIG}.") and one.count(".") == 3]
    return sorted((value_paths(load(name)) - {HUB_CONFIG}) | set(config))


def test_there_are_values_for_the_hub_for_one_place_and_for_both_ways_to_cvmfs():
    assert set(FILES) == {"cvmfs-csi.yaml", "cvmfs-hostpath.yaml", *BASE}


@pytest.mark.parametrize("name", FILES)
def test_every_value_is_one_that_the_chart_is_known_to_have(name):
    assert value_paths(load(name)) - DEFAULTS.keys() == set()


@pytest.mark.parametrize("name", FILES)
def test_no_value_repeats_the_chart_s_default(name):
    values = load(name)
    assert [path for path in value_paths(values) if at(values, path) == DEFAULTS[path]] == []


@pytest.mark.parametrize("name", FILES)
def test_every_value_has_its_reason_beside_it(name):
    lines, text = lines_of(name)
    assert [path for path in leaves_of_config(name) if not explained(path, lines, text)] == []


def test_a_value_without_a_reason_is_found(tmp_path, monkeypatch):
    text = "hub:\n  # Why.\n  concurrentSpawnLimit: 1\n  consecutiveFailureLimit: 0\n"
    (tmp_path / "bare.yaml").write_text(text)
    monkeypatch.setattr("tests.helm.test_hub_values.VALUES", tmp_path)
    lines, rows = lines_of("bare.yaml")
    bare = [one for one in leaves_of_config("bare.yaml") if not explained(one, lines, rows)]
    assert bare == ["hub.consecutiveFailureLimit"]


@pytest.mark.parametrize("name", FILES)
def test_no_secret_is_in_a_value(name):
    def walk(value, path):
        if isinstance(value, dict):
            for key, one in value.items():
                yield from walk(one, f"{path}.{key}")
        elif isinstance(value, list):
            for one in value:
                yield from walk(one, path)
        elif re.search(r"(secret|token|password|private|key)s?$", path, re.I):
            yield path, value

    names = {"secretName", "existingSecret", "key", "relay_key_file", "auth_state_groups_key"}
    found = dict(walk(load(name), ""))
    assert [path for path in found if path.rpartition(".")[2] not in names] == []


# --- with the chart --------------------------------------------------------------------------------

with_chart = pytest.mark.helm


@with_chart
def test_what_we_say_of_the_chart_s_defaults_is_so(hub_chart):
    defaults = yaml.safe_load((hub_chart / "values.yaml").read_text())
    assert {path: at(defaults, path) for path in DEFAULTS} == DEFAULTS


@with_chart
@pytest.mark.parametrize("cvmfs", ["cvmfs-csi.yaml", "cvmfs-hostpath.yaml"])
def test_the_chart_takes_our_values_and_makes_a_hub_of_them(helm, hub_chart, cvmfs):
    chart = helm(hub_chart, hub_values(*BASE, cvmfs), release=HUB_RELEASE)
    assert set(chart.of_kind("Deployment")) == {("hub",), ("proxy",)}


@with_chart
def test_the_chart_s_schema_would_find_a_misspelt_value(helm, hub_chart):
    values = merged(hub_values(*BASE), {"hub": {"concurentSpawnLimit": 1}})
    with pytest.raises(HelmError, match="concurentSpawnLimit"):
        helm(hub_chart, values, release=HUB_RELEASE)


@with_chart
@pytest.mark.parametrize("component", COMPONENTS[:2])
def test_pods_of_the_chart_have_the_labels_that_our_policies_select(hub, component):
    labels = hub["Deployment", component]["spec"]["template"]["metadata"]["labels"]
    assert pod_labels(component).items() <= labels.items()


@with_chart
def test_nothing_is_pulled_in_advance_and_no_pod_is_privileged(hub):
    assert hub.of_kind("DaemonSet") == hub.of_kind("Job") == {}
    values = yaml.safe_load(base64.b64decode(hub["Secret", "hub"]["data"]["values.yaml"]))
    assert values["singleuser"]["cloudMetadata"]["blockWithIptables"] is False
    assert values["singleuser"]["extraTolerations"] == []


@with_chart
def test_hub_and_service_agree_on_the_secret_with_the_service_s_token(hub, ours):
    [container] = ours["Deployment", "offload-service"]["spec"]["template"]["spec"]["containers"]
    [token] = [one for one in container["env"] if one["name"] == "JUPYTERHUB_API_TOKEN"]
    wanted = token["valueFrom"]["secretKeyRef"]
    assert wanted["key"] in hub["Secret", wanted["name"]]["data"]


@with_chart
def test_the_hub_mounts_what_the_other_chart_makes(hub, ours):
    pod = hub["Deployment", "hub"]["spec"]["template"]["spec"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert ("ConfigMap", volumes["offload-catalog"]["configMap"]["name"]) in ours.objects
    relay = ours["Deployment", "offload-relay"]["spec"]["template"]["spec"]["volumes"]
    secret = volumes["offload-keys"]["secret"]
    assert secret["secretName"] in [one.get("secret", {}).get("secretName") for one in relay]
    assert pod["serviceAccountName"] == "hub"
