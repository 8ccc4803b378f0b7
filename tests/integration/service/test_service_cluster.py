"""`OffloadCluster` inside a hub's session: everything that works without a hub, through the service."""

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import dask
import psutil
import pytest

from dask_offload import OffloadCluster
from offload_sites.errors import OffloadError
from tests.support.clusterkit import TIMEOUT_S, wait_workers
from tests.support.processes import processes_below
from tests.support.waiting import eventually_sync, scaled


def square(x):
    return x * x


def slow(x):
    time.sleep(0.1)
    return x


def variable(name):
    import os

    return os.environ.get(name)


def noted(number, path):
    """Return a megabyte, and note that it was computed."""
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    return bytes(2**20)


# As in a notebook, they travel whole: jobs have a clean environment and cannot import this file.
for function in (square, slow, variable, noted):
    function.__module__ = "__main__"


def test_workers_through_the_service_compute_together_and_end_with_the_cluster(kit):
    with kit.cluster(kit.alice, 4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        assert client.gather(client.map(square, range(100))) == [x * x for x in range(100)]
        assert client.submit(variable, "FROM_PROFILE").result() == "yes"
        assert len({job.key for job in cluster.jobs()}) == 2
        eventually_sync(lambda: cluster.bytes_through_relay() > 0)
        [row] = kit.get(kit.alice, "/clusters")[1]
        eventually_sync(lambda: kit.get(kit.alice, "/clusters")[1][0]["workers"]["working"] == 4)
        assert (row["user"], row["profile"], row["wanted"]) == ("alice", "cores", 4)
    assert kit.get(kit.alice, "/clusters")[1] == []
    ended = kit.get(kit.alice, "/jobs?ended=yes")[1]
    assert {(job["state"], job["agent"], bool(job["connected"])) for job in ended} == {
        ("canceled", "lost", True)
    }


def test_workers_that_are_let_go_hand_over_what_they_hold(kit):
    note = kit.place / "computed"
    with kit.cluster(kit.alice, 4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        blocks = client.map(noted, range(20), path=str(note))
        client.gather(client.map(len, blocks))
        cluster.scale(1)
        wait_workers(client, 1)
        assert client.gather(client.map(len, blocks, pure=False)) == [2**20] * 20
        assert len(note.read_text().split()) == 20
        eventually_sync(lambda: cluster.snapshot.count("working") == cluster.snapshot.total == 1)


def test_the_number_of_workers_follows_the_load(kit):
    with kit.cluster(kit.alice) as cluster, cluster.get_client() as client:
        bounds = cluster.adapt(minimum=0, maximum=4, target_duration="1s", grace="2s")
        assert (bounds.minimum, bounds.maximum) == (0, 4)
        futures = client.map(slow, range(200), pure=False)
        wait_workers(client, 4)
        assert len(client.gather(futures)) == 200
        eventually_sync(lambda: kit.get(kit.alice, "/clusters")[1][0]["adaptive"] == [0, 4])
        del futures
        wait_workers(client, 0)


def test_the_seed_of_a_site_follows_those_who_use_it(kit):
    kit.stop_service()
    kit.write_catalog(seed=4)
    kit.start_service("--max-workers", "3")
    with kit.cluster(kit.alice) as hers, hers.get_client() as client:
        hers.adapt(minimum=0, maximum=8, grace="1s")
        wait_workers(client, 3)  # the seed is larger, but one user may have no more
        with kit.cluster(kit.bob, profile="cores") as his, his.get_client() as other:
            his.adapt(minimum=0, maximum=8, grace="1s")
            wait_workers(other, 2)
            wait_workers(client, 2)
        wait_workers(client, 3)
    eventually_sync(lambda: kit.agents() == [], within_s=30)


def test_a_cluster_is_scaled_from_outside_and_the_notebook_follows(kit):
    with kit.cluster(kit.alice) as cluster, cluster.get_client() as client:
        cluster.adapt(minimum=0, maximum=4)
        [row] = kit.get(kit.alice, "/clusters")[1]
        assert kit.post(kit.alice, f"/clusters/{row['id']}/scale", {"workers": 2})[0] == 200
        wait_workers(client, 2)
        eventually_sync(lambda: (cluster.snapshot.wanted, cluster.snapshot.adaptive) == (2, None))
        answer = kit.post(kit.alice, f"/clusters/{row['id']}/adapt", {"minimum": 1, "maximum": 3})
        assert answer[0] == 200
        eventually_sync(lambda: cluster.snapshot.adaptive == (1, 3))


def test_a_cluster_that_is_ended_from_outside_says_so_in_the_notebook(kit):
    cluster = kit.cluster(kit.alice, 2)
    cluster.wait_for_workers(2, timeout=TIMEOUT_S)
    [row] = kit.get(kit.alice, "/clusters")[1]
    assert kit.call(kit.alice, "DELETE", f"/clusters/{row['id']}")[1]["left"] == []
    eventually_sync(lambda: "ended from outside" in cluster.snapshot.stopped)
    with pytest.raises(OffloadError, match="ended from outside"):
        cluster.wait_for_workers(3, timeout=TIMEOUT_S)
    cluster.close()


def test_what_is_computed_on_a_cluster_that_is_ended_from_outside_fails_and_is_not_waited_for(kit):
    with kit.cluster(kit.alice, 1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=TIMEOUT_S)
        futures = client.map(slow, range(10_000), pure=False)
        eventually_sync(lambda: any(future.done() for future in futures))
        [row] = kit.get(kit.alice, "/clusters")[1]
        assert kit.call(kit.alice, "DELETE", f"/clusters/{row['id']}")[1]["left"] == []
        with pytest.raises(CancelledError):
            futures[-1].result(timeout=TIMEOUT_S)
        eventually_sync(lambda: "ended from outside" in cluster.snapshot.stopped)
        # Neither can it be reached again.
        with (
            kit.session(kit.alice),
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(OffloadError, match=r"has ended: .*ended from outside"),
        ):
            OffloadCluster.from_name(cluster.name)


def test_a_job_that_fails_three_times_stops_the_refill_and_says_why(kit):
    cluster = kit.cluster(kit.alice, 2, image="broken")
    with pytest.raises(OffloadError, match=r"0 of 2 workers are there.*failed in the same way"):
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
    assert len([job for job in cluster.jobs() if job.word == "failed"]) == 3
    logs = cluster.logs()
    assert all("no distributed <b>here</b>" in text for text in logs.values())
    key = cluster.jobs()[0].key
    assert set(cluster.logs(key)) == {key}
    with pytest.raises(OffloadError, match="no job of this cluster is called 'nosuch'"):
        cluster.logs("nosuch")
    assert "&lt;b&gt;" not in cluster._repr_html_()
    cluster.retry()
    eventually_sync(lambda: len([j for j in cluster.jobs() if j.word == "failed"]) == 6)
    cluster.close()


def test_a_cluster_is_like_the_session_it_runs_in_unless_it_is_told_otherwise(kit):
    session = {"OFFLOAD_PROFILE": "gpu", "OFFLOAD_IMAGE": "here"}
    with kit.cluster(kit.bob, variables=session):
        [row] = kit.get(kit.bob, "/clusters")[1]
        assert (row["profile"], row["image"]) == ("gpu", "here")
    # A profile for sessions only, and an image that the workers' profile has.
    session = {"OFFLOAD_PROFILE": "lab", "OFFLOAD_IMAGE": "other"}
    with kit.cluster(kit.bob, variables=session):
        [row] = kit.get(kit.bob, "/clusters")[1]
        assert (row["profile"], row["image"]) == ("cores", "other")
    with kit.cluster(kit.bob, variables=session, profile="gpu"):
        [row] = kit.get(kit.bob, "/clusters")[1]
        assert (row["profile"], row["image"]) == ("gpu", "here")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"profile": "coers"}, "there is no profile 'coers'; did you mean 'cores'"),
        ({"profile": "gpu"}, "there is no profile 'gpu'"),
        ({"profile": "lab"}, "there is no profile 'lab'"),
        ({"image": "/cvmfs/x"}, "profile 'cores' has no image '/cvmfs/x'"),
        ({"walltime": "90d"}, "a walltime of 90 d is not possible"),
        ({"cpus": 7}, "profile 'cores' does not offer 7 CPUs"),
        ({"site": "annex"}, "there is no site for profile 'cores' called 'annex'"),
    ],
)
def test_what_is_not_offered_is_refused_with_a_sentence(kit, options, said):
    with pytest.raises(OffloadError, match=said):
        kit.cluster(kit.alice, **options)
    assert kit.get(kit.alice, "/clusters")[1] == []


