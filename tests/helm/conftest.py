"""Charts rendered by helm itself, and what came out of them by kind and name."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.support.tiers import lacking

ROOT = Path(__file__).parents[2]
VALUES = ROOT / "helm-values"
OUR_CHART = VALUES / "interlink-offload"
RELEASE, HUB_RELEASE, NAMESPACE = "offload", "jupyterhub", "highrate"

#: An example, with its pods in the namespace of the release.
CATALOG = re.sub(
    r"\n    namespace: .*", "", (ROOT / "examples/catalogs/interlink.yaml").read_text()
)

#: What an administrator has to give, and no more.
SITE_VALUES = {
    "image": {"name": "registry.example.org/offload/relay-service"},
    "hub": {"publicUrl": "https://hub.example.org/"},
    "catalog": {"text": CATALOG},
    "ingress": {"enabled": True, "host": "hub.example.org", "tlsSecret": "hub-tls"},
}


@dataclass
class Rendered:
    """What a chart became: `objects[kind, name]`, and what the linter said."""

    objects: dict = field(default_factory=dict)
    lint: list = field(default_factory=list)

    def of_kind(self, kind):
        return {key[1:]: one for key, one in self.objects.items() if key[0] == kind}

    def __getitem__(self, key):
        return self.objects[key]


def _key(one, release_namespace):
    """Return kind and name; the namespace as well where it is not that of the release."""
    meta = one["metadata"]
    elsewhere = meta.get("namespace", release_namespace) != release_namespace
    return (one["kind"], meta["name"], *([meta["namespace"]] if elsewhere else []))


class HelmError(Exception):
    """Helm refused: values against the schema, or a template that says so."""


def merged(base, *others):
    """Return values merged as helm merges them: mappings by key, all else replaced."""
    result = dict(base)
    for other in others:
        for key, value in other.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


@pytest.fixture(scope="session")
def helm(pytestconfig):
    """Return a function that renders a chart: `helm(chart, values, release=…)`."""
    python = os.environ.get("OFFLOAD_HELM_PYTHON", str(ROOT / ".venv-helm/bin/python"))
    if not Path(python).exists():
        lacking(pytestconfig, "helm", "the Helm SDK is not installed: make test-helm installs it")

    def render(chart, values, *, release=RELEASE, namespace=NAMESPACE):
        asked = {"chart": str(chart), "values": values, "release": release, "namespace": namespace}
        script = Path(__file__).with_name("render.py")
        ended = subprocess.run(
            [python, str(script)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
        )
        answer = json.loads(ended.stdout)
        if "error" in answer:
            raise HelmError(answer["error"])
        rendered = Rendered(lint=answer["lint"])
        for name, text in answer["rendered"].items():
            if name.endswith(".txt"):
                continue
            for one in yaml.safe_load_all(text):
                if one:
                    key = _key(one, namespace)
                    assert key not in rendered.objects, f"{key} is there twice"
                    rendered.objects[key] = one
        return rendered

    return render


@pytest.fixture(scope="session")
def ours(helm):
    """Our chart with the values that have to be given, and no others."""
    return helm(OUR_CHART, SITE_VALUES)


@pytest.fixture(scope="session")
def hub_chart(tmp_path_factory):
    """Return a copy of the chart jupyterhub in Z2JH_CHART, with the schema that it is published with.

    The chart is on no package registry, so there is no tier that could require it.
    """
    given = os.environ.get("Z2JH_CHART")
    if not given:
        pytest.skip("Z2JH_CHART is not set: the folder of the chart jupyterhub, 4.x")
    chart = tmp_path_factory.mktemp("z2jh") / "jupyterhub"
    shutil.copytree(given, chart)
    schema = yaml.safe_load((chart / "values.schema.yaml").read_text())
    (chart / "values.schema.json").write_text(json.dumps(schema))
    return chart


def hub_values(*names):
    """Return the values of our files, merged in order, as `helm -f … -f …` does."""
    return merged(*(yaml.safe_load((VALUES / name).read_text()) for name in names))


@pytest.fixture(scope="session")
def hub(helm, hub_chart):
    """The chart of the hub with our values for one place, and /cvmfs by the CSI driver."""
    values = hub_values("jupyterhub.yaml", "site.example.yaml", "cvmfs-csi.yaml")
    return helm(hub_chart, values, release=HUB_RELEASE)
