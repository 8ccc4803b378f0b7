"""What the page of a waiting session says."""

from datetime import timedelta

import pytest

from interlink_spawner.progress import progress_of
from interlink_spawner.session import Stage
from offload_sites.jobs import AgentState, JobHandle, JobState, SiteHealth, SiteState
from offload_sites.ledger_records import Waits
from tests.support.sessionkit import agent, at, new_session, status

WAITS = Waits(40, timedelta(minutes=40), timedelta(hours=2))


def page_of(session, seconds=0.0, waits=WAITS, health=None):
    return progress_of(session, now=at(seconds), waits=waits, health=health, retry_s=15)


def lead(page):
    middle = page.lead.elapsed.text if page.lead.elapsed else ""
    return page.lead.before + middle + page.lead.after


QUEUED = (
    new_session()
    .submitted(JobHandle("farm", "8842131"), at(8))
    .heard_site(
        status(JobState.QUEUED, "31 jobs wait", since=at(8), said="PENDING, reason Priority"), at(8)
    )
)
RUNNING = QUEUED.heard_site(status(JobState.RUNNING, since=at(1500), where="wn-7"), at(1502))
CONNECTED = RUNNING.heard_agent(agent(AgentState.CONNECTED, since=at(1510)), at(1510))


def test_a_queued_session_says_how_long_and_how_long_it_usually_takes():
    page = page_of(QUEUED, 8 + 23 * 60 + 41)
    assert page.heading == "Waiting for HTC cores at Naples"
    assert lead(page) == "Queued for 23 min 41 s. Usually starts after 40 min – 2 h."
    assert page.short == "Queued 23 min · HTC cores"
    row = page.rows[1]
    assert (row.word, row.mark, row.note) == ("Queued", "now", "31 jobs wait")
    assert row.scale is not None
    assert "Half of such jobs start within 40 min, 9 of 10 within 2 h." in row.scale.label
    assert 0 < row.scale.past < row.scale.half < row.scale.most < 100
    assert page.says.text == "PENDING, reason Priority"
    assert page.can_leave
    assert not page.asks_before_cancel


def test_a_longer_wait_than_usual_is_said_without_alarm():
    page = page_of(QUEUED, 3 * 3600)
    assert "longer than usual" in lead(page)
    assert page.rows[1].scale.past == 100


def test_without_experience_nothing_is_promised():
    page = page_of(QUEUED, 60, waits=Waits(3))
    assert lead(page) == "Queued for 52 s. How long this takes is not known yet."
    assert page.rows[1].scale is None


def test_a_silent_site_keeps_what_it_said_last():
    silent = QUEUED.heard_site(status(JobState.UNKNOWN, "no answer from Naples"), at(300))
    page = page_of(silent, 540, health=SiteHealth(SiteState.NO_ANSWER))
    assert lead(page) == "No answer from Naples for 4 min. Your job keeps its place."
    assert "We ask again every 15 s" in page.note[0]
    assert page.rows[1].tag.icon == "unknown"
    assert page.says.silent
    assert page.short == "No answer · HTC cores"
    assert page.facts[0].tag.word == "No answer"


def test_a_site_that_is_silent_before_it_took_the_job_is_asked_on():
    silent = new_session().heard_site(status(JobState.UNKNOWN, "no answer"), at(5))
    assert lead(page_of(silent, 65)) == "No answer from Naples for 1 min. We go on asking."


def test_a_hold_is_a_row_of_its_own_with_what_it_means():
    held = QUEUED.heard_site(
        status(JobState.HELD, "the image was not found", since=at(700), hint="you need do nothing"),
        at(701),
    )
    page = page_of(held, 780)
    assert page.heading == "Held: HTC cores at Naples"
    assert [row.word for row in page.rows[:3]] == ["Submitted", "Queued", "Held"]
    assert page.rows[2].tag.tone == "warn"
    assert page.says.hint == "you need do nothing"


def test_a_running_job_waits_for_its_agent():
    page = page_of(RUNNING, 1530)
    assert page.heading == "Starting HTC cores at Naples"
    assert lead(page) == "The job has run on wn-7 for 30 s. Its agent connects next."
    assert [row.mark for row in page.rows] == ["done", "done", "now", "todo", "todo"]
    assert page.rows[1].took == "24 min 52 s"


def test_a_connected_agent_outweighs_a_silent_site():
    page = page_of(CONNECTED.heard_site(status(JobState.UNKNOWN, "no answer"), at(1511)), 1515)
    assert lead(page) == "Agent connected. This page opens JupyterLab by itself."
    assert page.note is None
    assert page.asks_before_cancel
    assert [fact.name for fact in page.facts if fact.time] == ["Ends"]


def test_a_lost_agent_comes_back():
    page = page_of(CONNECTED.heard_agent(agent(AgentState.LOST, since=at(1520)), at(1520)), 1530)
    assert lead(page) == "Connection lost for 10 s. Its agent comes back by itself."
    assert page.rows[-1].tag.word == "Connection lost"


def test_progress_never_goes_back_along_the_way():
    percents = [page_of(session, 1600).percent for session in (QUEUED, RUNNING, CONNECTED)]
    assert percents == sorted(percents)


def test_the_state_changes_with_what_happens_and_not_with_time():
    assert page_of(QUEUED, 60).state == page_of(QUEUED, 600).state
    assert page_of(QUEUED, 60).state != page_of(RUNNING, 1600).state


@pytest.mark.parametrize("stage", list(Stage))
def test_each_stage_can_be_shown(stage):
    session = new_session(marks={Stage.SUBMITTED: at(0), stage: at(1)})
    page = page_of(session, 2)
    assert sum(row.mark == "now" for row in page.rows) == 1
    assert all(fact.text for fact in page.facts)
