"""The back end of pods when requests fail, objects vanish, and programs are killed half-way."""

import asyncio
import contextlib
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from offload_sites import interlink, kubernetes
from offload_sites.errors import (
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.jobs import ImageRef, JobHandle, JobSpec, JobState, Resources, SiteState
from offload_sites.kubernetes import backend as backend_module
from offload_sites.site_models import InterlinkSite, KubernetesSite, Toleration
from tests.docs import pages
from tests.services.kubernetes.kubelet import Kubelet
from tests.services.kubernetes.process import PodProcess
from tests.services.kubernetes.virtual import VirtualKubelet
from tests.support.kubekit import TAINT, KubeKit
from tests.support.processes import assert_no_process_below
from tests.support.waiting import eventually

pytestmark = pytest.mark.kubernetes

IMAGE = ImageRef("base", docker="base:1", cvmfs="/cvmfs/unpacked.example.org/base")
SPEC = JobSpec(("sleep", "3600"), Resources(1, 64 * 1024**2), timedelta(minutes=30), IMAGE)


@pytest.fixture
async def kit(tmp_path, monkeypatch):
    kit = KubeKit(tmp_path / "kube")
    await kit.start()
    if kit.fake is None:
        await kit.close()
        pytest.skip("faults of a real API server cannot be scripted")
    monkeypatch.setenv("KUBECONFIG", str(kit.kubeconfig))
    yield kit
    await kit.close()
    assert_no_process_below(tmp_path)


def plain(kit):
    taint = [Toleration(key=TAINT)]
    site = KubernetesSite(
        kind="kubernetes", title="t", max_walltime=timedelta(hours=1), tolerations=taint
    )
    return kubernetes.create("cluster", site)


def virtual(kit):
    site = InterlinkSite(
        kind="interlink", title="t", max_walltime=timedelta(hours=1), node_name=kit.node
    )
    return interlink.create("hpc", site)


async def until(backend, handle, state):
    async def reached():
        status = (await backend.status([handle]))[handle]
        return status if status.state is state else None

    return await eventually(reached)


# --- killed half-way ---


@pytest.mark.parametrize("at", range(10))
async def test_a_submit_cut_off_at_any_request_is_completed_and_doubles_nothing(kit, at):
    requests = []

    def cut(call):
        requests.append(call)
        return 503 if len(requests) == at + 1 else None

    keys = {"c-1": {"s": b"1"}, "c-2": {"s": b"2"}}
    async with plain(kit) as backend:
        kit.fake.faults.append(cut)
        handles = None
        with contextlib.suppress(SiteUnavailableError):
            handles = await backend.submit(SPEC, keys)
        kit.fake.faults.clear()
        found = await backend.find("c-")
        assert set(found) <= set(keys)
        again = await backend.submit(SPEC, keys)
        assert found.items() <= again.items()
        assert handles in (None, again)
        assert await backend.find("c-") == again
        assert len(await kit.pods()) == 2
        assert len(await kit.secrets()) == 2


async def test_an_answer_that_got_lost_on_its_way_is_no_second_job(kit):
    """The API server has done it, and the answer never came."""
    async with plain(kit) as backend:
        create = kit.fake._create

        def lost(resource, namespace, value):
            made = create(resource, namespace, value)
            if resource.plural == "pods":
                kit.fake._create = create
                raise ConnectionResetError
            return made

        kit.fake._create = lost
        with pytest.raises(SiteUnavailableError):
            await backend.submit(SPEC, {"c-1": {}})
        await backend.submit(SPEC, {"c-1": {}})
        assert len(await kit.pods()) == 1


async def test_a_submission_that_was_never_completed_is_unknown_and_can_be_cancelled(kit):
    async with plain(kit) as backend:
        kit.fake.faults.append(lambda call: 503 if call.resource == "pods" else None)
        with pytest.raises(SiteUnavailableError):
            await backend.submit(SPEC, {"c-1": {}})
        kit.fake.faults.clear()
        assert await backend.find("c-") == {}
        handle = dataclasses.replace(
            next(iter((await backend.submit(SPEC, {"c-2": {}})).values())), native_id="cluster-c-1"
        )
        status = (await backend.status([handle]))[handle]
        assert (status.state, "cut off" in status.reason) == (JobState.UNKNOWN, True)
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)
        # It was cancelled: it does not start now, however often it is sent.
        await backend.submit(SPEC, {"c-1": {}})
        assert [one["metadata"]["name"] for one in await kit.pods()] == ["cluster-c-2"]


