"""What must hold while something is broken: site, ledger, catalog, hub, relay, the service itself."""

import asyncio
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from offload_relay.agent.config import AgentConfig
from offload_relay.agent.link import Link
from offload_service.recorded_site import record_of
from tests.support.clusterkit import TIMEOUT_S, wait_workers
from tests.support.servicedesk import Desk, agent_lease
from tests.support.waiting import eventually, eventually_sync, scaled


@pytest.fixture
async def desk(tmp_path, monkeypatch):
    async with Desk(tmp_path, monkeypatch) as desk:
        yield desk


async def started(desk, workers=4, **body):
    notebook = await desk.notebook(**body)
    await notebook.beat()
    await notebook.scale(workers)
    await notebook.submitted(-(-workers // 2))
    return notebook


def words(notebook):
    return [job["status"]["state"] for job in notebook.answer["fleet"]["jobs"]]


# --- a site --------------------------------------------------------------------------------------


async def test_a_site_is_asked_once_for_all_users(desk):
    notebooks = [await started(desk, name=name) for name in ("a", "b", "c", "d")]
    keys = [key for notebook in notebooks for key in await notebook.submitted(2)]
    desk.farm.calls.clear()
    began_s = time.monotonic()
    while time.monotonic() - began_s < 3:
        for notebook in notebooks:
            await notebook.beat()
        await asyncio.sleep(0.2)
    asked = [call for call in desk.farm.calls if call.method == "status"]
    took_s = time.monotonic() - began_s
    assert len(asked) <= took_s + 2  # once a second, whoever asks
    assert max(len(call.about) for call in asked) > len(keys) / 2


async def test_a_site_that_is_silent_ends_nothing_and_gets_nothing_twice(desk):
    notebook = await started(desk)
    keys = await notebook.submitted(2)
    desk.farm.start(*keys)
    await eventually(lambda: _beats_until(notebook, lambda: words(notebook) == ["running"] * 2))
    desk.farm.silent = True
    await notebook.scale(6)
    for _ in range(8):
        status, _ = await notebook.beat()
        assert status == 200
        await asyncio.sleep(0.2)
    fleet = notebook.answer["fleet"]
    assert words(notebook)[:2] == ["running"] * 2
    assert "farm" in fleet["troubles"]
    assert set(desk.farm.jobs) == set(keys)
    desk.farm.silent = False
    await notebook.submitted(3)
    await eventually(lambda: _beats_until(notebook, lambda: len(words(notebook)) == 3))


async def _beats_until(notebook, condition):
    await notebook.beat()
    return condition()


async def test_one_site_that_hangs_holds_up_nobody(desk, monkeypatch):
    notebook = await started(desk)
    hanging = asyncio.Event()

    async def hang(self, handles):
        await hanging.wait()
        return {}

    monkeypatch.setattr(type(desk.farm), "status", hang)
    slowest_s = 0.0
    for _ in range(20):
        began_s = time.monotonic()
        assert (await notebook.beat())[0] == 200
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        await asyncio.sleep(0.1)
    assert slowest_s < scaled(0.5)
    hanging.set()


# --- the ledger ----------------------------------------------------------------------------------

FULL = (
    "CREATE TRIGGER full BEFORE {what} BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
)


def fill(desk):
    with sqlite3.connect(desk.place / "ledger.sqlite") as connection:
        for number, what in enumerate(
            (
                "INSERT ON offload_jobs",
                "UPDATE ON offload_jobs",
                "INSERT ON offload_clusters",
                "UPDATE ON offload_clusters",
            )
        ):
            connection.execute(FULL.format(what=what).replace("full", f"full{number}", 1))
    connection.close()


def make_room(desk):
    with sqlite3.connect(desk.place / "ledger.sqlite") as connection:
        for number in range(4):
            connection.execute(f"DROP TRIGGER full{number}")
    connection.close()


async def test_a_ledger_that_is_full_stops_what_is_new_and_keeps_what_runs(desk):
    notebook = await started(desk)
    keys = await notebook.submitted(2)
    fill(desk)
    status, answer = await notebook.call("POST", "/scale", {"workers": 8})
    assert status == 503
    assert "database or disk is full" in answer["message"]
    assert "nothing new is started" in answer["hint"]
    status, answer = await desk.call(desk.alice, "POST", "/clusters", {"api": 1, "name": "c"})
    assert status == 503
    # What runs is seen and looked after, and can be made less.
    desk.farm.start(*keys)
    await eventually(lambda: _beats_until(notebook, lambda: words(notebook) == ["running"] * 2))
    assert (await notebook.scale(2))["fleet"]["wanted"] == 2
    await eventually(lambda: _beats_until(notebook, lambda: "canceled" in words(notebook)))
    assert set(desk.farm.jobs) == set(keys)
    _, told = await desk.call(desk.root, "GET", "/sites")
    assert "disk is full" in told["ledger"]
    make_room(desk)
    await notebook.scale(4)
    await notebook.submitted(3)
    jobs = await eventually(lambda: _recorded(desk, "canceled"))
    assert len(jobs) == 1


async def _recorded(desk, state):
    jobs = (await desk.call(desk.alice, "GET", "/jobs?ended=yes"))[1]
    return [job for job in jobs if job["state"] == state]


async def test_jobs_that_cannot_be_written_down_are_not_submitted(desk):
    notebook = await started(desk, 2)
    desk.farm.fail(*await notebook.submitted(1))
    fill(desk)
    fleet = await eventually(
        lambda: _beats_until(notebook, lambda: notebook.answer["fleet"]["troubles"])
    )
    assert "disk is full" in fleet["farm"]["message"]
    assert len(desk.farm.jobs) == 1
    make_room(desk)
    await notebook.submitted(2)


# --- the catalog ---------------------------------------------------------------------------------


async def test_a_catalog_that_is_edited_counts_at_once_and_a_broken_one_does_not(desk):
    good = desk.catalog.read_text()
    desk.catalog.write_text(good.replace("title: Farm cores", "title: Farm cores, new"))

    async def titles():
        return [p["title"] for p in (await desk.call(desk.alice, "GET", "/offers"))[1]["profiles"]]

    async def new():
        return "Farm cores, new" in await titles()

    await eventually(new)
    desk.catalog.write_text(good.replace("kind: local", "kind: lokal", 1))

    async def problems():
        return (await desk.call(desk.root, "GET", "/catalog"))[1]["problems"]

    said = await eventually(problems)
    assert said[0].startswith("catalog.yaml:4: sites.farm.kind: ")
    assert await new()
    # The last good one stays over a restart too.
    await desk.stop()
    await desk.start()
    assert await new()
    assert await problems() == said
    desk.catalog.write_text(good)

    async def good_again():
        return not await problems() and "Farm cores" in await titles()

    await eventually(good_again)


async def test_a_cluster_keeps_what_it_was_made_of_when_the_catalog_changes(desk):
    notebook = await started(desk, 2)
    text = desk.catalog.read_text()
    for word in ("cores", "lab"):
        text = text.replace(f"\n  {word}:", f"\n  {word}-2:")
    text = text.replace("    max_walltime: 2h", "    max_walltime: 1h", 1)
    desk.catalog.write_text(text)

    async def known():
        answer = await desk.call(
            desk.alice,
            "POST",
            "/clusters",
            {"api": 1, "name": "c", "choice": {"profile": "cores-2"}},
        )
        return answer[0] == 201

    await eventually(known)
    await notebook.scale(4)
    keys = await notebook.submitted(2)
    assert {desk.farm.jobs[key].spec.walltime for key in keys} == {timedelta(hours=2)}


async def test_jobs_of_a_site_that_is_not_in_the_catalog_any_more_are_kept(desk):
    notebook = await started(desk, 2)
    keys = await notebook.submitted(1)
    desk.farm.start(*keys)
    await eventually(lambda: _beats_until(notebook, lambda: words(notebook) == ["running"]))
    text = desk.catalog.read_text().replace("\n  farm:", "\n  other:").replace("[farm]", "[other]")
    await desk.stop()
    desk.catalog.write_text(text)
    await desk.start()
    notebook.answer = {}
    status, _ = await notebook.beat()
    assert status == 200
    assert [job["key"] for job in notebook.answer["fleet"]["jobs"]] == keys
    assert words(notebook) == ["running"]


# --- the hub -------------------------------------------------------------------------------------


async def test_a_hub_that_is_down_ends_no_cluster(desk):
    notebook = await started(desk)
    desk.hub.down = True

    async def forgotten():  # what the hub has said of her
        status, answer = await desk.call(desk.alice, "GET", "/clusters")
        return status == 503 and "the hub does not answer" in answer["message"]

    await eventually(forgotten)
    assert (await notebook.beat())[0] == 200
    await notebook.scale(6)
    await notebook.submitted(3)


async def test_a_token_that_was_revoked_makes_nothing_new_and_ends_nothing(desk):
    notebook = await started(desk)
    del desk.hub.users[desk.alice]

    async def refused():
        return (await desk.call(desk.alice, "GET", "/clusters"))[0] == 401

    await eventually(refused)
    status, _ = await desk.call(desk.alice, "POST", "/clusters", {"api": 1, "name": "c"})
    assert status == 401
    assert (await notebook.beat())[0] == 200


# --- the notebook --------------------------------------------------------------------------------


async def test_a_cluster_whose_notebook_is_silent_is_ended(tmp_path, monkeypatch):
    async with Desk(tmp_path, monkeypatch, owner_grace=timedelta(seconds=2)) as desk:
        notebook = await started(desk)
        keys = await notebook.submitted(2)

        async def gone():
            return (await desk.call(desk.alice, "GET", "/clusters"))[1] == []

        await eventually(gone)
        assert {desk.farm.jobs[key].status.state.value for key in keys} == {"canceled"}
        status, answer = await notebook.beat()
        assert status == 404
        assert answer["gone"] is True
        assert "its notebook has not been heard of for 2 s" in answer["message"]


async def test_workers_are_let_go_by_the_notebooks_side_before_their_job_ends(desk):
    notebook = await started(desk)
    keys = await notebook.submitted(2)
    desk.farm.start(*keys)
    async with agents(desk, notebook, keys):
        notebook.jobs = {key: [2, number, 0] for number, key in enumerate(keys)}
        await eventually(lambda: _beats_until(notebook, lambda: _connected(notebook) == 2))
        await notebook.scale(2)
        orders = await eventually(lambda: _beats_until(notebook, lambda: notebook.answer["retire"]))
        [[number, job, workers]] = orders
        assert (job, workers) == (keys[0], 2)  # the idler one, as a whole
        assert desk.farm.jobs[job].cancelled is False
        notebook.jobs = {keys[1]: [2, 1, 0]}
        notebook.retired = [number]
        await notebook.beat()
        await eventually(lambda: desk.farm.jobs[job].cancelled)
        await notebook.beat()
        assert notebook.answer["retire"] == []


def _connected(notebook):
    jobs = notebook.answer["fleet"]["jobs"]
    return sum(job["agent"]["state"] == "connected" for job in jobs)


class agents:  # noqa: N801  # reads as a context
    """The agents of some jobs of a cluster, at the relay."""

    def __init__(self, desk, notebook, keys):
        self.desk, self.notebook, self.keys = desk, notebook, keys

    async def __aenter__(self):
        self.tasks = []
        for key in self.keys:
            token = agent_lease(self.desk.key, "alice", self.notebook.id, key)
            url = f"ws://127.0.0.1:{self.desk.relay.public_port}"
            net = f"j{key.rpartition('-')[2]}.farm.{self.notebook.id}.u-alice-fpmansl7"
            link = Link(AgentConfig(url, token, key, net, [], 600), {}, lambda reason: None)
            self.tasks.append(asyncio.create_task(link.run()))

    async def __aexit__(self, *exc_info):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


# --- the service itself --------------------------------------------------------------------------


async def test_a_service_that_comes_back_knows_its_clusters_and_their_jobs(desk):
    notebook = await started(desk)
    keys = await notebook.submitted(2)
    desk.farm.start(*keys)
    async with agents(desk, notebook, keys):
        await eventually(lambda: _beats_until(notebook, lambda: _connected(notebook) == 2))
        before = notebook.answer["version"]
        await desk.stop()
        await desk.start()
        status, answer = await notebook.beat(crew=None)
        assert status == 200
        assert answer["crew"] is True  # certificates are nowhere but in memory
        assert answer["version"] > before
        assert [job["key"] for job in answer["fleet"]["jobs"]] == keys
        await eventually(lambda: _beats_until(notebook, lambda: _connected(notebook) == 2))
        assert words(notebook) == ["running"] * 2
        await notebook.scale(6)
        assert await notebook.submitted(3) == [*keys, f"{notebook.id}-3"]


async def test_a_fault_in_this_program_ends_no_cluster(desk, monkeypatch, caplog):
    notebook = await started(desk)
    keys = await notebook.submitted(2)
    monkeypatch.setattr("offload_service.cluster._START_AGAIN_S", 0.1)
    monkeypatch.setattr("offload_service.cluster.record_of", broken_once(record_of))
    await notebook.scale(6)
    assert await notebook.submitted(3) == [*keys, f"{notebook.id}-3"]
    desk.farm.start(*keys)
    await eventually(
        lambda: _beats_until(notebook, lambda: sorted(words(notebook))[1:] == ["running"] * 2)
    )
    assert "a fault" in caplog.text


def broken_once(function):
    def broken(*args):
        if not done:
            done.append(True)
            raise RuntimeError("a fault")
        return function(*args)

    done = []
    return broken


async def test_what_has_failed_too_often_is_not_tried_again_by_a_restart(desk):
    notebook = await started(desk, 2)
    for count in (1, 2, 3):
        keys = await notebook.submitted(count)
        desk.farm.fail(*keys, reason="this image has no Python")

        async def noted(count=count):
            return len(await _recorded(desk, "failed")) == count

        await eventually(noted)
    await eventually(lambda: _beats_until(notebook, lambda: notebook.answer["fleet"]["stopped"]))
    await desk.stop()
    await desk.start()
    notebook.answer = {}
    await eventually(lambda: _beats_until(notebook, lambda: notebook.answer["fleet"]["stopped"]))
    assert "3 jobs failed in the same way" in notebook.answer["fleet"]["stopped"]
    assert len(desk.farm.jobs) == 3
    await notebook.call("POST", "/retry", {})
    await notebook.submitted(4)
    await desk.stop()
    await desk.start()
    notebook.answer = {}
    await notebook.beat()
    assert notebook.answer["fleet"]["stopped"] == ""


async def test_a_cluster_that_was_ending_ends_after_a_restart(desk):
    notebook = await started(desk)
    keys = await notebook.submitted(2)
    desk.farm.silent = True
    ending = asyncio.create_task(notebook.call("DELETE"))
    await eventually(lambda: _beats_until(notebook, lambda: notebook.answer["ending"]))
    ending.cancel()
    await desk.stop()
    desk.farm.silent = False
    await desk.start()
    await eventually(lambda: all(desk.farm.jobs[key].status.state.ended for key in keys))


async def test_a_job_that_was_never_sent_is_not_counted_after_a_restart(desk):
    notebook = await desk.notebook()
    await notebook.beat()
    await notebook.scale(2)
    await notebook.submitted(1)
    [key] = list(desk.farm.jobs)
    await desk.stop()
    # As if the service had been killed after it wrote the job down, and before it sent it.
    desk.farm.forget(key)
    with sqlite3.connect(desk.place / "ledger.sqlite") as connection:
        connection.execute("UPDATE offload_jobs SET handle = '', state = 'unknown'")
    connection.close()
    await desk.start()
    assert desk.farm.jobs == {}
    await notebook.beat(crew=None)
    await asyncio.sleep(0.5)
    assert desk.farm.jobs == {}  # nothing can be sent before the notebook's side has been heard
    notebook.answer = {}
    await notebook.beat()
    assert await notebook.submitted(1) == [key]


@pytest.mark.parametrize("attempt", range(3))
def test_a_service_that_is_killed_while_it_submits_doubles_nothing(kit, attempt):
    jobs, per_job = 12, 2
    cluster = kit.cluster(kit.alice)
    moment = random.Random(attempt)
    cluster.scale(jobs * per_job)
    for _ in range(4):
        time.sleep(moment.uniform(0.0, 0.25))
        kit.kill(kit.service)
        kit.start_service("--owner-grace", "60s")
    with cluster.get_client() as client:
        wait_workers(client, jobs * per_job, within_s=90)
        directories = list((kit.place / "farm" / "jobs").iterdir())
        assert len(directories) == jobs

        def written_down():
            told = kit.get(kit.alice, "/jobs?ended=yes")[1]
            assert len(told) == jobs
            return len({job["handle"] for job in told if job["handle"]}) == jobs

        eventually_sync(written_down)
    cluster.close()


def test_a_computation_goes_on_while_the_service_is_away(kit):
    cluster = kit.cluster(kit.alice, 4)
    with cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        kit.kill(kit.service)
        futures = client.map(slowly, range(100), pure=False)
        eventually_sync(
            lambda: cluster.snapshot.notes and "does not answer" in str(cluster.snapshot.notes)
        )
        assert client.gather(futures) == list(range(100))
        before = kit.agents()
        with ThreadPoolExecutor(1) as pool:
            # Asked for while it is away: it is started again, and then told.
            scaled_up = pool.submit(cluster.scale, 6)
            eventually_sync(
                lambda: (
                    "asking again" in cluster.get_logs(scheduler=False, workers=False)["Cluster"]
                )
            )
            kit.start_service("--owner-grace", "60s")
            scaled_up.result(TIMEOUT_S)
        eventually_sync(lambda: "does not answer" not in str(cluster.snapshot.notes))
        wait_workers(client, 6)
        assert set(before) <= set(kit.agents())
    cluster.close()


def slowly(x):
    time.sleep(0.05)
    return x


slowly.__module__ = "__main__"


def test_workers_come_back_when_the_relay_was_killed(kit):
    cluster = kit.cluster(kit.alice, 4)
    with cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        jobs = [job.key for job in cluster.jobs()]
        futures = client.map(slowly, range(200), pure=False)
        kit.kill(kit.relay)
        kit.start_relay()
        assert client.gather(futures) == list(range(200))
        wait_workers(client, 4)
        assert [job.key for job in cluster.jobs()] == jobs
    cluster.close()
