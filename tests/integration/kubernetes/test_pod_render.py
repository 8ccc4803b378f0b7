"""`offload pod render`: a job of a workflow engine, sent to a virtual node."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from offload_cli.main import cli
from tests.services.kubernetes.virtual import VirtualKubelet
from tests.support.kubekit import KubeKit
from tests.support.processes import assert_no_process_below
from tests.support.waiting import eventually

pytestmark = pytest.mark.kubernetes

SNAKEMAKE = Path(__file__).parents[2] / "data" / "snakemake-job.yaml"
CATALOG = """
sites:
  hpc: {{kind: interlink, title: HPC, node_name: {node}, max_walltime: 2h}}
images:
  highrate:
    title: High rate
    docker: registry.example.org/highrate:v1.4
    cvmfs: /cvmfs/unpacked.example.org/highrate:v1.4
profiles:
  p: {{title: P, sites: [hpc], images: [highrate], resources: {{cpus: 1, memory: 1GiB}}}}
"""


@pytest.fixture
async def kit(tmp_path, monkeypatch):
    kit = KubeKit(tmp_path / "kube")
    await kit.start()
    kit.with_jobs()
    monkeypatch.setenv("KUBECONFIG", str(kit.kubeconfig))
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG.format(node=kit.node))
    monkeypatch.setenv("OFFLOAD_CATALOG", str(catalog))
    yield kit
    await kit.close()
    assert_no_process_below(tmp_path)


async def render(*args, text=None):
    def call():
        return CliRunner().invoke(cli, ["pod", "render", *args], input=text, standalone_mode=False)

    return await asyncio.to_thread(call)


async def submit(kit, job):
    path = f"/apis/batch/v1/namespaces/{kit.namespace}/jobs"
    await kit.client.ask("POST", path, job)
    name = job["metadata"]["name"]

    async def ended():
        status = (await kit.client.ask("GET", f"{path}/{name}")).get("status") or {}
        return status if status.get("succeeded") or status.get("failed") else None

    return await eventually(ended, within_s=40)


async def test_a_job_of_snakemake_is_rendered_and_runs_behind_the_virtual_node(kit, tmp_path):
    node = await kit.kubelet(VirtualKubelet)
    job = yaml.safe_load(SNAKEMAKE.read_text("utf-8"))
    # What it installs and calls is not here; that it is started in its folder is what counts.
    (container,) = job["spec"]["template"]["spec"]["containers"]
    del container["env"]
    container["args"][-1] = "echo \"in $(pwd): 'quoted'\""
    result = await render("-", "--site", "hpc", "--namespace", kit.namespace, text=yaml.dump(job))
    assert result.exit_code == 0, result.output
    assert "workingDir: moved into the command: virtual nodes do not read it" in result.stderr
    assert "volumes" not in result.stderr
    rendered = yaml.safe_load(result.stdout)
    (made,) = rendered["spec"]["template"]["spec"]["containers"]
    # The container has no file system of its own here: the folder is one of this machine.
    made["command"] = [str(tmp_path) if word == "/workdir" else word for word in made["command"]]
    status = await submit(kit, rendered)
    assert (status.get("succeeded"), status.get("failed")) == (1, None)
    (remote,) = node.plugin.jobs.values()
    assert remote.process.log.read_text() == f"in {tmp_path}: 'quoted'\n"


async def test_the_job_as_snakemake_has_sent_it_is_not_taken_by_the_virtual_node(kit):
    await kit.kubelet(VirtualKubelet)
    job = yaml.safe_load(SNAKEMAKE.read_text("utf-8"))
    await kit.client.ask("POST", f"/apis/batch/v1/namespaces/{kit.namespace}/jobs", job)

    async def refused():
        found = await kit.pods()
        conditions = [one for pod in found for one in pod["status"].get("conditions") or []]
        return any("untolerated taint" in str(one.get("message")) for one in conditions)

    await eventually(refused)


async def test_the_label_of_its_namespace_names_the_site(kit):
    path = f"/api/v1/namespaces/{kit.namespace}"
    result = await render(str(SNAKEMAKE), "--namespace", kit.namespace)
    assert "has no label interlink-offload/site" in str(result.exception)
    await kit.client.apply(path, {"metadata": {"labels": {"interlink-offload/site": "hpc"}}})
    result = await render(str(SNAKEMAKE), "--namespace", kit.namespace, "--json")
    told = json.loads(result.stdout)
    assert told["problems"] == []
    assert {"where", "what", "why"} == set(told["changes"][0])
    spec = told["documents"][0]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": kit.node}


async def test_what_goes_with_a_pod_passes_and_a_problem_holds_all_of_it_back(kit):
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    container = {"name": "c", "image": "example.org/c:1", "command": ["x"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    pod["spec"] = {"containers": [container]}
    result = await render("-", "--site", "hpc", text=yaml.dump_all([config, pod]))
    assert result.exit_code == 0
    assert [one["kind"] for one in yaml.safe_load_all(result.stdout)] == ["ConfigMap", "Pod"]
    container["workingDir"] = "/w"
    del container["command"]
    result = await render("-", "--site", "hpc", text=yaml.dump_all([config, pod]))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "problem: spec.containers[0].workingDir" in result.stderr


@pytest.mark.parametrize(
    ("text", "site", "words"),
    [
        ("a: [", "hpc", "this is no YAML"),
        ("kind: Deployment", "hpc", "expected a Pod, Job or CronJob"),
        ("", "hpc", "there is no pod in it"),
        ("{kind: Pod, spec: {containers: [{name: c}]}}", "hcp", "did you mean 'hpc'?"),
    ],
)
async def test_a_mistake_is_a_sentence(kit, text, site, words):
    result = await render("-", "--site", site, text=text)
    assert words in str(result.exception)