async def test_a_job_that_is_cancelled_while_its_pod_is_created_is_canceled(kit):
    """Somebody else has looked before the pod was there, and marks the record before it is placed."""
    async with plain(kit) as backend:
        create = kit.fake._create

        def cancelled_meanwhile(resource, namespace, value):
            if resource.plural == "pods":
                name = value["metadata"]["name"]
                notes = {"interlink-offload/cancelled": "2030-01-01T12:00:00Z"}
                kit.fake.edit("configmaps", name, {"metadata": {"annotations": notes}}, namespace)
            return create(resource, namespace, value)

        kit.fake._create = cancelled_meanwhile
        (handle,) = (await backend.submit(SPEC, {"c-1": {"s": b"x"}})).values()
        assert (await backend.status([handle]))[handle].state is JobState.CANCELED
        assert not await kit.pods()
        assert not await kit.secrets()


async def test_a_pod_that_is_created_while_its_job_is_cancelled_goes(kit):
    """The other way round: the pod comes after those who cancel have looked."""
    async with plain(kit) as backend:
        kit.fake.faults.append(lambda call: 503 if call.resource == "pods" else None)
        with pytest.raises(SiteUnavailableError):
            await backend.submit(SPEC, {"c-1": {}})
        kit.fake.faults.clear()

        def comes(call):
            if call.verb == "patch":
                kit.fake.faults.clear()
                kit.fake.add("pods", pod_named("cluster-c-1"), kit.namespace)

        kit.fake.faults.append(comes)
        handle = JobHandle("cluster", "cluster-c-1")
        await backend.cancel([handle])
        assert (await backend.status([handle]))[handle].state is JobState.CANCELED
        assert not await kit.pods()


async def test_a_pod_whose_request_comes_after_its_job_was_cancelled_is_ended(kit):
    """A program that was killed while it submitted: the request was still on its way."""
    async with plain(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)
        labels = {"interlink-offload/site": "cluster", "interlink-offload/job": handle.native_id}
        await kit.client.ask(
            "POST",
            f"/api/v1/namespaces/{kit.namespace}/pods",
            pod_named(handle.native_id, labels=labels),
        )
        await until(backend, handle, JobState.CANCELED)
        assert not await kit.pods()


def pod_named(name, **meta):
    container = {"name": "c", "image": "example.org/c:1", "command": ["sleep", "3600"]}
    return {"metadata": {"name": name, **meta}, "spec": {"containers": [container]}}


async def test_a_pod_that_is_deleted_while_its_process_starts_goes_and_its_process_with_it(
    kit, monkeypatch
):
    await kit.kubelet(Kubelet)
    start = PodProcess.start

    async def deleted():
        return any("deletionTimestamp" in pod["metadata"] for pod in await kit.pods())

    async def late(process):
        starting.set()
        await eventually(deleted)
        await start(process)

    starting = asyncio.Event()
    monkeypatch.setattr(PodProcess, "start", late)
    async with plain(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        await starting.wait()
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)


async def test_a_refusal_leaves_nothing_behind(kit):
    async with plain(kit) as backend:
        kit.fake.faults.append(
            lambda call: 422 if (call.verb, call.resource) == ("create", "pods") else None
        )
        with pytest.raises(JobRejectedError):
            await backend.submit(SPEC, {"c-1": {"s": b"x"}, "c-2": {"s": b"x"}})
        assert not await kit.secrets()
        assert not kit.fake.objects("configmaps", kit.namespace)


# --- silence, and what is not believed ---


