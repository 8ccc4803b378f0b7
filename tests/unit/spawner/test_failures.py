"""How a session that ended badly is explained."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from interlink_spawner.failures import (
    ended_job,
    ended_queue,
    ended_refused,
    ended_start,
    load_end,
    render_report,
)
from offload_sites.errors import (
    JobLimitError,
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.jobs import AgentState, JobHandle, JobState
from tests.support.sessionkit import agent, at, new_session, status

QUEUED = (
    new_session()
    .submitted(JobHandle("farm", "51877.0"), at(5))
    .heard_site(status(JobState.QUEUED, "it waits", since=at(5)), at(5))
)
RUNNING = QUEUED.heard_site(status(JobState.RUNNING, since=at(717), where="wn-2-31"), at(717))
READY = RUNNING.heard_agent(agent(AgentState.CONNECTED, since=at(765)), at(765)).answered(at(770))


def words(end):
    return [(row.word, row.mark) for row in end.rows]


def test_a_refusal_says_who_refused_and_what_they_said():
    end = ended_refused(
        new_session(),
        JobRejectedError("site 'farm' refused the job: 96 CPUs asked", "choose a smaller profile"),
        at(8),
    )
    assert end.heading == "Naples refused the job"
    # The sentence is ours, and nobody is quoted with it.
    assert (end.who, end.said) == ("", "Site 'farm' refused the job: 96 CPUs asked.")
    assert end.todo[0] == "Choose a smaller profile."
    assert not end.retry
    assert ("Refused", "now") in words(end)
    assert {fact.name: fact.text for fact in end.facts}["Job"] == "none was created"


@pytest.mark.parametrize(
    ("error", "heading", "retry"),
    [
        (NotAuthorizedError("the token is not accepted"), "Naples does not let you", False),
        (SiteUnavailableError("no answer within 60 s"), "Naples did not answer", True),
        (
            OffloadError("the ledger cannot be written", transient=True),
            "could not be started",
            True,
        ),
    ],
)
def test_each_reason_not_to_start_has_a_heading_and_something_to_do(error, heading, retry):
    end = ended_refused(new_session(), error, at(8))
    assert heading in end.heading
    assert end.todo
    assert end.retry is retry


def test_a_queue_that_was_too_long_is_given_up_by_us():
    end = ended_queue(QUEUED, at(6 * 3600))
    assert end.heading == "Naples did not start the job within 6 h"
    assert words(end)[:3] == [("Submitted", "done"), ("Queued", "done"), ("Given up", "now")]
    assert end.retry


def test_an_agent_that_never_came_points_to_the_network():
    end = ended_start(RUNNING, "30 min", at(2600))
    assert "no agent came from the job within 30 min" in end.heading
    assert "connect to this hub" in end.todo[0]


def test_a_server_that_never_answered_points_to_the_log():
    connected = RUNNING.heard_agent(agent(AgentState.CONNECTED, since=at(765)), at(765))
    end = ended_start(connected, "30 min", at(2600))
    assert "JupyterLab did not answer within 30 min" in end.heading
    assert ("JupyterLab", "todo") in words(end)


def test_the_words_of_the_agent_tell_more_than_an_exit_code():
    failed = RUNNING.heard_agent(
        agent(
            AgentState.LOST,
            ended="this image has no jupyterhub-singleuser",
            hint="choose an image that has it",
            exit_code=78,
        ),
        at(770),
    ).heard_site(status(JobState.FAILED, "its command ended with exit code 78"), at(771))
    end = ended_job(failed, at(771))
    assert end.heading == "Your server did not start: this image has no jupyterhub-singleuser"
    assert (end.who, end.said) == ("The job", "this image has no jupyterhub-singleuser")
    assert end.todo == ("Choose an image that has it.",)
    assert end.note == "Exit code 78"
    assert not end.retry


def test_a_server_that_ran_and_was_held_says_what_the_site_said():
    ended = READY.heard_site(
        status(
            JobState.FAILED,
            "it used more memory than it had asked for",
            said="memory usage 33100 MB exceeded request_memory 32768 MB (code 34)",
            hint="choose a larger profile",
        ),
        at(8800),
    )
    end = ended_job(ended, at(8800))
    assert end.heading == "Your server ended: it used more memory than it had asked for"
    assert end.lead.startswith("HTC cores at Naples ran for 2 h 14 min.")
    assert end.who == "Naples"
    assert ". Naples says: memory usage 33100 MB exceeded" in end.message
    assert words(end)[-1] == ("Failed", "now")
    assert ("JupyterLab", "done") in words(end)


def test_an_image_that_is_not_there_is_told_once():
    reason = "it could not be started: the image is not on this node"
    failed = new_session().heard_site(status(JobState.FAILED, reason), at(20))
    end = ended_job(failed, at(20))
    assert end.heading == "Your server did not start: the image is not on this node"
    assert end.lead.endswith("the job did not run.")
    assert end.message.count("image is not on this node") == 1


def test_a_site_with_no_room_for_more_jobs_of_a_user_is_told_as_that():
    end = ended_refused(new_session(), JobLimitError("6 are there", "wait"), at(8))
    assert end.heading == "Naples takes no more jobs of yours at present"
    assert end.todo == ("Wait.",)
    assert end.retry
    assert end.message == "Naples takes no more jobs of yours at present. 6 are there. Wait."


@pytest.mark.parametrize(
    ("state", "heading"),
    [
        (JobState.TIMED_OUT, "Your server ended: its walltime of 8 h was used up"),
        (JobState.CANCELED, "Naples removed the job: "),
        (JobState.COMPLETED, "Your server ended: "),
    ],
)
def test_each_end_of_a_job_is_a_sentence_with_something_to_do(state, heading):
    end = ended_job(READY.heard_site(status(state), at(9000)), at(9000))
    assert end.heading.startswith(heading)
    assert end.todo
    assert end.retry


@pytest.mark.parametrize(
    ("site", "heading"),
    [
        (status(JobState.RUNNING), "Your server ended: the site ended this job (signal 15)"),
        (status(JobState.CANCELED, "its node was lost"), "Your server ended: its node was lost"),
        (
            status(JobState.FAILED, "its node was shut down"),
            "Your server ended: its node was shut down",
        ),
    ],
)
def test_a_job_that_its_site_took_away_is_told_with_what_the_site_says_and_no_other_image(
    site, heading
):
    ended = replace(
        READY,
        status=site,
        agent=agent(AgentState.LOST, ended="the site ended this job (signal 15)", exit_code=143),
    )
    end = ended_job(ended, at(9000))
    assert end.heading == heading
    assert end.word == "Canceled"
    assert "image" not in " ".join(end.todo)
    assert "start it again" in " ".join(end.todo).lower()


def test_it_is_stored_as_json_and_found_again():
    end = ended_queue(QUEUED, at(6 * 3600)).with_log("a\nb\n")
    assert load_end(json.loads(json.dumps(end.dump()))) == end
    for broken in (None, [], {}, {**end.dump(), "at": 7}, {**end.dump(), "session": {}}):
        assert load_end(broken) is None


def test_a_log_is_cut_to_its_last_lines():
    end = ended_queue(QUEUED, at(9)).with_log("\n".join(map(str, range(500))))
    assert end.log.splitlines()[-1] == "499"
    assert len(end.log.splitlines()) == 40
    assert len(ended_queue(QUEUED, at(9)).with_log("x" * 10**6).log) <= 6000


def test_a_report_holds_what_an_administrator_asks_for():
    report = render_report(ended_queue(QUEUED, at(6 * 3600)).with_log("last words"))
    for piece in ("Report s1", "alice", "htc", "farm:51877.0", "Given up", "last words", "UTC"):
        assert piece in report


def test_the_walltime_used_is_known_from_the_start_of_the_job():
    end = ended_job(READY.heard_site(status(JobState.FAILED), at(717 + 90)), at(717 + 90))
    walltime = next(fact.text for fact in end.facts if fact.name == "Walltime")
    assert walltime == "8 h, used 1 min 30 s"
    assert end.session.walltime == timedelta(hours=8)
