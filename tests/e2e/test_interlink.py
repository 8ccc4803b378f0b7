"""Jobs, workers and sessions behind a real virtual node of interLink, with a real Slurm."""

import json
import os
import signal
from datetime import timedelta

import pytest

from offload_sites.jobs import ImageRef, JobSpec, JobState, Resources, SiteState
from tests.support.clusterkit import TIMEOUT_S, wait_workers
from tests.support.kernelkit import run_in_kernel
from tests.support.waiting import eventually, eventually_sync, scaled

pytestmark = [pytest.mark.interlink, pytest.mark.timeout(900)]

# The node is asked for a job's state every 5 s, and its plugin answers anew every 10 s.
SEEN_S = 60


def spec(image, script, **changes):
    given = {"resources": Resources(1, 128 * 1024**2), "walltime": timedelta(minutes=10)}
    return JobSpec(
        ("sh", "-c", script), image=ImageRef("dask", cvmfs=image), **{**given, **changes}
    )


async def until(backend, handle, *states, within_s=SEEN_S):
    async def reached():
        status = (await backend.status([handle]))[handle]
        assert status.state in states, status
        return status

    return await eventually(reached, within_s=within_s)


# Single jobs


async def test_a_job_says_what_it_printed_and_how_it_ended(virtual_backend, virtual_image):
    key = f"ends-{os.getpid()}"
    report = (
        'echo "secret=$(cat secret) mode=$(stat -c %a secret) args=$#"; echo "$GREETING"; exit 3'
    )
    job = spec(virtual_image, report, environment={"GREETING": 'it\'s $HOME, "quoted" & more'})
    handles = await virtual_backend.submit(job, {f"{key}-3": {"secret": b"s3cret"}})
    good = await virtual_backend.submit(spec(virtual_image, "exit 0"), {f"{key}-0": {}})
    status = await until(virtual_backend, handles[f"{key}-3"], JobState.FAILED)
    assert status.exit_code == 3, status
    assert status.where.startswith("batch job ")
    logs = await virtual_backend.logs(handles[f"{key}-3"])
    assert 'secret=s3cret mode=600 args=0\nit\'s $HOME, "quoted" & more\n' in logs.stdout
    status = await until(virtual_backend, good[f"{key}-0"], JobState.COMPLETED)
    assert status.exit_code == 0


async def test_a_job_is_cancelled_and_its_batch_job_goes(
    virtual_backend, virtual_image, virtual_site
):
    (handle,) = (
        await virtual_backend.submit(
            spec(virtual_image, "sleep 600"), {f"cancel-{os.getpid()}": {}}
        )
    ).values()
    await until(virtual_backend, handle, JobState.RUNNING)
    await virtual_backend.cancel([handle])
    await until(virtual_backend, handle, JobState.CANCELED)
    await eventually(lambda: not virtual_site.queue(), within_s=SEEN_S)


async def test_a_job_whose_walltime_is_over_has_timed_out(virtual_backend, virtual_image):
    job = spec(virtual_image, "sleep 600", walltime=timedelta(seconds=5))
    (handle,) = (await virtual_backend.submit(job, {f"walltime-{os.getpid()}": {}})).values()
    await until(virtual_backend, handle, JobState.TIMED_OUT)


async def test_a_job_that_scancel_removes_has_failed_and_not_completed(
    virtual_backend, virtual_image, virtual_site
):
    (handle,) = (
        await virtual_backend.submit(
            spec(virtual_image, "sleep 600"), {f"scancel-{os.getpid()}": {}}
        )
    ).values()
    await until(virtual_backend, handle, JobState.RUNNING)
    (number,) = virtual_site.queue()
    virtual_site.slurm("scancel", number)
    status = await until(virtual_backend, handle, JobState.FAILED, JobState.CANCELED, within_s=120)
    assert status.reason


async def test_a_refusal_of_slurm_is_a_sentence_and_nothing_is_queued(
    virtual_backend, virtual_image, virtual_site
):
    # There is as much on the virtual node, and not on one node of Slurm.
    job = spec(virtual_image, "exit 0", resources=Resources(20, 128 * 1024**2))
    (handle,) = (await virtual_backend.submit(job, {f"large-{os.getpid()}": {}})).values()
    status = await until(virtual_backend, handle, JobState.FAILED)
    assert status.reason == "no node of the batch system is so large"
    assert not virtual_site.queue()


async def test_its_health_is_that_of_the_node(virtual_backend):
    health = await virtual_backend.health()
    assert (health.state, health.free_cpus is not None) == (SiteState.UP, True), health


# Workers


def square(x):
    return x * x


square.__module__ = "__main__"  # so that it travels by value
SQUARES = [x * x for x in range(200)]


def test_workers_compute_in_containers_and_go_with_their_cluster(hpc):
    with hpc.start(6, per_job=3) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(6, timeout=2 * TIMEOUT_S)
        assert client.gather(client.map(square, range(200))) == SQUARES
        where = client.run(lambda: os.environ["APPTAINER_CONTAINER"])
        assert set(where.values()) == {hpc.image_path}
        assert len(hpc.site.queue()) == 2
    hpc.site.empty()