async def test_a_silent_api_makes_every_job_unknown_and_is_asked_again(kit):
    await kit.kubelet(Kubelet)
    async with plain(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        await until(backend, handle, JobState.RUNNING)
        kit.fake.down = True
        status = (await backend.status([handle]))[handle]
        assert (status.state, "does not answer" in status.reason) == (JobState.UNKNOWN, True)
        assert (await backend.health()).state is SiteState.NO_ANSWER
        for call in (backend.find(""), backend.cancel([handle]), backend.submit(SPEC, {"c-2": {}})):
            with pytest.raises(SiteUnavailableError):
                await call
        kit.fake.down = False
        await until(backend, handle, JobState.RUNNING)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_an_api_that_refuses_to_look_ends_no_job(kit, status):
    async with plain(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        kit.fake.faults.append(lambda call: status if call.verb in ("get", "list") else None)
        assert (await backend.status([handle]))[handle].state is JobState.UNKNOWN
        kit.fake.faults.clear()


async def test_who_is_not_known_is_told_so(kit):
    kit.kubeconfig.write_text(kit.fake.kubeconfig(kit.namespace, "nobody"))
    async with plain(kit) as backend:
        with pytest.raises(NotAuthorizedError, match="does not know who we are"):
            await backend.submit(SPEC, {"c-1": {}})


# --- vanished, and cleaned up ---


async def test_a_pod_that_vanished_is_canceled_and_never_started_again(kit):
    async with plain(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        kit.fake.remove("pods", handle.native_id, kit.namespace)
        status = await until(backend, handle, JobState.CANCELED)
        assert "deleted it" in status.reason
        await backend.submit(SPEC, {"c-1": {}})
        assert not await kit.pods()
        assert not await kit.secrets()


async def test_all_of_a_job_goes_with_its_record(kit):
    await kit.kubelet(Kubelet)
    async with plain(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {"s": b"x"}})).values()
        await until(backend, handle, JobState.RUNNING)
        path = f"/api/v1/namespaces/{kit.namespace}/configmaps/{handle.native_id}"
        await kit.client.ask("DELETE", path)

        async def nothing():
            return not await kit.pods() and not await kit.secrets()

        await eventually(nothing)


async def test_jobs_that_ended_long_ago_are_forgotten_and_others_are_not(kit, monkeypatch):
    await kit.kubelet(Kubelet)
    async with plain(kit) as backend:
        handles = await backend.submit(SPEC, {"c-1": {}, "c-2": {}})
        await backend.cancel([handles["c-1"]])
        await until(backend, handles["c-1"], JobState.CANCELED)
        monkeypatch.setattr(backend_module, "_KEPT", timedelta(seconds=-5))
        monkeypatch.setattr(backend_module, "_SWEEP_EVERY_S", 0)
        await backend.submit(SPEC, {"c-3": {}})
        assert set(await backend.find("c-")) == {"c-2", "c-3"}


async def test_why_a_pod_does_not_start_is_told_from_its_events(kit, monkeypatch):
    monkeypatch.setattr(backend_module, "_QUIET", timedelta(0))
    await kit.kubelet(Kubelet)
    async with plain(kit) as backend:
        kit.fake.faults.append(
            lambda call: 404 if (call.verb, call.resource) == ("get", "secrets") else None
        )
        once = iter([400])
        kit.fake.faults.append(
            lambda call: next(once, None) if call[:2] == ("list", "events") else None
        )
        (handle,) = (await backend.submit(SPEC, {"c-1": {"s": b"x"}})).values()

        async def told():
            status = (await backend.status([handle]))[handle]
            return "MountVolume.SetUp failed" in status.said

        await eventually(told)
        kit.fake.faults.clear()
        await until(backend, handle, JobState.RUNNING)
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)


# --- virtual nodes ---


async def test_that_a_pod_had_no_node_is_not_told_once_it_has_one(kit, monkeypatch):
    monkeypatch.setattr(backend_module, "_QUIET", timedelta(0))
    async with virtual(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        (pod,) = await kit.pods()
        node = await kit.kubelet(VirtualKubelet, slots=0)
        await node.event(pod, "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")

        async def queued():
            status = (await backend.status([handle]))[handle]
            return status if "waits in the queue" in status.reason else None

        assert (await eventually(queued)).said == ""
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)


