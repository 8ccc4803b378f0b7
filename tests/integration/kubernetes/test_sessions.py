"""Sessions of a real hub as pods: behind a virtual node of interLink, and by KubeSpawner as it is."""

import contextlib
import html
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from offload_sites.testing import eventually_sync
from tests.services.kubernetes.api import Refusal
from tests.services.kubernetes.kubelet import Kubelet
from tests.services.kubernetes.virtual import PluginError, VirtualKubelet
from tests.support.hubkit import PROXY, HubKit, free_ports, pretty
from tests.support.kernelkit import connect_kernel, execute, new_kernel, run_in_kernel
from tests.support.kubekit import TAINT, InThread, KubeKit
from tests.support.tiers import lacking

pytestmark = [pytest.mark.hub, pytest.mark.kubernetes, pytest.mark.timeout(300)]

CATALOG = """
sites:
  hpc:
    kind: interlink
    title: The HPC centre
    node_name: {hpc}
    max_walltime: 2h
  pods:
    kind: kubernetes
    title: The hub's machines
    max_walltime: 2h
    node_selector: {{kubernetes.io/hostname: {pods}}}
    tolerations: [{{key: {taint}}}]
  nowhere:
    kind: kubernetes
    title: Empty racks
    max_walltime: 2h
    node_selector: {{kubernetes.io/hostname: nowhere}}
  here: {{kind: local, title: Here, max_walltime: 2h, directory: {place}/site}}
images:
  lab:
    title: JupyterLab
    docker: example/lab:1
    cvmfs: /cvmfs/unpacked.example.org/lab
    python: {python}
profiles:
  hpc:
    title: An HPC node
    sites: [hpc]
    images: [lab]
    resources: {{cpus: 2, memory: 1GiB}}
    queue_budget: {budget}
  pods:
    title: Here at the hub
    sites: [pods]
    for: [session]
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
  nowhere:
    title: A node that is not there
    sites: [nowhere]
    for: [session]
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
    queue_budget: 8s
  either:
    title: Wherever it starts first
    sites: [hpc, here]
    for: [session]
    patience: 3s
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
"""

CONFIG = """
c.KubeSpawner.namespace = "{namespace}"
c.KubeSpawner.cmd = ["jupyterhub-singleuser", "--allow-root"]
c.KubeSpawner.port = {port}
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = "10Gi"
c.KubeSpawner.storage_class = ""
c.KubeSpawner.volumes = [
    {{"name": "home", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "home", "mountPath": "/home/jovyan"}}]
c.Spawner.http_timeout = 120
c.InterLinkSpawner.args = ["--allow-root"]
c.JupyterHub.load_groups = {{"hasty": {{"users": ["max", "moe"]}}}}
c.Spawner.group_overrides = {{
    "hasty": {{"groups": ["hasty"], "spawner_override": {{"start_timeout": 2, "http_timeout": 4}}}}}}
"""


class PodHub(HubKit):
    """A hub with a Kubernetes API, a virtual node and an ordinary one."""

    def __init__(self, place, thread):
        super().__init__(place)
        self.thread = thread
        self.kube = KubeKit(place / "kube")
        thread.run(self.kube.start())
        self.names = {"hpc": f"{self.kube.node}-hpc", "pods": f"{self.kube.node}-pods"}
        self.vk = thread.run(
            self.kube.kubelet(VirtualKubelet, name=self.names["hpc"], resources={"cpu": "64"})
        )
        self.kubelet = thread.run(self.kube.kubelet(Kubelet, name=self.names["pods"]))
        self.programs.environment["KUBECONFIG"] = str(self.kube.kubeconfig)
        (port,) = free_ports(1)
        self.config_more = CONFIG.format(namespace=self.kube.namespace, port=port)

    def write_catalog(self, *, more="", limit="", budget="1h"):
        text = CATALOG.format(
            place=self.place, python=sys.executable, taint=TAINT, budget=budget, **self.names
        )
        (self.place / "catalog.yaml").write_text(text)

    def pods(self, user):
        """Return the pods of a user that have not ended, whoever has made them."""
        found = self.thread.run(self.kube.pods())
        return [
            pod
            for pod in found
            if pod["status"]["phase"] not in ("Succeeded", "Failed")
            and user
            in (_note(pod, "interlink-offload/owner"), _note(pod, "hub.jupyter.org/username"))
        ]

    def ask(self, method, path, body=None, **query):
        base = f"/api/v1/namespaces/{self.kube.namespace}/"
        return self.thread.run(self.kube.client.ask(method, base + path, body, **query))

    def volume_of(self, user):
        self.thread.run(self.kube.volume_for(f"claim-{user}"))

    def claims(self):
        return [c["metadata"]["name"] for c in self.ask("GET", "persistentvolumeclaims")["items"]]

    def close(self):
        try:
            super().close()
        finally:
            self.thread.run(self.kube.close())


