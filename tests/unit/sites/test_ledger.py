"""The ledger: what it keeps, what it says of waits, and what it does when it cannot write."""

import sqlite3
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from offload_sites.database import Component, Database
from offload_sites.errors import LedgerError
from offload_sites.jobs import AgentState, JobState, Resources
from offload_sites.ledger import JOBS, JobRecord, Ledger, Usage, Waits
from offload_sites.ledger_records import merge, waits_of

T0 = datetime(2026, 11, 1, 12, tzinfo=UTC)


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


class Clock:
    now = T0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def place(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(place, clock):
    ledger = Ledger(str(place), clock=clock)
    yield ledger
    ledger.close()


def test_it_gives_back_what_it_was_told(ledger):
    job = record(handle="naples:12.0", reason="queue position 4")
    ledger.record([job])
    assert ledger.job("c7-1") == job
    assert ledger.jobs() == [job]


def test_it_is_private_to_its_user(ledger, place):
    assert place.stat().st_mode & 0o777 == 0o600


def test_saying_the_same_twice_changes_nothing(ledger):
    ledger.record([record()])
    ledger.record([record(), record("c7-2")])
    ledger.record([record()])
    assert len(ledger.jobs()) == 2
    assert [change.state for change in ledger.changes("c7-1")] == [JobState.QUEUED]


def test_the_states_of_a_job_are_kept_with_their_times(ledger, clock):
    job = record()
    for minutes, state, agent in (
        (0, JobState.QUEUED, AgentState.ABSENT),
        (5, JobState.RUNNING, AgentState.ABSENT),
        (6, JobState.RUNNING, AgentState.CONNECTED),
        (60, JobState.COMPLETED, AgentState.LOST),
    ):
        clock.now = T0 + timedelta(minutes=minutes)
        ledger.record([replace(job, state=state, agent=agent)])
    seen = ledger.job("c7-1")
    assert (seen.started, seen.connected, seen.ended) == tuple(
        T0 + timedelta(minutes=m) for m in (5, 6, 60)
    )
    assert [round((c.time - T0).total_seconds() / 60) for c in ledger.changes("c7-1")] == [
        0,
        5,
        6,
        60,
    ]
    assert ledger.jobs() == []
    assert [job.key for job in ledger.jobs(ended=True)] == ["c7-1"]


def test_jobs_are_found_by_user_group_and_purpose(ledger):
    ledger.record(
        [record(), record("b-1", user="bob", group="b"), record("s-1", purpose="session")]
    )
    assert {job.key for job in ledger.jobs(user="alice")} == {"c7-1", "s-1"}
    assert [job.key for job in ledger.jobs(group="b")] == ["b-1"]
    assert [job.key for job in ledger.jobs(purpose="session")] == ["s-1"]


def test_usage_adds_up_what_is_alive_by_user(ledger):
    ledger.record([record(), record("c7-2", agent=AgentState.CONNECTED, state=JobState.RUNNING)])
    ledger.record([record("c7-3", state=JobState.FAILED), record("b-1", user="bob")])
    assert ledger.usage() == [
        Usage("alice", "naples", "cores", "workers", 2, 1, 8, 16, 2**41, 2),
        Usage("bob", "naples", "cores", "workers", 1, 0, 4, 8, 2**40, 1),
    ]


def test_a_large_submission_is_one_record(ledger):
    ledger.record([record(f"c7-{n}") for n in range(1200)])
    ledger.record([record(f"c7-{n}", handle=f"naples:{n}") for n in range(1200)])
    assert all(job.handle for job in ledger.jobs(limit=5000))
    assert len(ledger.jobs()) == 1000


def test_what_a_site_says_is_stored_whatever_it_is(ledger):
    ledger.record([record(reason="bad\0 bytes \udcff and " + "much " * 1000)])
    assert ledger.job("c7-1").reason.startswith("bad bytes ? and much")


def test_old_jobs_are_forgotten_with_their_changes(ledger, clock):
    ledger.record([record(state=JobState.FAILED), record("c7-2")])
    assert ledger.forget(T0) == 0
    assert ledger.forget(T0 + timedelta(days=1)) == 1
    assert ledger.job("c7-1") is None
    assert ledger.changes("c7-1") == []
    assert ledger.job("c7-2") is not None


# --- waits ---------------------------------------------------------------------------------------


def arrived(number, minutes, **changes):
    return record(
        f"w-{number}",
        state=JobState.RUNNING,
        agent=AgentState.CONNECTED,
        connected=T0 + timedelta(minutes=minutes),
        **changes,
    )


def test_waits_are_of_submission_until_the_agent_came(ledger):
    ledger.record([arrived(n, n) for n in range(1, 11)])
    assert ledger.waits("cores", "naples") == Waits(10, timedelta(minutes=5), timedelta(minutes=9))
    assert str(ledger.waits("cores", "naples")) == "usually 5 min, 9 in 10 within 9 min"


def test_fewer_than_ten_jobs_are_no_experience(ledger):
    ledger.record([arrived(n, n) for n in range(9)])
    waits = ledger.waits("cores", "naples")
    assert waits == Waits(9)
    assert str(waits) == "not known yet"
    assert ledger.waits("cores", "elsewhere") == Waits(0)


def test_waits_of_a_week_ago_do_not_count(ledger, clock):
    ledger.record([arrived(n, n) for n in range(12)])
    clock.now = T0 + timedelta(days=8)
    assert ledger.waits("cores", "naples") == Waits(0)


def test_waits_are_apart_by_profile_and_site(ledger):
    ledger.record([arrived(n, 1) for n in range(10)])
    ledger.record([arrived(n, 60, profile="gpu") for n in range(10, 20)])
    ledger.record([arrived(n, 9, site="bari") for n in range(20, 30)])
    assert {which: waits.p50.seconds for which, waits in ledger.all_waits().items()} == {
        ("cores", "naples"): 60,
        ("gpu", "naples"): 3600,
        ("cores", "bari"): 540,
    }


@given(st.lists(st.timedeltas(), min_size=10))
def test_nine_in_ten_came_within_p90(waits):
    found = waits_of(waits)
    assert sum(wait <= found.p90 for wait in waits) >= 0.9 * len(waits)
    assert timedelta(0) <= found.p50 <= found.p90


# --- joining -------------------------------------------------------------------------------------


def test_an_ended_job_stays_ended():
    ended, _ = merge(None, record(state=JobState.FAILED, reason="no space"), T0)
    back, changed = merge(ended, record(state=JobState.RUNNING), T0)
    assert back.state is JobState.FAILED
    assert back.reason == "no space"
    assert not changed


def test_a_silent_site_takes_nothing_back():
    seen, _ = merge(None, record(state=JobState.RUNNING, handle="naples:1"), T0)
    still, changed = merge(seen, record(state=JobState.UNKNOWN, reason="no answer"), T0)
    assert (still.state, still.handle, still.reason) == (JobState.RUNNING, "naples:1", "no answer")
    assert not changed


states = st.sampled_from(JobState)
agents = st.sampled_from(AgentState)


@given(st.lists(st.tuples(states, agents), min_size=1), st.data())
def test_any_history_keeps_the_first_times(history, data):
    job = None
    for minute, (state, agent) in enumerate(history):
        now = T0 + timedelta(minutes=minute)
        before, new = job, record(state=state, agent=agent)
        job, _ = merge(before, new, now)
        assert merge(job, new, now)[0] == job  # once more is the same as once
        if before is not None:
            for name in ("started", "connected", "ended"):
                earlier = getattr(before, name)
                assert earlier is None or getattr(job, name) == earlier


# --- the database --------------------------------------------------------------------------------


def test_a_full_disk_refuses_with_a_sentence_and_keeps_what_there_is(place):
    database = Database(str(place), JOBS)
    ledger = Ledger(database)
    ledger.record([record()])
    # SQLite's own way to say that no page can be added: the same error as of a full disk.
    database.close()
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    sa.event.listen(
        database._engine,
        "connect",
        lambda link, _: link.execute(f"PRAGMA max_page_count={pages}").close(),
    )
    database.close()
    many = [record(f"x-{n}", reason="long " * 300) for n in range(50)]
    with pytest.raises(LedgerError, match=r"cannot be written: database or disk is full") as caught:
        ledger.record(many)
    assert "nothing new is started" in caught.value.hint
    assert caught.value.transient
    assert [job.key for job in ledger.jobs()] == ["c7-1"]
    ledger.close()


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path):
    with pytest.raises(LedgerError, match="cannot be opened: unable to open database file"):
        Ledger(str(tmp_path / "no" / "such" / "folder" / "ledger.sqlite"))


