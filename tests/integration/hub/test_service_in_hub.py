"""The offload service as the hub's own: `OffloadCluster` in a real session, and the pages."""

import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import requests

from tests.support.hubkit import PROXY, HubKit
from tests.support.kernelkit import connect_kernel, execute, new_kernel
from tests.support.processes import processes_below
from tests.support.tiers import lacking
from tests.support.waiting import eventually_sync, scaled

pytestmark = pytest.mark.hub

CATALOG = """
sites:
  here: {{kind: local, title: Here, max_walltime: 2h, directory: {place}/site}}
images:
  lab: {{title: JupyterLab, python: {python}}}
profiles:
  cores:
    title: Cores
    sites: [here]
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
    walltime: {{default: 1h, max: 2h}}
  gpus:
    title: GPUs
    sites: [here]
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
    groups: [gpu]
"""


@pytest.fixture(scope="module")
def hub(request):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = HubKit(place)
    (place / "catalog.yaml").write_text(CATALOG.format(place=place, python=sys.executable))
    kit.add_service("--owner-grace", f"{scaled(8):.0f}s")
    try:
        kit.start()
        kit.wait_for("/services/offload/health")
        yield kit
    except BaseException:
        print(kit.log("hub"))
        raise
    finally:
        try:
            kit.close()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def service(hub, token, path, method="GET", **options):
    return requests.request(
        method,
        f"{hub.url}/services/offload/{path}",
        headers={"Authorization": f"token {token}"} if token else {},
        timeout=scaled(40),
        **options,
    )


def wait_service(hub):
    eventually_sync(lambda: service(hub, "", "health").status_code == 200, within_s=60)


START = """
from dask_offload import OffloadCluster
cluster = OffloadCluster(2, quiet=True)
cluster.wait_for_workers(2, timeout=60)
client = cluster.get_client()
"""


def workers(hub):
    return programs(hub, "dask_offload.worker")


def programs(hub, name):
    return {pid for pid, line in processes_below(hub.place).items() if name in line}


def test_a_session_makes_a_cluster_of_its_own_profile_and_computes(hub):
    token = hub.add_user("alice")
    hub.spawn("alice", profile="cores")
    hub.wait_ready("alice", within_s=90)
    with new_kernel(hub, "alice") as (_, socket):
        execute(socket, START, within_s=120)
        printed = execute(socket, "print(client.submit(sum, [1, 2, 3]).result())")
        assert printed == "6\n"
        dashboard = execute(socket, "print(cluster.dashboard_link)").strip()
        assert dashboard.startswith("/user/alice/proxy/")
        page = hub.lab("GET", "alice", dashboard.removeprefix("/user/alice/"))
        assert page.status_code == 200
        assert "Dask" in page.text
        [cluster] = service(hub, token, "api/clusters").json()
        assert (cluster["profile"], cluster["user"], cluster["wanted"]) == ("cores", "alice", 2)
        page = service(hub, token, "").text
        assert cluster["id"] in page
        # The ledger is one: the session's job is in it too.
        purposes = {job["purpose"] for job in service(hub, token, "api/jobs").json()}
        assert purposes == {"session", "workers"}
        # Another user's token sees nothing of it.
        other = hub.add_user("bob")
        assert service(hub, other, "api/clusters").json() == []
        assert service(hub, other, f"api/clusters/{cluster['id']}").status_code == 404
        # A group that alice is not in.
        refused = execute(
            socket,
            "try: OffloadCluster(profile='gpus')\nexcept Exception as error: print(error)",
        )
        assert "there is no profile 'gpus'" in refused


@pytest.mark.parametrize(("user", "number"), [("carol", signal.SIGTERM), ("erin", signal.SIGKILL)])
def test_a_hub_that_restarts_takes_neither_session_nor_workers(hub, user, number):
    hub.add_user(user)
    hub.spawn(user, profile="cores")
    hub.wait_ready(user, within_s=90)
    with new_kernel(hub, user) as (kernel, socket):
        execute(socket, START, within_s=120)
        before = execute(socket, "print(sorted(client.scheduler_info(n_workers=-1)['workers']))")
    services = programs(hub, "offload_cli service")
    assert len(services) == 1
    hub.restart_hub(number)
    # Those of a hub that was killed are not asked by it to end.
    eventually_sync(lambda: not services & programs(hub, "offload_cli service"), within_s=30)
    wait_service(hub)
    hub.wait_ready(user, within_s=90)
    with connect_kernel(hub, user, kernel) as socket:
        after = execute(socket, "print(sorted(client.scheduler_info(n_workers=-1)['workers']))")
        assert after == before
        execute(socket, "cluster.scale(3); cluster.wait_for_workers(3, timeout=60)", within_s=90)
        execute(socket, "cluster.close()", within_s=60)


def test_workers_end_with_the_session_that_they_belong_to(hub):
    token = hub.add_user("dave")
    hub.spawn("dave", profile="cores")
    hub.wait_ready("dave", within_s=90)
    others = len(workers(hub))
    with new_kernel(hub, "dave") as (_, socket):
        execute(socket, START, within_s=120)
    hub.stop("dave")
    eventually_sync(lambda: service(hub, token, "api/clusters").json() == [], within_s=60)
    eventually_sync(lambda: len(workers(hub)) <= others, within_s=60)


def test_the_pages_are_behind_the_hubs_sign_in_and_the_admins_is_for_admins(hub):
    answer = requests.get(f"{hub.url}/services/offload/", timeout=scaled(20))
    assert "/hub/login" in answer.url
    browser = hub.sign_in("erin")
    page = browser.get(f"{hub.url}/services/offload/", timeout=scaled(20))
    assert page.url == f"{hub.url}/services/offload/"
    assert "Your Dask clusters" in page.text
    assert "Sites and jobs" not in page.text
    assert browser.get(f"{hub.url}/services/offload/admin", timeout=scaled(20)).status_code == 403
    admin = hub.sign_in("root")
    page = admin.get(f"{hub.url}/services/offload/admin", timeout=scaled(20))
    assert page.status_code == 200
    assert "Cores" in page.text
