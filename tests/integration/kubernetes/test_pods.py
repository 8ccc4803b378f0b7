"""Dask clusters whose workers are pods of a Kubernetes cluster."""

import time

import pytest

from tests.support.clusterkit import TIMEOUT_S, wait_workers
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.kubernetes


def slow_square(x):
    time.sleep(0.02)
    return x * x


slow_square.__module__ = "__main__"  # so that it travels by value

SQUARES = [x * x for x in range(300)]


def test_workers_are_few_pods_with_many_workers_each_and_all_of_it_goes_with_the_cluster(pods):
    pods.node()
    with pods.start(6, per_job=3) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(6, timeout=TIMEOUT_S)
        assert client.gather(client.map(slow_square, range(300))) == SQUARES
        assert len(pods.pods()) == 2
        cluster.scale(3)
        wait_workers(client, 3)
    assert not pods.pods()
    assert not pods.thread.run(pods.kit.secrets())


def which_gpu(_):
    import os

    time.sleep(0.3)
    return os.environ["CUDA_VISIBLE_DEVICES"]


which_gpu.__module__ = "__main__"


def test_each_worker_has_one_gpu_of_its_own_and_tasks_can_ask_for_it(pods):
    pods.node(resources={"nvidia.com/gpu": "4"})
    with pods.start(3, per_job=4, gpus=4, gpus_each=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(3, timeout=TIMEOUT_S)
        (pod,) = pods.pods()
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "3"
        futures = client.map(which_gpu, range(6), resources={"GPU": 1}, pure=False)
        assert {*client.gather(futures)} == {"0", "1", "2"}


def test_a_job_that_got_fewer_gpus_than_it_asked_for_says_so(pods):
    pods.node(resources={"nvidia.com/gpu": "4"}, environment={"CUDA_VISIBLE_DEVICES": "0"})
    with pods.start(2, per_job=4, gpus=4, gpus_each=1) as cluster:
        words = "the job has 1 GPUs, and its workers need 2"
        eventually_sync(lambda: words in cluster._repr_html_(), within_s=40)


def test_a_pod_that_somebody_deletes_is_replaced_and_the_result_is_right(pods):
    pods.node()
    with pods.start(4, per_job=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        futures = client.map(slow_square, range(300))
        eventually_sync(lambda: sum(future.done() for future in futures) > 20)
        first = pods.pods()[0]["metadata"]["name"]
        path = f"/api/v1/namespaces/{pods.kit.namespace}/pods/{first}"
        pods.do("DELETE", path, {"gracePeriodSeconds": 0})
        assert client.gather(futures) == SQUARES
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        assert first not in {pod["metadata"]["name"] for pod in pods.pods() if alive(pod)}
        assert any("deleted it" in job.reason for job in cluster.jobs())


def test_a_pod_that_fails_is_shown_with_its_reason(pods):
    pods.node().pulls["example/python:1"] = "ImagePullBackOff"
    with pods.start(1) as cluster:
        job = eventually_sync(lambda: next((j for j in cluster.jobs() if j.word == "held"), None))
        assert "image cannot be pulled" in job.reason


def test_the_api_may_be_away_for_long_and_nothing_is_doubled(pods):
    if pods.kit.fake is None:
        pytest.skip("a real API server is not stopped by a test")
    pods.node()
    with pods.start(2, per_job=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        pods.kit.fake.down = True
        cluster.scale(4)
        assert client.gather(client.map(slow_square, range(300))) == SQUARES
        eventually_sync(lambda: "does not answer" in cluster._repr_html_())
        pods.compact()
        pods.kit.fake.down = False
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        assert len(pods.pods()) == 2


def test_lists_that_expire_between_two_pages_are_begun_anew(pods):
    if pods.kit.fake is None:
        pytest.skip("a real API server cannot be told when to compact")
    fake = pods.kit.fake
    fake.page = 1
    expired = []

    def expire(call):
        if call.verb == "list" and call.resource == "pods" and len(expired) < 3:
            expired.append(call)
            fake.store.compact()

    pods.node()
    with pods.start(2, per_job=1) as cluster:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        fake.faults.append(expire)
        eventually_sync(lambda: len(expired) == 3)
        cluster.scale(1)
        eventually_sync(lambda: len([p for p in pods.pods() if alive(p)]) == 1)


def test_a_quota_that_is_used_up_is_said_and_waited_for(pods):
    if pods.kit.fake is None:
        pytest.skip("a real cluster would need an administrator's quota")
    pods.node()
    full = [True]

    def quota(call):
        if full and call.verb == "create" and call.resource == "pods":
            from tests.services.kubernetes.api import Refusal

            raise Refusal(403, "Forbidden", "exceeded quota: cpus, requested: requests.cpu=1")

    pods.kit.fake.faults.append(quota)
    with pods.start(1) as cluster:
        eventually_sync(lambda: "quota" in cluster._repr_html_())
        full.clear()
        cluster.wait_for_workers(1, timeout=TIMEOUT_S)


def alive(pod):
    return pod["status"]["phase"] not in ("Succeeded", "Failed")
