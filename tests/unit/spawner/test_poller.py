"""One poller asks for all jobs of a site in one call, and survives whatever the site does."""

import asyncio
from datetime import UTC, datetime, timedelta

from interlink_spawner.poller import Poller
from offload_sites.jobs import JobSpec, JobState, Resources
from offload_sites.testing import FakeSite, eventually

SPEC = JobSpec(("true",), Resources(), timedelta(hours=1))


class Heard(list):
    @property
    def states(self):
        return [status.state for status in self]


async def site_with(*keys):
    site = FakeSite("farm", clock=lambda: datetime.now(UTC))
    return site, await site.submit(SPEC, {key: {} for key in keys})


async def test_all_jobs_are_one_call():
    site, handles = await site_with("a", "b", "c")
    poller = Poller(site, first_s=60)
    heard = Heard()
    for handle in handles.values():
        poller.watch(handle, heard.append)
    await eventually(lambda: len(heard) == 3)
    asked = [call for call in site.calls if call.method == "status"]
    assert len(asked) == 1
    assert len(asked[0].about) == 3
    await poller.close()


async def test_listeners_hear_changes_and_nothing_once_they_have_gone():
    site, handles = await site_with("a")
    poller = Poller(site, first_s=0.01, most_s=0.02)
    heard = Heard()
    poller.watch(handles["a"], heard.append)
    await eventually(lambda: JobState.QUEUED in heard.states)
    site.start("a")
    await eventually(lambda: JobState.RUNNING in heard.states)
    poller.unwatch(handles["a"], heard.append)
    site.complete("a")
    await poller.idle()
    assert JobState.COMPLETED not in heard.states
    assert poller.watched == 0


async def test_a_poller_begins_again_after_all_have_gone():
    site, handles = await site_with("a")
    poller = Poller(site, first_s=0.01)
    heard = Heard()
    poller.watch(handles["a"], heard.append)
    poller.unwatch(handles["a"], heard.append)
    await poller.idle()
    poller.watch(handles["a"], heard.append)
    await eventually(lambda: heard)
    await poller.close()


async def test_a_silent_site_is_unknown_and_asked_on(caplog):
    caplog.set_level("INFO")
    site, handles = await site_with("a")
    poller = Poller(site, first_s=0.01, most_s=0.02)
    heard = Heard()
    site.silent = True
    poller.watch(handles["a"], heard.append)
    await eventually(lambda: heard.states[-3:] == [JobState.UNKNOWN] * 3)
    site.silent = False
    await eventually(lambda: heard.states[-1] is JobState.QUEUED)
    await poller.close()
    silences = [record.message for record in caplog.records if "does not answer" in record.message]
    assert len(silences) == 1  # the first, and not each turn
    assert "answers again" in caplog.text


async def test_a_back_end_that_breaks_its_promise_stops_nothing(caplog):
    site, handles = await site_with("a")
    works = site.status
    fails = True

    async def status(handles):
        if fails:
            raise RuntimeError("a bug")
        return await works(handles)

    site.status = status
    poller = Poller(site, first_s=0.01, most_s=0.02)
    heard = Heard()
    poller.watch(handles["a"], heard.append)
    await eventually(lambda: JobState.UNKNOWN in heard.states)
    fails = False
    await eventually(lambda: heard.states[-1] is JobState.QUEUED)
    await poller.close()
    assert "a bug" in caplog.text


async def test_pauses_grow_while_nothing_changes_and_shrink_when_somebody_is_in_a_hurry():
    site, handles = await site_with("a")
    poller = Poller(site, first_s=0.001, most_s=3600)
    heard = Heard()
    poller.watch(handles["a"], heard.append)
    await eventually(lambda: poller._pause_s > 0.5)
    count = len(heard)
    poller.hurry()
    await eventually(lambda: len(heard) > count)
    await poller.close()


async def test_closing_ends_a_question_that_hangs():
    site, handles = await site_with("a")

    async def status(_):
        await asyncio.Event().wait()

    site.status = status
    poller = Poller(site)
    poller.watch(handles["a"], lambda _: None)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await poller.close()
