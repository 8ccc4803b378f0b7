"""The pure parts of the site kind `local`: who starts, what records mean, what is refused."""

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_sites.catalog import LocalSite
from offload_sites.errors import JobRejectedError, OffloadError
from offload_sites.jobs import JobSpec, JobState, Resources, SiteState
from offload_sites.local import LocalBackend, create, staging, statuses
from offload_sites.local.checks import check_request
from offload_sites.local.fifo import Size, Usage, free_gpus, render_wait, startable, usage
from offload_sites.local.jobqueue import Phase, phase_of
from offload_sites.local.records import (
    LOCK,
    End,
    Limits,
    Order,
    Start,
    Ticket,
    Why,
    hold,
    put,
    read,
    reserve,
    write,
)
from offload_sites.local.staging import KEPT_JOBS, KEPT_S, too_old

SIZES = st.lists(st.builds(Size, st.integers(1, 8), st.integers(0, 4)), max_size=20)
MAYBE = st.none() | st.integers(1, 10)


@pytest.mark.parametrize(
    ("waiting", "used", "limits", "count"),
    [
        ([1, 1, 1], Usage(), Limits(), 3),
        ([1, 1, 1], Usage(), Limits(max_jobs=2), 2),
        ([1, 1, 1], Usage(1, 1), Limits(max_jobs=2), 1),
        ([2, 2, 1], Usage(1, 1), Limits(cpus=4), 1),  # the last one would fit, but waits its turn
        ([4], Usage(1, 1), Limits(cpus=4), 0),
        ([9], Usage(), Limits(cpus=4), 1),  # accepted under an older limit: alone
    ],
)
def test_jobs_start_in_their_order_as_far_as_they_fit(waiting, used, limits, count):
    assert startable([Size(cpus) for cpus in waiting], used, limits) == count


@given(SIZES, SIZES, MAYBE, MAYBE, MAYBE)
def test_what_starts_never_exceeds_a_limit_unless_it_is_alone(
    waiting, running, max_jobs, cpus, gpus
):
    limits = Limits(max_jobs, cpus, gpus)
    started = waiting[: startable(waiting, usage(running), limits)]
    after = usage([*running, *started])
    if after.jobs > 1 and started:
        assert max_jobs is None or after.jobs <= max_jobs
        assert cpus is None or after.cpus <= cpus
        assert gpus is None or after.gpus <= gpus


@given(SIZES, MAYBE, MAYBE)
def test_an_idle_site_starts_something(waiting, max_jobs, cpus):
    assert bool(waiting) == bool(startable(waiting, Usage(), Limits(max_jobs, cpus)))


def test_each_gpu_is_one_jobs_own():
    assert free_gpus(2, [0, 2], 4) == [1, 3]
    assert free_gpus(0, [0, 2], 4) == []
    assert free_gpus(3, [0, 2], 4) == [1, 3]


def test_a_user_reads_why_a_job_waits():
    reason = render_wait(3, Usage(2, 8), Limits(max_jobs=None, cpus=8))
    assert reason == "3 jobs are ahead; 8 of 8 CPUs in use"
    assert render_wait(0, Usage(2, 8), Limits()) == "it is the next to start"
    assert render_wait(1, Usage(2, 2), Limits(2, 4)) == (
        "1 job is ahead; 2 of 4 CPUs in use; 2 of 2 jobs running"
    )


ORDER = Order(["work", "hard"], {}, ["secret"], 3600.0, 10.0)
TICKET = Ticket(1_000_000_000, 0, 1)
START = Start(100.0, "node7", "boot", 42)
RECORDS = statuses.Records(TICKET, ORDER, START, None)


@pytest.mark.parametrize(
    ("end", "state", "reason", "exit_code"),
    [
        (End(1, "exit", 0), "COMPLETED", "the command ended with exit code 0", 0),
        (End(1, "exit", 7), "FAILED", "the command ended with exit code 7", 7),
        (End(1, "exit", -15), "FAILED", "the command was killed by signal 15 (SIGTERM)", -15),
        (End(1, "exit", -40), "FAILED", "the command was killed by signal 40", -40),
        (End(1, "cancel", -15), "CANCELED", "it was cancelled", -15),
        (End(1, "walltime", -15), "TIMED_OUT", "its walltime of 1:00:00 was used up", -15),
        (
            End(1, "not started", None, errno.ENOENT),
            "FAILED",
            "the command 'work' was not found",
            None,
        ),
        (
            End(1, "not started", None, errno.E2BIG),
            "FAILED",
            "the command 'work' could not be started",
            None,
        ),
        (End(1, "weather"), "FAILED", "it ended for an unknown reason: weather", None),
    ],
)
def test_the_record_of_an_end_becomes_a_status(end, state, reason, exit_code):
    status = statuses.ended(RECORDS, end)
    assert (status.state.name, status.reason, status.exit_code) == (state, reason, exit_code)
    assert status.where == "node7"
    assert status.since == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize("why", Why)
def test_every_end_that_is_recorded_has_words(why):
    status = statuses.ended(RECORDS, End(1, why))
    assert status.state.ended
    assert "unknown reason" not in status.reason


