"""Jobs, workers and sessions behind a real virtual node of interLink, with a real Slurm."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from offload_sites.interlink import create
from offload_sites.jobs import ImageRef, JobSpec, JobState, Resources, SiteState
from offload_sites.site_models import InterlinkSite
from tests.support.clusterkit import TIMEOUT_S, environment, settings, wait_workers
from tests.support.hubkit import PROXY, HubKit, free_ports
from tests.support.kernelkit import run_in_kernel
from tests.support.labimage import make_dask_image, make_lab_image
from tests.support.relayprocess import RelayProcess
from tests.support.testbedkit import why_not
from tests.support.tiers import lacking
from tests.support.virtualkit import CATALOG, VirtualKit, VirtualSite
from tests.support.waiting import eventually, eventually_sync, scaled

pytestmark = [pytest.mark.interlink, pytest.mark.timeout(900)]

PORTS = (
    *("API_PORT", "ETCD_PORT", "ETCD_PEER_PORT", "SLURMCTLD_PORT"),
    *("INTERLINK_PORT", "KUBELET_PORT"),
)
# The node is asked for a job's state every 5 s, and its plugin answers anew every 10 s.
SEEN_S = 60


@pytest.fixture(scope="session")
def site(request, tmp_path_factory):
    """Lend a site: the running one that OFFLOAD_TEST_INTERLINK names, or one of its own."""
    running = os.environ.get("OFFLOAD_TEST_INTERLINK")
    if running:
        one = VirtualSite(Path(running))
    elif reason := why_not("go", "curl", "openssl"):
        lacking(request.config, "interlink", reason)
    else:
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        one = VirtualSite(tmp_path_factory.mktemp("interlink"), **ports)
    try:
        one.up()
        yield one
    finally:
        if not running:
            one.down(purge=True)


@pytest.fixture(scope="session")
def dask_image(site):
    return make_dask_image(site)


@pytest.fixture
def hpc(site, dask_image, monkeypatch):
    """Start clusters at the site as a person with a kubeconfig: `hpc.start(...)`."""
    site.up()
    with tempfile.TemporaryDirectory(prefix="offload-") as folder:
        place = Path(folder)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KUBECONFIG", site.env["KUBECONFIG"])
        graces = settings(owner_grace=f"{scaled(15)}s", relay_grace=f"{scaled(10)}s")
        with RelayProcess(place) as relay, graces:
            kit = VirtualKit(place, site, relay, dask_image)
            try:
                yield kit
            finally:
                kit.close()
                show(site, [*place.glob("run/*/*.log"), relay.log])
        kit.nothing_left()


def show(site, logs):
    for path in [*logs, *site.state.glob("log/*.log"), *site.state.glob("slurm/jobs/*/*.out")]:
        with contextlib.suppress(OSError):
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}")


@pytest.fixture
async def backend(site, monkeypatch):
    site.up()
    monkeypatch.setenv("KUBECONFIG", site.env["KUBECONFIG"])
    model = InterlinkSite(
        kind="interlink",
        title="t",
        max_walltime=timedelta(hours=1),
        node_name=site.env["VIRTUAL_NODE"],
    )
    async with create("hpc", model) as backend:
        yield backend
    show(site, [])


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


async def test_a_job_says_what_it_printed_and_how_it_ended(backend, dask_image, request):
    key = f"ends-{os.getpid()}"
    report = (
        'echo "secret=$(cat secret) mode=$(stat -c %a secret) args=$#"; echo "$GREETING"; exit 3'
    )
    job = spec(dask_image, report, environment={"GREETING": 'it\'s $HOME, "quoted" & more'})
    handles = await backend.submit(job, {f"{key}-3": {"secret": b"s3cret"}})
    good = await backend.submit(spec(dask_image, "exit 0"), {f"{key}-0": {}})
    status = await until(backend, handles[f"{key}-3"], JobState.FAILED)
    assert status.exit_code == 3, status
    assert status.where.startswith("batch job ")
    logs = await backend.logs(handles[f"{key}-3"])
    assert 'secret=s3cret mode=600 args=0\nit\'s $HOME, "quoted" & more\n' in logs.stdout
    status = await until(backend, good[f"{key}-0"], JobState.COMPLETED)
    assert status.exit_code == 0


async def test_a_job_is_cancelled_and_its_batch_job_goes(backend, dask_image, site):
    (handle,) = (
        await backend.submit(spec(dask_image, "sleep 600"), {f"cancel-{os.getpid()}": {}})
    ).values()
    await until(backend, handle, JobState.RUNNING)
    await backend.cancel([handle])
    await until(backend, handle, JobState.CANCELED)
    await eventually(lambda: not site.queue(), within_s=SEEN_S)


async def test_a_job_whose_walltime_is_over_has_timed_out(backend, dask_image):
    job = spec(dask_image, "sleep 600", walltime=timedelta(seconds=5))
    (handle,) = (await backend.submit(job, {f"walltime-{os.getpid()}": {}})).values()
    await until(backend, handle, JobState.TIMED_OUT)


async def test_a_job_that_scancel_removes_has_failed_and_not_completed(backend, dask_image, site):
    (handle,) = (
        await backend.submit(spec(dask_image, "sleep 600"), {f"scancel-{os.getpid()}": {}})
    ).values()
    await until(backend, handle, JobState.RUNNING)
    (number,) = site.queue()
    site.slurm("scancel", number)
    status = await until(backend, handle, JobState.FAILED, JobState.CANCELED, within_s=120)
    assert status.reason


async def test_a_refusal_of_slurm_is_a_sentence_and_nothing_is_queued(backend, dask_image, site):
    job = spec(dask_image, "exit 0", resources=Resources(99, 128 * 1024**2))
    (handle,) = (await backend.submit(job, {f"large-{os.getpid()}": {}})).values()
    # As large as the node says to be, and larger than one of Slurm's.
    status = (await backend.status([handle]))[handle]
    assert status.state in (JobState.QUEUED, JobState.FAILED), status
    await backend.cancel([handle])
    await until(backend, handle, JobState.CANCELED, JobState.FAILED)
    assert not site.queue()


async def test_its_health_is_that_of_the_node(backend, site):
    health = await backend.health()
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


class VirtualHub(HubKit):
    """A hub with the offload service, whose only site is behind the virtual node."""

    def __init__(self, place, site, image):
        super().__init__(place)
        self.site, self.image = site, image
        self.programs.environment["KUBECONFIG"] = site.env["KUBECONFIG"]
        self.config_more = "c.Spawner.http_timeout = 120\n"
        self.add_service()

    def write_catalog(self, **_):
        text = CATALOG.format(
            node=self.site.env["VIRTUAL_NODE"], per_job=4, partition="batch", image=self.image
        )
        (self.place / "catalog.yaml").write_text(text)


@pytest.fixture(scope="module")
def hub(request, site):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    site.up()
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = VirtualHub(place, site, make_lab_image(site))
    try:
        kit.start()
        yield kit
    finally:
        show(site, [])
        for name in ("hub", "relay"):
            print(f"--- {name}\n{kit.log(name)[-8000:]}")
        try:
            kit.close()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def test_a_session_behind_the_virtual_node_has_workers_there_and_survives_the_hub(hub):
    hub.add_user("ann")
    answer = hub.spawn("ann", profile="cores")
    assert answer.status_code in (201, 202), answer.text
    hub.wait_ready("ann", within_s=180)
    assert run_in_kernel(hub, "ann", "import os; print(os.environ['APPTAINER_CONTAINER'])").strip()
    code = WORKERS.format(timeout=scaled(150))
    said = run_in_kernel(hub, "ann", code, within_s=240).strip().splitlines()[-1]
    assert json.loads(said) == [sum(x * x for x in range(100)), 1]
    hub.restart_hub()
    hub.wait_ready("ann")
    assert run_in_kernel(hub, "ann", "print(6 * 7)") == "42\n"
    hub.stop("ann")
    hub.site.empty(within_s=120)


def test_a_session_that_scancel_ends_says_so(hub):
    hub.add_user("ben")
    hub.spawn("ben", profile="cores")
    hub.wait_ready("ben", within_s=180)
    (number,) = hub.site.queue()
    hub.site.slurm("scancel", number)
    eventually_sync(lambda: not hub.server("ben"), within_s=180)
    report = hub.sign_in("ben").get(f"{hub.url}/hub/offload/report/ben").text
    assert "ended" in report
    hub.site.empty()


def test_a_session_for_a_node_that_is_not_ready_waits_says_so_and_can_be_cancelled(hub):
    hub.site.kill("interlink")
    eventually_sync(lambda: not hub.site.ready(), within_s=240)
    hub.add_user("cy")
    hub.spawn("cy", profile="cores")

    def told():
        page = hub.sign_in("cy").get(f"{hub.url}/hub/spawn-pending/cy").text
        return "no contact to its site" in page or "No answer from" in page

    eventually_sync(told, within_s=60)
    hub.site.up()
    hub.wait_ready("cy", within_s=240)
    hub.stop("cy")
    hub.site.empty(within_s=120)