def test_a_batch_job_that_scancel_removes_is_replaced(hpc):
    with hpc.start(2, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=2 * TIMEOUT_S)
        victim = min(hpc.site.queue())
        hpc.site.slurm("scancel", victim)
        eventually_sync(lambda: victim not in hpc.site.queue(), within_s=SEEN_S)
        eventually_sync(lambda: len(hpc.site.queue()) == 2, within_s=180)
        wait_workers(client, 2, within_s=120)
        assert client.gather(client.map(square, range(200))) == SQUARES
    hpc.site.empty()


def test_a_virtual_kubelet_that_was_killed_finds_its_jobs_again_and_doubles_none(hpc):
    with hpc.start(2, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=2 * TIMEOUT_S)
        before = hpc.site.queue()
        hpc.site.kill("virtual-kubelet")
        assert client.gather(client.map(square, range(200))) == SQUARES
        hpc.site.up()
        assert hpc.site.queue() == before
        cluster.scale(1)
        eventually_sync(lambda: len(hpc.site.queue()) == 1, within_s=SEEN_S)
    hpc.site.empty()


def test_jobs_end_themselves_while_nobody_can_tell_their_site(hpc):
    with hpc.start(2, per_job=1) as cluster:
        cluster.wait_for_workers(2, timeout=2 * TIMEOUT_S)
        hpc.site.kill("virtual-kubelet")
    eventually_sync(lambda: not hpc.site.queue(), within_s=SEEN_S)
    hpc.site.up()
    hpc.site.empty(within_s=180)


def test_while_slurm_does_not_answer_nothing_is_lost_and_new_jobs_wait_or_say_why(hpc):
    with hpc.start(1, per_job=1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=2 * TIMEOUT_S)
        hpc.site.slurmctld(signal.SIGSTOP)
        try:
            assert client.gather(client.map(square, range(200))) == SQUARES
            eventually_sync(lambda: not hpc.site.ready(), within_s=240)
            eventually_sync(lambda: "no contact to its site" in cluster._repr_html_(), within_s=60)
            wait_workers(client, 1)
        finally:
            hpc.site.slurmctld(signal.SIGCONT)
        eventually_sync(hpc.site.ready, within_s=180)
        cluster.scale(2)
        wait_workers(client, 2, within_s=180)
    hpc.site.empty(within_s=180)


def test_a_partition_that_there_is_not_stops_the_refill_and_says_why(hpc):
    with hpc.start(2, per_job=1, partition="nosuch") as cluster:
        eventually_sync(lambda: "no such partition" in cluster._repr_html_(), within_s=180)
    hpc.site.empty()


# Sessions

WORKERS = """
import json
from dask_offload import OffloadCluster
def square(x):
    return x * x
with OffloadCluster(2, quiet=True) as cluster, cluster.get_client() as client:
    cluster.wait_for_workers(2, timeout={timeout})
    print(json.dumps([sum(client.gather(client.map(square, range(100)))), len(cluster.jobs())]))
"""


def test_a_session_behind_the_virtual_node_has_workers_there_and_survives_the_hub(virtual_hub):
    virtual_hub.add_user("ann")
    answer = virtual_hub.spawn("ann", profile="cores")
    assert answer.status_code in (201, 202), answer.text
    virtual_hub.wait_ready("ann", within_s=180)
    assert run_in_kernel(
        virtual_hub, "ann", "import os; print(os.environ['APPTAINER_CONTAINER'])"
    ).strip()
    code = WORKERS.format(timeout=scaled(150))
    said = run_in_kernel(virtual_hub, "ann", code, within_s=240).strip().splitlines()[-1]
    assert json.loads(said) == [sum(x * x for x in range(100)), 1]
    virtual_hub.restart_hub()
    virtual_hub.wait_ready("ann")
    assert run_in_kernel(virtual_hub, "ann", "print(6 * 7)") == "42\n"
    virtual_hub.stop("ann")
    virtual_hub.site.empty(within_s=120)


def test_a_session_that_scancel_ends_says_so(virtual_hub):
    virtual_hub.add_user("ben")
    virtual_hub.spawn("ben", profile="cores")
    virtual_hub.wait_ready("ben", within_s=180)
    (number,) = virtual_hub.site.queue()
    virtual_hub.site.slurm("scancel", number)
    eventually_sync(lambda: not virtual_hub.server("ben"), within_s=180)
    report = virtual_hub.sign_in("ben").get(f"{virtual_hub.url}/hub/offload/report/ben").text
    assert "ended" in report
    virtual_hub.site.empty()


def test_a_session_for_a_node_that_is_not_ready_waits_says_so_and_can_be_cancelled(virtual_hub):
    virtual_hub.site.kill("interlink")
    eventually_sync(lambda: not virtual_hub.site.ready(), within_s=240)
    virtual_hub.add_user("cy")
    virtual_hub.spawn("cy", profile="cores")

    def told():
        page = virtual_hub.sign_in("cy").get(f"{virtual_hub.url}/hub/spawn-pending/cy").text
        return "no contact to its site" in page or "No answer from" in page

    eventually_sync(told, within_s=60)
    virtual_hub.site.up()
    virtual_hub.wait_ready("cy", within_s=240)
    virtual_hub.stop("cy")
    virtual_hub.site.empty(within_s=120)
