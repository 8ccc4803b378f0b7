"""A session followed at a site and a relay that do what the test says."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from interlink_spawner.desk import Desk
from interlink_spawner.failures import Moved, Refused, SessionEnded
from interlink_spawner.live import LiveSession
from interlink_spawner.poller import Poller
from interlink_spawner.session import Session, Stage
from offload_relay.access import RelayAccess
from offload_relay.lease import new_key
from offload_sites.errors import CatalogError, LedgerError
from offload_sites.jobs import JobSpec, JobState, Resources
from offload_sites.ledger import Ledger
from offload_sites.testing import FakeSite, eventually
from tests.support.sessionkit import new_session

SPEC = JobSpec(("true",), Resources(), timedelta(hours=1))
LIMIT = timedelta(minutes=30)


class FakeRelay:
    """Stands for `Owner`: the test says which agents there are."""

    def __init__(self):
        self.agents, self.told, self.closed = {}, [], 0

    def __call__(self, url, lease, on_change, *, tls):
        self.on_change = on_change
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        self.closed += 1

    async def gone(self, jobs, reason):
        self.told += jobs

    def says(self, key, state, **more):
        entry = {"job": key, "state": state, "since_s": datetime.now(UTC).timestamp(), **more}
        self.agents[key] = {"endpoints": 1 if state == "connected" else 0, **entry}
        self.on_change()


class Kit:
    def __init__(self, place):
        self.time = datetime.now(UTC)
        self.site = FakeSite("farm", clock=lambda: self.time)
        self.relay = FakeRelay()
        self.ledger = Ledger(f"sqlite:///{place}/ledger.sqlite")
        access = RelayAccess("ws://127.0.0.1:1", "", new_key(), gateway="127.0.0.1:2")
        self.desk = Desk(
            place / "catalog.yaml", access, lambda: self.ledger, clock=lambda: self.time
        )
        self.stored: list[Session] = []
        self.answering = True
        self.unknown = False
        self.live = self.follow(new_session(asked=self.time, marks={Stage.SUBMITTED: self.time}))

    def follow(self, session):
        poller = Poller(self.site, first_s=0.01, most_s=0.02)

        async def find():
            if self.unknown:
                raise CatalogError(["catalog.yaml: cannot be read"])
            return poller

        return LiveSession(session, self.desk, find, self.stored.append, watch=self.relay)

    async def submit(self):
        await self.live.submit(lambda _: (SPEC, {"secret": b"x"}))

    async def until_ready(self):
        async def answers():
            return self.answering

        async with asyncio.timeout(20):
            await self.live.until_ready(answers, start_limit=LIMIT)

    async def run(self):
        """Submit, and let the agent come."""
        await self.submit()
        self.site.start("s1-1")
        self.relay.says("s1-1", "connected")
        await self.until_ready()


@pytest.fixture
async def kit(tmp_path):
    kit = Kit(tmp_path)
    await kit.live.open()
    yield kit
    await kit.live.close()
    await kit.live.poller.close()
    await kit.desk.close()
    kit.ledger.close()


async def test_a_session_is_ready_when_its_server_answers(kit):
    await kit.run()
    assert kit.live.session.ready
    assert kit.stored[-1] == kit.live.session
    await eventually(lambda: kit.ledger.job("s1-1").connected is not None)


async def test_it_is_not_ready_before_its_server_answers(kit):
    kit.answering = False
    await kit.submit()
    kit.site.start("s1-1")
    kit.relay.says("s1-1", "connected")
    waiting = asyncio.create_task(kit.until_ready())
    await eventually(lambda: kit.live.session.stage is Stage.LAB)
    assert not waiting.done()
    kit.answering = True
    await waiting


async def test_a_job_is_in_the_ledger_before_it_is_sent(kit):
    seen = []
    works = kit.site.submit

    async def submit(spec, jobs):
        seen.append(kit.ledger.job("s1-1"))
        return await works(spec, jobs)

    kit.site.submit = submit
    await kit.submit()
    assert seen[0] is not None


async def test_nothing_is_sent_that_cannot_be_written_down(kit):
    def fails(_):
        raise LedgerError("the ledger cannot be written: disk full")

    kit.ledger.record = fails
    with pytest.raises(SessionEnded) as caught:
        await kit.submit()
    assert caught.value.end.said == "The ledger cannot be written: disk full."
    assert not kit.site.jobs


async def test_a_silent_site_is_sent_the_same_job_again_under_the_same_key(kit, monkeypatch):
    monkeypatch.setattr("interlink_spawner.live._RETRY_MOST_S", 0.01)
    kit.site.break_next_submit()
    kit.site.break_next_submit(after=0)
    await kit.submit()
    assert [call.about for call in kit.site.calls if call.method == "submit"] == [("s1-1",)] * 3
    assert len(kit.site.jobs) == 1


async def test_a_site_that_is_silent_for_as_long_as_the_queue_may_last_is_given_up(
    kit, monkeypatch
):
    monkeypatch.setattr("interlink_spawner.live._RETRY_MOST_S", 0.01)
    kit.site.silent = True
    submitting = asyncio.create_task(kit.submit())
    await eventually(lambda: kit.live.session.silent_since is not None)
    kit.time += timedelta(hours=7)
    with pytest.raises(SessionEnded, match="did not answer"):
        await submitting


async def test_a_refusal_leaves_nothing_and_lets_another_site_try(kit):
    kit.site.rejects = "96 CPUs asked, at most 64 allowed"
    with pytest.raises(Refused) as caught:
        await kit.submit()
    assert caught.value.end.said == "96 CPUs asked, at most 64 allowed."
    assert kit.live.session.ended
    await eventually(lambda: kit.ledger.job("s1-1").state is JobState.FAILED)


async def test_news_that_cannot_be_stored_keep_no_session_from_hearing_of_its_job(kit):
    def fails(_):
        raise OSError("database is locked")

    await kit.submit()
    (poller, handle), heard = (kit.live.poller, kit.live.session.handle), []
    poller.watch(handle, heard.append)  # another session at this site
    kit.live._on_change = fails
    kit.site.start("s1-1")
    await eventually(lambda: kit.live.session.stage is Stage.STARTING)
    await eventually(lambda: heard and heard[-1].state is JobState.RUNNING)
    kit.relay.says("s1-1", "connected")
    await kit.until_ready()
    poller.unwatch(handle, heard.append)


async def test_the_agents_words_are_waited_for(kit):
    await kit.submit()
    kit.site.start("s1-1")
    kit.relay.says("s1-1", "connected", endpoints=0)
    waiting = asyncio.create_task(kit.until_ready())
    kit.site.fail("s1-1", exit_code=78, reason="its command ended with exit code 78")
    await eventually(lambda: kit.live.session.status.state is JobState.FAILED)
    kit.relay.says("s1-1", "ended", reason="this image has no jupyterhub-singleuser", exit_code=78)
    with pytest.raises(SessionEnded, match="this image has no jupyterhub-singleuser"):
        await waiting


async def test_a_queue_budget_that_is_over_ends_the_wait(kit):
    await kit.submit()
    kit.time += timedelta(hours=6, seconds=1)
    with pytest.raises(SessionEnded, match="did not start the job within 6 h"):
        await kit.until_ready()


async def test_a_job_whose_agent_never_comes_is_given_up(kit):
    await kit.submit()
    kit.site.start("s1-1")
    await eventually(lambda: kit.live.session.stage is Stage.STARTING)
    kit.time += timedelta(minutes=31)
    with pytest.raises(SessionEnded, match="no agent came from the job within 30 min"):
        await kit.until_ready()


async def test_a_running_job_whose_site_fell_silent_is_waited_for(kit):
    await kit.submit()
    kit.site.start("s1-1")
    await eventually(lambda: kit.live.session.stage is Stage.STARTING)
    kit.site.silent = True
    await eventually(lambda: kit.live.session.silent_since is not None)
    kit.time += timedelta(hours=3)
    waiting = asyncio.create_task(kit.until_ready())
    await eventually(lambda: len([c for c in kit.site.calls if c.method == "status"]) > 5)
    assert not waiting.done()
    kit.relay.says("s1-1", "connected")
    await waiting


async def test_what_nobody_can_say_anything_of_is_given_up_before_the_hub_would(kit):
    # Of the hub's own time-out users read no more than that there was one.
    await kit.submit()
    kit.site.start("s1-1")
    await eventually(lambda: kit.live.session.stage is Stage.STARTING)
    kit.site.silent = True
    await eventually(lambda: kit.live.session.silent_since is not None)
    kit.time += timedelta(hours=6, minutes=31)
    with pytest.raises(SessionEnded, match="did not start within 6 h 30 min: .* does not answer"):
        await kit.until_ready()


async def test_ending_tells_relay_and_site_and_sees_that_it_is_over(kit):
    await kit.run()
    assert await kit.live.end("stopped", within=timedelta(seconds=20))
    assert kit.relay.told == ["s1-1"]
    assert kit.live.session.status.state is JobState.CANCELED


async def test_a_site_that_does_not_confirm_the_end_is_asked_on(kit, monkeypatch):
    monkeypatch.setattr("interlink_spawner.desk._BURY_EVERY_S", 0.01)
    await kit.run()
    kit.site.silent = True
    assert not await kit.live.end("stopped", within=timedelta(seconds=0.2))
    kit.site.silent = False
    await eventually(lambda: kit.site.jobs["s1-1"].status.state is JobState.CANCELED)


async def test_a_submission_that_was_cut_off_is_found_by_its_key_and_ended(kit):
    hangs = asyncio.Event()
    works = kit.site.submit

    async def submit(spec, jobs):
        await works(spec, jobs)
        await hangs.wait()

    kit.site.submit = submit
    submitting = asyncio.create_task(kit.submit())
    await eventually(lambda: "s1-1" in kit.site.jobs)
    submitting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await submitting
    assert kit.live.session.handle is None
    assert await kit.live.end("cancelled", within=timedelta(seconds=20))
    assert kit.site.jobs["s1-1"].status.state is JobState.CANCELED


async def test_what_never_was_queued_is_over_at_once(kit):
    assert await kit.live.end("cancelled", within=timedelta(seconds=20))


async def test_a_queued_job_is_ended_though_the_catalog_was_broken_when_its_hub_began(
    kit, monkeypatch
):
    monkeypatch.setattr("interlink_spawner.desk._BURY_EVERY_S", 0.01)
    await kit.submit()
    kit.unknown = True
    again = kit.follow(kit.live.session)
    await again.open()
    assert not await again.end("stopped", within=timedelta(seconds=20))
    await again.close()
    assert not kit.site.jobs["s1-1"].status.state.ended
    kit.unknown = False
    await eventually(lambda: kit.site.jobs["s1-1"].status.state is JobState.CANCELED)


async def test_a_site_that_is_in_the_catalog_again_is_listened_to(kit):
    await kit.submit()
    kit.unknown = True
    again = kit.follow(kit.live.session)
    await again.open()
    kit.site.fail("s1-1", exit_code=1, reason="its node is gone")
    kit.unknown = False
    await again.seek()
    await eventually(lambda: not again.session.silence)
    await eventually(lambda: again.session.status.state is JobState.FAILED)
    await again.close()
    await again.poller.close()


async def test_it_is_followed_by_its_handle_after_a_restart_of_the_hub(kit):
    await kit.submit()
    again = kit.follow(kit.live.session)
    await again.open()
    kit.site.start("s1-1")
    await eventually(lambda: again.session.stage is Stage.STARTING)
    assert [call.method for call in kit.site.calls].count("submit") == 1
    await again.close()
    await again.poller.close()


async def test_a_session_of_a_site_that_is_gone_lives_on_through_the_relay(kit):
    await kit.run()
    kit.unknown = True
    orphan = kit.follow(kit.live.session)
    await orphan.open()
    assert not orphan.session.ended
    # What the site has said last is not shown as if it said so now.
    assert "catalog" in orphan.session.silence
    assert await orphan.logs() == ""
    assert not await orphan.end("stopped", within=timedelta(seconds=1))
    with pytest.raises(Refused):
        await orphan.submit(lambda _: (SPEC, {}))
    await orphan.close()


async def elsewhere(_):
    return "rome", "nothing started at Farm within 30 min; it goes to Rome"


async def test_a_session_that_waits_too_long_leaves_only_once_its_site_has_let_it_go(kit):
    await kit.submit()
    kit.site.slow_cancel = True
    waiting = asyncio.create_task(
        kit.live.until_ready(answers_never, start_limit=LIMIT, elsewhere=elsewhere)
    )
    await eventually(lambda: kit.live.session.leaving_for == "rome")
    await eventually(lambda: kit.site.jobs["s1-1"].cancelled)
    assert not waiting.done()
    assert kit.stored[-1].leaving_for == "rome"
    kit.site.finish_cancel()
    with pytest.raises(Moved, match="it goes to Rome") as moved:
        await waiting
    assert moved.value.site == "rome"
    assert kit.relay.told == ["s1-1"]


async def test_a_hub_that_restarts_while_a_session_moves_goes_on_moving_it(kit):
    await kit.submit()
    session = replace(kit.live.session, leaving_for="rome", leaving="it goes to Rome")
    kit.site.remove("s1-1")
    again = kit.follow(session)
    await again.open()
    with pytest.raises(Moved):
        await again.until_ready(answers_never, start_limit=LIMIT)
    await again.close()
    await again.poller.close()


async def test_jobs_that_a_session_has_left_behind_are_turned_away_whenever_it_is_watched(kit):
    """What its old site lost, and starts after all, must not answer for its route."""
    again = kit.follow(replace(kit.live.session, key="s1-3", site="rome"))
    await again.open()
    assert kit.relay.told == ["s1-1", "s1-2"]
    await again.close()
    await again.poller.close()


async def test_a_session_that_runs_is_not_moved(kit):
    await kit.submit()
    kit.site.start("s1-1")
    kit.relay.says("s1-1", "connected")
    await kit.live.until_ready(answers_at_once, start_limit=LIMIT, elsewhere=elsewhere)
    assert not kit.site.jobs["s1-1"].cancelled


async def answers_never():
    return False


async def answers_at_once():
    return True
