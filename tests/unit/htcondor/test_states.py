"""Job ads become states with sentences. The ads were recorded from HTCondor 23.9.6."""

from datetime import UTC, datetime

import pytest

from offload_sites.htcondor.reasons import hold_reason
from offload_sites.htcondor.states import is_uploading, native_id, start_failed, status_from_ad
from offload_sites.jobs import JobState

# As a CE returned it, about a job of which a copy runs in its pool.
RUNNING = {
    "ClusterId": 4,
    "ProcId": 1,
    "JobStatus": 2,
    "LastJobStatus": 1,
    "EnteredCurrentStatus": 1795514718,
    "QDate": 1795514714,
    "JobCurrentStartDate": 1795514717,
    "JobCurrentStartExecutingDate": 1795514718,
    "NumJobStarts": 0,
    "JobRunCount": 1,
    "RoutedToJobId": "6.0",
    "ExitBySignal": False,
    "OffloadKey": "c7-1",
    "OffloadWalltime": 3600,
    "ServerTime": 1795514721,
}
QUEUED = {
    "ClusterId": 4,
    "ProcId": 1,
    "JobStatus": 1,
    "EnteredCurrentStatus": 1795514714,
    "QDate": 1795514714,
    "ServerTime": 1795514721,
}
SPOOLING = {
    **QUEUED,
    "JobStatus": 5,
    "HoldReason": "Spooling input data files",
    "HoldReasonCode": 16,
}
COMPLETED = {**RUNNING, "JobStatus": 4, "LastJobStatus": 2, "CompletionDate": 1795514749}
REMOVED = {**RUNNING, "JobStatus": 3, "LastJobStatus": 2}


def at(seconds):
    return datetime.fromtimestamp(seconds, UTC)


def test_a_running_job_says_since_when():
    status = status_from_ad(RUNNING)
    assert (status.state, status.since, status.where) == (JobState.RUNNING, at(1795514718), "")
    assert native_id(RUNNING) == "4.1"


def test_a_pool_tells_the_node_too():
    assert status_from_ad({**RUNNING, "RemoteHost": "slot1_3@wn7.example.org"}).where == (
        "wn7.example.org"
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "waits for free cores"),
        ({"NumJobStarts": 1}, "waits to be started once more"),
    ],
)
def test_a_queued_job_says_what_it_waits_for(more, says):
    status = status_from_ad({**QUEUED, **more})
    assert status.state is JobState.QUEUED
    assert says in status.reason


def test_a_job_whose_files_are_on_their_way_is_queued_and_not_held():
    assert status_from_ad(SPOOLING).state is JobState.QUEUED
    assert is_uploading(SPOOLING)
    assert not is_uploading({**SPOOLING, "OffloadUploaded": True})


def test_a_job_whose_files_never_come_is_held():
    status = status_from_ad({**SPOOLING, "ServerTime": SPOOLING["EnteredCurrentStatus"] + 301})
    assert status.state is JobState.HELD
    assert "have not arrived" in status.reason


@pytest.mark.parametrize("number", [6, 7])
def test_who_sends_its_output_or_is_suspended_still_holds_its_slot(number):
    status = status_from_ad({**RUNNING, "JobStatus": number})
    assert status.state is JobState.RUNNING
    assert status.reason


def test_an_exit_code_decides_between_completed_and_failed():
    good = status_from_ad({**COMPLETED, "ExitCode": 0})
    assert (good.state, good.exit_code) == (JobState.COMPLETED, 0)
    bad = status_from_ad({**COMPLETED, "ExitCode": 3})
    assert (bad.state, bad.exit_code, bad.since) == (JobState.FAILED, 3, at(1795514749))
    assert bad.reason == "the command ended with exit code 3"
    killed = status_from_ad({**COMPLETED, "ExitBySignal": True, "ExitSignal": 9})
    assert (killed.state, killed.exit_code) == (JobState.FAILED, -9)
    assert "SIGKILL" in killed.reason
    assert "memory" in killed.hint
    assert status_from_ad(COMPLETED).state is JobState.FAILED


def test_a_job_has_timed_out_if_it_ended_so_and_had_run_for_that_long():
    late = {**COMPLETED, "ExitCode": 75, "CompletionDate": RUNNING["JobCurrentStartDate"] + 3600}
    assert status_from_ad(late).state is JobState.TIMED_OUT
    early = {**COMPLETED, "ExitCode": 75}
    assert status_from_ad(early).state is JobState.FAILED


def test_a_job_that_could_not_be_started_tells_what_the_start_script_said():
    ad = {**COMPLETED, "ExitCode": 72}
    assert start_failed(ad)
    status = status_from_ad(ad, told="offload-start: the image /cvmfs/x is not on this node")
    assert status.state is JobState.FAILED
    assert status.reason == "it could not be started: the image /cvmfs/x is not on this node"
    assert status.hint
    assert status_from_ad(ad).state is JobState.FAILED
    assert not start_failed({**COMPLETED, "ExitCode": 1})