def _note(pod, name):
    return pod["metadata"].get("annotations", {}).get(name)


@pytest.fixture(scope="module")
def hub(request):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        thread = stack.enter_context(InThread())
        kit = PodHub(place, thread)
        stack.callback(kit.close)
        kit.start()
        yield kit


@pytest.fixture(autouse=True)
def _well(hub):
    yield
    hub.vk.plugin.down, hub.vk.plugin.create_error, hub.vk.plugin.slots = False, None, 6


def session_of(hub, user):
    return hub.server(user)["state"]["offload"]["session"]


def page_of(hub, user):
    answer = hub.sign_in(user).get(f"{hub.url}/hub/spawn-pending/{user}")
    return re.sub(r"\s+", " ", answer.text)


# Behind a virtual node


def test_a_session_computes_behind_a_virtual_node_and_nothing_secret_is_in_its_pod(hub):
    hub.add_user("ann")
    answer = hub.spawn("ann", profile="hpc")
    assert answer.status_code in (201, 202), pretty(answer)
    hub.wait_ready("ann")
    assert run_in_kernel(hub, "ann", "print(6 * 7)") == "42\n"
    token = run_in_kernel(hub, "ann", "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])")
    (pod,) = hub.pods("ann")
    assert token.strip()
    assert token.strip() not in str(pod) + str(hub.ask("GET", "configmaps"))
    hub.stop("ann")
    assert not hub.pods("ann")
    eventually_sync(lambda: not hub.vk.plugin.orphans())


def test_a_queued_session_survives_a_restart_of_the_hub_and_is_one_batch_job(hub):
    hub.add_user("ben")
    hub.vk.plugin.slots = 0
    hub.spawn("ben", profile="hpc")
    eventually_sync(lambda: "waits in the queue" in session_of(hub, "ben")["status"]["reason"])
    before = session_of(hub, "ben")
    jobs = set(hub.vk.plugin.jobs)
    hub.restart_hub()
    assert hub.server("ben")["pending"] == "spawn"
    assert "Waiting for An HPC node at The HPC centre" in page_of(hub, "ben")
    hub.vk.plugin.slots = 6
    hub.wait_ready("ben")
    assert session_of(hub, "ben")["key"] == before["key"]
    assert set(hub.vk.plugin.jobs) == jobs
    hub.stop("ben")


def test_a_queued_session_is_cancelled_and_its_batch_job_with_it(hub):
    hub.add_user("cy")
    hub.vk.plugin.slots = 0
    hub.spawn("cy", profile="hpc")
    eventually_sync(lambda: [j for j in hub.vk.plugin.jobs.values() if j.state == "PD"])
    hub.stop("cy")
    assert not hub.pods("cy")
    eventually_sync(lambda: not [j for j in hub.vk.plugin.jobs.values() if j.state == "PD"])


def test_a_refusal_of_the_batch_system_is_a_sentence_on_the_page(hub):
    hub.add_user("dee")
    hub.vk.plugin.create_error = PluginError(500, "sbatch: error: Invalid account")
    hub.spawn("dee", profile="hpc")
    eventually_sync(lambda: not hub.server("dee"), within_s=60)
    page = page_of(hub, "dee")
    assert "does not accept its account or partition" in page
    assert "sbatch: error: Invalid account" in page