async def test_nothing_is_deleted_while_a_virtual_node_has_no_contact_to_its_site(kit):
    node = await kit.kubelet(VirtualKubelet)
    async with virtual(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        await until(backend, handle, JobState.RUNNING)
        node.plugin.down = True
        status = await until(backend, handle, JobState.UNKNOWN)
        assert "no contact to its site" in status.reason
        assert (await backend.health()).state is SiteState.NO_ANSWER
        with pytest.raises(SiteUnavailableError, match="cannot be ended now"):
            await backend.cancel([handle])
        assert len(await kit.pods()) == 1
        node.plugin.down = False
        await until(backend, handle, JobState.RUNNING)
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)
        await eventually(lambda: not node.plugin.orphans())


async def test_jobs_of_a_node_that_was_removed_are_unknown_and_can_be_ended(kit):
    node = await kit.kubelet(VirtualKubelet)
    async with virtual(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        await until(backend, handle, JobState.RUNNING)
        await node.killed()
        kit.fake.remove("nodes", kit.node)
        status = await until(backend, handle, JobState.UNKNOWN)
        assert "no node" in status.reason
        await backend.cancel([handle])
        (pod,) = await kit.pods()
        assert pod["metadata"]["deletionTimestamp"]


async def test_the_batch_id_outlives_the_pod(kit):
    node = await kit.kubelet(VirtualKubelet)
    async with virtual(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {}})).values()
        await until(backend, handle, JobState.RUNNING)
        (job,) = node.plugin.jobs.values()
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)
        record = kit.fake.get("configmaps", handle.native_id, kit.namespace)
        assert record["metadata"]["annotations"]["interlink-offload/batch-id"] == str(job.number)


async def test_free_cores_are_those_that_nobody_has_taken(kit):
    await kit.kubelet(VirtualKubelet, resources={"cpu": "3"})
    async with virtual(kit) as backend:

        async def free(cpus):
            health = await backend.health()
            return (health.state, health.free_cpus) == (SiteState.UP, cpus)

        await eventually(lambda: free(3))
        await backend.submit(SPEC, {"c-1": {}, "c-2": {}})
        await eventually(lambda: free(1))


# --- rights ---


def documented_rules():
    """Return the rules of the guide, and the one on nodes that it speaks of."""
    text = Path(pages.DOCS, "howto", "virtual-nodes.md").read_text("utf-8")
    (role,) = (one for one in pages.blocks(text, "yaml") if "kind: Role" in one)
    nodes = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    return [*yaml.safe_load(role)["rules"], nodes]


async def has_logs(backend, handle):
    """Tell whether there are logs: a job runs for a moment before it has any."""
    with contextlib.suppress(OffloadError):
        return await backend.logs(handle) is not None


async def test_the_rights_of_the_guide_are_enough(kit):
    await kit.kubelet(VirtualKubelet)
    kit.fake.roles["limited"] = documented_rules()
    kit.kubeconfig.write_text(kit.fake.kubeconfig(kit.namespace, "limited"))
    async with virtual(kit) as backend:
        (handle,) = (await backend.submit(SPEC, {"c-1": {"s": b"x"}})).values()
        await until(backend, handle, JobState.RUNNING)
        assert set(await backend.find("c-")) == {"c-1"}
        assert (await backend.health()).state is SiteState.UP
        await eventually(lambda: has_logs(backend, handle))
        await backend.cancel([handle])
        await until(backend, handle, JobState.CANCELED)


async def test_many_jobs_are_two_requests_a_poll(kit):
    async with plain(kit) as backend:
        handles = await backend.submit(SPEC, {f"c-{number}": {} for number in range(30)})
        kit.fake.calls.clear()
        await backend.status(handles.values())
        mine = [call for call in kit.fake.calls if call.resource in ("configmaps", "pods")]
        assert [call.verb for call in mine if call.resource == "configmaps"] == ["list"]
