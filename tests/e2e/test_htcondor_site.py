"""One job at a real CE: what is refused, held, lost and found again, and in which words."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
import uuid
from datetime import timedelta

import pytest

from offload_sites.errors import NotAuthorizedError, OffloadError, SiteUnavailableError
from offload_sites.htcondor import backend as backend_module
from offload_sites.htcondor.tokens import EnvironmentTokens
from offload_sites.jobs import ImageRef, JobSpec, JobState, Resources, SiteState
from tests.support.cutline import OnlyLine
from tests.support.netns import require_namespaces
from tests.support.processes import processes_below
from tests.support.waiting import eventually, scaled

pytestmark = pytest.mark.htcondor

MIB = 1024**2
IMAGE = ImageRef("python", cvmfs="/cvmfs/unpacked.infn.it/testbed/python:3.11")
NODE = Resources(96, 64 * MIB)


def shell(script, **changes):
    spec = JobSpec(("sh", "-c", script), Resources(1, 64 * MIB), timedelta(minutes=10), IMAGE)
    return dataclasses.replace(spec, **changes)


@pytest.fixture
async def site(pool):
    """Lend alice's back end; her jobs of the test are ended."""
    async with pool.backend() as site:
        yield site
        await site.cancel((await site.find("")).values())


@pytest.fixture
def key():
    return f"e2e-{uuid.uuid4().hex[:8]}"


async def until(site, handle, state, within_s=60):
    """Wait until a job is in `state`, and return its status."""

    async def reached():
        status = (await site.status([handle]))[handle]
        assert status.state is state, status
        return status

    return await eventually(reached, within_s=within_s)


# --- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (["--expired"], "refuses the token: the token has ended at"),
        (["--aud", "https://else.where"], "is meant for 'https://else.where', not for 'localhost:"),
        (["--user", "admin"], "refuses the token of 'admin' of 'https://localhost:"),
        (["--bad-signature"], "which looks good: it may not know this user, or not trust or"),
        (["--scope", "openid profile"], "does not allow compute.create"),
        (["--scope", "compute.read"], "does not allow compute.create"),
    ],
)
async def test_a_token_that_is_refused_is_told_with_the_reason(pool, key, token, says):
    async with pool.backend(token=pool.token(*token)) as site:
        with pytest.raises(NotAuthorizedError) as refusal:
            await site.submit(shell("exit 0"), {key: {}})
        assert says in refusal.value.message
        assert refusal.value.hint
        assert "eyJ" not in str(refusal.value)
    async with pool.backend() as alice:
        assert await alice.find(key) == {}


# Before and in the sign-in at the collector, at its very end, at the schedd's, after it.
@pytest.mark.parametrize("after", [0, 1600, 4300, 4820, 5600, 7600, 10400, 13000, 17000])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_submission_whose_line_is_cut_is_no_refusal_and_not_doubled(
    request, pool, site, key, after, how
):
    require_namespaces(request.config)
    with OnlyLine(pool.port("CE")) as line:
        line.cut(after, how)
        with line.inside():
            broken = await _outcome(site.submit(shell("sleep 600"), {key: {}}))
        assert line.passed == after
        assert isinstance(broken, SiteUnavailableError), broken
        assert "broke off" in broken.message
        line.cut()
        with line.inside():
            handles = await site.submit(shell("sleep 600"), {key: {}})
    assert await site.find(key) == handles
    text = pool.condor("ce", "condor_q", "-allusers", "-af", "OffloadKey", "JobStatus")
    assert [line.split()[0] for line in text.splitlines()].count(key) == 1


async def test_running_work_goes_on_with_a_token_that_has_ended(pool, site, key, tmp_path):
    handle = (await site.submit(shell("sleep 600"), {key: {}}))[key]
    await until(site, handle, JobState.RUNNING)
    file = tmp_path / "token"
    file.write_text(pool.token("--expired"))
    tokens = EnvironmentTokens("pool", environ={"BEARER_TOKEN_FILE": str(file)})
    late = backend_module.HTCondorBackend("pool", pool.site(), tokens)
    async with late:
        status = (await late.status([handle]))[handle]
        assert status.state is JobState.UNKNOWN
        assert "has ended at" in status.reason
        with pytest.raises(NotAuthorizedError, match="has ended at"):
            await late.submit(shell("exit 0"), {f"{key}-2": {}})
        file.write_text(pool.token())
        await until(late, handle, JobState.RUNNING, within_s=20)


