"""Clusters on a real pool behind a real CE: what a physicist at a login node sees, also at failures."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.clusterkit import TIMEOUT_S, kill, settings, wait_workers
from tests.support.cutline import CutLine
from tests.support.waiting import eventually_sync, scaled

pytestmark = pytest.mark.htcondor


def square(x):
    return x * x


# As in a notebook, it travels whole: the image cannot import this file.
square.__module__ = "__main__"


OFFLOAD = [sys.executable, "-m", "offload_cli"]


def says(cluster, *words):
    """Wait until what the notebook shows of the cluster has all these words."""

    def shown():
        text = cluster._repr_html_() + repr(cluster)
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in {text}"
        return True

    eventually_sync(shown, within_s=60)


def test_a_computation_in_containers_of_two_jobs_ends_right_and_leaves_nothing(farm):
    with farm.start(6, per_job=3) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(6, timeout=TIMEOUT_S)
        assert len(cluster.jobs()) == 2
        assert client.gather(client.map(square, range(100))) == [x * x for x in range(100)]
        where = client.run(lambda: os.environ["APPTAINER_CONTAINER"])
        assert set(where.values()) == {farm.dask}
        threads = client.run(lambda: os.environ["OMP_NUM_THREADS"])
        assert set(threads.values()) == {"1"}
        assert len(farm.queue()) == 2
    farm.empty()


def test_more_workers_are_one_more_job_and_fewer_let_jobs_go(farm):
    with farm.start(2, per_job=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        cluster.scale(4)
        wait_workers(client, 4, within_s=60)
        cluster.scale(1)
        wait_workers(client, 1, within_s=60)
        eventually_sync(lambda: len(farm.queue()) == 1, within_s=60)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("missing", ["could not be started", "no-such:1", "is not on this node"]),
        # Releases word it differently, and what we make of it has these in common.
        ("broken", ["could not be started", "container", "Choose another image"]),
        ("bare", ["No module named", "distributed", "Choose an image with distributed"]),
    ],
)
def test_an_image_that_cannot_be_used_stops_the_refill_and_says_why(farm, image, words):
    with farm.start(3, per_job=1, image=image) as cluster:
        says(cluster, "jobs failed", "at Computing centre", *words)
        # One or two may have been sent in place of the first; nothing follows them.
        farm.empty()


def test_a_pool_without_free_slots_says_that_jobs_wait_and_close_takes_them_back(farm):
    with farm.start(5, cpus=96, per_job=96) as cluster:
        eventually_sync(lambda: sorted(farm.queue("pool").values()) == [1, 2, 2, 2, 2], within_s=60)
        says(cluster, "queued")
    farm.empty()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        # A CE whose pool loses a job does not start it again, as its default rules have it.
        ("pool", ["was stopped at the site, which starts no job twice", "disabled job retries"]),
        ("ce", ["removed by", "your jobs disturb the others"]),
    ],
)
def test_a_job_that_the_administrator_of_the_site_removes_is_told_and_replaced(farm, where, words):
    with farm.start(2, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        first, _ = sorted(farm.queue("ce"))
        own = ("-constraint", f'OffloadKey == "{first}"')
        farm.pool.as_account(where, "condor_rm", *own, "-reason", "your jobs disturb the others")
        says(cluster, *words)
        wait_workers(client, 2, within_s=60)
        assert first not in farm.queue("ce")
        assert client.submit(square, 7).result() == 49


def test_a_job_that_the_administrator_holds_is_told_and_goes_on_when_released(farm):
    with farm.start(5, cpus=96, per_job=96) as cluster:
        eventually_sync(lambda: sorted(farm.queue("pool").values()) == [1, 2, 2, 2, 2], within_s=60)
        (waiting,) = [key for key, state in farm.queue("pool").items() if state == 1]
        own = ("-constraint", f'OffloadKey == "{waiting}"')
        farm.pool.condor("pool", "condor_hold", *own, "-reason", "your group is over its share")
        says(cluster, "held at Computing centre", "your group is over its share")
        farm.pool.condor("pool", "condor_release", *own)
        eventually_sync(lambda: farm.queue("ce")[waiting] == 1, within_s=30)


@pytest.mark.parametrize("how", ["-graceful", "-fast"])
def test_a_node_that_is_switched_off_at_once_costs_its_jobs_and_not_the_cluster(farm, how):
    startd = ("-daemon", "startd")
    with farm.start(3, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(3, timeout=TIMEOUT_S)
        first = set(farm.queue("ce"))
        farm.pool.condor("pool", "condor_off", how, *startd)
        try:
            says(cluster, "3 jobs were lost at", "starts no job twice", "3 are queued")
        finally:
            farm.pool.condor("pool", "condor_on", *startd)
        wait_workers(client, 3, within_s=90)
        assert first.isdisjoint(farm.queue("ce"))
        assert len(farm.queue("ce")) == 3
    farm.empty()


_NOTEBOOK = """
import sys, time
from dask_offload import OffloadCluster
url, dial, key, catalog = sys.argv[1:5]
cluster = OffloadCluster(
    int(sys.argv[5]), cpus=96, catalog=catalog, relay=dict(url=url, dial=dial, key_file=key), quiet=True
)
print("up", flush=True)
time.sleep(3600)
"""


def test_a_notebook_that_is_killed_leaves_neither_workers_nor_queued_jobs(farm):
    relay = farm.relay_process.settings
    argv = [relay["url"], relay["dial"], relay["key_file"], str(farm.catalog()), "5"]
    with subprocess.Popen(
        [sys.executable, "-c", _NOTEBOOK, *argv],
        stdout=subprocess.PIPE,
        env={**os.environ, "DASK_OFFLOAD__OWNER_GRACE": "5s"},
    ) as book:
        assert book.stdout.readline() == b"up\n"
        eventually_sync(lambda: sorted(farm.queue("pool").values()) == [1, 2, 2, 2, 2], within_s=60)
        book.send_signal(signal.SIGKILL)
    farm.empty(within_s=60)


def orphans(farm, *options):
    """Return what `offload jobs orphans` prints."""
    done = subprocess.run(
        [*OFFLOAD, "jobs", "orphans", "--catalog", str(farm.place / "catalog.yaml"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_jobs_of_a_supervisor_that_was_killed_are_listed_as_orphans_and_removed(farm):
    with farm.start(5, cpus=96, per_job=96):
        eventually_sync(lambda: sorted(farm.queue("pool").values()) == [1, 2, 2, 2, 2], within_s=60)
        assert orphans(farm) == ""
        keys = set(farm.queue("ce"))
        kill(farm.supervisor())
        eventually_sync(lambda: all(key in orphans(farm) for key in keys), within_s=30)
        orphans(farm, "--cancel")
        farm.empty()
        assert orphans(farm) == ""


def test_a_pilot_that_starts_after_its_cluster_has_gone_ends_within_seconds(farm):
    cluster = farm.start(5, cpus=96, per_job=96)
    eventually_sync(lambda: sorted(farm.queue("pool").values()) == [1, 2, 2, 2, 2], within_s=60)
    (waiting,) = [key for key, state in farm.queue("pool").items() if state == 1]
    farm.pool.down(only="ce")
    try:
        cluster.close()  # the CE cannot be asked to remove anything
        # The four that run hear it from the relay. The fifth gets a slot, and ends as well.
        eventually_sync(lambda: farm.queue("pool") == {}, within_s=60)
    finally:
        farm.pool.up()
    lasted = farm.pool.condor(
        *("pool", "condor_q", "-allusers", "-constraint", f'OffloadKey == "{waiting}"'),
        *("-af", "RemoteWallClockTime"),
    ) or farm.pool.condor(
        *("pool", "condor_history", "-constraint", f'OffloadKey == "{waiting}"'),
        *("-af", "RemoteWallClockTime"),
    )
    assert 0 < float(lasted) < scaled(20)
    farm.empty()


def test_a_cluster_goes_on_while_its_ce_is_stopped_and_doubles_nothing(farm):
    with farm.start(2, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        keys = set(farm.queue("ce"))
        farm.pool.down(only="ce")
        try:
            cluster.scale(4)
            says(cluster, "cannot be reached", "Nothing is submitted twice")
            assert client.gather(client.map(square, range(50))) == [x * x for x in range(50)]
        finally:
            farm.pool.up()
        wait_workers(client, 4, within_s=90)
        assert keys < set(farm.queue("ce"))
        assert len(farm.queue("ce")) == 4


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_line_that_breaks_at_every_sign_in_is_no_refusal_and_mends_by_itself(farm, how):
    with (
        CutLine(farm.pool.port("CE")) as line,
        farm.start(2, per_job=1, collector=line.address) as cluster,
        cluster.get_client() as client,
    ):
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        keys = set(farm.queue("ce"))
        line.cut(2000, how)
        cluster.scale(4)
        says(cluster, "connection to site", "broke off", "Nothing is submitted twice")
        assert "token" not in cluster._repr_html_()
        assert client.gather(client.map(square, range(50))) == [x * x for x in range(50)]
        line.cut()
        wait_workers(client, 4, within_s=90)
        assert keys < set(farm.queue("ce"))
        assert len(farm.queue("ce")) == 4
    farm.empty()


def long_task(seconds, number):
    time.sleep(seconds)
    return number


long_task.__module__ = "__main__"


def occupy(farm):
    """Have bob take all nodes; returns what frees them."""
    (farm.pool.state / "home" / "wp6" / "busy.sub").write_text(
        "executable = /bin/sleep\narguments = 900\ntransfer_executable = false\n"
        "request_cpus = 96\nrequest_memory = 64\nrequest_disk = 1024\nqueue 4\n"
    )
    farm.pool.as_account("pool", "condor_submit", "/home/wp6/busy.sub", number=3002)

    def running():
        busy = ("-constraint", 'Owner == "wp6" && JobStatus == 2')
        return len(
            farm.pool.condor("pool", "condor_q", "-allusers", *busy, "-af", "ProcId").split()
        )

    eventually_sync(lambda: running() == 4, within_s=60)

    def free():
        if running():
            farm.pool.condor("pool", "condor_rm", "-constraint", 'Owner == "wp6"')

    return free


def test_adaptive_scaling_at_a_slow_queue_asks_once_and_lets_queued_jobs_go_first(farm):
    free = occupy(farm)
    quick = settings(
        adaptive__interval="500ms", adaptive__target_duration="1s", adaptive__scale_down_grace="4s"
    )
    try:
        with quick, farm.start(cpus=96, per_job=96) as cluster, cluster.get_client() as client:
            cluster.adapt(minimum=0, maximum=5)
            futures = client.map(long_task, [5] * 20, range(20), pure=False)
            eventually_sync(lambda: len(farm.queue("ce")) == 5, within_s=60)
            keys = set(farm.queue("ce"))
            # The queue does not move; nothing more is asked for, nothing is taken back and sent anew.
            ends = time.monotonic() + scaled(15)
            while time.monotonic() < ends:
                assert set(farm.queue("ce")) == keys
            free()
            eventually_sync(lambda: list(farm.queue("pool").values()).count(2) == 4, within_s=60)
            (waiting,) = [key for key, state in farm.queue("pool").items() if state == 1]
            wait_workers(client, 4, within_s=60)
            client.cancel(futures[8:])
            # Less to do: what still waits goes first, and no result is lost.
            eventually_sync(lambda: waiting not in farm.queue("ce"), within_s=60)
            assert client.gather(futures[:8]) == list(range(8))
            # Then workers, which hand over what they hold: computed again it would be other bytes.
            kept = client.map(os.urandom, [100] * 8, pure=False)
            before = client.gather(kept)
            wait_workers(client, 1, within_s=60)
            assert client.gather(client.map(bytes, kept)) == before
            del kept, futures
            eventually_sync(lambda: farm.queue("ce") == {}, within_s=90)
            assert client.submit(square, 12).result() == 144  # it grows again from nothing
            assert "failed" not in repr(cluster)
        farm.empty()
    finally:
        free()


def test_the_seed_of_a_site_is_there_before_there_is_work_and_shared_by_clusters(farm):
    quick = settings(adaptive__interval="500ms", adaptive__scale_down_grace="4s")
    with quick, farm.start(per_job=96, seed=4) as first, first.get_client() as client:
        first.adapt(minimum=0, maximum=50)
        wait_workers(client, 4, within_s=60)
        with farm.start(per_job=96, seed=4) as second, second.get_client() as other:
            second.adapt(minimum=0, maximum=50)
            wait_workers(other, 2, within_s=60)
            wait_workers(client, 2, within_s=60)
        wait_workers(client, 4, within_s=60)


def test_before_the_walltime_of_a_job_ends_its_workers_hand_over_and_a_new_job_follows(farm):
    with farm.start(1, per_job=1, walltime="80s") as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=TIMEOUT_S)
        (first,) = farm.queue("ce")
        kept = client.submit(os.urandom, 1000, pure=False)
        before = kept.result()
        cluster.scale(2)
        wait_workers(client, 2, within_s=60)
        # Work goes on all the time: nothing is sent to a worker that is about to end.
        ends, number = time.monotonic() + scaled(150), 0
        while first in farm.queue("ce"):
            assert time.monotonic() < ends
            number += 1
            assert client.submit(square, number, pure=False).result(TIMEOUT_S) == number**2
        # Handed over, not computed again: that would be other bytes.
        assert client.submit(bytes, kept).result() == before
        eventually_sync(lambda: len(farm.queue("ce")) == 2, within_s=60)
        assert "failed" not in repr(cluster)
    farm.empty()
