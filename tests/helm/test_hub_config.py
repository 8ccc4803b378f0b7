"""What the hub makes of our values: its configuration, loaded as in its pod."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from interlink_spawner.hub_services import CULLING_ROLE, culling_service
from tests.helm.conftest import ROOT
from tests.helm.hub_pod import environment, lay_out

pytestmark = pytest.mark.helm

CONFIG_PARTS = ROOT / "images/hub/jupyterhub_config.d"


@pytest.fixture(scope="module")
def loaded(hub, tmp_path_factory):
    folder = lay_out(hub, tmp_path_factory.mktemp("pod"), CONFIG_PARTS)
    script = ROOT / "tests" / "support" / "load_config.py"
    ended = subprocess.run(
        [sys.executable, str(script), str(folder / "jupyterhub_config.py")],
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_every_setting_is_one_that_its_class_has(loaded):
    assert loaded["unknown"] == []


def test_the_hub_starts_sessions_with_our_spawner_which_is_told_where_everything_is(loaded):
    config = loaded["config"]
    assert config["JupyterHub"]["spawner_class"] == "interlink_spawner.spawner.InterLinkSpawner"
    assert config["Spawner"]["consecutive_failure_limit"] == 0
    spawner = config["InterLinkSpawner"]
    assert spawner["catalog_file"] == "/etc/offload/catalog/catalog.yaml"
    assert spawner["relay_gateway"] == "offload-relay:8302"


def test_the_service_is_known_with_the_token_that_its_pod_gets(loaded, hub):
    [service] = [
        one for one in loaded["config"]["JupyterHub"]["services"] if one["name"] == "offload"
    ]
    assert service["url"] == "http://offload-service"
    assert len(service["api_token"]) == 64
    assert "command" not in service


def test_users_and_their_servers_may_use_the_service(loaded):
    roles = {one["name"]: one["scopes"] for one in loaded["config"]["JupyterHub"]["load_roles"]}
    for role in ("user", "server"):
        assert "access:services!service=offload" in roles[role]


def test_idle_servers_are_stopped_by_our_rule_and_by_no_other(loaded):
    services = {one["name"]: one for one in loaded["config"]["JupyterHub"]["services"]}
    assert "jupyterhub-idle-culler" not in services
    ours = culling_service(idle=timedelta(hours=1))
    assert services[ours["name"]]["command"] == ["python3", *ours["command"][1:]]
    roles = {one["name"]: one for one in loaded["config"]["JupyterHub"]["load_roles"]}
    role = roles[CULLING_ROLE["name"]]
    assert role["services"] == CULLING_ROLE["services"]
    assert set(role["scopes"]) == set(CULLING_ROLE["scopes"])


def test_volumes_are_one_for_each_user_and_cvmfs_is_in_sessions(loaded):
    spawner = loaded["config"]["KubeSpawner"]
    assert spawner["pvc_name_template"] == "claim-{username}"
    assert spawner["storage_capacity"] == "10Gi"
    assert spawner["delete_pvc"] is False
    assert spawner["volume_mounts"]["cvmfs"]["mountPropagation"] == "HostToContainer"
    assert spawner.get("init_containers", []) == []


def test_pages_handlers_and_groups_come_from_the_image(loaded):
    config = loaded["config"]
    assert config["JupyterHub"]["template_paths"][-1].endswith("interlink_spawner/templates")
    assert config["JupyterHub"]["extra_handlers"]
    assert "iam_groups" in config["GenericOAuthenticator"]["auth_state_groups_key"]