async def test_users_who_share_an_account_do_not_see_or_touch_each_others_jobs(pool, site, key):
    handle = (await site.submit(shell("sleep 600"), {key: {}}))[key]
    async with pool.backend("carol") as carol:
        assert await carol.find("") == {}
        assert (await carol.status([handle]))[handle].state is JobState.UNKNOWN
        await carol.cancel([handle])
        with pytest.raises(OffloadError):
            await carol.logs(handle)
        assert (await carol.submit(shell("sleep 600"), {key: {}}))[key] != handle
        await carol.cancel((await carol.find("")).values())
    await until(site, handle, JobState.RUNNING)


# --- what a site says ----------------------------------------------------------------------------


async def test_a_job_that_uses_more_memory_than_it_asked_for_is_held_and_told_so(site, key):
    eats = "import time; kept = bytearray(400 * 1024**2); time.sleep(600)"
    spec = shell("").command
    spec = shell("", command=("python3", "-c", eats))
    handle = (await site.submit(spec, {key: {}}))[key]
    status = await until(site, handle, JobState.HELD)
    assert status.reason == "it used more memory than it had asked for"
    assert "memory" in status.said.lower()
    assert "ask for more memory" in status.hint


async def test_a_job_whose_file_is_lost_at_the_site_is_held_and_told_so(pool, site, key):
    busy = {f"{key}-busy-{number}": {} for number in range(4)}
    taken = await site.submit(shell("sleep 600", resources=NODE), busy)
    for handle in taken.values():
        await until(site, handle, JobState.RUNNING)
    handle = (await site.submit(shell("exit 0"), {key: {"secret": b"hush"}}))[key]
    await asyncio.to_thread(_lose, pool, handle.native_id)
    await site.cancel(taken.values())
    status = await until(site, handle, JobState.HELD)
    assert status.reason == "its input files could not be brought to the node"
    assert "secret" in status.said


def _lose(pool, native_id):
    """Delete the secret of a job from the spool of the CE, as a broken disk would."""
    cluster, proc = native_id.split(".")
    deadline = time.monotonic() + scaled(20)
    while True:
        found = [
            *(pool.state / "ce" / "spool").rglob(f"cluster{cluster}.proc{proc}.subproc0/secret")
        ]
        if found:
            found[0].unlink()
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


async def test_in_the_container_universe_a_bad_image_is_told(pool, key):
    async with pool.backend(container="universe") as site:
        image = ImageRef("x", cvmfs="/cvmfs/unpacked.infn.it/testbed/no-such:1")
        good, bad = f"{key}-good", f"{key}-bad"
        script = "python3 -c 'import os; print(os.uname())'; ls -l secret"
        ran = await site.submit(shell(script), {good: {"secret": b"hush"}})
        held = await site.submit(shell("exit 0", image=image), {bad: {}})
        await until(site, ran[good], JobState.COMPLETED)
        assert "-rw-------" in (await site.logs(ran[good])).stdout
        # Held where the site tests images first (HTCondor's default), failed where it does not.
        status = await until(site, held[bad], JobState.FAILED)
        assert "could not be started" in status.reason
        assert "no-such:1" in status.said


async def test_a_job_that_has_waited_for_as_long_as_it_is_wanted_is_removed_by_the_site(
    pool, site, key
):
    """Whatever has become of who submitted it: nobody asks for anything here."""
    busy = {f"{key}-busy-{number}": {} for number in range(4)}
    running = await site.submit(shell("sleep 600", resources=NODE), busy)
    for handle in running.values():
        await until(site, handle, JobState.RUNNING)
    spec = shell("exit 0", resources=NODE)
    for name, wait in (("short", timedelta(seconds=5)), ("long", timedelta(hours=1))):
        await site.submit(dataclasses.replace(spec, max_wait=wait), {f"{key}-{name}": {}})
    handles = await site.find(key)
    status = await until(site, handles[f"{key}-short"], JobState.CANCELED)
    assert "as long as it was wanted" in status.reason
    await until(site, handles[f"{key}-long"], JobState.QUEUED)


async def test_a_removed_job_says_who_has_removed_it(pool, site, key):
    handle = (await site.submit(shell("sleep 600"), {key: {}}))[key]
    await until(site, handle, JobState.RUNNING)
    await asyncio.to_thread(pool.as_account, "ce", "condor_rm", handle.native_id)
    status = await until(site, handle, JobState.CANCELED)
    assert status.reason == "it was removed by 'wp5' at the site"
    # also for a program that was not there when it happened
    async with pool.backend() as other:
        assert (await until(other, handle, JobState.CANCELED)).reason == status.reason


