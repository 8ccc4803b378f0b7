"""Every option, variable, trait and path that charts and values name is there."""

import inspect
import re

import jupyterhub.services.auth
import pytest
import yaml
from jupyterhub.app import JupyterHub
from kubespawner import KubeSpawner
from oauthenticator.generic import GenericOAuthenticator

from interlink_spawner.spawner import InterLinkSpawner
from offload_cli.main import cli
from tests.docs import pages
from tests.helm.conftest import OUR_CHART, ROOT, SITE_VALUES, VALUES, hub_values, merged
from tests.helm.hub_chart import DEFAULTS, value_paths

VALUE_FILES = ["jupyterhub.yaml", "site.example.yaml"]


def container(chart, name):
    [one] = chart["Deployment", name]["spec"]["template"]["spec"]["containers"]
    return one


@pytest.mark.helm
@pytest.mark.parametrize("name", ["relay", "service"])
def test_every_option_is_one_of_the_command(ours, name):
    given = container(ours, f"offload-{name}")["args"]
    assert given[0] == name
    known = {option for param in cli.commands[name].params for option in param.opts}
    assert [one for one in given[1:] if one.partition("=")[0] not in known] == []
    required = {param.opts[0] for param in cli.commands[name].params if param.required}
    assert required <= {one.partition("=")[0] for one in given[1:]}


@pytest.mark.helm
def test_every_variable_is_read_by_somebody(ours):
    code = inspect.getsource(jupyterhub.services.auth) + "".join(pages.sources().values())
    names = [one["name"] for one in container(ours, "offload-service")["env"]]
    assert [one for one in names if one not in code and one != "HOME"] == []


@pytest.mark.helm
def test_every_path_in_an_option_is_in_a_volume(ours):
    for name in ("offload-relay", "offload-service"):
        one = container(ours, name)
        mounted = [mount["mountPath"] for mount in one["volumeMounts"]]
        values = [arg.partition("=")[2] for arg in one["args"]]
        values += [variable.get("value", "") for variable in one.get("env", [])]
        paths = [value for value in values if re.match(r"/(etc|var|tmp)", value)]
        assert [path for path in paths if not path.startswith(tuple(mounted))] == []


@pytest.mark.helm
def test_relay_and_service_find_the_catalog_and_the_key_under_the_names_that_they_have(ours):
    [key] = [one for one in container(ours, "offload-relay")["args"] if "key-file" in one]
    spec = ours["Deployment", "offload-relay"]["spec"]["template"]["spec"]
    [items] = [one["secret"]["items"] for one in spec["volumes"] if "secret" in one]
    assert key.rpartition("/")[2] in [one["path"] for one in items]
    [catalog] = [one for one in container(ours, "offload-service")["args"] if "--catalog" in one]
    assert catalog.rpartition("/")[2] in ours["ConfigMap", "offload-catalog"]["data"]


def test_every_setting_of_the_hub_is_a_trait_of_its_class():
    classes = [JupyterHub, KubeSpawner, InterLinkSpawner, GenericOAuthenticator]
    traits = {one.__name__: set(one.class_trait_names(config=True)) for one in classes}
    sections = hub_values(*VALUE_FILES)["hub"]["config"]
    assert {
        f"{section}.{name}"
        for section, settings in sections.items()
        for name in settings
        if name not in traits[section]
    } == set()


def test_the_hub_finds_catalog_and_key_where_its_volumes_are():
    hub = hub_values(*VALUE_FILES)["hub"]
    mounted = tuple(one["mountPath"] for one in hub["extraVolumeMounts"])
    spawner = hub["config"]["InterLinkSpawner"]
    for name in ("catalog_file", "relay_key_file"):
        assert spawner[name].startswith(mounted)
    assert spawner["relay_key_file"].endswith("/lease.key")


def test_catalogs_in_the_examples_are_good(tmp_path):
    from offload_sites.load import check_catalog

    file = tmp_path / "catalog.yaml"
    file.write_text(SITE_VALUES["catalog"]["text"])
    assert check_catalog(file) == []


@pytest.mark.parametrize("name", ["hub", "relay-service"])
def test_images_are_named_as_their_folders(name):
    text = (VALUES / "site.example.yaml").read_text() + str(SITE_VALUES)
    assert f"registry.example.org/offload/{name}" in text
    assert (ROOT / "images" / name / "Containerfile").exists()


# --- the samples of the guide ----------------------------------------------------------------------

GUIDE = (ROOT / "docs/howto/deploy-on-kubernetes.md").read_text()
SAMPLES = [
    yaml.safe_load(block) for block in pages.blocks(GUIDE, "yaml") if "# offload.yaml" in block
]
HUB_SAMPLES = [
    yaml.safe_load(block) for block in pages.blocks(GUIDE, "yaml") if "# site.yaml" in block
]


@pytest.mark.helm
def test_the_guide_s_values_make_relay_and_service(helm):
    catalog = {"catalog": SITE_VALUES["catalog"]}
    assert len(SAMPLES) == 2
    chart = helm(OUR_CHART, merged(SAMPLES[0], catalog))
    assert ("Ingress", "offload-relay") in chart.objects
    chart = helm(OUR_CHART, merged(*SAMPLES, catalog))
    assert chart.of_kind("PersistentVolumeClaim") == {}


def test_the_guide_s_values_for_the_hub_are_values_of_its_chart():
    assert len(HUB_SAMPLES) == 1
    assert set().union(*map(value_paths, HUB_SAMPLES)) <= DEFAULTS.keys()


def test_the_guide_calls_every_file_and_release_by_its_name():
    for path in re.findall(r"(?:-f |install offload )((?:helm-values|images)/[\w./-]+)", GUIDE):
        assert (ROOT / path).exists(), path
    assert "upgrade --install jupyterhub " in GUIDE