def test_a_user_cannot_have_more_workers_than_one_user_may(kit):
    kit.stop_service()
    kit.start_service("--max-workers", "3", "--max-clusters", "2")
    with kit.cluster(kit.alice) as first, kit.cluster(kit.alice) as second:
        first.scale(1)
        with pytest.raises(OffloadError, match="3 workers are more than the 2 that this cluster"):
            second.scale(3)
        with pytest.raises(OffloadError, match="more than the 2"):
            second.adapt(minimum=3, maximum=9)
        assert second.snapshot.wanted == 0
        with pytest.raises(OffloadError, match="you have 2 clusters, as many as one user may have"):
            kit.cluster(kit.alice)
        with kit.cluster(kit.bob, profile="cores") as his:
            his.scale(3)


def test_without_a_good_token_there_is_no_cluster_and_a_sentence(kit):
    with pytest.raises(OffloadError, match="the hub does not know who you are"):
        kit.cluster("nobody's token")
    stranger = kit.hub.user("mallory", scopes=[])
    with pytest.raises(OffloadError, match="'mallory' may not use this service"):
        kit.cluster(stranger)


def test_a_notebook_of_another_release_is_told_so(kit, monkeypatch):
    body = {"api": 99, "release": "9.9", "name": "c"}
    status, said = kit.post(kit.alice, "/clusters", body)
    assert status == 409
    assert "speaks version 99 of the service's API, this hub's service version 1" in said["message"]


