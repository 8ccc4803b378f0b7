"""What pods on virtual nodes of interLink mean: their news are old, and some are not true."""

from datetime import UTC, datetime, timedelta

import pytest

from offload_sites.interlink.health import free_cpus, node_health, node_trouble, version_of
from offload_sites.interlink.manifest import DONE
from offload_sites.interlink.states import status_of_virtual_pod
from offload_sites.jobs import JobState, SiteState
from tests.unit.kubernetes.pods import WALLTIME, pod, terminated


def look(*args, **kwargs):
    return status_of_virtual_pod(pod(*args, node="vk", **kwargs), WALLTIME)


def test_a_pending_pod_is_in_the_queue_of_the_batch_system():
    assert "handed" in look("Pending", state={"waiting": {}}).reason
    status = look("Pending", state={"waiting": {}}, notes={"JobID": "4711"})
    assert (status.state, status.reason) == (JobState.QUEUED, "batch job 4711 waits in the queue")


def test_a_held_job_is_held_in_the_words_of_the_batch_system():
    held = {"waiting": {"reason": "JobHeld", "message": "Input file is missing"}}
    status = look("Pending", state=held)
    assert (status.state, status.said) == (JobState.HELD, "Input file is missing")


def test_a_running_pod_names_its_batch_job_and_its_address_does_not_matter():
    status = look("Running", state={"running": {}}, notes={"JobID": "4711"}, podIP="127.0.0.1")
    assert (status.state, status.where) == (JobState.RUNNING, "batch job 4711")


def test_only_the_mark_of_our_own_script_is_a_success():
    status = look("Failed", state=terminated(DONE, reason=f"Error: {DONE}"))
    assert (status.state, status.exit_code) == (JobState.COMPLETED, 0)


@pytest.mark.parametrize("container", [terminated(0, ran_s=60), None])
def test_a_success_without_the_mark_was_a_kill(container):
    status = look("Succeeded", state=container, reason="Completed")
    assert (status.state, status.exit_code) == (JobState.FAILED, None)
    assert "does not say why" in status.reason


def test_a_success_without_the_mark_after_the_whole_walltime_was_its_end():
    assert look("Succeeded", state=terminated(0)).state is JobState.TIMED_OUT


def test_a_batch_job_that_was_removed_shows_the_signal_as_its_exit_code():
    status = look("Failed", reason="Error: 15", state=terminated(15, reason="Error: 15"))
    assert (status.state, status.exit_code) == (JobState.FAILED, 15)
    assert "ended it by SIGTERM" in status.reason
    assert "scancel" in status.hint


@pytest.mark.parametrize(
    ("code", "message", "state", "told"),
    [
        (3, "", JobState.FAILED, 3),
        (75, "", JobState.TIMED_OUT, 75),
        (1, "SLURM job reached its time limit and was terminated", JobState.TIMED_OUT, 1),
        (1, "killed: Out Of Memory", JobState.FAILED, -9),
        (137, "", JobState.FAILED, -9),
    ],
)
def test_an_exit_code_that_is_not_zero_was_really_seen(code, message, state, told):
    status = look(
        "Failed", state=terminated(code, ran_s=1, message=message), reason=f"Error: {code}"
    )
    assert (status.state, status.exit_code) == (state, told)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("status code: 500, sbatch: error: Invalid account", "account or partition"),
        ("sbatch: error: Requested time limit is invalid", "walltime"),
        ("sbatch: error: Requested node configuration is not available", "so large"),
        ("Post http://x/create: dial tcp: connection refused", "could not reach its site"),
        ("unexpected status code: 201, submitted", "0.5 and later"),
        ("CFGMaps/Secrets not found", "did not reach"),
        ("words of tomorrow", "did not take it"),
    ],
)
def test_a_refusal_is_a_sentence_and_keeps_the_words_of_the_site(said, words):
    failed = terminated(1, ran_s=0, reason="ProviderFailed", message=said)
    status = look("Failed", state=failed, reason="ProviderFailed", message=said)
    assert status.state is JobState.FAILED
    assert words in status.reason
    assert status.said == said
    assert status.hint


def as_go_wraps(inner, request=""):
    """Return an error as `RemoteExecution` of interLink 0.6.2 makes it."""
    if request:
        inner = f"error doing doRequest() in createRequest() log request: {request} error: {inner}"
    detail = f"&fmt.wrapError{{msg:{inner!r}, err:(*errors.errorString)(0xc000504502)}}"
    return (
        f"error doing createRequest() in RemoteExecution() return value  error detail {detail} "
        f"error: {inner}"
    )


def refused_with(message):
    failed = terminated(1, ran_s=0, reason="ProviderFailed", message=message)
    return look("Failed", state=failed, reason="ProviderFailed", message=message)


