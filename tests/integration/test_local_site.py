"""What is special to the site kind `local`: processes, crashes, the queue, the directory."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from offload_sites.errors import JobRejectedError, OffloadError, SiteUnavailableError
from offload_sites.jobs import JobHandle, JobSpec, JobState, Resources, SiteHealth, SiteState
from offload_sites.local import LocalBackend, store
from tests.support import crashing
from tests.support.processes import assert_no_process_below, processes_below
from tests.support.waiting import eventually, scaled

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to set the scene")


@pytest.fixture
def place(tmp_path):
    yield tmp_path
    try:
        assert_no_process_below(tmp_path)
    finally:
        for pid in processes_below(tmp_path):
            os.kill(pid, signal.SIGKILL)
    for log in tmp_path.rglob("runner.log"):
        assert log.read_text() == ""


def site(place, **settings):
    return LocalBackend("local", directory=place / "site", **{"term_grace_s": 1, **settings})


def shell(script, *, cpus=1, gpus=0, walltime_s=600.0, **changes):
    asked = Resources(cpus=cpus, gpus=gpus)
    return JobSpec(("sh", "-c", script), asked, timedelta(seconds=walltime_s), **changes)


async def submit(backend, spec, *keys):
    return await backend.submit(spec, {key: {} for key in keys})


async def states(backend, handles):
    handles = list(handles)
    seen = await backend.status(handles)
    return [seen[handle].state for handle in handles]


async def until(backend, handles, *wanted):
    """Wait until each of `handles` is in one of these states; return the last status."""
    handles = list(handles)

    async def reached():
        seen = await backend.status(handles)
        assert all(status.state in wanted for status in seen.values()), seen
        return [seen[handle] for handle in handles] or [None]

    return (await eventually(reached, within_s=60))[-1]


ENDED = [state for state in JobState if state.ended]


async def cancel_all(backend):
    handles = (await backend.find("")).values()
    await backend.cancel(handles)
    await until(backend, handles, *ENDED)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


async def eventually_lines(path, count):
    return await eventually(lambda: len(lines(path)) >= count and lines(path), within_s=60)


def runner_of(place, key):
    return json.loads((place / "site" / "jobs" / key / "start.json").read_text())["pid"]


# How a job ends


async def test_each_gpu_of_the_machine_is_seen_by_one_job_at_a_time(place):
    async with site(place, node=Resources(8, 64 * 1024**3, 3)) as backend:
        spec = shell('echo "<$CUDA_VISIBLE_DEVICES>"; sleep 3600', gpus=1)
        none = await submit(backend, shell('echo "<$CUDA_VISIBLE_DEVICES>"'), "none")
        both = await submit(backend, shell(spec.command[-1], gpus=2), "two")
        running = {**both, **await submit(backend, spec, "one")}
        waiting = await submit(backend, spec, "more")
        await until(backend, running.values(), JobState.RUNNING)
        await until(backend, none.values(), JobState.COMPLETED)

        for handle, text in zip(
            [*running.values(), none["none"]], ("<0,1>", "<2>", "<>"), strict=True
        ):
            await eventually(lambda h=handle, t=text: _logged(backend, h, t))
        (status,) = (await backend.status(waiting.values())).values()
        assert (status.state, "3 of 3 GPUs in use" in status.reason) == (JobState.QUEUED, True)
        await backend.cancel([both["two"]])
        await until(backend, waiting.values(), JobState.RUNNING)
        await eventually(lambda: _logged(backend, waiting["more"], "<0>"))
        await cancel_all(backend)


async def _logged(backend, handle, text):
    try:
        return (await backend.logs(handle)).stdout.strip() == text
    except OffloadError:  # it runs, and has written nothing yet
        return False


async def test_a_command_that_is_not_there_fails_with_its_name(place):
    backend = site(place)
    spec = JobSpec(("no-such-command", "x"), Resources(), timedelta(minutes=1))
    status = await until(backend, (await submit(backend, spec, "a")).values(), *ENDED)
    assert status.state is JobState.FAILED
    assert status.reason == "the command 'no-such-command' was not found"
    assert status.said == "No such file or directory"
    assert status.exit_code is None


async def test_a_file_that_is_no_program_fails_in_the_words_of_the_system(place):
    backend = site(place)
    spec = JobSpec(("/etc/passwd",), Resources(), timedelta(minutes=1))
    status = await until(backend, (await submit(backend, spec, "a")).values(), *ENDED)
    assert (status.state, status.said) == (JobState.FAILED, "Permission denied")
    assert status.reason == "the command '/etc/passwd' could not be started"


async def test_a_command_killed_by_a_signal_fails_with_its_name(place):
    backend = site(place)
    status = await until(
        backend, (await submit(backend, shell("kill -9 $$"), "a")).values(), *ENDED
    )
    assert (status.state, status.exit_code) == (JobState.FAILED, -9)
    assert status.reason == "the command was killed by signal 9 (SIGKILL)"
    assert "memory" in status.hint


async def test_a_job_that_ignores_sigterm_is_killed_after_the_grace_time(place):
    backend = site(place, term_grace_s=0.2)
    script = "trap 'echo ignored' TERM; echo ready; while true; do sleep 0.05; done"
    (handle,) = (await submit(backend, shell(script), "a")).values()
    await eventually(lambda: lines(place / "site/jobs/a/stdout") == ["ready"])
    await backend.cancel([handle])
    status = await until(backend, [handle], *ENDED)
    assert (status.state, status.exit_code) == (JobState.CANCELED, -9)
    assert "ignored" in (await backend.logs(handle)).stdout


async def test_a_job_may_use_the_grace_time_to_end_in_order(place):
    backend = site(place, term_grace_s=60)
    script = "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.05; done"
    (handle,) = (await submit(backend, shell(script), "a")).values()
    await eventually(lambda: lines(place / "site/jobs/a/stdout") == ["ready"])
    await backend.cancel([handle])
    status = await until(backend, [handle], *ENDED)
    assert (status.state, status.exit_code) == (JobState.CANCELED, 5)
    assert (await backend.logs(handle)).stdout.splitlines()[-1] == "bye"


async def test_what_a_command_leaves_in_the_background_ends_with_it(place):
    backend = site(place)
    script = "sleep 3600 & (setsid sleep 3600 &) ; (env -i setsid sleep 3600 >/dev/null 2>&1 &)"
    (handle,) = (await submit(backend, shell(script), "a")).values()
    status = await until(backend, [handle], *ENDED)
    assert status.state is JobState.COMPLETED
    assert processes_below(place / "site" / "jobs") == {}


async def test_walltime_ends_a_whole_tree_and_says_so(place):
    backend = site(place)
    script = "(setsid sh -c 'sleep 3600 & sleep 3600' &) ; sleep 3600"
    (handle,) = (await submit(backend, shell(script, walltime_s=0.5), "a")).values()
    status = await until(backend, [handle], *ENDED)
    assert status.state is JobState.TIMED_OUT
    assert status.reason == "its walltime of 0:00:00.500000 was used up"
    assert processes_below(place / "site" / "jobs") == {}


# When the runner is killed


TREE = """
    sleep 3600 & (setsid sleep 3600 &) ; (env -i setsid sleep 3600 &)
    echo ready; sleep 3600
