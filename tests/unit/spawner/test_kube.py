"""What a profile sets on a KubeSpawner, and a KubeSpawner without Kubernetes."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import aiohttp
import kubespawner.spawner
import pytest
from kubernetes_asyncio.client import ApiException
from kubernetes_asyncio.config import ConfigException

from interlink_spawner.kube import (
    API_ERRORS,
    PodFailed,
    PodWatch,
    api_words,
    failure_words,
    keep_watching,
    pod_settings,
    why_no_answer,
    without_kubernetes,
)
from interlink_spawner.spawner import InterLinkSpawner
from offload_sites.catalog import KubernetesSite, Node, Toleration
from offload_sites.jobs import ImageRef, Resources
from offload_sites.resolve import Resolved

PRESENT = {
    "environment": {"A": "hub", "B": "hub"},
    "node_selector": {"pool": "users"},
    "extra_pod_config": {"restartPolicy": "OnFailure"},
    "extra_resource_limits": {},
    "extra_resource_guarantees": {},
    "extra_labels": {"hub": "yes"},
    "tolerations": [{"key": "hub", "operator": "Exists"}],
    "image_pull_secrets": ["hub"],
}
RESOLVED = Resolved(
    profile="gpu",
    title="GPU",
    sites=("hub",),
    image=ImageRef("lab", docker="example.org/lab:v1"),
    resources=Resources(4, 8 * 1024**3, 1),
    walltime=timedelta(hours=2),
    queue_budget=timedelta(hours=1),
    preload=(),
    environment={"B": "profile"},
)
SITE = KubernetesSite(
    kind="kubernetes",
    title="Hub",
    max_walltime=timedelta(hours=24),
    node=Node(cpus=8, memory="16GiB"),
    namespace="users",
    node_selector={"gpu": "yes"},
    tolerations=[Toleration(key="gpu", value="yes", effect="NoSchedule"), Toleration(key="x")],
    image_pull_secrets=["registry"],
    labels={"kueue.x-k8s.io/queue-name": "analysis"},
)


def test_resources_image_and_walltime_are_the_profiles():
    settings = pod_settings(RESOLVED, SITE, PRESENT)
    assert settings["image"] == "example.org/lab:v1"
    assert settings["cpu_limit"] == settings["cpu_guarantee"] == 4
    assert settings["mem_limit"] == 8 * 1024**3
    assert settings["extra_resource_limits"] == {"nvidia.com/gpu": "1"}
    assert settings["extra_pod_config"]["activeDeadlineSeconds"] == 7200
    assert settings["namespace"] == "users"


def test_what_the_administrator_has_set_stays():
    settings = pod_settings(RESOLVED, SITE, PRESENT)
    assert {"A": "hub", "B": "profile"}.items() <= settings["environment"].items()
    assert settings["node_selector"] == {"pool": "users", "gpu": "yes"}
    assert settings["extra_pod_config"]["restartPolicy"] == "OnFailure"
    assert settings["image_pull_secrets"] == ["hub", "registry"]
    assert settings["extra_labels"] == {"hub": "yes", "kueue.x-k8s.io/queue-name": "analysis"}
    assert settings["tolerations"] == [
        {"key": "hub", "operator": "Exists"},
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "x", "operator": "Exists"},
    ]


def test_a_spawner_is_made_without_a_kubeconfig_and_kubespawner_is_as_before(monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    kept = kubespawner.spawner.load_config
    with without_kubernetes():
        assert kubespawner.spawner.load_config(host="x") is None
    assert kubespawner.spawner.load_config is kept


def test_a_notebook_in_a_pod_knows_its_profile_and_where_the_service_is():
    url = "http://proxy-public/services/offload"
    ours = {"OFFLOAD_PROFILE": "gpu", "OFFLOAD_IMAGE": "lab"}
    assert ours.items() <= pod_settings(RESOLVED, SITE, PRESENT)["environment"].items()
    found = pod_settings(RESOLVED, SITE, PRESENT, url)["environment"]
    assert found["OFFLOAD_SERVICE_URL"] == url
    mine = {**PRESENT, "environment": {"OFFLOAD_SERVICE_URL": "http://mine"}}
    assert (
        pod_settings(RESOLVED, SITE, mine, url)["environment"]["OFFLOAD_SERVICE_URL"]
        == "http://mine"
    )


class Reflector:
    """Stands for KubeSpawner's: its watch gives up as often as it is told."""

    kind = "pods"

    def __init__(self, outages):
        self.outages = outages
        self.watching = asyncio.Event()
        self.on_failure = None

    async def _watch_and_update(self):
        if self.outages:
            self.outages -= 1
            self.on_failure()
            return
        self.watching.set()


async def test_a_watch_that_gave_up_begins_anew_until_the_api_is_back(monkeypatch):
    monkeypatch.setattr("interlink_spawner.kube._REVIVE_S", 0.01)
    reflector = Reflector(outages=3)
    keep_watching(reflector, logging.getLogger(__name__))
    await reflector._watch_and_update()
    async with asyncio.timeout(20):
        await reflector.watching.wait()
    await reflector.watch_task


# --- how long a pod may take ---

ASKED = datetime(2026, 11, 24, 12, tzinfo=UTC)
PLACED = ASKED + timedelta(minutes=50)
NO_ROOM = {
    "spec": {},
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}],
    },
}
ON_NODE = {
    "spec": {"nodeName": "n1"},
    "status": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "True",
                "lastTransitionTime": PLACED.isoformat(),
            }
        ],
    },
}