def test_the_words_of_the_batch_system_are_found_in_the_error_around_them():
    words = "sbatch: error: Batch job submission failed: Unspecified error"
    body = f"CreatePod#4711 call exit status: 500. Body: {words.replace(':', '&#58;')}\n"
    status = refused_with(as_go_wraps(f"error creating pod (HTTP 500): {body}"))
    assert status.said == f"HTTP 500: {words}"
    # The address of a Go object is no status of HTTP.
    assert status.reason == "the site did not take it"


def test_an_answer_without_words_is_its_number():
    status = refused_with(as_go_wraps("error creating pod (HTTP 503): "))
    assert (status.said, "could not reach" in status.reason) == ("HTTP 503", True)


@pytest.mark.parametrize("error", ["dial tcp: connect: connection refused", "Bearer s3cret no"])
def test_the_token_of_the_virtual_kubelet_is_shown_to_nobody(error):
    request = (
        '&http.Request{Method:"POST", Header:http.Header{"Authorization":[]string{"Bearer '
        's3cret.x-y_z"}, "Content-Type":[]string{"application/json"}}, ctx:(*x)(0xc000503)}'
    )
    status = refused_with(as_go_wraps(f'Post "http://site:3000/create": {error}', request))
    assert "s3cret" not in str(status)
    assert status.said.startswith('Post "http://site:3000/create"')


# --- the node ---

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def node(*, ready="True", connected="True", ping="ok", age_s=10, version="", **more):
    beat = (NOW - timedelta(seconds=age_s)).isoformat()
    kinds = {"Ready": ready, "InterlinkConnectivity": connected}
    conditions = [
        {"type": kind, "status": value, "lastHeartbeatTime": beat, "lastTransitionTime": beat}
        for kind, value in kinds.items()
        if value is not None
    ]
    notes = {"interlink.virtual-kubelet.io/ping-response": ping} if ping is not None else {}
    return {
        "metadata": {"annotations": notes, "labels": more.pop("labels", {})},
        "spec": more.pop("spec", {}),
        "status": {
            "conditions": conditions,
            "allocatable": {"cpu": "10"},
            "nodeInfo": {"kubeletVersion": version},
        },
    }


def test_a_node_is_well_when_all_its_signs_say_so():
    assert node_trouble(node(), NOW) == ""


@pytest.mark.parametrize(
    "signs",
    [{"ready": "False"}, {"connected": "False"}, {"ping": ""}],
    ids=str,
)
def test_one_bad_sign_is_enough(signs):
    assert "no contact to its site" in node_trouble(node(**signs), NOW)


def test_a_node_whose_heartbeat_is_old_is_not_believed():
    assert node_trouble(node(age_s=170), NOW) == ""
    assert "has not answered for 3 min 20 s" in node_trouble(node(age_s=200), NOW)


def test_a_node_that_the_control_plane_has_given_up_is_silent_and_not_cut_off_from_its_site():
    assert "has not answered for 1 min" in node_trouble(node(ready="Unknown", age_s=60), NOW)


def test_an_old_node_without_the_condition_is_judged_by_its_ping():
    assert node_trouble(node(connected=None), NOW) == ""
    assert node_trouble(node(connected=None, ping=None), NOW) == ""
    assert node_trouble(node(connected=None, ping=""), NOW)


def test_free_cores_are_those_that_no_living_pod_has_asked_for():
    def asking(cpu, phase):
        container = {"resources": {"requests": {"cpu": cpu}}}
        return {"spec": {"containers": [container]}, "status": {"phase": phase}}

    pods = [asking("4", "Running"), asking("500m", "Pending"), asking("8", "Succeeded")]
    assert free_cpus(node(), pods) == 5
    assert node_health(node(), pods, NOW).free_cpus == 5
    assert node_health(node(), [asking("10", "Running")], NOW).state is SiteState.FULL
    assert free_cpus(node(), [asking("a lot", "Running")]) == 10
    assert node_health(node(spec={"unschedulable": True}), [], NOW).state is SiteState.DOWN
    assert node_health(node(ping=""), [], NOW).state is SiteState.NO_ANSWER


VK = {"virtual-node.interlink/type": "virtual-kubelet"}


@pytest.mark.parametrize(
    ("given", "version"),
    [
        (node(version="0.6.2", labels=VK), "0.6.2"),
        (node(version="v0.4.0-pre2", labels=VK), "0.4.0-pre2"),
        (node(version="test", labels=VK), "0.5 or later"),
        (node(connected=None, labels={**VK, "kubernetes.io/os": "linux"}), "0.4.0 or earlier"),
        (
            node(connected=None, labels={**VK, "kubernetes.io/os": "virtual-kubelet"}),
            "0.4.1 or later",
        ),
        (node(connected=None, ping=None, version="v1.36.1"), ""),
    ],
)
def test_a_node_tells_which_interlink_it_is(given, version):
    found, why = version_of(given)
    assert found == version
    assert why
