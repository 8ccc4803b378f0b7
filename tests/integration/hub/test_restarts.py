"""What survives a restart of the hub or the relay, at every stage of a session."""

import contextlib
import os
import signal
import threading
import time

import pytest
import requests

from offload_sites.testing import eventually_sync
from tests.support.kernelkit import connect_kernel, execute, new_kernel, run_in_kernel
from tests.support.processes import processes_below

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _good_mood(hub):
    yield
    hub.mood()


def session_of(hub, user):
    return hub.server(user)["state"]["offload"]["session"]


def stage_of(hub, user):
    return list(session_of(hub, user)["marks"])[-1]


def test_a_running_session_with_its_kernel_survives_a_restart_of_the_hub(hub):
    hub.add_user("ann")
    hub.spawn("ann", profile="plain")
    hub.wait_ready("ann")
    with new_kernel(hub, "ann") as (kernel, socket):
        execute(socket, "kept = 'the same kernel'")
    hub.restart_hub()
    with connect_kernel(hub, "ann", kernel) as socket:
        assert execute(socket, "print(kept)") == "the same kernel\n"
    hub.wait_ready("ann")
    assert len(hub.jobs()) == 1
    # The hub knows it again: it can stop it.
    hub.stop("ann")
    assert hub.lab("GET", "ann", "api/status").status_code in (404, 424, 503)


def test_a_queued_session_survives_a_restart_of_the_hub_and_is_not_sent_twice(hub):
    hub.add_user("ben")
    hub.mood("hold")
    assert hub.spawn("ben", profile="moody").status_code == 202
    eventually_sync(lambda: stage_of(hub, "ben") == "held")
    before = session_of(hub, "ben")
    page = hub.sign_in("ben")
    hub.restart_hub()
    assert hub.server("ben")["pending"] == "spawn"
    assert session_of(hub, "ben")["key"] == before["key"]
    shown = page.get(f"{hub.url}/hub/spawn-pending/ben").text
    assert "Held: Somewhere moody at Moody" in shown
    assert "cannot open /cvmfs/unpacked.infn.it" in shown
    hub.mood()
    hub.wait_ready("ben")
    assert run_in_kernel(hub, "ben", "print(1)") == "1\n"
    assert hub.jobs("moody/site") == [before["key"]]
    hub.stop("ben")


def test_a_session_whose_job_is_starting_survives_a_restart_of_the_hub(hub):
    hub.add_user("cleo")
    assert hub.spawn("cleo", profile="moody", image="slow").status_code == 202
    eventually_sync(lambda: stage_of(hub, "cleo") == "starting")
    key = session_of(hub, "cleo")["key"]
    hub.restart_hub(signal.SIGTERM)
    assert hub.server("cleo")["pending"] == "spawn"
    hub.let_go()
    hub.wait_ready("cleo")
    assert session_of(hub, "cleo")["key"] == key
    hub.stop("cleo")


def test_a_session_that_was_not_handed_over_yet_is_sent_once_after_a_restart(hub):
    hub.add_user("dora")
    hub.mood("hang")
    assert hub.spawn("dora", profile="moody").status_code == 202
    key = session_of(hub, "dora")["key"]
    assert session_of(hub, "dora")["handle"] is None
    hub.kill("hub")
    hub.mood()
    hub.start_hub()
    hub.wait_ready("dora")
    assert session_of(hub, "dora")["key"] == key
    assert [job for job in hub.jobs("moody/site") if job == key] == [key]
    hub.stop("dora")


@pytest.mark.parametrize("instant_s", [0.05, 0.4, 1.0, 2.2])
def test_a_hub_killed_at_any_instant_of_a_start_leaves_one_session_or_none(hub, instant_s):
    user = f"eve{int(instant_s * 100)}"
    token = hub.add_user(user)
    before = len(hub.jobs())
    asking = threading.Thread(target=_ask, args=(hub, user, token))
    asking.start()
    time.sleep(instant_s)  # the instant is what is tested; nothing is waited for
    hub.restart_hub()
    asking.join()
    server = hub.server(user)
    if server:
        hub.wait_ready(user)
        assert run_in_kernel(hub, user, "print(1)") == "1\n"
    assert len(hub.jobs()) - before <= 1
    if server:
        hub.stop(user)


def _ask(hub, user, token):
    with contextlib.suppress(requests.RequestException):
        hub.api("POST", f"users/{user}/server", token=token, json={"profile": "plain"})