# What real releases said, and what their sources say.
@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            "container creation failed: mount hook function failure: mount /var/lib/apptainer/mnt/"
            "session/dev->/dev error: while mounting /var/lib/apptainer/mnt/session/dev: destination "
            "/dev doesn't exist in container",
            "could not be set up",
        ),
        (
            "container creation failed: mount /cvmfs->/cvmfs error: while mounting /cvmfs: "
            "destination /cvmfs doesn't exist in container",
            "lack a folder that is bound into it",
        ),
        ('"python3": executable file not found in $PATH', "no such program"),
        ("stat /bin/sh: no such file or directory", "could not be started"),
        (
            "could not open image /cvmfs/x: image format not recognized",
            "could not be read on the node",
        ),
        ("exec /usr/bin/python3 failed: exec format error", "another sort of processor"),
        (
            "Unable to handle docker://no/such uri: while building SIF from layers: conveyor failed "
            "to get: reading manifest: unauthorized: authentication required",
            "from its registry",
        ),
        ("while creating session directory: no space left on device", "is full"),
        ("failed to create user namespace: not allowed", "does not let us start containers"),
        ("something that nobody has seen", "the container could not be started"),
    ],
)
def test_what_apptainer_says_is_a_sentence_with_a_hint_and_its_own_words(said, says):
    ad = {**COMPLETED, "ExitCode": 255}
    assert start_failed(ad)
    status = status_from_ad(ad, told=f"FATAL:   {said}")
    assert status.state is JobState.FAILED
    assert status.reason.startswith("it could not be started: ")
    assert says in status.reason
    assert status.said == said
    assert status.hint


def test_a_removed_job_runs_until_it_has_left_the_queue():
    assert status_from_ad(REMOVED).state is JobState.RUNNING
    assert status_from_ad(REMOVED, gone=True).state is JobState.CANCELED
    assert status_from_ad({**REMOVED, "LastJobStatus": 1}).state is JobState.CANCELED


@pytest.mark.parametrize(
    ("words", "state", "says"),
    [
        ("via condor_rm (by user root)", JobState.CANCELED, "removed by 'root' at the site"),
        ("something else", JobState.CANCELED, "removed by the site"),
        (
            "CE job removed by SYSTEM_PERIODIC_REMOVE due to job exceeded allowed walltime: 28800 "
            "minutes.",
            JobState.TIMED_OUT,
            "walltime was used up",
        ),
        (
            "CE job removed by SYSTEM_PERIODIC_REMOVE due to disabled job retries",
            JobState.CANCELED,
            "starts no job twice",
        ),
    ],
)
def test_who_has_removed_a_job_and_why_is_told(words, state, says):
    status = status_from_ad({**REMOVED, "RemoveReason": words}, gone=True)
    assert status.state is state
    assert says in status.reason
    assert status.said == words


RULE = (
    "The job attribute PeriodicRemove expression 'RoutedFromJobId =?= undefined && (((JobStatus == 1"
    " || JobStatus == 5) && time() - QDate > 600) || (JobStatus == 2 && time() - "
    "JobCurrentStartDate > 4200))' evaluated to TRUE"
)


def test_our_own_rule_means_unwanted_before_the_start_and_walltime_after_it():
    waited = {**QUEUED, "JobStatus": 3, "RemoveReason": RULE}
    status = status_from_ad(waited, gone=True)
    assert (status.state, status.said) == (JobState.CANCELED, "")
    assert "as long as it was wanted" in status.reason
    ran = status_from_ad({**REMOVED, "RemoveReason": RULE}, gone=True)
    assert ran.state is JobState.TIMED_OUT


def test_what_we_have_cancelled_is_cancelled_whatever_the_site_says():
    assert status_from_ad(
        {**REMOVED, "RemoveReason": "no longer wanted (by user wp5)"}, cancelled=True, gone=True
    ).reason == ("it was cancelled")


@pytest.mark.parametrize("value", [0, 8, 99, "two", None])
def test_a_state_that_is_in_no_manual_is_unknown_and_no_end(value):
    status = status_from_ad({**RUNNING, "JobStatus": value})
    assert status.state is JobState.UNKNOWN
    assert repr(value) in status.reason


# (code, subcode, HTCondor's words as recorded) and what a physicist reads
HOLDS = [
    (
        (6, 2, "Error from slot1_1@pool: Failed to execute '/no/such' (errno=2: 'No such file')"),
        "could not be started",
    ),
    ((12, 2, "Transfer output files failure at execution point slot1_1"), "brought back"),
    ((13, 2, "Transfer input files failure at access point pool while sending"), "to the node"),
    ((21, 102, "memory usage exceeded request_memory"), "more memory than it had asked for"),
    ((34, 0, "Error from slot1@wn: Job has gone over cgroup memory limit"), "more memory"),
    ((26, 0, "HTCondor-CE held job due to no matching routes, route job limit"), "no queue"),
    ((35, 0, "Invalid docker image"), "container image cannot be used"),
    ((1, 0, "via condor_hold (by user root)"), "somebody holds it"),
    ((46, 0, "The job exceeded allowed job duration of 3600"), "walltime was used up"),
    ((777, 0, "whatever"), "HTCondor's code 777"),
]


@pytest.mark.parametrize(("held", "says"), HOLDS)
def test_a_hold_is_told_as_a_sentence_with_a_hint_and_the_words_of_the_site(held, says):
    code, subcode, words = held
    ad = {**RUNNING, "JobStatus": 5, "HoldReasonCode": code, "HoldReasonSubCode": subcode}
    status = status_from_ad({**ad, "HoldReason": words})
    assert status.state is JobState.HELD
    assert says in status.reason
    assert status.hint
    assert status.said == words
    assert hold_reason(code, subcode, words).sentence == status.reason