# --- a site that does not answer -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def stalls():
    """Give a list, in the end with the longest time for which the event loop did nothing else."""
    longest = [0.0]

    async def watch():
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest[0] = max(longest[0], time.monotonic() - before - 0.005)

    task = asyncio.create_task(watch())
    yield longest
    task.cancel()


async def test_a_ce_that_accepts_and_never_answers_blocks_nobody(pool, site, key, monkeypatch):
    for name in ("_QUERY_S", "_SUBMIT_S", "_HISTORY_S", "_LOGS_S", "_HEALTH_S"):
        monkeypatch.setattr(backend_module, name, scaled(3.0))
    handle = (await site.submit(shell("sleep 600"), {key: {}}))[key]
    await until(site, handle, JobState.RUNNING)
    with pool.frozen():
        site._poll.outdate()
        began = time.monotonic()
        async with stalls() as longest, asyncio.TaskGroup() as group:
            calls = [
                group.create_task(_outcome(call))
                for call in (
                    site.status([handle]),
                    site.find(""),
                    site.logs(handle),
                    site.cancel([handle]),
                    site.health(),
                    site.submit(shell("exit 0"), {f"{key}-2": {}}),
                )
            ]
        assert time.monotonic() - began < scaled(10)
        statuses, *errors, health, submitted = (call.result() for call in calls)
        status = statuses[handle]
        assert status.state is JobState.UNKNOWN
        assert "has not answered within" in status.reason
        assert {type(error) for error in (*errors, submitted)} == {SiteUnavailableError}
        assert health.state is SiteState.NO_ANSWER
        print(json.dumps({"longest stall of the event loop [s]": round(longest[0], 4)}))
        assert not processes_below("offload_sites/htcondor/child.py")
        # The pause before the next question comes from the back end: who asks does not wait.
        began = time.monotonic()
        await site.status([handle])
        assert time.monotonic() - began < 0.5
    # The request to cancel may have arrived: which of both is not known, and does not matter here.
    handles = await eventually(lambda: _found(site, f"{key}-2"), within_s=30)
    assert len(handles) <= 1


async def _outcome(call):
    try:
        return await call
    except OffloadError as error:
        return error


async def _found(site, key):
    with contextlib.suppress(SiteUnavailableError):
        return ((await site.find(key)),)
    return None


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
async def test_a_submission_that_the_ce_hears_late_is_not_doubled(
    pool, site, key, monkeypatch, after_s
):
    """The CE freezes somewhere within the submission; the client gives up; the CE goes on."""
    monkeypatch.setattr(backend_module, "_SUBMIT_S", scaled(2.0))
    keys = {f"{key}-{number}": {"secret": b"x"} for number in range(3)}
    marks = f"echo ran >> /tmp/{key}-$OFFLOAD_JOB; sleep 600"
    submit = asyncio.create_task(_outcome(site.submit(shell(marks), keys)))
    await asyncio.sleep(after_s)
    with pool.frozen():
        first = await submit
    monkeypatch.setattr(backend_module, "_SUBMIT_S", 90.0)
    again = await site.submit(shell(marks), keys)
    if not isinstance(first, OffloadError):
        assert first == again
    for handle in again.values():
        await until(site, handle, JobState.RUNNING)
    assert await site.find(key) == again
    rule = f'regexp("^{key}-", OffloadKey)'
    text = pool.condor("pool", "condor_q", "-allusers", "-constraint", rule, "-af", "OffloadKey")
    assert sorted(text.split()) == sorted(keys), "each runs once"
    await site.cancel(again.values())


async def test_a_submission_whose_program_was_killed_is_completed_by_the_next_one(pool, key):
    """As the hub or a supervisor that dies: nobody knows which submissions were its own."""
    keys = {f"{key}-{number}": {"secret": b"x"} for number in range(2)}
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(sys.path[-1])!r})
from pathlib import Path
from tests.e2e.test_htcondor_site import shell
from tests.support.condorkit import Pool
async def main():
    async with Pool(Path({str(pool.state)!r})).backend() as site:
        print("go", flush=True)
        await site.submit(shell("sleep 600"), {keys!r})
asyncio.run(main())
"""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert await program.stdout.readline() == b"go\n"
    await asyncio.sleep(0.15)
    program.kill()
    await program.wait()
    async with pool.backend() as site:
        handles = await site.submit(shell("sleep 600"), keys)
        for handle in handles.values():
            await until(site, handle, JobState.RUNNING)
        assert await site.find(key) == handles
        await site.cancel(handles.values())
