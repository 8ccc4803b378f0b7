"""`OffloadCluster` with real schedulers, relays, agents and workers on this machine."""

import json
import operator
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from distributed import Client
from distributed.utils import Log

from dask_offload import OffloadCluster
from offload_sites.errors import OffloadError
from tests.support.clusterkit import TIMEOUT_S, settings, wait_workers
from tests.support.waiting import eventually, eventually_sync


def square(x):
    return x * x


def noted(number, path):
    """Return a megabyte, and note that it was computed."""
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    return bytes(2**20)


# As in a notebook, they travel whole: jobs have a clean environment and cannot import this file.
square.__module__ = noted.__module__ = "__main__"


def test_workers_in_several_jobs_compute_together_and_end_with_the_cluster(clusters):
    with clusters.start(4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        assert client.gather(client.map(square, range(100))) == [x * x for x in range(100)]
        info = client.scheduler_info(n_workers=-1)["workers"]
        jobs = {job.key for job in cluster.jobs()}
        assert len(jobs) == 2
        assert {worker["name"].rpartition("-")[0] for worker in info.values()} == jobs
        assert all(address.startswith("relay://127.0.0.1.") for address in info)
        assert cluster.bytes_through_relay() > 0
    clusters.nothing_left()
    assert not list((clusters.place / "run").iterdir())


def test_workers_that_were_forked_draw_different_random_numbers(clusters):
    preload = ["numpy.random", "random"]
    with clusters.start(2, preload=preload) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        assert len(cluster.jobs()) == 1
        for draw in (
            lambda: float(__import__("numpy").random.random()),
            lambda: __import__("random").random(),
        ):
            assert len(set(client.run(draw).values())) == 2


def test_a_cluster_that_cannot_start_leaves_no_thread_and_its_name_free(clusters):
    before = threading.active_count()
    for _ in range(2):
        with pytest.raises(OffloadError, match="no image 'nope'"):
            clusters.start(name="mine", image="nope")
    eventually_sync(lambda: threading.active_count() <= before)
    clusters.start(name="mine")


def test_waiting_for_workers_of_a_cluster_that_was_closed_says_so(clusters):
    cluster = clusters.start(1)
    cluster.wait_for_workers(1, timeout=TIMEOUT_S)
    cluster.close()
    with pytest.raises(OffloadError, match="has ended"):
        cluster.wait_for_workers(1, timeout=TIMEOUT_S)


def test_results_travel_between_jobs_that_cannot_reach_one_another(clusters):
    with clusters.start(4, network="job") as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        names = sorted(client.scheduler_info(n_workers=-1)["workers"])
        blocks = [client.submit(bytes, 2**20, workers=[name], pure=False) for name in names]
        sizes = [client.submit(lambda *b: sum(map(len, b)), *blocks, workers=[n]) for n in names]
        assert client.gather(sizes) == [4 * 2**20] * 4


def test_workers_that_are_let_go_hand_over_what_they_hold(clusters):
    note = clusters.place / "computed"
    with clusters.start(4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        blocks = client.map(noted, range(20), path=str(note))
        client.gather(client.map(len, blocks))
        cluster.scale(2)
        wait_workers(client, 2)
        assert client.gather(client.map(len, blocks, pure=False)) == [2**20] * 20
        assert len(note.read_text().split()) == 20


def test_scaling_down_cancels_what_is_queued_and_keeps_what_works(clusters):
    with clusters.start(6, max_jobs=2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        eventually_sync(lambda: cluster.snapshot.count("queued") == 2)
        before = set(client.scheduler_info(n_workers=-1)["workers"])
        cluster.scale(4)
        eventually_sync(lambda: cluster.snapshot.count("queued") == 0)
        assert set(client.scheduler_info(n_workers=-1)["workers"]) == before


def test_a_part_of_a_job_can_be_let_go(clusters):
    with clusters.start(4, per_job=4) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        cluster.scale(1)
        wait_workers(client, 1)
        cluster.scale(3)
        wait_workers(client, 3)


def test_adaptive_scaling_follows_the_load_and_goes_back(clusters):
    with clusters.start() as cluster, cluster.get_client() as client:
        bounds = cluster.adapt(minimum=0, maximum=4, target_duration="1s", grace="1s")
        assert (bounds.minimum, bounds.maximum) == (0, 4)
        assert sum(client.gather(client.map(square, range(400)))) == sum(x * x for x in range(400))
        wait_workers(client, 0)


def test_workers_are_let_go_at_once_where_that_is_asked_for(clusters):
    with (
        settings(adaptive__scale_down_grace="1h"),
        clusters.start() as cluster,
        cluster.get_client() as client,
    ):
        cluster.adapt(minimum=0, maximum=2, target_duration="1s", grace=0)
        assert client.submit(square, 3).result(timeout=TIMEOUT_S) == 9
        wait_workers(client, 0)


def test_a_scheduler_that_fails_at_a_question_ends_no_cluster(clusters):
    def fail(dask_scheduler):
        dask_scheduler.asked = 0

        def adaptive_target(target_duration):
            dask_scheduler.asked += 1
            raise ZeroDivisionError(target_duration)

        dask_scheduler.adaptive_target = adaptive_target

    def asked(dask_scheduler):
        return dask_scheduler.asked

    fail.__module__ = asked.__module__ = "__main__"
    with clusters.start(1) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(1, timeout=TIMEOUT_S)
        client.run_on_scheduler(fail)
        cluster.adapt(minimum=0, maximum=2)
        eventually_sync(lambda: client.run_on_scheduler(asked) >= 2)
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
    clusters.nothing_left()


def test_the_seed_of_a_site_is_there_before_there_is_work_and_shared_by_adaptive_clusters(clusters):
    with clusters.start(seed=4) as first, first.get_client() as client:
        first.adapt(minimum=0, maximum=8, grace="1s")
        wait_workers(client, 4)
        with clusters.start(1, seed=4) as second, second.get_client() as other:
            wait_workers(other, 1)
            assert first.snapshot.wanted == 4  # a fixed number of workers takes no share
            second.adapt(minimum=0, maximum=8, grace="1s")
            wait_workers(other, 2)
            wait_workers(client, 2)
            first.scale(0)
            wait_workers(other, 4)
            first.adapt(minimum=0, maximum=8, grace="1s")
            wait_workers(other, 2)
        wait_workers(client, 4)


def test_waiting_shows_progress_and_a_timeout_says_what_is_there(clusters, capsys):
    cluster = clusters.start(4, max_jobs=1, quiet=False)
    with pytest.raises(TimeoutError, match=r"2 of 4 workers came within 3 s"):
        cluster.wait_for_workers(4, timeout=3)
    said = capsys.readouterr().err
    assert "2/4" in said
    assert "2 queued" in said


def test_the_text_and_the_page_show_jobs_by_state(clusters):
    cluster = clusters.start(4, max_jobs=1)
    eventually_sync(
        lambda: (cluster.snapshot.count("working"), cluster.snapshot.count("queued")) == (2, 2),
        within_s=60,
    )
    assert "workers=2/4" in repr(cluster)
    page = cluster._repr_html_()
    assert "The farm" in page
    assert cluster.dashboard_link in page


def test_the_dashboard_answers(clusters):
    cluster = clusters.start()
    with urllib.request.urlopen(cluster.dashboard_link, timeout=TIMEOUT_S) as answer:
        assert answer.status == 200


def test_what_is_printed_after_waiting_shows_all_that_were_waited_for(clusters):
    with clusters.start(4) as cluster:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        assert "workers=4/4, threads=4" in repr(cluster)


def test_a_cluster_may_be_without_a_dashboard(clusters):
    with settings(dashboard_address=None):
        cluster = clusters.start()
    assert cluster.dashboard_link == ""
    assert "dashboard" not in cluster._repr_html_().lower()


def test_logs_of_jobs_and_of_the_cluster_can_be_read(clusters):
    with clusters.start(2) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        client.submit(print, "a word from afar", pure=False).result()
        [job] = cluster.jobs()
        eventually_sync(lambda: "a word from afar" in cluster.logs(job.key)[job.key])
        assert isinstance(cluster.logs()[job.key], Log)
        assert (
            "is ready" in cluster.get_logs(cluster=True, scheduler=False, workers=False)["Cluster"]
        )
        with pytest.raises(OffloadError, match="no job of this cluster is called 'nobody'"):
            cluster.logs("nobody")


async def test_inside_an_event_loop_it_is_awaited(clusters):
    async with (
        clusters.start(2, asynchronous=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        await cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        assert await client.submit(operator.add, 1, 2) == 3
        await cluster.scale(4)
        await client.wait_for_workers(4, timeout=TIMEOUT_S)
        assert await cluster.bytes_through_relay() > 0
    assert cluster.status.name == "closed"


async def test_it_works_as_the_factory_of_dask_labextension_uses_it(clusters):
    # dask_labextension.manager, release 7: make_cluster, make_cluster_model, scale, adapt, close.
    cluster = await clusters.start(asynchronous=True)
    cluster.scale(2)
    await eventually(lambda: len(cluster.scheduler_info["workers"]) == 2, within_s=60)
    workers = cluster.scheduler_info["workers"].values()
    assert sum(worker["nthreads"] for worker in workers) == 2
    assert sum(worker["memory_limit"] for worker in workers) == 2 * 2**30
    assert cluster.dashboard_link.startswith("http")
    assert cluster.scheduler_address.startswith("relay://")
    cluster.adapt(minimum=0, maximum=2)
    await cluster.close()


OTHER = """
import json, sys
from dask_offload import OffloadCluster
print(json.dumps(OffloadCluster.names()))
with OffloadCluster.from_name(sys.argv[1], quiet=True) as cluster, cluster.get_client() as client:
    cluster.wait_for_workers(2, timeout=60)
    print(json.dumps(client.submit(sum, [20, 22]).result()))
"""


def test_another_program_attaches_by_name_and_leaves_without_harm(clusters):
    cluster = clusters.start(2, name="shared")
    ran = subprocess.run(
        [sys.executable, "-c", OTHER, "shared"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [["shared"], 42]
    with cluster.get_client() as client:
        assert client.submit(sum, [1, 2]).result() == 3
    with pytest.raises(OffloadError, match="a cluster called 'shared' is running"):
        OffloadCluster(name="shared", quiet=True)
    with pytest.raises(OffloadError, match="no cluster called 'other' is running; running: shared"):
        OffloadCluster.from_name("other")


def test_a_cluster_that_somebody_else_has_closed_says_so(clusters):
    cluster = clusters.start(name="brief")
    OffloadCluster.from_name("brief", shutdown_on_close=True, quiet=True).close()
    with pytest.raises(OffloadError, match="the cluster 'brief' has ended"):
        cluster.scale(2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"profile": "gpu"}, "there is no profile 'gpu'; there is 'farm'"),
        ({"image": "her"}, "has no image 'her'; did you mean 'here'"),
        ({"walltime": "3h"}, "a walltime of 3 h is not possible with profile 'farm'"),
        ({"walltime": "soon"}, "walltime: expected a duration such as '24h'"),
        ({"cpus": 3}, "profile 'farm' does not offer 3 CPUs; it offers 1, 2"),
        ({"site": "barn"}, "'barn'"),
        ({"n_workers": -1}, "n_workers is -1"),
        ({"n_workers": True}, "n_workers is True"),
        ({"name": "My Cluster"}, "a cluster cannot be called 'My Cluster'"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(clusters, options, sentence):
    with pytest.raises(OffloadError) as caught:
        clusters.start(**options)
    assert sentence in str(caught.value)
    clusters.nothing_left()


def test_all_problems_of_a_catalog_reach_the_notebook(clusters):
    path = clusters.place / "broken.yaml"
    path.write_text("sites: {}\nimage: 3\n")
    with pytest.raises(OffloadError, match=r"broken.yaml:2: image: the key 'image' is not known"):
        OffloadCluster(catalog=path, quiet=True)


def test_a_walltime_ends_a_job_and_another_one_takes_its_place(clusters):
    with clusters.start(2, walltime="8s") as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)
        first = set(client.scheduler_info(n_workers=-1)["workers"])
        eventually_sync(
            lambda: (
                len(now := client.scheduler_info(n_workers=-1)["workers"]) == 2
                and not first & set(now)
            ),
            within_s=60,
        )


def test_what_is_held_outlives_the_walltime_though_all_jobs_end_at_a_time(clusters):
    with clusters.start(4, walltime="30s") as cluster, cluster.get_client() as client:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
        first = set(client.scheduler_info(n_workers=-1)["workers"])
        kept = client.map(os.urandom, [1000] * 20, pure=False)
        before = client.gather(kept)
        eventually_sync(
            lambda: not first & set(client.scheduler_info(n_workers=-1)["workers"]), within_s=60
        )
        # Handed over, not computed again: that would be other bytes.
        assert client.gather(client.map(bytes, kept)) == before
        assert "failed" not in repr(cluster)


def test_an_image_with_another_dask_is_named_at_the_first_worker(clusters):
    fake = clusters.place / "old"
    (fake / "distributed").mkdir(parents=True)
    (fake / "distributed" / "__init__.py").write_text("__version__ = '2021.1.0'\n")
    clusters.image("old", f'PYTHONPATH={fake} exec "$PYTHON" "$@"')
    cluster = clusters.start(2, image="old")
    with pytest.raises(OffloadError, match=r"the image has distributed 2021.1.0, the notebook 20"):
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)


def test_an_image_without_dask_is_named_at_the_first_worker(clusters):
    fake = clusters.place / "bare"
    (fake / "distributed").mkdir(parents=True)
    (fake / "distributed" / "__init__.py").write_text(
        "raise ModuleNotFoundError('no distributed', name='distributed')\n"
    )
    clusters.image("bare", f'PYTHONPATH={fake} exec "$PYTHON" "$@"')
    cluster = clusters.start(2, image="bare")
    with pytest.raises(OffloadError, match="choose an image with distributed in it"):
        cluster.wait_for_workers(2, timeout=TIMEOUT_S)


def test_jobs_that_always_fail_stop_being_submitted_and_the_reason_is_shown(clusters):
    clusters.image("broken", "echo no license >&2; exit 3")
    cluster = clusters.start(4, image="broken")
    with pytest.raises(OffloadError, match="no more will come") as caught:
        cluster.wait_for_workers(4, timeout=TIMEOUT_S)
    assert "exit code 3" in str(caught.value)
    assert "exit code 3" in cluster._repr_html_()
    count = len(list((clusters.place / "site" / "jobs").iterdir()))
    assert count <= 6
    clusters.image("broken", 'exec "$PYTHON" "$@"')
    cluster.retry()
    cluster.wait_for_workers(4, timeout=TIMEOUT_S)


def test_secrets_are_in_no_argument_environment_or_open_file(clusters):
    cluster = clusters.start(2)
    cluster.wait_for_workers(2, timeout=TIMEOUT_S)
    secrets = _secrets(clusters.place)
    assert len(secrets) >= 3
    for process in clusters.all():
        seen = " ".join(process.cmdline())
        if "--payload" not in seen:  # the payload alone is told how to dial through its agent
            seen += str(process.environ())
        assert not [secret for secret in secrets if secret in seen], process
    for path in clusters.place.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077:
            text = path.read_text(errors="replace")
            assert not [secret for secret in secrets if secret in text], path


def _secrets(place):
    found = set()
    for path in place.rglob("*.json"):
        value = json.loads(path.read_text())
        if path.name in ("agent.json", "worker.json", "scheduler.json"):
            found |= {
                text for text in (value.get("lease"), (value.get("tls") or {}).get("key")) if text
            }
            found |= {value["reach"]["token"]} if "reach" in value else set()
    return found
