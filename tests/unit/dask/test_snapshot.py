"""A snapshot counts each worker once, and gives the reason for all that does not work."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from dask_offload.snapshot import Snapshot, WorkerInfo
from offload_sites.fleet_plan import Word
from offload_sites.jobs import AgentState, AgentStatus, JobState
from tests.unit.dask.samples import (
    BASE,
    GIB,
    NOW,
    TITLES,
    crew,
    failure,
    job,
    silence,
    snapshot,
    working,
)

COUNTED = ("working", "starting", "queued", "held", "lost")


def counts(shown):
    return {word: n for word in COUNTED if (n := shown.count(word))}


@pytest.mark.parametrize(
    ("state", "agent", "expected"),
    [
        (JobState.UNKNOWN, AgentState.ABSENT, "queued"),  # submitted, not confirmed
        (JobState.QUEUED, AgentState.ABSENT, "queued"),
        (JobState.HELD, AgentState.ABSENT, "held"),
        (JobState.RUNNING, AgentState.ABSENT, "starting"),
        (JobState.RUNNING, AgentState.CONNECTED, "starting"),  # no worker is registered so far
        (JobState.RUNNING, AgentState.LOST, "lost"),
    ],
)
def test_the_workers_of_a_job_without_any_registered_are_counted_by_its_state(
    state, agent, expected
):
    assert counts(snapshot(job(1, state, agent))) == {expected: 4}


def test_the_workers_of_a_job_that_registered_work_and_the_others_start():
    assert counts(snapshot(working(1), workers=crew("c7-1", 3))) == {"working": 3, "starting": 1}


@pytest.mark.parametrize("state", [s for s in JobState if s.ended])
def test_an_ended_job_has_no_workers(state):
    shown = snapshot(job(1, state, AgentState.LOST), workers=crew("c7-1"))
    assert (counts(shown), shown.total) == ({}, 0)
    assert shown.jobs[0].word == state.value


def test_a_job_that_is_let_go_has_no_workers_and_says_why():
    shown = snapshot(working(1, leaving="no longer wanted"), workers=crew("c7-1"))
    assert counts(shown) == {}
    assert (shown.jobs[0].word, shown.jobs[0].reason) == ("leaving", "no longer wanted")


def test_workers_are_counted_at_the_site_they_are_at():
    shown = snapshot(
        working(1),
        job(2),
        job(3, JobState.RUNNING, site="leonardo"),
        workers=crew("c7-1"),
    )
    naples, leonardo = shown.sites
    assert (naples.title, naples.working, naples.queued, naples.total) == ("RAC Naples", 4, 4, 8)
    assert (leonardo.title, leonardo.starting, leonardo.total) == ("Leonardo", 4, 4)


def test_a_site_without_jobs_is_shown_with_zeros():
    assert [site.total for site in snapshot().sites] == [0, 0]


def test_threads_memory_and_gpus_are_those_of_the_workers_that_registered():
    base = replace(BASE, gpus_per_worker=2)
    (naples, _) = snapshot(working(1), job(2), workers=crew("c7-1", 3), base=base).sites
    assert (naples.threads, naples.memory_bytes, naples.gpus) == (6, 12 * GIB, 6)


def test_a_lost_job_offers_no_threads_though_the_scheduler_still_lists_its_workers():
    lost = job(1, JobState.RUNNING, AgentState.LOST)
    (naples, _) = snapshot(lost, workers=crew("c7-1")).sites
    assert (naples.lost, naples.working, naples.threads, naples.memory_bytes) == (4, 0, 0, 0)


def test_a_job_that_waits_again_is_queued_and_not_lost():
    waits = job(1, JobState.QUEUED, AgentState.LOST)
    shown = snapshot(waits)
    assert (shown.count("queued"), shown.count("lost")) == (4, 0)
    assert shown.jobs[0].word == "queued"


def test_what_is_old_news_beside_an_agent_is_not_shown():
    shown = snapshot(
        job(1, JobState.QUEUED, AgentState.CONNECTED, reason="it waits for free cores"),
        workers=crew("c7-1"),
    )
    assert (shown.jobs[0].word, shown.jobs[0].reason) == ("working", "")


def test_a_job_without_a_registered_worker_is_starting():
    assert snapshot(working(1)).jobs[0].word == "starting"


def test_jobs_that_their_site_took_away_were_lost_and_others_follow():
    losses = [failure(n, "it was removed by the site", early=False) for n in (1, 2)]
    (note,) = snapshot(failures=losses).notes
    assert note.head == "2 jobs were lost at RAC Naples"
    assert "Others are sent in their place." in note.advice


def test_a_worker_of_no_known_job_is_not_counted():
    shown = snapshot(working(1), workers=[*crew("c7-1"), WorkerInfo("stranger", 8, GIB)])
    assert shown.count("working") == 4
    assert shown.sites[0].threads == 8  # of the four


def test_workers_of_jobs_with_similar_names_are_told_apart():
    shown = snapshot(working(1), working(11), workers=[*crew("c7-1", 1), *crew("c7-11", 3)])
    assert [row.registered for row in shown.jobs] == [1, 3]


def test_what_is_wanted_and_why_the_refill_stopped_come_from_the_fleet():
    shown = snapshot(wanted=12, stopped="3 jobs failed")
    assert (shown.wanted, shown.stopped, shown.name) == (12, "3 jobs failed", "alice-1")


# --- rows of jobs --------------------------------------------------------------------------------


def test_a_job_says_its_name_at_the_site_its_node_and_since_when():
    since = NOW - timedelta(minutes=5)
    row = snapshot(working(1, where="wn042", since=since)).jobs[0]
    assert (row.handle, row.where, row.since) == (
        "naples:1.0",
        "wn042",
        "2026-11-01T11:55:00+00:00",
    )


def test_a_job_that_its_site_has_not_confirmed_counts_from_its_submission():
    row = snapshot(job(1, JobState.UNKNOWN, handle=None)).jobs[0]
    assert (row.handle, row.word, row.since) == ("", "submitted", "2026-11-01T12:00:00+00:00")


def test_of_an_ended_job_the_words_of_its_agent_come_before_those_of_the_site():
    agent = AgentStatus(
        AgentState.LOST, NOW, ended="Python is too old", hint="choose another image"
    )
    ended = replace(job(1, JobState.FAILED, reason="exit code 78", hint="?"), agent=agent)
    row = snapshot(ended).jobs[0]
    assert (row.reason, row.hint) == ("Python is too old", "choose another image")


# --- what is to be read --------------------------------------------------------------------------


def test_a_cluster_that_is_well_has_nothing_to_be_read():
    assert snapshot(working(1), job(2), workers=crew("c7-1")).notes == ()


def test_jobs_held_for_the_same_reason_are_one_note_with_the_words_of_the_site():
    held = {
        "reason": "Its memory was used up.",
        "said": "Error from slot1@wn042: memory usage exceeded",
        "hint": "choose a larger profile",
    }
    early = NOW - timedelta(minutes=9)
    shown = snapshot(
        job(1, JobState.HELD, since=NOW, **held), job(2, JobState.HELD, since=early, **held), job(3)
    )
    (note,) = shown.notes
    assert (note.tone, note.head) == ("warn", "2 jobs with 8 workers are held at RAC Naples")
    assert note.text == f"since {early.astimezone():%H:%M:%S}. Its memory was used up."
    assert (note.said, note.advice) == (held["said"], "Choose a larger profile.")


def test_jobs_held_for_different_reasons_are_told_apart_most_workers_first():
    shown = snapshot(
        job(1, JobState.HELD, reason="no credential"),
        *(job(n, JobState.HELD, reason="no space") for n in (2, 3)),
    )
    assert [note.text for note in shown.notes] == ["No space.", "No credential."]
    assert shown.notes[1].head == "1 job with 4 workers is held at RAC Naples"


def test_equal_failures_are_one_note_that_names_the_log_to_read():
    failures = tuple(
        failure(n, f"no file /tmp/{n}", said="exit 127", hint="choose another image")
        for n in (1, 2)
    )
    (note,) = snapshot(failures=failures).notes
    assert (note.tone, note.head) == ("warn", "2 jobs failed at RAC Naples")
    assert note.text.endswith(" No file /tmp/2.")
    assert note.said == "exit 127"
    assert note.advice == "Choose another image. Log of the last one: cluster.logs('c7-2')."


def test_failures_that_stopped_the_refill_say_how_to_start_it_again():
    (note,) = snapshot(failures=(failure(),), stopped="3 jobs failed in the same way").notes
    assert note.tone == "bad"
    assert "cluster.retry()" in note.advice


def test_a_site_that_does_not_answer_is_named_and_nothing_seems_to_have_failed():
    (note,) = snapshot(job(1), troubles={"naples": silence("time-out")}).notes
    assert note.tone == "wait"
    assert note.head.startswith("No answer from RAC Naples since ")
    assert "Nothing is submitted twice" in note.text
    # The sentence is ours: the site has said nothing.
    assert "Time-out." in note.text
    assert note.said == ""


@pytest.mark.parametrize("shown", [job(1), job(1, JobState.QUEUED), job(1, JobState.UNKNOWN)])
def test_jobs_that_their_site_tells_nothing_of_are_one_note(shown):
    silent = replace(shown, silent="the virtual node has not answered since 12:00")
    (note,) = snapshot(silent, replace(silent, key="c7-2")).notes
    assert (note.tone, note.head) == ("wait", "No news of 2 jobs at RAC Naples.")
    assert note.text.startswith("The virtual node has not answered since 12:00. Workers that are")
    assert snapshot(silent).jobs[0].reason == silent.silent


def test_a_site_that_refuses_is_told_with_what_to_do():
    refusal = silence("group wp5 is closed", final=True, hint="Ask the site")
    (note,) = snapshot(troubles={"leonardo": refusal}).notes
    assert (note.tone, note.head) == ("bad", "Leonardo refuses more jobs.")
    # Our own sentence, which may quote the site: nothing that the site says word by word.
    assert (note.text, note.said) == ("Group wp5 is closed.", "")
    assert note.advice.startswith("Ask the site. It is asked again at ")
    assert note.advice.endswith("; cluster.retry() asks at once.")


def test_lost_jobs_are_one_note_that_says_they_come_back():
    lost = [job(n, JobState.RUNNING, AgentState.LOST) for n in (1, 2)]
    (note,) = snapshot(*lost).notes
    assert note.head == "2 jobs with 8 workers lost their connection."
    assert "comes back by itself" in note.text


def test_a_relay_that_cannot_be_reached_is_said():
    (note,) = snapshot(trouble="connection refused").notes
    assert note.head == "The relay does not answer."
    assert note.text.startswith("Connection refused. Workers come back")
    assert note.said == ""


def test_at_most_four_notes_are_made_and_the_last_counts_the_rest():
    jobs = [job(n, JobState.HELD, reason=f"reason {'abcdefg'[n]}") for n in range(7)]
    notes = snapshot(*jobs).notes
    assert len(notes) == 4
    assert notes[-1].head == "And 4 more reasons."


# --- on its way to the notebook ------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [None, (0, 100), (0, 0)])
def test_a_snapshot_arrives_in_the_notebook_as_it_was_sent(adaptive):
    sent = snapshot(
        working(1, where="wn042"),
        job(2, JobState.HELD, reason="no space", said="<br>\x1b[31m\u2603"),
        workers=crew("c7-1"),
        failures=(failure(),),
        base=replace(BASE, adaptive=adaptive, bytes_through_relay=2**40),
    )
    assert Snapshot.from_json(json.loads(json.dumps(sent.to_json()))) == sent


def test_every_word_of_a_job_can_be_shown():
    jobs = {
        Word.SUBMITTED: job(1, JobState.UNKNOWN),
        Word.QUEUED: job(2),
        Word.HELD: job(3, JobState.HELD),
        Word.STARTING: job(4, JobState.RUNNING),
        Word.WORKING: working(5),
        Word.LOST: job(6, JobState.RUNNING, AgentState.LOST),
        Word.LEAVING: job(7, leaving="no longer wanted"),
        Word.ENDED: job(8, JobState.COMPLETED),
    }
    assert jobs.keys() == set(Word)
    shown = snapshot(*jobs.values(), workers=crew("c7-5"))
    assert [row.word for row in shown.jobs[:-1]] == [word.value for word in list(Word)[:-1]]
    assert shown.total == 6 * 4


def test_titles_are_those_that_users_read():
    assert {row.name: row.title for row in snapshot().sites} == TITLES
