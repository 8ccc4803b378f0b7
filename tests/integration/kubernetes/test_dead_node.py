"""Jobs as pods on an ordinary node that dies: nothing of them changes by itself."""

from datetime import timedelta

import pytest

from offload_sites import kubernetes
from offload_sites.jobs import ImageRef, JobSpec, JobState, Resources
from offload_sites.site_models import KubernetesSite, Toleration
from tests.services.kubernetes.kubelet import Kubelet
from tests.support.kubekit import TAINT, KubeKit
from tests.support.processes import assert_no_process_below
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

SPEC = JobSpec(
    ("sleep", "3600"),
    Resources(1, 64 * 1024**2),
    timedelta(minutes=30),
    ImageRef("base", docker="base:1"),
)


@pytest.fixture
async def kit(tmp_path, monkeypatch):
    kit = KubeKit(tmp_path / "kube")
    await kit.start()
    kit.with_node_control()
    monkeypatch.setenv("KUBECONFIG", str(kit.kubeconfig))
    yield kit
    await kit.close()
    assert_no_process_below(tmp_path)


@pytest.fixture
async def backend(kit):
    site = KubernetesSite(
        kind="kubernetes",
        title="t",
        max_walltime=timedelta(hours=1),
        node_selector={"kubernetes.io/hostname": kit.node},
        tolerations=[Toleration(key=TAINT)],
    )
    async with kubernetes.create("cluster", site) as backend:
        yield backend


async def until(backend, handle, state, *words):
    async def reached():
        status = (await backend.status([handle]))[handle]
        assert status.state is state, status
        assert all(word in status.reason for word in words), status
        return True

    # A real control plane gives a node up after 50 s, and collects its pods after a minute more.
    await eventually(reached, within_s=180)


async def test_a_job_whose_node_is_silent_is_unknown_until_the_node_is_back(kit, backend):
    node = await kit.kubelet(Kubelet)
    (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
    await until(backend, handle, JobState.RUNNING)
    node.silent = True
    await until(backend, handle, JobState.UNKNOWN, "its node does not answer")
    node.silent = False
    await until(backend, handle, JobState.RUNNING)
    node.silent = True
    await until(backend, handle, JobState.UNKNOWN)
    await backend.cancel([handle])
    await until(backend, handle, JobState.UNKNOWN, "it is being cancelled", "does not answer")
    node.silent = False
    await until(backend, handle, JobState.CANCELED)


async def test_a_job_goes_with_its_node(kit, backend):
    node = await kit.kubelet(Kubelet)
    (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
    await until(backend, handle, JobState.RUNNING)
    node.silent = True
    await kit.client.ask("DELETE", f"/api/v1/nodes/{kit.node}")
    await until(backend, handle, JobState.CANCELED, "its pod is gone")
    node.silent = False