def test_a_job_cancelled_in_the_queue_says_so():
    status = statuses.ended(RECORDS._replace(start=None), End(1, Why.CANCEL))
    assert status.reason == "it was cancelled before it started"


def test_a_job_that_is_not_started_yet_is_queued():
    starting = statuses.running(RECORDS._replace(start=None), cancelled=False, lost=False)
    assert starting.state is JobState.QUEUED
    running = statuses.running(RECORDS, cancelled=True, lost=False)
    assert (running.state, running.reason) == (JobState.RUNNING, "it is being cancelled")


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("started", [True, False])
def test_the_phase_of_a_job_follows_from_its_records_and_its_lock(tmp_path, ended, held, started):
    put(TICKET, tmp_path)
    lock = hold(tmp_path / LOCK, wait=False) if held else None
    if started:
        put(START, tmp_path)
    if ended:
        put(End(1, Why.EXIT), tmp_path)
    phase = phase_of(tmp_path)
    expected = {(False, False): Phase.QUEUED, (False, True): Phase.LOST}
    assert phase is (Phase.ENDED if ended else expected.get((held, started), Phase.ACTIVE))
    assert lock is None or hold(tmp_path / LOCK, wait=False) is None


def test_what_is_no_job_has_no_phase(tmp_path):
    (tmp_path / "file").touch()
    assert phase_of(tmp_path) is None
    assert phase_of(tmp_path / "file") is None
    assert phase_of(tmp_path / "nothing") is None


@pytest.mark.parametrize("reserved", [True, False])
@pytest.mark.parametrize("record", [Limits(4, None), TICKET, ORDER, START, End(1, "exit", 0)])
def test_a_record_is_read_as_it_was_written(tmp_path, record, reserved):
    if reserved:
        reserve(type(record), tmp_path)
    write(record, tmp_path)
    assert read(type(record), tmp_path) == record
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"cpus": 1}', '{"other": 1}'])
def test_half_a_record_is_none(tmp_path, text):
    (tmp_path / "ticket.json").write_text(text)
    assert read(Ticket, tmp_path) is None


def test_ended_jobs_are_forgotten_when_they_are_old_or_many_but_never_at_once():
    now, hour = 1e9, 3600.0
    ended = {f"j{n}": now - 2 * hour - n for n in range(KEPT_JOBS + 2)}
    assert set(too_old(ended, now)) == {f"j{KEPT_JOBS}", f"j{KEPT_JOBS + 1}"}
    assert set(too_old(ended, now - 1.5 * hour)) == set()
    assert set(too_old({"a": now - KEPT_S - 1, "b": now - KEPT_S + 1}, now)) == {"a"}


def spec(**changes):
    return JobSpec(
        **{"command": ("x",), "resources": Resources(), "walltime": timedelta(1)} | changes
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": {"A=B": "c"}}, "'A=B' is not the name of an environment variable"),
        ({"environment": {"A": "c\0"}}, "NUL"),
        ({"command": ("x", "a\0b")}, "NUL"),
    ],
)
def test_what_the_system_cannot_pass_on_is_refused(changes, words):
    with pytest.raises(JobRejectedError, match=words):
        check_request("here", spec(**changes), {"a": {}}, Limits(), None)


def test_inputs_must_be_files_and_no_secrets(tmp_path):
    (tmp_path / "file").touch()
    for inputs, secrets, words in (
        ({"x": tmp_path}, {}, "its input 'x' is not a file"),
        ({"x": tmp_path / "none"}, {}, "its input 'x' is not a file"),
        ({"x": tmp_path / "file"}, {"x": b""}, "'x' is an input and a secret file at once"),
    ):
        with pytest.raises(JobRejectedError, match=words):
            check_request("here", spec(inputs=inputs), {"a": secrets}, Limits(), None)
    check_request("here", spec(inputs={"x": tmp_path / "file"}), {"a": {"y": b""}}, Limits(), None)


def test_a_submission_that_its_owner_is_just_removing_disturbs_no_other(tmp_path, monkeypatch):
    staging.prepare(tmp_path, Limits())
    (tmp_path / "staging" / "another").mkdir()
    hold = staging.hold

    def removed_meanwhile(path, *, wait):
        if path.parent.name == "another":
            path.parent.rmdir()
        return hold(path, wait=wait)

    monkeypatch.setattr(staging, "hold", removed_meanwhile)
    spec = JobSpec(("true",), Resources(), timedelta(minutes=1))
    added = staging.add(tmp_path, spec, {"a": {}}, term_grace_s=1, stopped=lambda: False)
    assert added == 1


def test_a_user_without_home_and_name_can_have_jobs_where_the_catalog_says(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    site = {"kind": "local", "title": "Here", "max_walltime": timedelta(hours=1)}
    with pytest.raises(OffloadError, match="has no directory for its jobs"):
        create("here", LocalSite(**site))
    create("here", LocalSite(**site, directory=str(tmp_path)))
    assert "HOME" not in staging._clean_environment()


async def test_a_loop_of_links_is_a_site_that_is_down(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    async with LocalBackend("here", directory=tmp_path / "loop" / "site") as backend:
        assert (await backend.health()).state is SiteState.DOWN