def test_a_session_goes_on_while_its_virtual_node_is_not_ready(hub):
    hub.add_user("eli")
    hub.spawn("eli", profile="hpc")
    hub.wait_ready("eli")
    with new_kernel(hub, "eli") as (kernel, socket):
        execute(socket, "kept = 'here'")
    hub.vk.plugin.down = True
    eventually_sync(lambda: session_of(hub, "eli")["silent_since"], within_s=60)
    assert hub.server("eli")["ready"]
    with connect_kernel(hub, "eli", kernel) as socket:
        assert execute(socket, "print(kept)") == "here\n"
    hub.restart_hub()
    hub.wait_ready("eli")
    assert len(hub.pods("eli")) == 1
    hub.vk.plugin.down = False
    eventually_sync(lambda: not session_of(hub, "eli")["silent_since"], within_s=60)
    hub.stop("eli")
    eventually_sync(lambda: not hub.vk.plugin.orphans())


def test_a_session_that_is_stopped_while_its_node_is_not_ready_ends_itself(hub):
    hub.add_user("flo")
    hub.spawn("flo", profile="hpc")
    hub.wait_ready("flo")
    hub.vk.plugin.down = True
    hub.stop("flo")
    # The site cannot be told; the agent was, by the relay.
    eventually_sync(lambda: not hub.vk.plugin.orphans())


def test_a_session_whose_pod_somebody_deletes_is_over_and_says_why(hub):
    hub.add_user("gil")
    hub.spawn("gil", profile="hpc")
    hub.wait_ready("gil")
    (pod,) = hub.pods("gil")
    hub.ask("DELETE", f"pods/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})
    eventually_sync(lambda: not hub.server("gil"), within_s=60)
    report = hub.sign_in("gil").get(f"{hub.url}/hub/offload/report/gil").text
    assert "deleted it" in report or "ended this job" in report
    eventually_sync(lambda: not hub.vk.plugin.orphans())


def test_a_batch_job_killed_behind_the_hubs_back_ends_its_session(hub):
    hub.add_user("hal")
    hub.spawn("hal", profile="hpc")
    hub.wait_ready("hal")
    (pod,) = hub.pods("hal")
    hub.thread.call(hub.vk.plugin.scancel, pod["metadata"]["uid"])
    eventually_sync(lambda: not hub.server("hal"), within_s=60)
    assert "does not say why" in hub.sign_in("hal").get(f"{hub.url}/hub/offload/report/hal").text


def test_a_session_that_waits_too_long_is_moved_to_the_next_site_and_says_so(hub):
    hub.add_user("ida")
    hub.vk.plugin.slots = 0
    hub.spawn("ida", profile="either")
    eventually_sync(lambda: session_of(hub, "ida")["site"] == "here", within_s=60)
    assert "it goes to Here" in session_of(hub, "ida")["came"]
    hub.wait_ready("ida")
    assert not hub.pods("ida")
    assert not [j for j in hub.vk.plugin.jobs.values() if j.state in ("PD", "R")]
    assert run_in_kernel(hub, "ida", "print(1)") == "1\n"
    hub.stop("ida")


# By KubeSpawner


def test_a_session_on_the_hubs_machines_is_a_pod_with_its_users_volume(hub):
    hub.add_user("jo")
    hub.volume_of("jo")
    answer = hub.spawn("jo", profile="pods")
    assert answer.status_code in (201, 202), pretty(answer)
    hub.wait_ready("jo")
    assert run_in_kernel(hub, "jo", "print(2 + 2)") == "4\n"
    (pod,) = hub.pods("jo")
    assert pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] == hub.names["pods"]
    assert hub.claims() == ["claim-jo"]
    hub.stop("jo")
    eventually_sync(lambda: not hub.pods("jo"))
    assert hub.claims() == ["claim-jo"]
    hub.api("DELETE", "users/jo")
    assert hub.claims() == ["claim-jo"]