"""


async def test_a_job_whose_runner_is_killed_has_failed_and_nothing_of_it_runs(place):
    backend = site(place, max_jobs=1)
    (handle,) = (await backend.submit(shell(TREE), {"a": {"secret": b"hush"}})).values()
    waiting = await submit(backend, shell("exit 0"), "b")
    await eventually(lambda: lines(place / "site/jobs/a/stdout") == ["ready"])
    os.kill(runner_of(place, "a"), signal.SIGKILL)
    status = await until(backend, [handle], *ENDED)
    assert status.state is JobState.FAILED
    assert status.reason == "its runner, the process that watches over it, was killed"
    assert status.hint
    assert processes_below(place / "site" / "jobs" / "a") == {}
    assert not list(place.rglob("secret"))
    await until(backend, waiting.values(), JobState.COMPLETED)
    assert await states(backend, [handle]) == [JobState.FAILED]


async def test_the_command_dies_with_its_runner_before_anybody_looks(place):
    backend = site(place)
    await submit(backend, shell("exec sleep 3600"), "a")
    await eventually(lambda: processes_below(place / "site" / "jobs" / "a"))
    os.kill(runner_of(place, "a"), signal.SIGKILL)
    await eventually(lambda: not processes_below(place))
    await cancel_all(backend)


async def test_after_a_restart_of_the_machine_its_jobs_have_failed(place):
    backend = site(place)
    (handle,) = (await submit(backend, shell("sleep 3600"), "a")).values()
    await until(backend, [handle], JobState.RUNNING)
    start = place / "site/jobs/a/start.json"
    record = json.loads(start.read_text())
    start.write_text(json.dumps({**record, "machine": "another boot"}))
    os.kill(record["pid"], signal.SIGKILL)
    status = await until(backend, [handle], *ENDED)
    assert status.state is JobState.FAILED
    assert status.reason == "the machine, or the container it ran in, was restarted"


async def test_a_runner_that_is_told_to_stop_ends_its_job_and_starts_no_other(place):
    backend = site(place, max_jobs=1)
    await submit(backend, shell("sleep 3600"), "a", "b")
    await eventually((place / "site/jobs/a/start.json").exists)
    os.kill(runner_of(place, "a"), signal.SIGTERM)
    await eventually(lambda: not processes_below(place))
    assert not (place / "site/jobs/b/start.json").exists()
    status = (await backend.status([JobHandle("local", "a")])).popitem()[1]
    assert status.state is JobState.CANCELED
    assert "shutdown" in status.reason
    await cancel_all(backend)


# When the submitter, or whoever turns the queue, is killed


def crash(what, place, jobs, steps):
    argv = [sys.executable, crashing.__file__, what, str(place), str(jobs), *map(str, steps)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment)
    return [int(number) for number in told.stdout.split()]


COUNT = 6


def steps_of(what, place):
    """Return some 40 steps spread over all that the work takes."""
    scene = place / "whole"
    scene.mkdir()
    # Some runs look at the queue once more than others: the fewest steps are those that all take.
    total = min(crash(what, scene, COUNT, range(10**9, 10**9 + 6)))
    assert total > 40
    return range(1, total + 1, max(1, total // 40))


async def test_a_submitter_killed_anywhere_leaves_jobs_that_are_found_and_run_once(place):
    steps = steps_of("submit", place)
    killed = crash("submit", place, COUNT, steps).count(-1)
    assert killed >= len(steps) - 3  # how many steps it takes varies a little
    wanted = {f"job-{number}" for number in range(COUNT)}
    found_by_step = {}
    for step in steps:
        backend = crashing.backend(place / str(step))
        found = found_by_step[step] = set(await backend.find("job-"))
        assert found <= wanted
        await backend.status([JobHandle("local", key) for key in found])
        await crashing.submit(place / str(step), COUNT)
        handles = await backend.find("")
        assert set(handles) == wanted
        await until(backend, handles.values(), JobState.COMPLETED)
        ran = Counter(Path(line).parent.name for line in lines(place / str(step) / "ran"))
        assert ran == Counter(wanted)
        assert not list((place / str(step)).rglob("staging/*"))
    # Or the steps did not reach what they are for.
    assert any(not found for found in found_by_step.values())
    assert any(found == wanted for found in found_by_step.values())
    assert any(found and found != wanted for found in found_by_step.values())


async def test_no_job_runs_twice_wherever_the_processes_that_start_and_run_it_are_killed(place):
    steps = steps_of("turn", place)
    crash("turn", place, COUNT, steps)
    outcomes = Counter()
    for step in steps:
        backend = crashing.backend(place / str(step))
        handles = await backend.find("")
        assert len(handles) == COUNT
        await until(backend, handles.values(), JobState.COMPLETED, JobState.FAILED)
        seen = await backend.status(handles.values())
        ran = Counter(Path(line).parent.name for line in lines(place / str(step) / "ran"))
        for key, handle in handles.items():
            state = seen[handle].state
            outcomes[state] += 1
            assert ran[key] <= 1
            assert state is JobState.FAILED or ran[key] == 1
        assert not list((place / str(step)).rglob("secret"))
    assert outcomes[JobState.FAILED]  # or the steps did not reach what they are for
    assert outcomes[JobState.COMPLETED] > outcomes[JobState.FAILED]


# The queue


async def test_jobs_beyond_the_limit_wait_and_start_in_their_order(place):
    backend = site(place, max_jobs=1)
    spec = shell('echo "$PWD" >> "$RAN"', environment={"RAN": str(place / "ran")})
    gate = await submit(backend, shell("sleep 3600"), "gate")
    keys = [f"job-{number}" for number in (3, 1, 2)]
    handles = await submit(backend, spec, *keys)
    handles.update(await submit(backend, spec, "job-0"))
    seen = await backend.status(handles.values())
    assert [seen[handles[key]].reason for key in [*keys, "job-0"]] == [
        "it is the next to start; 1 of 1 jobs running",
        "1 job is ahead; 1 of 1 jobs running",
        "2 jobs are ahead; 1 of 1 jobs running",
        "3 jobs are ahead; 1 of 1 jobs running",
    ]
    assert {status.state for status in seen.values()} == {JobState.QUEUED}
    assert (await backend.health()).state is SiteState.FULL
    await backend.cancel(gate.values())
    await until(backend, handles.values(), JobState.COMPLETED)
    assert [Path(line).parent.name for line in lines(place / "ran")] == [*keys, "job-0"]


async def test_a_small_job_does_not_overtake_a_large_one(place):
    backend = site(place, cpus=4)
    first = await submit(backend, shell("sleep 3600", cpus=3), "first")
    large = await submit(backend, shell("sleep 3600", cpus=4), "large")
    small = await submit(backend, shell("sleep 3600", cpus=1), "small")
    assert (await backend.health()).free_cpus == 1
    handles = [*first.values(), *large.values(), *small.values()]
    assert await states(backend, handles) == [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED]
    seen = await backend.status(small.values())
    assert seen.popitem()[1].reason == "1 job is ahead; 3 of 4 CPUs in use"
    await backend.cancel(first.values())
    await until(backend, large.values(), JobState.RUNNING)
    await backend.cancel(large.values())
    await until(backend, small.values(), JobState.RUNNING)
    await cancel_all(backend)


async def test_a_job_larger_than_the_site_is_refused_with_the_limit(place):
    backend = site(place, cpus=4, node=Resources(8, 2 * 1024**3, 1))
    for asked, words in (
        (Resources(cpus=5, memory_bytes=1), "it asks for 5 CPUs, and the site has 4"),
        (Resources(memory_bytes=3 * 1024**3), "3 GiB of memory, and the site has 2 GiB"),
        (Resources(memory_bytes=1, gpus=2), "it asks for 2 GPUs, and the site has 1"),
    ):
        with pytest.raises(JobRejectedError, match=words):
            await submit(backend, JobSpec(("true",), asked, timedelta(1)), "a")
    assert await backend.find("") == {}


async def test_a_job_accepted_before_the_limit_was_lowered_runs_alone(place):
    gate = await submit(site(place, cpus=8), shell("sleep 3600"), "gate")
    large = await submit(site(place, cpus=8), shell("exit 0", cpus=8), "large")
    backend = site(place, cpus=2)
    assert await states(backend, large.values()) == [JobState.QUEUED]
    await backend.cancel(gate.values())
    await until(backend, large.values(), JobState.COMPLETED)


SUBMITTER = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from offload_sites.jobs import JobSpec, Resources
from offload_sites.local import LocalBackend

async def main(place):
    async with LocalBackend("local", directory=place / "site", max_jobs=1) as backend:
        script = 'sleep 0.05; echo $PWD >> "$RAN"'
        environment = {"RAN": str(place / "ran")}
        spec = JobSpec(("sh", "-c", script), Resources(), timedelta(1), environment=environment)
        await backend.submit(spec, {f"job-{n}": {} for n in range(8)})

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_the_queue_goes_on_after_its_submitter_has_ended(place):
    subprocess.run([sys.executable, "-c", SUBMITTER, str(place)], check=True, timeout=scaled(60))
    # Nobody asks for the status here: that would turn the queue.
    ran = await eventually_lines(place / "ran", 8)
    assert [Path(line).parent.name for line in ran] == [f"job-{n}" for n in range(8)]
    await eventually(lambda: not processes_below(place))


async def test_a_hundred_jobs_one_after_the_other_need_no_submitter(place):
    backend = site(place, max_jobs=1)
    spec = shell('echo "$PWD" >> "$RAN"', environment={"RAN": str(place / "ran")})
    keys = [f"job-{number}" for number in range(100)]
    handles = await submit(backend, spec, *keys)
    ran = await eventually_lines(place / "ran", 100)
    assert [Path(line).parent.name for line in ran] == keys
    await until(backend, handles.values(), JobState.COMPLETED)


async def test_200_jobs_at_once_are_a_matter_of_seconds(place):
    backend = site(place)
    spec = shell('echo "$PWD" >> "$RAN"', environment={"RAN": str(place / "ran")})
    begin = time.monotonic()
    handles = await submit(backend, spec, *(f"job-{number}" for number in range(200)))
    await until(backend, handles.values(), JobState.COMPLETED)
    assert time.monotonic() - begin < scaled(30)  # 1.2 s on two idle cores
    assert len(set(lines(place / "ran"))) == len(lines(place / "ran")) == 200


async def test_two_back_ends_share_a_directory_and_its_limits(place):
    one, two = site(place, max_jobs=3), site(place, max_jobs=3)
    script = """echo start >> "$RAN"; sleep 0.02; echo end >> "$RAN" """
    spec = shell(script, environment={"RAN": str(place / "ran")})
    keys = [f"job-{number}" for number in range(30)]
    first, second = await asyncio.gather(
        submit(one, spec, *keys[:20]), submit(two, spec, *keys[10:])
    )
    handles = [*(first | second).values()]
    await asyncio.gather(
        until(one, handles, JobState.COMPLETED), until(two, handles, JobState.COMPLETED)
    )
    steps = [1 if line == "start" else -1 for line in lines(place / "ran")]
    assert len(steps) == 60
    assert max(itertools.accumulate(steps)) <= 3


async def test_many_cancels_and_submits_at_once_leave_a_consistent_queue(place):
    backends = [site(place, max_jobs=4) for _ in range(3)]

    async def churn(backend, number):
        for turn in range(5):
            keys = [f"job-{number}-{turn}-{index}" for index in range(6)]
            handles = [*(await submit(backend, shell("sleep 0.02"), *keys)).values()]
            await backend.cancel(handles[::2])
            await backend.status(handles)

    await asyncio.gather(*(churn(backend, n) for n, backend in enumerate(backends)))
    handles = await backends[0].find("")
    assert len(handles) == 90
    await until(backends[0], handles.values(), JobState.COMPLETED, JobState.CANCELED)


# What a job gets


async def test_a_job_and_its_runner_know_nothing_of_the_submitters_environment(place, monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "hush-hush")
    backend = site(place)
    spec = shell("env; sleep 3600", environment={"MINE": "yes"})
    await submit(backend, spec, "a")
    await eventually(
        lambda: any("MINE=yes" in line for line in lines(place / "site/jobs/a/stdout"))
    )
    told = dict(line.split("=", 1) for line in lines(place / "site/jobs/a/stdout"))
    wanted = {"PATH", "HOME", "LANG", "USER", "LOGNAME", "TMPDIR", "MINE", "OFFLOAD_LOCAL_JOB"}
    assert set(told) - {"PWD", "OLDPWD", "SHLVL", "_"} == wanted
    for pid in processes_below(place):
        assert b"hush-hush" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert "hush-hush" not in (place / "site/jobs/a/order.json").read_text()
    await cancel_all(backend)


async def test_temporary_files_are_in_the_job_and_their_path_has_room_for_a_socket(place):
    backend = site(place)
    script = """echo "$TMPDIR"; touch "$TMPDIR/file"; realpath "$TMPDIR/file" """
    (handle,) = (await submit(backend, shell(script), "a")).values()
    await until(backend, [handle], JobState.COMPLETED)
    tmpdir, file = (await backend.logs(handle)).stdout.splitlines()
    assert file == str(place / "site/jobs/a/tmp/file")
    assert len(tmpdir) < 40
    assert not os.path.lexists(tmpdir)
    assert not list(place.rglob("file"))


async def test_inputs_are_as_they_were_at_the_submit_and_executable_if_they_were(place):
    backend = site(place, max_jobs=1)
    program = place / "program"
    program.write_text("#!/bin/sh\necho first\n")
    program.chmod(0o755)
    gate = await submit(backend, shell("sleep 3600"), "gate")
    handles = await submit(backend, shell("./program", inputs={"program": program}), "a", "b")
    program.write_text("#!/bin/sh\necho second\n")
    await backend.cancel(gate.values())
    await until(backend, handles.values(), JobState.COMPLETED)
    for handle in handles.values():
        assert (await backend.logs(handle)).stdout == "first\n"


@pytest.mark.parametrize("name", ["../up", "/abs", "a/b", "..", ".", ""])
async def test_files_of_a_job_cannot_be_written_elsewhere(place, name):
    backend = site(place)
    with pytest.raises(JobRejectedError, match="not the plain name"):
        await backend.submit(shell("true"), {"a": {name: b"x"}})
    with pytest.raises(JobRejectedError, match="not the plain name"):
        await submit(backend, shell("true", inputs={name: Path(__file__)}), "a")


async def test_the_submitter_has_no_child_left(place):
    before = set(psutil.Process().children())
    backend = site(place)
    handles = await submit(backend, shell("sleep 3600"), "a", "b")
    await until(backend, handles.values(), JobState.RUNNING)
    assert set(psutil.Process().children()) <= before
    await cancel_all(backend)


# The directory


async def test_the_directory_is_for_its_user_alone(place):
    backend = site(place)
    await submit(backend, shell("true"), "a")
    assert (place / "site").stat().st_mode & 0o777 == 0o700
    await cancel_all(backend)


async def assert_unusable(backend, words):
    """Check that each call says in its way that the directory cannot be used."""
    stranger = JobHandle("local", "a")
    health = await backend.health()
    assert health.state is SiteState.DOWN
    assert words in health.reason
    status = (await backend.status([stranger]))[stranger]
    assert status.state is JobState.UNKNOWN
    assert words in status.reason
    for call in (
        submit(backend, shell("true"), "a"),
        backend.find(""),
        backend.cancel([stranger]),
        backend.logs(stranger),
    ):
        with pytest.raises(SiteUnavailableError, match=words):
            await call


async def test_a_directory_that_cannot_be_made_is_said_and_not_raised_by_health(place):
    (place / "site").write_text("a file")
    await assert_unusable(site(place), "File exists")


async def test_a_directory_that_others_may_write_to_is_not_used(place):
    (place / "site").mkdir()
    (place / "site").chmod(0o777)
    await assert_unusable(site(place), "other users may write to it")


@needs_root
async def test_the_directory_of_another_user_is_not_used(place):
    (place / "site").mkdir(mode=0o700)
    os.chown(place / "site", 65534, -1)
    await assert_unusable(site(place), "it belongs to another user")


async def test_a_directory_that_was_removed_is_made_again(place):
    backend = site(place)
    await submit(backend, shell("true"), "a")
    await cancel_all(backend)
    subprocess.run(["rm", "-r", str(place / "site")], check=True)
    await backend.health()
    handles = await submit(backend, shell("true"), "b")
    await until(backend, handles.values(), JobState.COMPLETED)


@pytest.fixture
def small_disk(place):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(place / "disk")]
    (place / "disk").mkdir()
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place / "disk"
    subprocess.run(["umount", "--lazy", str(place / "disk")], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)


async def test_a_full_disk_refuses_new_jobs_and_keeps_what_runs(place, small_disk):
    backend = LocalBackend("local", directory=small_disk / "site", max_jobs=1)
    script = 'until [ -e "$GO" ]; do sleep 0.01; done'
    running = await submit(backend, shell(script, environment={"GO": str(place / "go")}), "a")
    await until(backend, running.values(), JobState.RUNNING)
    fill(small_disk)
    with pytest.raises(SiteUnavailableError, match="No space left"):
        await submit(backend, shell("true"), "b", "c")
    assert set(await backend.find("")) == {"a"}
    health = await backend.health()
    assert health.state is SiteState.DOWN
    assert "No space left" in health.reason
    (place / "go").touch()
    await until(backend, running.values(), JobState.COMPLETED)  # its record had its room
    (small_disk / "filler").unlink()
    handles = await submit(backend, shell("true"), "b", "c")
    await until(backend, handles.values(), JobState.COMPLETED)


async def test_a_damaged_job_fails_and_does_not_stop_the_queue(place):
    backend = site(place, max_jobs=1)
    await submit(backend, shell("sleep 3600"), "gate")
    handles = await submit(backend, shell("true"), "a", "b", "c")
    (place / "site/jobs/a/order.json").write_text("")
    (place / "site/jobs/b/ticket.json").write_text("{")
    await backend.cancel([JobHandle("local", "gate")])
    await until(backend, handles.values(), *ENDED)
    assert await states(backend, handles.values()) == [
        JobState.FAILED,
        JobState.COMPLETED,
        JobState.COMPLETED,
    ]


async def test_jobs_wait_and_the_site_is_degraded_while_nothing_can_be_started(place, monkeypatch):
    backend = site(place)
    monkeypatch.setattr(sys, "executable", "/no/python")
    handles = await submit(backend, shell("true"), "a")
    assert await states(backend, handles.values()) == [JobState.QUEUED]
    assert (await backend.health()).state is SiteState.DEGRADED
    monkeypatch.undo()
    await until(backend, handles.values(), JobState.COMPLETED)
    assert (await backend.health()).state is SiteState.UP


async def test_old_jobs_are_forgotten_at_the_next_submit(place):
    backend = site(place)
    handles = await submit(backend, shell("true"), "old", "new")
    await until(backend, handles.values(), JobState.COMPLETED)
    week_ago = time.time() - 8 * 86400
    os.utime(place / "site/ended/old/end.json", (week_ago, week_ago))
    await submit(backend, shell("true"), "another")
    assert set(await backend.find("")) == {"new", "another"}
    assert await states(backend, [handles["old"]]) == [JobState.UNKNOWN]
    await cancel_all(backend)


async def test_a_directory_that_does_not_answer_takes_no_threads_of_others(place, monkeypatch):
    """As on a file server that is down: calls stay where they are, and are given up by who waits."""
    backend = site(place)
    asked, answers = threading.Event(), threading.Event()

    def health(_):
        asked.set()
        answers.wait()
        return SiteHealth(SiteState.UP)

    monkeypatch.setattr(store, "health", health)
    asking = [asyncio.create_task(backend.health()) for _ in range(100)]
    await eventually(asked.is_set)
    try:
        async with asyncio.timeout(scaled(20)):
            assert await asyncio.to_thread(lambda: "of somebody else") == "of somebody else"
    finally:
        answers.set()
    assert {(await one).state for one in asking} == {SiteState.UP}