def watch():
    return PodWatch(ASKED, timedelta(hours=1), timedelta(minutes=5))


def test_a_pod_may_be_without_a_node_for_its_queue_budget_and_says_why_it_is():
    watch().check(NO_ROOM, ASKED + timedelta(minutes=59))
    with pytest.raises(PodFailed, match=r"no node has room for it yet \(0/3 nodes\)") as caught:
        watch().check(NO_ROOM, ASKED + timedelta(minutes=61))
    words = failure_words("Our machines", str(caught.value), caught.value.within)
    assert words.startswith(
        "The session did not start at Our machines within 1 h: no node has room"
    )


def test_a_pod_without_a_node_has_used_up_its_queue_budget_though_nobody_looked_at_that_moment():
    assert watch().limit(NO_ROOM) == timedelta(hours=1)
    assert watch().limit(ON_NODE) == watch().limit(None) == timedelta(minutes=65)


def test_on_its_node_a_pod_has_the_time_that_the_administrator_gives_pods():
    watch().check(ON_NODE, PLACED + timedelta(minutes=4))
    with pytest.raises(PodFailed, match="it is being started on node n1") as caught:
        watch().check(ON_NODE, PLACED + timedelta(minutes=6))
    assert caught.value.within == timedelta(minutes=5)


def test_a_pod_that_is_gone_is_not_waited_for_as_in_a_queue():
    seen = watch()
    seen.check(NO_ROOM, ASKED + timedelta(minutes=30))
    seen.check(None, ASKED + timedelta(minutes=34))  # the watch of pods may have begun anew
    with pytest.raises(PodFailed, match="its pod is not there"):
        seen.check(None, ASKED + timedelta(minutes=36))


def test_a_pod_that_never_will_run_is_not_waited_for():
    failed = {"spec": {}, "status": {"phase": "Failed", "reason": "Evicted", "message": "no room"}}
    with pytest.raises(PodFailed, match="the cluster evicted it") as caught:
        watch().check(failed, ASKED)
    assert caught.value.within is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiException(status=403, reason="Forbidden"), "its API answers 403"),
        (ConfigException("no current-context"), "the hub has no access to Kubernetes"),
        (ConnectionRefusedError(111, "refused"), "its Kubernetes API does not answer"),
        (aiohttp.ServerDisconnectedError(), "its Kubernetes API does not answer"),
    ],
)
def test_an_api_that_refuses_or_is_not_there_is_a_sentence(error, words):
    assert isinstance(error, API_ERRORS)
    assert words in api_words(error)


RUNS = {"spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}


def test_a_pod_that_runs_and_does_not_answer_is_waited_for_and_says_what_may_be_wrong():
    why, final = why_no_answer(RUNS)
    assert "nothing answers in it" in why
    assert "http_timeout" in why
    assert not final


def test_a_server_that_ends_again_and_again_says_how_it_ended():
    crashing = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 127}},
    }
    pod = {**RUNS, "status": {**RUNS["status"], "containerStatuses": [crashing]}}
    why, final = why_no_answer(pod)
    assert "the command ended with exit code 127" in why
    assert not final


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        (None, "its pod is gone"),
        ({"spec": {}, "status": {"phase": "Failed", "reason": "Evicted"}}, "evicted it"),
        ({"spec": {}, "status": {"phase": "Succeeded"}}, "ended"),
    ],
)
def test_a_pod_that_is_over_is_not_waited_for_until_it_answers(pod, words):
    why, final = why_no_answer(pod)
    assert words in why
    assert final


async def test_the_hub_waits_for_longer_than_pods_and_jobs_may_take():
    spawner = InterLinkSpawner(
        _mock=True, start_timeout=7200, http_timeout=1800, job_start_timeout=60
    )
    spawner.outwait(timedelta(hours=1))
    spawner.outwait(timedelta(hours=1))
    assert 3600 + 7200 + 1800 < spawner.start_timeout < 3600 + 7200 + 1800 + 1200
    assert spawner.pod_start == timedelta(hours=2)


# --- without a catalog ---

PROFILES = [
    {
        "display_name": "Small",
        "slug": "small",
        "kubespawner_override": {"image": "example.org/lab:1", "cpu_limit": 2},
    }
]


async def test_without_a_catalog_it_is_a_kubespawner_with_its_profile_list():
    spawner = InterLinkSpawner(_mock=True, profile_list=PROFILES)
    assert "Small" in spawner.options_form
    spawner.user_options = spawner.options_from_form({"profile": ["small"]})
    await spawner.load_user_options()
    assert (spawner.image, spawner.cpu_limit) == ("example.org/lab:1", 2)
    # A link with options that only KubeSpawner knows.
    link = {"profile": ["small"], "profile-option-small--size": ["2"]}
    assert spawner.options_from_query(link) == spawner.options_from_form(link)


async def test_with_a_catalog_the_profile_list_has_no_say(tmp_path):
    spawner = InterLinkSpawner(_mock=True, profile_list=PROFILES, catalog_file=str(tmp_path))
    spawner.user_options = {"profile": "small", "image": "example.org/other:1"}
    await spawner.load_user_options()
    assert spawner.image != "example.org/lab:1"
    assert spawner.cpu_limit is None
