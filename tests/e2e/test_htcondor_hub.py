"""A hub with everything: sign-in, a session at the CE, and workers at the CE from that session."""

import json
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import requests

from tests.support.condorhub import CondorHub
from tests.support.cutline import CutLine
from tests.support.hubkit import PROXY
from tests.support.kernelkit import run_in_kernel
from tests.support.labimage import make_lab_image
from tests.support.tiers import lacking
from tests.support.waiting import eventually_sync, scaled

pytestmark = pytest.mark.htcondor


@pytest.fixture(scope="module")
def line(pool):
    """Lend the line by which the hub asks the CE, which tests cut."""
    with CutLine(pool.port("CE")) as line:
        yield line


@pytest.fixture(scope="module")
def hub(request, pool, line):
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    place = Path(tempfile.mkdtemp(prefix="hub-"))
    kit = CondorHub(place, pool, make_lab_image(pool), line)
    try:
        kit.start()
        kit.sign_in()
        yield kit
    finally:
        for name in ("hub", "relay"):
            print(f"--- {name}\n{kit.log(name)[-8000:]}")
        try:
            kit.close()
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def session(hub):
    """Lend a session of alice at the CE."""
    answer = hub.spawn("alice", profile="lab")
    assert answer.status_code in {201, 202}, answer.text
    hub.wait_ready("alice", within_s=120)
    return hub


def ours(hub, attribute, where="ce"):
    """Return this attribute of all our jobs that run."""
    running = "OffloadKey =!= undefined && JobStatus == 2"
    text = hub.pool.condor(where, "condor_q", "-allusers", "-constraint", running, "-af", attribute)
    return text.split()


def test_a_session_runs_at_the_ce_as_its_user(session):
    assert ours(session, "Owner") == ["wp5"]
    assert ours(session, "AuthTokenSubject") == ["alice"]
    code = (
        "import os, json; print(json.dumps([os.environ.get('APPTAINER_CONTAINER'), os.getuid()]))"
    )
    image, uid = json.loads(run_in_kernel(session, "alice", code))
    assert (image, uid) == (session.lab_image, 3001)


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_line_that_breaks_at_every_sign_in_refuses_nobody(session, line, how):
    line.cut(2000, how)
    try:
        answer = session.spawn("alice", "second", profile="lab")
        assert answer.status_code in {201, 202}, answer.text
        browser = session.sign_in()

        def told():
            page = browser.get(f"{session.url}/hub/spawn-pending/alice/second", timeout=scaled(30))
            assert "No answer from Computing centre" in page.text
            return "broke off" in page.text

        eventually_sync(told, within_s=30)
        assert run_in_kernel(session, "alice", "print(6 * 7)").strip() == "42"
    finally:
        line.cut()
    session.wait_ready("alice", "second", within_s=120)
    assert len(ours(session, "Owner")) == 2  # each once
    session.stop("alice", "second")
    eventually_sync(lambda: len(ours(session, "Owner")) == 1, within_s=60)


WORKERS = """
import json
from dask_offload import OffloadCluster
def square(x):
    return x * x
with OffloadCluster(4, quiet=True) as cluster, cluster.get_client() as client:
    cluster.wait_for_workers(4, timeout={timeout})
    print(json.dumps([
        sum(client.gather(client.map(square, range(100)))),
        cluster.scheduler_address.startswith("relay://"),
        len(cluster.jobs()),
    ]))
"""


def test_a_session_at_the_ce_has_workers_at_the_ce_of_which_nothing_is_left(session):
    """The scheduler is behind the relay, as its workers are."""
    code = WORKERS.format(timeout=scaled(90))
    total, by_relay, jobs = json.loads(
        run_in_kernel(session, "alice", code, within_s=180).strip().splitlines()[-1]
    )
    assert (total, by_relay, jobs) == (sum(x * x for x in range(100)), True, 1)
    eventually_sync(lambda: len(ours(session, "Owner")) == 1, within_s=60)


def test_while_the_issuer_is_down_the_session_goes_on_and_new_work_says_sign_in_again(session):
    session.issuer_control(fail_refresh="invalid_grant", access_life=1)
    try:
        assert run_in_kernel(session, "alice", "print(6 * 7)").strip() == "42"
        code = """
from dask_offload import OffloadCluster
import time
with OffloadCluster(2, quiet=True) as cluster:
    deadline = time.monotonic() + 60
    while "sign in again" not in repr(cluster).lower():
        assert time.monotonic() < deadline, repr(cluster)
        time.sleep(0.5)
    print(repr(cluster))
"""
        # The token at hand may be good for a while yet: forget it, as a restart of the hub does.
        session.restart_hub(signal.SIGTERM)
        said = run_in_kernel(session, "alice", code, within_s=120)
        assert "has ended, or was revoked" in said
    finally:
        session.issuer_control(fail_refresh=None, access_life=3600)
    session.sign_in()
    code = """
import time
from dask_offload import OffloadCluster
with OffloadCluster(2, quiet=True) as cluster, cluster.get_client() as client:
    # It may hear of the refusal once more; it asks again by itself.
    while len(client.scheduler_info(n_workers=-1)["workers"]) < 2:
        time.sleep(0.2)
    print("recovered")
"""
    assert run_in_kernel(session, "alice", code, within_s=120).strip() == "recovered"


def test_no_token_of_a_user_is_where_others_could_read_it(session):
    page = requests.get(f"{session.url}/hub/api/users/alice", timeout=30)
    assert "eyJ" not in page.text
    for name in ("hub", "relay"):
        assert '"refresh_token"' not in session.log(name)
    everything = session.pool.condor("ce", "condor_q", "-allusers", "-long")
    assert "eyJ" not in everything
    leaks = [
        path
        for path in session.place.rglob("*")
        if path.is_file() and b"eyJhbGciOiJSUzI1NiI" in path.read_bytes()
    ]
    assert leaks == []


def test_a_stopped_session_leaves_the_queue(session):
    session.stop("alice")
    eventually_sync(lambda: ours(session, "Owner") == [], within_s=60)