def test_inside_an_event_loop_nothing_waits_and_all_works(kit):
    async def use():
        with kit.session(kit.alice):
            starting = OffloadCluster(2, asynchronous=True, quiet=True)
            cluster = await starting
        async with cluster, cluster.get_client() as client:
            await cluster.wait_for_workers(2, timeout=TIMEOUT_S)
            assert await client.submit(square, 7) == 49
            await cluster.scale(0)

    asyncio.run(use())


NOTEBOOK = """
import time
from dask_offload import OffloadCluster
cluster = OffloadCluster(4, name="left", quiet=True)
cluster.wait_for_workers(4)
print("ready", flush=True)
time.sleep(3600)
"""


def start_notebook(kit):
    """Run a program, as a kernel, that has a cluster of 4 workers called `left`."""
    variables = {**os.environ, "DASK_OFFLOAD__OWNER_GRACE": f"{scaled(3)}s"}
    process = subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK], stdout=subprocess.PIPE, text=True, env=variables
    )
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def supervisor(kit):
    [pid] = [p for p, line in processes_below(kit.place).items() if ".supervisor" in line]
    return psutil.Process(pid)


def test_nothing_is_left_of_a_notebook_that_was_killed(kit):
    with kit.session(kit.alice):
        process = start_notebook(kit)
    process.kill()
    process.wait()
    eventually_sync(lambda: kit.jobs_left() == [], within_s=30)
    eventually_sync(lambda: kit.get(kit.alice, "/clusters")[1] == [])


def test_nothing_is_left_of_a_session_that_was_killed_as_a_whole(kit):
    with kit.session(kit.alice):
        process = start_notebook(kit)
    boss = supervisor(kit)
    process.kill()
    boss.kill()
    process.wait()
    eventually_sync(lambda: kit.jobs_left() == [], within_s=30)
    eventually_sync(lambda: kit.get(kit.alice, "/clusters")[1] == [])
    reasons = {job["reason"] for job in kit.get(kit.alice, "/jobs?ended=yes")[1]}
    assert len(reasons) >= 1


def test_a_kernel_that_restarts_finds_its_cluster_as_it_was(kit):
    with kit.session(kit.alice):
        process = start_notebook(kit)
        before = set(kit.agents())
        process.kill()
        process.wait()
        with OffloadCluster.from_name("left", shutdown_on_close=True, quiet=True) as cluster:
            cluster.wait_for_workers(4, timeout=TIMEOUT_S)
            assert set(kit.agents()) == before