def test_a_pod_of_the_hub_survives_its_restart(hub):
    hub.add_user("kim")
    hub.volume_of("kim")
    hub.spawn("kim", profile="pods")
    hub.wait_ready("kim")
    with new_kernel(hub, "kim") as (kernel, socket):
        execute(socket, "kept = 'here'")
    hub.restart_hub()
    hub.wait_ready("kim")
    with connect_kernel(hub, "kim", kernel) as socket:
        assert execute(socket, "print(kept)") == "here\n"
    hub.stop("kim")
    eventually_sync(lambda: not hub.pods("kim"))


def test_a_pod_that_the_cluster_refuses_or_cannot_start_is_a_sentence_and_leaves_nothing(hub):
    hub.add_user("lea")
    fake = hub.kube.fake
    if fake is None:
        pytest.skip("a real cluster would need an administrator's quota")

    def quota(call):
        if call.verb == "create" and call.resource == "pods":
            raise Refusal(403, "Forbidden", "exceeded quota: users, requested: cpu=1")

    fake.faults.append(quota)
    answer = hub.spawn("lea", profile="pods")
    fake.faults.remove(quota)
    assert answer.status_code == 424, pretty(answer)
    assert "exceeded quota: users" in answer.json()["message"]
    hub.thread.run(fail_pods(hub))
    answer = hub.spawn("lea", profile="pods")
    eventually_sync(lambda: not hub.server("lea"), within_s=60)
    assert "The session did not start at The hub's machines: the cluster evicted it" in hub.log(
        "hub"
    )
    eventually_sync(lambda: not hub.pods("lea"))
    hub.kubelet.run = hub.run_pods


def test_a_pod_without_a_node_waits_for_its_queue_budget_and_then_says_why(hub):
    # The hub's own time-out comes earlier, and says nothing.
    hub.add_user("max")
    begin = time.monotonic()
    hub.spawn("max", profile="nowhere")
    eventually_sync(lambda: not hub.server("max"), within_s=60)
    assert time.monotonic() - begin > 8
    words = "The session did not start at Empty racks within 8 s: no node has room for it yet (0/"
    eventually_sync(lambda: words in hub.log("hub"))
    eventually_sync(lambda: not hub.pods("max"))


def test_a_pod_in_which_no_server_answers_is_a_sentence_on_the_page_and_leaves_nothing(hub):
    hub.add_user("moe")
    hub.volume_of("moe")
    page = hub.sign_in("moe")
    hub.thread.run(silence_pods(hub))
    try:
        hub.spawn("moe", profile="pods")
        eventually_sync(lambda: not hub.server("moe"), within_s=60)
    finally:
        hub.kubelet.run = hub.run_pods
    # What a browser is shown that was on the progress page.
    answer = page.get(f"{hub.url}/hub/spawn-pending/moe")
    shown = re.sub(r"\s+", " ", html.unescape(answer.text))
    assert "The session did not start at The hub's machines within 4 s: its pod runs, but" in shown
    assert "raise http_timeout" in shown
    assert answer.status_code < 500
    eventually_sync(lambda: not hub.pods("moe"))


async def silence_pods(hub):
    """Let the next pods run without anything in them."""

    async def pretend(pod):
        running = {"name": "notebook", "ready": True, "state": {"running": {}}, "restartCount": 0}
        running |= {"image": "", "imageID": ""}
        status = {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [running]}
        await hub.kubelet.tell(pod, status)

    hub.run_pods, hub.kubelet.run = hub.kubelet.run, pretend


async def fail_pods(hub):
    """Let the next pods be evicted as they come to their node."""

    async def evict(pod):
        await hub.kubelet.tell(pod, {"phase": "Failed", "reason": "Evicted", "message": "no room"})

    hub.run_pods, hub.kubelet.run = hub.kubelet.run, evict
