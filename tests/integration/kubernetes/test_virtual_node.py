"""Dask clusters whose workers run behind a virtual node of interLink, faults included."""

import time

import pytest

from tests.integration.kubernetes.conftest import VIRTUAL
from tests.services.kubernetes.virtual import PluginError, VirtualKubelet
from tests.support.clusterkit import TIMEOUT_S
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.kubernetes


def slow_square(x):
    time.sleep(0.02)
    return x * x


slow_square.__module__ = "__main__"  # so that it travels by value

SQUARES = [x * x for x in range(300)]


@pytest.fixture
def hpc(pods):
    pods.node(VirtualKubelet, resources={"cpu": "100", "nvidia.com/gpu": "8"})
    pods.plugin = pods.kubelet.plugin
    return pods


def start(hpc, n_workers, **options):
    return hpc.start(n_workers, catalog=VIRTUAL, **options)


def nothing_runs(hpc):
    return eventually_sync(lambda: not hpc.plugin.orphans())


def alive(hpc):
    return [p for p in hpc.pods() if p["status"]["phase"] not in ("Succeeded", "Failed")]


def test_workers_compute_and_go_with_their_cluster(hpc):
    with start(hpc, 6, per_job=3) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(6, timeout=TIMEOUT_S)
        assert client.gather(client.map(slow_square, range(300))) == SQUARES
        assert len(hpc.pods()) == 2
        numbers = {str(job.number) for job in hpc.plugin.jobs.values()}
        eventually_sync(
            lambda: {job.where.removeprefix("batch job ") for job in cluster.jobs()} == numbers
        )
    nothing_runs(hpc)


def test_a_batch_job_killed_behind_our_back_is_replaced_though_the_site_calls_it_a_success(hpc):
    with start(hpc, 4, per_job=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        futures = client.map(slow_square, range(300))
        eventually_sync(lambda: sum(future.done() for future in futures) > 20)
        victim = hpc.pods()[0]["metadata"]["uid"]
        hpc.thread.call(hpc.plugin.scancel, victim)
        assert client.gather(futures) == SQUARES
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        pod = next((p for p in hpc.pods() if p["metadata"]["uid"] == victim), None)
        assert pod is None or pod["status"]["phase"] == "Succeeded"
    nothing_runs(hpc)


def test_a_refusal_of_the_batch_system_stops_the_refill_and_says_why(hpc):
    hpc.plugin.create_error = PluginError(
        500, "sbatch: error: Invalid account or account/partition"
    )
    with start(hpc, 2, per_job=1) as cluster:
        eventually_sync(lambda: "account or partition" in cluster._repr_html_(), within_s=40)
        eventually_sync(lambda: "failed in the same way" in cluster._repr_html_(), within_s=40)
        assert len(hpc.plugin.jobs) == 0


def test_while_the_site_is_away_nothing_is_deleted_and_nothing_doubled(hpc):
    with start(hpc, 4, per_job=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        hpc.plugin.down = True
        eventually_sync(lambda: _ready(hpc) == "False")
        assert client.gather(client.map(slow_square, range(300))) == SQUARES
        # Two workers go at once, by way of the relay; their pod only when the site can be told.
        cluster.scale(2)
        eventually_sync(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
        assert len(hpc.pods()) == 2
        hpc.plugin.down = False
        eventually_sync(lambda: len(alive(hpc)) == 1, within_s=60)
    nothing_runs(hpc)


def _ready(hpc):
    node = hpc.do("GET", f"/api/v1/nodes/{hpc.kit.node}")
    return next(c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready")


def test_a_job_that_a_delete_did_not_reach_ends_itself(hpc):
    with start(hpc, 2, per_job=2) as cluster:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        # The node seems well, but what it is told does not arrive.
        hpc.plugin.delete = lambda uid: None
        cluster.scale(0)
        eventually_sync(lambda: not hpc.pods(), within_s=40)
        nothing_runs(hpc)


def test_a_virtual_kubelet_killed_with_its_jobs_running_leaves_none_behind(hpc):
    with start(hpc, 2, per_job=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        hpc.thread.run(hpc.kubelet.killed())
        assert client.gather(client.map(slow_square, range(300))) == SQUARES
    # Nobody can tell the site; the agents were told by the relay.
    nothing_runs(hpc)
    hpc.kubelet.silent = False


def test_a_site_that_loses_the_files_of_a_job_is_found_out(hpc):
    hpc.plugin.loses_secrets = True
    with start(hpc, 1) as cluster:
        eventually_sync(lambda: "does not deliver files" in cluster._repr_html_(), within_s=40)
