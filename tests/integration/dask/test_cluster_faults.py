"""What a cluster survives, and what must end with it: real processes, killed."""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dask_offload import OffloadCluster
from dask_offload.comm import Reach
from dask_offload.runtime import ClusterFolder
from offload_sites.errors import OffloadError
from tests.support.clusterkit import TIMEOUT_S, kill, wait_workers
from tests.support.waiting import eventually_sync, scaled


def slow_square(x):
    time.sleep(0.02)
    return x * x


def which(_):
    import os

    return os.getpid()


# As in a notebook, they travel whole: jobs have a clean environment and cannot import this file.
slow_square.__module__ = which.__module__ = "__main__"

SQUARES = [x * x for x in range(400)]


def names(client):
    return {worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()}


def test_a_computation_ends_right_though_the_relay_is_killed_under_it(clusters):
    with clusters.start(4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        before, jobs = names(client), [job.key for job in cluster.jobs()]
        futures = client.map(slow_square, range(400))
        for done in (20, 200):
            eventually_sync(lambda done=done: sum(f.done() for f in futures) > done)
            relay = clusters.relay()
            kill(relay)
            eventually_sync(lambda relay=relay: not relay.is_running())
            wait_workers(client, 4, within_s=15)
        assert client.gather(futures) == SQUARES
        assert names(client) == before
        assert [job.key for job in cluster.jobs()] == jobs


def test_results_are_right_though_a_job_and_a_worker_are_killed(clusters):
    with clusters.start(4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        futures = client.map(slow_square, range(400))
        eventually_sync(lambda: sum(f.done() for f in futures) > 20)
        job = clusters.agents()[0]
        kill(job)
        eventually_sync(lambda: sum(f.done() for f in futures) > 100)
        kill(clusters.workers()[0])
        assert client.gather(futures) == SQUARES
        wait_workers(client, 4)
        ended = [job for job in cluster.jobs() if job.word not in ("working", "starting")]
        assert len(ended) == 1
        assert ended[0].reason


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from dask_offload import OffloadCluster

def interrupt():
    there = Path(os.environ["OFFLOAD_RUNTIME_DIR"], "mine", sys.argv[1])
    while not there.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

interrupting = threading.Thread(target=interrupt)
interrupting.start()
try:
    OffloadCluster(name="mine", quiet=True).close()
    interrupting.join()
except KeyboardInterrupt:
    pass
while OffloadCluster.names():
    time.sleep(0.05)
with OffloadCluster(name="mine", quiet=True) as cluster:
    print(cluster.name)
"""


@pytest.mark.parametrize("stage", ["cluster.json", "lock", "scheduler.json", "scheduler-at.json"])
def test_a_start_that_is_interrupted_ends_at_once_and_gives_its_name_free(clusters, stage):
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", INTERRUPTED, stage],
        # Longer than this test may take: nothing here waits for owners to stay away.
        env={**os.environ, "DASK_OFFLOAD__OWNER_GRACE": "1h"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr


FORKS = """
import os, time
from dask_offload import OffloadCluster
with OffloadCluster(quiet=True) as cluster:
    began = time.monotonic()
    if os.fork() == 0:
        raise SystemExit  # out of the block, and through what is registered to run at exit
    os.wait()
    print(time.monotonic() - began)
    cluster.scale(0)
"""


def test_a_fork_of_the_notebook_ends_without_its_cluster(clusters):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < scaled(20)


def test_a_worker_that_is_killed_comes_back_in_its_job(clusters):
    with clusters.start(2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        [victim, other] = clusters.workers()
        jobs = cluster.jobs()
        kill(victim)
        eventually_sync(
            lambda: len(set(client.run(os.getpid, on_error="ignore").values()) - {victim.pid}) == 2
        )
        assert other.is_running()
        assert [job.key for job in cluster.jobs()] == [job.key for job in jobs]


NOTEBOOK = """
import sys, time
from dask_offload import OffloadCluster
cluster = OffloadCluster(4, catalog=sys.argv[1], name="left", quiet=True)
cluster.wait_for_workers(int(sys.argv[2]))
print("ready", flush=True)
time.sleep(3600)
"""


@contextlib.contextmanager
def notebook(clusters, *, ready=2, **catalog):
    """Run a program that has a cluster of 4 workers called `left`."""
    path = clusters.catalog(**catalog)
    environment = {**os.environ, "DASK_OFFLOAD__OWNER_GRACE": f"{scaled(3)}s"}
    process = subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK, str(path), str(ready)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_nothing_is_left_of_a_notebook_that_was_killed(clusters):
    # Two workers work, two are queued: a site that is full must not keep what nobody wants.
    with notebook(clusters, max_jobs=1) as process:
        assert len(clusters.workers()) == 2
        process.kill()
        clusters.nothing_left(within_s=30)
    assert OffloadCluster.names() == []
    assert not list((clusters.place / "run").iterdir())


def test_a_kernel_that_restarts_finds_its_cluster_as_it_was(clusters):
    with notebook(clusters, ready=4) as process:
        pids = {worker.pid for worker in clusters.workers()}
        process.kill()
        process.wait()
        with OffloadCluster.from_name("left", shutdown_on_close=True, quiet=True) as cluster:
            cluster.wait_for_workers(4, timeout=TIMEOUT_S)
            with cluster.get_client() as client:
                assert set(client.run(os.getpid).values()) == pids
    clusters.nothing_left()


def test_jobs_end_by_themselves_when_the_supervisor_was_killed(clusters):
    cluster = clusters.start(4)
    cluster.wait_for_workers(4, timeout=TIMEOUT_S)
    kill(clusters.supervisor())
    clusters.nothing_left(within_s=40)
    with pytest.raises(OffloadError, match="has ended"):
        cluster.scale(8)
    with pytest.raises(OffloadError, match="has ended"):
        cluster.wait_for_workers(8)
    assert OffloadCluster.names() == []


@pytest.mark.parametrize("seen", [0, 1, 7])
def test_a_supervisor_killed_while_it_submits_leaves_at_most_what_was_wanted(clusters, seen):
    cluster = clusters.start(per_job=1)
    supervisor = clusters.supervisor()
    jobs = clusters.place / "site" / "jobs"
    cluster.scale(8)
    while sum(1 for _ in jobs.glob("*")) <= seen:  # no pause: the window is some milliseconds
        assert supervisor.is_running()
    kill(supervisor)
    assert len(list(jobs.iterdir())) <= 8
    clusters.nothing_left(within_s=60)


def test_a_scheduler_that_was_killed_ends_the_jobs_and_is_named(clusters):
    cluster = clusters.start(2)
    cluster.wait_for_workers(2, timeout=TIMEOUT_S)
    kill(clusters.one("dask_offload.scheduler"))
    eventually_sync(lambda: "the scheduler has ended" in cluster.snapshot.stopped)
    eventually_sync(lambda: not clusters.agents())
    assert "the scheduler has ended" in repr(cluster)


@pytest.fixture
def shared_relay(clusters):
    """A relay of its own, as an administrator starts it; returns the settings that name it."""
    key = clusters.place / "relay.key"
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32))
    argv = ["relay", "--public", "127.0.0.1:0", "--dial", "127.0.0.1:0", "--key-file", str(key)]
    log = clusters.place / "relay.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "offload_cli", *argv], stderr=output)
    try:
        yield relay_settings(process, log, key)
    finally:
        process.terminate()
        process.wait()


def relay_settings(process, log, key):
    def ports():
        assert process.poll() is None, log.read_text()
        found = psutil.Process(process.pid).net_connections("tcp")
        return found if len(found) == 2 else None

    one, two = sorted(connection.laddr.port for connection in eventually_sync(ports))
    public, dial = (one, two) if answers_dial(two) else (two, one)
    return {"url": f"ws://127.0.0.1:{public}", "dial": f"127.0.0.1:{dial}", "key_file": str(key)}


def answers_dial(port):
    """Tell whether `port` is the one with the metrics, which is not the public one."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S):
            return True
    except urllib.error.URLError:
        return False


def test_clusters_of_two_users_share_a_relay_and_cannot_reach_one_another(
    clusters, shared_relay, monkeypatch
):
    first = clusters.start(2, relay=shared_relay)
    monkeypatch.setenv("LOGNAME", "bob")
    second = clusters.start(2, relay=shared_relay)
    with first.get_client() as one, second.get_client() as two:
        first.wait_for_workers(2, timeout=TIMEOUT_S)
        second.wait_for_workers(2, timeout=TIMEOUT_S)
        assert one.gather(one.map(slow_square, range(20))) == SQUARES[:20]
        assert two.gather(two.map(slow_square, range(20))) == SQUARES[:20]
        foreign = next(iter(one.scheduler_info(n_workers=-1)["workers"]))
        reach = second.security.extra_conn_args["relay"]
        assert isinstance(reach, Reach)
        assert dial(reach, first.scheduler_address.removeprefix("relay://")) == 403
        assert dial(reach, foreign.removeprefix("relay://")) == 403
        first.close()
        assert two.gather(two.map(slow_square, range(20, 40))) == SQUARES[20:40]
    second.close()


def dial(reach, endpoint):
    """Return the status that the relay's dial port answers `endpoint` with."""
    import socket

    host, _, port = reach.dial.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        head = f"CONNECT {endpoint} HTTP/1.1\r\nProxy-Authorization: Bearer {reach.token}\r\n\r\n"
        connection.sendall(head.encode())
        return int(connection.recv(1024).split()[1])


def test_a_given_relay_that_is_away_for_a_while_is_waited_for(clusters, shared_relay):
    with clusters.start(2, relay=shared_relay) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        relay = clusters.relay()
        relay.suspend()
        try:
            futures = client.map(slow_square, range(400))
            # The notebook and the scheduler do not wait for the relay.
            assert client.scheduler_info(n_workers=-1)["workers"]
        finally:
            relay.resume()
        assert client.gather(futures) == SQUARES


def test_files_of_a_cluster_that_died_do_not_keep_its_name(clusters):
    dead = ClusterFolder(clusters.place / "run" / "left")
    Path(dead.path).mkdir(parents=True)
    dead.path.parent.chmod(0o700)
    with dead.locked():
        assert OffloadCluster.names() == ["left"]
    assert OffloadCluster.names() == []
    assert clusters.start(name="left").name == "left"
