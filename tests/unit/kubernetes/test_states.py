"""What pods on ordinary nodes mean."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from offload_sites.jobs import JobState, JobStatus
from offload_sites.kubernetes.record import Record, ended_mark, parse_record
from offload_sites.kubernetes.states import status_of_missing, status_of_pod, with_record
from tests.unit.kubernetes.pods import WALLTIME, pod, terminated

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
RECORD = Record("site-k-1", "u0", "k-1", NOON, WALLTIME)


def look(*args, warnings=(), **kwargs):
    return status_of_pod(pod(*args, **kwargs), WALLTIME, warnings)


def test_a_pod_without_a_node_waits_and_says_what_for():
    message = "0/5 nodes are available: 5 Insufficient cpu."
    conditions = [{"type": "PodScheduled", "status": "False", "message": message}]
    status = look("Pending", node="", conditions=conditions)
    assert (status.state, status.said) == (JobState.QUEUED, message)
    assert status.since == datetime(2030, 1, 1, 10, tzinfo=UTC)
    assert look("Pending", node="").reason == "the cluster looks for a node"


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("ContainerCreating", JobState.QUEUED),
        ("PodInitializing", JobState.QUEUED),
        ("SomethingNew", JobState.QUEUED),
        ("ImagePullBackOff", JobState.HELD),
        ("InvalidImageName", JobState.HELD),
        ("CreateContainerConfigError", JobState.HELD),
    ],
)
def test_a_waiting_container_is_queued_or_needs_somebody(reason, state):
    status = look("Pending", state={"waiting": {"reason": reason, "message": "their words"}})
    assert status.state is state
    assert status.reason
    assert (status.said == "their words") is (state is JobState.HELD)


def test_a_warning_is_shown_while_a_pod_does_not_start():
    status = look("Pending", state={"waiting": {}}, warnings=["old", "MountVolume failed"])
    assert (status.state, status.said) == (JobState.QUEUED, "MountVolume failed")


def test_a_running_pod_says_since_when_and_where():
    status = look("Running", state={"running": {"startedAt": "2030-01-01T10:05:00Z"}})
    assert status == JobStatus(
        JobState.RUNNING, since=datetime(2030, 1, 1, 10, 5, tzinfo=UTC), where="node7"
    )


def test_a_pod_on_a_silent_node_is_unknown_and_not_at_its_end():
    since = "2030-01-01T11:00:00Z"
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": since}]
    running = {"name": "job", "ready": True, "state": {"running": {}}}
    silent = pod("Running", conditions=conditions, containerStatuses=[running])
    status = status_of_pod(silent, WALLTIME)
    assert status.state is JobState.UNKNOWN
    assert "does not answer" in status.reason
    assert status.since == NOON - timedelta(hours=1)
    cancelled = with_record(status, replace(RECORD, placed="u1", cancelled=NOON))
    assert cancelled.reason.startswith("it is being cancelled; its node does not answer")


@pytest.mark.parametrize(
    ("reason", "ready"),
    [("ContainersNotReady", False), ("", False), ("ReadinessGatesNotReady", True)],
)
def test_a_pod_that_its_own_kubelet_calls_not_ready_runs(reason, ready):
    conditions = [{"type": "Ready", "status": "False", "reason": reason}]
    running = {"name": "job", "ready": ready, "state": {"running": {}}}
    status = status_of_pod(
        pod("Running", conditions=conditions, containerStatuses=[running]), WALLTIME
    )
    assert status.state is JobState.RUNNING


@pytest.mark.parametrize(
    ("phase", "container", "extra", "state", "code"),
    [
        ("Succeeded", terminated(0), {}, JobState.COMPLETED, 0),
        ("Failed", terminated(3), {}, JobState.FAILED, 3),
        ("Failed", terminated(137), {}, JobState.FAILED, -9),
        ("Failed", terminated(137, reason="OOMKilled"), {}, JobState.FAILED, -9),
        ("Failed", terminated(75), {}, JobState.TIMED_OUT, 75),
        ("Failed", terminated(75, ran_s=60), {}, JobState.FAILED, 75),
        ("Failed", terminated(143), {"reason": "DeadlineExceeded"}, JobState.TIMED_OUT, 143),
        ("Failed", terminated(137), {"reason": "Evicted"}, JobState.FAILED, 137),
        ("Failed", None, {"reason": "UnexpectedAdmissionError"}, JobState.FAILED, None),
        ("Failed", None, {}, JobState.FAILED, None),
        ("Succeeded", None, {}, JobState.COMPLETED, 0),
    ],
)
def test_an_end_has_a_state_an_exit_code_and_a_reason(phase, container, extra, state, code):
    status = look(phase, state=container, **extra)
    assert (status.state, status.exit_code, status.where) == (state, code, "node7")
    assert status.reason


def test_a_phase_that_nobody_knows_is_unknown_with_the_word_of_the_site():
    status = look("Hibernating")
    assert status.state is JobState.UNKNOWN
    assert "Hibernating" in status.reason


# What the record adds


def test_a_pod_that_is_gone_is_what_the_record_says():
    ended = JobStatus(JobState.FAILED, "it failed", exit_code=3, since=NOON)
    for marks, state in (
        ({}, JobState.UNKNOWN),
        ({"placed": "u1"}, JobState.CANCELED),
        ({"placed": "u1", "cancelled": NOON}, JobState.CANCELED),
        ({"cancelled": NOON}, JobState.CANCELED),
        ({"placed": "u1", "cancelled": NOON, "ended": ended}, JobState.FAILED),
    ):
        status = status_of_missing(replace(RECORD, **marks))
        assert status.state is state, marks
        assert status.reason
    assert status_of_missing(None).state is JobState.UNKNOWN


def test_a_cancelled_job_is_canceled_however_its_command_ended():
    record = replace(RECORD, placed="u1", cancelled=NOON)
    status = with_record(look("Failed", state=terminated(143)), record)
    assert (status.state, status.since) == (JobState.CANCELED, NOON)
    status = with_record(look("Running", state={"running": {}}), record)
    assert (status.state, status.reason) == (JobState.RUNNING, "it is being cancelled")


def test_an_end_that_was_noted_stays():
    ended = JobStatus(JobState.COMPLETED, "done", exit_code=0)
    record = replace(RECORD, placed="u1", cancelled=NOON, ended=ended)
    assert with_record(look("Failed", state=terminated(1)), record) == ended


def test_a_record_is_read_as_it_was_written():
    ended = JobStatus(JobState.TIMED_OUT, "it is over", "said", "hint", NOON, 75, "node7")
    configmap = {
        "metadata": {
            "name": "site-k-1",
            "uid": "u0",
            "creationTimestamp": "2030-01-01T12:00:00Z",
            "annotations": {
                "interlink-offload/key": "k-1",
                "interlink-offload/walltime-s": "3600",
                "interlink-offload/placed": "u1",
                "interlink-offload/cancelled": "2030-01-01T12:00:00Z",
                "interlink-offload/batch-id": "4711",
                "interlink-offload/ended": ended_mark(ended),
            },
        }
    }
    assert parse_record(configmap) == replace(
        RECORD, placed="u1", cancelled=NOON, batch_id="4711", ended=ended
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "odd"}', '{"state": "failed"}'])
def test_marks_that_cannot_be_read_count_as_not_there(text):
    notes = {"interlink-offload/ended": text, "interlink-offload/walltime-s": text}
    record = parse_record({"metadata": {"annotations": notes}})
    assert record.ended is None
    assert record.walltime > timedelta(days=100)
