"""The ledger and the store of the service on a real PostgreSQL server, as on SQLite."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from offload_service.store import CLUSTERS, ClusterRow, ClusterStore
from offload_sites.database import Database
from offload_sites.errors import LedgerError
from offload_sites.jobs import AgentState, JobState, Resources
from offload_sites.ledger import JOBS, JobRecord, Ledger, Usage
from tests.support import postgres, tiers
from tests.support.servicedesk import Desk

pytestmark = pytest.mark.postgresql

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(request):
    why = postgres.lacking()
    if why:
        tiers.lacking(request.config, "postgresql", why)
    with postgres.server() as url:
        yield url


@pytest.fixture
def database(url):
    database = Database(url, JOBS, CLUSTERS)
    with database.write() as connection:
        for table in ("offload_job_changes", "offload_jobs", "offload_clusters", "offload_texts"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    yield database
    database.close()


@pytest.fixture
def ledger(database):
    return Ledger(database, clock=lambda: T0 + timedelta(hours=1))


def record(key="c7-1", **changes):
    fields = {
        "user": "alice",
        "site": "naples",
        "profile": "cores",
        "purpose": "workers",
        "submitted": T0,
        "group": "c7",
        "workers": 4,
        "resources": Resources(8, 2**40, 1),
        "state": JobState.QUEUED,
    }
    return JobRecord(key, **{**fields, **changes})


def test_it_gives_back_what_it_was_told_with_all_times(ledger):
    job = record(handle="naples:12.0", reason="queue \u2013 position 4\0")
    ledger.record([job])
    ledger.record([replace(job, state=JobState.RUNNING, agent=AgentState.CONNECTED)])
    seen = ledger.job("c7-1")
    assert (seen.submitted, seen.connected) == (T0, T0 + timedelta(hours=1))
    assert seen.resources == Resources(8, 2**40, 1)
    assert [change.state for change in ledger.changes("c7-1")] == [
        JobState.QUEUED,
        JobState.RUNNING,
    ]


def test_waits_and_usage_are_the_same_numbers_as_on_sqlite(ledger):
    ledger.record(
        [
            record(
                f"w-{n}",
                state=JobState.RUNNING,
                agent=AgentState.CONNECTED,
                connected=T0 + timedelta(minutes=n),
            )
            for n in range(1, 11)
        ]
    )
    assert ledger.waits("cores", "naples").p50 == timedelta(minutes=5)
    assert ledger.usage() == [
        Usage("alice", "naples", "cores", "workers", 10, 10, 40, 80, 10 * 2**40, 10)
    ]
    ledger.check()
    assert ledger.forget(T0 + timedelta(days=1)) == 0


def test_programs_that_start_at_once_make_the_tables_once(url, database):
    errors = []

    def start(number):
        try:
            other = Database(url, JOBS, CLUSTERS)
            Ledger(other).record([record(f"t-{number}")])
            other.close()
        except LedgerError as error:
            errors.append(error)

    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE offload_job_changes, offload_jobs, offload_schema")
        connection.exec_driver_sql("DROP TABLE offload_clusters, offload_texts")
    threads = [threading.Thread(target=start, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(Ledger(database).jobs()) == 8


def test_clusters_are_kept_and_forgotten(database):
    store = ClusterStore(database)
    row = ClusterRow("c7", "alice", "c", "0" * 64, {"profile": "cores"}, T0)
    store.add(row)
    assert store.living() == [row]
    store.update("c7", wanted=4, closing="why", ended=T0)
    assert store.living() == []
    assert store.ended("c7") == replace(row, wanted=4, closing="why", ended=T0)
    store.keep_text("catalog", "sites: {}")
    store.keep_text("catalog", "sites: {a: b}")
    assert store.text("catalog") == "sites: {a: b}"
    store.forget(T0 + timedelta(days=1))
    assert store.ended("c7") is None


def test_there_is_only_one_service_at_a_time(url, database):
    other = Database(url, JOBS)
    with (
        database.alone("service"),
        pytest.raises(LedgerError, match="another service"),
        other.alone("service", wait_s=0.3),
    ):
        pass
    with other.alone("service", wait_s=0):
        pass
    other.close()


def test_a_server_that_has_gone_is_a_sentence_without_the_password():
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        Database("postgresql://offload:secret@127.0.0.1:1/none", JOBS)
    assert "secret" not in str(caught.value)


async def test_a_service_on_postgresql_knows_its_clusters_after_a_restart(
    url, database, tmp_path, monkeypatch
):
    async with Desk(tmp_path, monkeypatch, ledger=url) as desk:
        notebook = await desk.notebook()
        await notebook.beat()
        await notebook.scale(4)
        keys = await notebook.submitted(2)
        await desk.stop()
        await desk.start()
        status, answer = await notebook.beat(crew=None)
        assert status == 200
        assert [job["key"] for job in answer["fleet"]["jobs"]] == keys
