"""The rights that the chart gives where jobs run are those that the back ends use: no fewer, no more."""

import dataclasses
from datetime import timedelta

import pytest

from offload_sites import interlink, kubernetes
from offload_sites.errors import NotAuthorizedError, SiteUnavailableError
from offload_sites.jobs import ImageRef, JobSpec, JobState, Resources
from offload_sites.kubernetes import backend as kubernetes_backend
from offload_sites.site_models import InterlinkSite, KubernetesSite, Toleration
from tests.helm.conftest import NAMESPACE
from tests.services.kubernetes.api import Refusal
from tests.services.kubernetes.kubelet import Kubelet
from tests.services.kubernetes.virtual import VirtualKubelet
from tests.support.kubekit import TAINT, KubeKit
from tests.support.waiting import eventually

pytestmark = [pytest.mark.helm, pytest.mark.kubernetes]

TOKEN = "token-of-offload-service"
IMAGE = ImageRef("base", docker="base:1", cvmfs="/cvmfs/unpacked.example.org/base")
SPEC = JobSpec(
    command=("sh", "-c", "echo done"),
    resources=Resources(cpus=1, memory_bytes=64 * 1024**2),
    walltime=timedelta(minutes=10),
    image=IMAGE,
)


@pytest.fixture
def rules(ours):
    """What Role and ClusterRole of the chart allow, together."""
    roles = (ours["Role", "offload-jobs"], ours["ClusterRole", f"{NAMESPACE}-offload-nodes"])
    return [rule for role in roles for rule in role["rules"]]


def pairs(rules):
    return {(verb, one) for rule in rules for one in rule["resources"] for verb in rule["verbs"]}


@pytest.fixture
async def kit(tmp_path, monkeypatch, rules):
    """A fake API that knows the service's token and its rules, and notes what it is used for."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    kit = KubeKit(tmp_path / "kube")
    await kit.start()
    kit.used, kit.refused = set(), set()
    authorize = kit.fake._authorize

    def noted(request, resource, call):
        if TOKEN in request.headers.get("Authorization", ""):
            kit.used.add((call.verb, call.resource))
            of_all = resource.namespaced and "/namespaces/" not in request.path
            if of_all:  # the fake takes a Role for the whole cluster
                kit.refused.add(request.path)
                raise Refusal(403, "Forbidden", "a Role is for its namespace")
        return authorize(request, resource, call)

    monkeypatch.setattr(kit.fake, "_authorize", noted)
    kit.fake.roles[TOKEN] = rules
    kit.kubeconfig.write_text(kit.fake.kubeconfig(kit.namespace, TOKEN))
    monkeypatch.setenv("KUBECONFIG", str(kit.kubeconfig))
    monkeypatch.setattr(kubernetes_backend, "_QUIET", timedelta(0))
    monkeypatch.setattr(kubernetes_backend, "_KEPT", timedelta(0))
    monkeypatch.setattr(kubernetes_backend, "_SWEEP_EVERY_S", 0)
    yield kit
    await kit.close()


def plain(kit):
    taint = [Toleration(key=TAINT)]
    site = KubernetesSite(
        kind="kubernetes", title="t", max_walltime=timedelta(hours=1), tolerations=taint
    )
    return kubernetes.create("cluster", site), Kubelet


def virtual(kit):
    site = InterlinkSite(
        kind="interlink", title="t", max_walltime=timedelta(hours=1), node_name=kit.node
    )
    return interlink.create("hpc", site), VirtualKubelet


async def lives(kit, backend, kubelet):
    """Take jobs through all that can happen to them, on a node with room for one."""
    await kit.kubelet(kubelet, resources={"cpu": "1"})
    async with backend:
        sleeping = dataclasses.replace(SPEC, command=("sleep", "3600"))
        first = (await backend.submit(sleeping, {"first-1": {"secret": b"x"}}))["first-1"]
        await until(backend, first, JobState.RUNNING)
        second = (await backend.submit(SPEC, {"second-1": {}}))["second-1"]
        await until(backend, second, JobState.QUEUED)
        assert set(await backend.find("second-")) == {"second-1"}
        await backend.health()
        await backend.cancel([first])
        await until(backend, second, JobState.COMPLETED)
        assert "done" in (await backend.logs(second)).stdout
        # Ended jobs are forgotten in passing, when others are submitted.
        third = (await backend.submit(SPEC, {"third-1": {}}))["third-1"]
        await until(backend, third, JobState.COMPLETED)
        # A submission that is cut off when its pod is there, and sent again.
        broken, mark = iter([500]), ("patch", "configmaps")
        kit.fake.faults.append(lambda call: next(broken, None) if call[:2] == mark else None)
        with pytest.raises(SiteUnavailableError):
            await backend.submit(SPEC, {"fourth-1": {}})
        await backend.submit(SPEC, {"fourth-1": {}})


async def until(backend, handle, state):
    async def reached():
        return (await backend.status([handle]))[handle].state is state

    await eventually(reached, within_s=60)


@pytest.mark.parametrize("make", [plain, virtual])
async def test_jobs_live_and_end_with_the_rights_that_the_chart_gives(kit, rules, make):
    await lives(kit, *make(kit))
    # Asked for, and done without where it is refused: the pods of everybody on a virtual node.
    assert kit.used - pairs(rules) == set()
    assert kit.refused <= {"/api/v1/pods"}


async def test_no_right_is_given_that_is_not_used(kit, rules):
    await lives(kit, *virtual(kit))
    assert pairs(rules) - kit.used == set()


@pytest.mark.parametrize("missing", ["configmaps", "secrets", "pods"])
async def test_a_right_that_is_missing_is_said_with_what_it_is_for(kit, rules, missing):
    kit.fake.roles[TOKEN] = [rule for rule in rules if missing not in rule["resources"]]
    backend, _ = plain(kit)
    async with backend:
        with pytest.raises(NotAuthorizedError, match="does not allow to create a job"):
            await backend.submit(SPEC, {"first-1": {"secret": b"x"}})