def test_a_file_that_is_no_database_says_so(place):
    place.write_text("not a database, " * 100)
    with pytest.raises(LedgerError, match="file is not a database"):
        Ledger(str(place))


def test_an_error_never_shows_the_password():
    with pytest.raises(LedgerError) as caught:
        Ledger("nosuchdatabase://alice:secret@host/ledger")
    assert "secret" not in str(caught.value)
    with pytest.raises(LedgerError) as caught:
        Ledger("postgresql://alice:secret@127.0.0.1:1/ledger")
    assert "secret" not in str(caught.value)


def test_what_a_newer_release_wrote_is_left_alone(ledger, place):
    with sqlite3.connect(place) as connection:
        connection.execute("UPDATE offload_schema SET version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="newer release"):
        Ledger(str(place))


def test_an_older_schema_is_brought_forward_once(place):
    def add_a_note(connection):
        connection.exec_driver_sql("ALTER TABLE offload_jobs ADD COLUMN note TEXT DEFAULT 'old'")

    first = Ledger(str(place))
    first.record([record()])
    first.close()
    newer = Component("jobs", JOBS.tables, (add_a_note,))
    for _ in range(2):
        database = Database(str(place), newer)
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT note FROM offload_jobs").scalar() == "old"
        database.close()


def test_threads_and_a_second_process_write_at_once(ledger, place):
    other = Ledger(str(place))

    def write(where, name):
        for number in range(30):
            where.record([record(f"{name}-{number}")])

    threads = [
        threading.Thread(target=write, args=(where, f"t{n}"))
        for n, where in enumerate([ledger, ledger, other])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.jobs()) == 90
    other.close()


def test_there_is_only_one_service_at_a_time_on_a_ledger(place):
    database, other = Database(str(place), JOBS), Database(str(place), JOBS)
    with database.alone("service"):
        with (
            pytest.raises(LedgerError, match="another service uses the ledger"),
            other.alone("service", wait_s=0.3),
        ):
            pass
        with other.alone("something-else", wait_s=0):
            pass
    with other.alone("service", wait_s=0):
        pass
    database.close()
    other.close()