def test_a_session_survives_a_restart_of_the_relay(hub):
    hub.add_user("fay")
    hub.spawn("fay", profile="plain")
    hub.wait_ready("fay")
    with new_kernel(hub, "fay") as (kernel, socket):
        execute(socket, "kept = 'over the relay'")
    hub.kill("relay")
    assert hub.lab("GET", "fay", "api/status").status_code == 503
    hub.start_relay()
    eventually_sync(lambda: hub.lab("GET", "fay", "api/status").status_code == 200, within_s=20)
    with connect_kernel(hub, "fay", kernel) as socket:
        assert execute(socket, "print(kept)") == "over the relay\n"
    assert hub.server("fay")["ready"]
    hub.stop("fay")


def test_hub_and_relay_restarted_together_end_nothing(hub):
    hub.add_user("gus")
    hub.spawn("gus", profile="plain")
    hub.wait_ready("gus")
    hub.kill("relay")
    hub.kill("hub")
    hub.start_hub()
    assert hub.server("gus")["pending"] == "spawn"  # waited for, and not given up
    hub.start_relay()
    hub.wait_ready("gus")
    assert hub.lab("GET", "gus", "api/status").status_code == 200
    hub.stop("gus")


def test_a_session_survives_a_restart_of_the_hub_while_the_ledger_cannot_be_opened(hub):
    hub.add_user("liz")
    hub.spawn("liz", profile="plain")
    hub.wait_ready("liz")
    key = session_of(hub, "liz")["key"]
    ledger, away = hub.place / "ledger.sqlite", hub.place / "ledger.away"
    hub.kill("hub")
    ledger.rename(away)
    ledger.mkdir()
    hub.start_hub()
    try:
        hub.wait_ready("liz")
        assert session_of(hub, "liz")["key"] == key
        # Nothing new begins that cannot be written down.
        hub.add_user("max")
        assert hub.spawn("max", profile="plain").status_code == 424
        assert len(hub.jobs()) == 1
    finally:
        ledger.rmdir()
        away.rename(ledger)
    hub.spawn("max", profile="plain")
    hub.wait_ready("max")
    hub.stop("max")
    hub.stop("liz")


def test_a_start_can_be_cancelled_after_a_restart_of_the_hub(hub):
    hub.add_user("hal")
    hub.mood("hold")
    hub.spawn("hal", profile="moody")
    eventually_sync(lambda: stage_of(hub, "hal") == "held")
    hub.restart_hub()
    assert hub.server("hal")["pending"] == "spawn"
    hub.mood()
    assert hub.api("DELETE", "users/hal/server").status_code in (202, 204)
    eventually_sync(lambda: not hub.server("hal"), within_s=60)


def test_a_job_that_ended_while_the_hub_was_away_is_explained(hub):
    hub.add_user("ida")
    hub.spawn("ida", profile="plain")
    hub.wait_ready("ida")
    key = session_of(hub, "ida")["key"]
    hub.kill("hub")

    def end():
        for pid, line in processes_below(f"{hub.place}/site/jobs/{key}").items():
            if "singleuser" in line:
                os.kill(pid, signal.SIGKILL)
        return True

    eventually_sync(end)
    hub.start_hub()
    eventually_sync(lambda: not hub.server("ida"), within_s=40)
    page = hub.sign_in("ida").get(f"{hub.url}/hub/user/ida/").text
    assert "Your server ended: the JupyterLab server ended by itself" in page


def test_a_session_whose_user_was_renamed_ends_with_the_next_restart_and_says_why(hub):
    hub.add_user("una")
    hub.spawn("una", profile="plain")
    hub.wait_ready("una")
    session = hub.server("una")["state"]["offload"]["session"]
    assert hub.api("PATCH", "users/una", json={"name": "unity"}).ok
    # A hub that runs leads to the old path; one that starts only to that of the new name.
    assert hub.lab("GET", "una", "api/status").status_code == 200
    hub.restart_hub()
    eventually_sync(lambda: not hub.server("unity"), within_s=60)
    page = hub.sign_in("unity").get(f"{hub.url}/hub/spawn-pending/unity").text
    assert "its user has been renamed" in page
    assert "was started for una" in page
    report = hub.sign_in("unity").get(f"{hub.url}/hub/offload/report/unity").text
    assert session["key"] in report
    eventually_sync(lambda: session["key"] not in str(processes_below(hub.place)), within_s=60)
    hub.spawn("unity", profile="plain")
    hub.wait_ready("unity")
    assert hub.lab("GET", "unity", "api/status").status_code == 200
    hub.stop("unity")
