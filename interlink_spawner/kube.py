"""What a profile at a site of kind `kubernetes` sets on a KubeSpawner; and a KubeSpawner without one.

Such a session is KubeSpawner's own pod, with the user's volume and all that the administrator has
configured for it. Only what the profile and the site say comes on top.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import kubespawner.spawner
from kubernetes_asyncio.client import ApiException
from kubernetes_asyncio.config import ConfigException
from kubespawner.clients import load_config, shared_client

from offload_sites.catalog import KubernetesSite, Toleration
from offload_sites.jobs import JobState
from offload_sites.kubernetes.naming import parse_time
from offload_sites.kubernetes.states import container_end, exit_status, status_of_pod
from offload_sites.resolve import Resolved
from offload_sites.units import render_duration
from offload_sites.wording import shorten

__all__ = [
    "API_ERRORS",
    "PodFailed",
    "PodWatch",
    "api_words",
    "connect",
    "failure_words",
    "keep_watching",
    "pod_settings",
    "why_no_answer",
    "why_not",
    "without_kubernetes",
]

#: What KubeSpawner raises of the Kubernetes API: it refuses, is nowhere, or cannot be reached.
API_ERRORS = (ApiException, ConfigException, aiohttp.ClientError, OSError)

_REVIVE_S = 15.0


@contextlib.contextmanager
def without_kubernetes() -> Iterator[None]:
    """Let a KubeSpawner be made where there is no Kubernetes: it connects when it is needed.

    KubeSpawner 7.1 loads a kubeconfig in its constructor and fails without one. It is the only place
    where it does, and there is no setting for it.
    """
    module = kubespawner.spawner
    kept = module.load_config, module.shared_client
    module.load_config = module.shared_client = lambda *_, **__: None
    try:
        yield
    finally:
        module.load_config, module.shared_client = kept


def connect(host: str, ssl_ca_cert: str, verify_ssl: bool | None) -> Any:
    """Return the client that KubeSpawner's constructor would have made."""
    load_config(host=host, ssl_ca_cert=ssl_ca_cert, verify_ssl=verify_ssl)
    return shared_client("CoreV1Api")


def keep_watching(reflector: Any, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """Let a reflector of KubeSpawner go on after an outage of the API of any length.

    After 51 s without the API it gives up (KubeSpawner 7.1, reflector.py), and pods are what they were
    then until a hub is restarted: a session whose pod has ended would never be known to have.
    """

    async def revive() -> None:
        await asyncio.sleep(_REVIVE_S)
        reflector.watch_task = asyncio.create_task(reflector._watch_and_update())  # noqa: SLF001

    def given_up() -> None:
        log.warning("the watch of %s begins anew in %.0f s", reflector.kind, _REVIVE_S)
        # In the place of the watch, so that whoever stops the reflector stops this.
        reflector.watch_task = asyncio.create_task(revive())

    reflector.on_failure = given_up


def why_not(pod: Mapping[str, Any] | None) -> tuple[str, bool]:
    """Return why a pod does not run, in a sentence, and whether it never will; empty if it is not known.

    Parameters
    ----------
    pod : mapping or None
        As the API has it.
    """
    if pod is None:
        return "", False
    status = status_of_pod(pod, timedelta(0))
    if status.state is JobState.RUNNING or not status.reason:
        return "", False
    said = f" ({status.said})" if status.said else ""
    hint = f"; {status.hint}" if status.hint else ""
    return f"{status.reason}{said}{hint}", status.state.ended


def why_no_answer(pod: Mapping[str, Any] | None) -> tuple[str, bool]:
    """Return why the server in a pod that was running does not answer, and whether it never will.

    Parameters
    ----------
    pod : mapping or None
        As the API has it; None if it has none any more.
    """
    if pod is None:
        return "its pod is gone: somebody, or the cluster, has deleted it; start it again", True
    why, final = why_not(pod)
    if why:
        return why, final
    if ended := _last_end(pod):
        return f"its server does not stay, {ended}; another image may have what it needs", False
    return (
        "its pod runs, but nothing answers in it; its image may have no JupyterHub, or need more"
        " time: choose another one, or ask the administrator of the hub to raise http_timeout",
        False,
    )


def _last_end(pod: Mapping[str, Any]) -> str:
    """Return how the container of a pod that runs has ended; empty if it has not so far."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    for state in ("state", "lastState"):
        ends = [{"state": one.get(state)} for one in containers]
        end = container_end({"status": {"containerStatuses": ends}})
        if end is not None:
            return exit_status(end, None, timedelta.max).reason
    return ""


class PodFailed(Exception):  # noqa: N818  # it becomes the hub's error
    """A pod will not run; the message says why.

    Parameters
    ----------
    why : str
        As far as the cluster says so.
    within : timedelta or None
        The time that is over; None if it failed by itself.
    """

    def __init__(self, why: str, within: timedelta | None = None) -> None:
        super().__init__(why)
        self.within = within


@dataclass
class PodWatch:
    """Says when a pod that is being started is not worth waiting for any longer.

    Parameters
    ----------
    asked : datetime
        When it was asked for. Aware UTC.
    queue : timedelta
        How long it may be without a node.
    start : timedelta
        How long it may take on its node, for its volumes and its image; and be missing.
    """

    asked: datetime
    queue: timedelta
    start: timedelta

    def __post_init__(self) -> None:
        self._seen = self.asked

    @property
    def most(self) -> timedelta:
        """The most that it may take in all."""
        return self.queue + self.start

    def limit(self, pod: Mapping[str, Any] | None) -> timedelta:
        """Return which time is over for a pod that has had the most of all."""
        without_node = pod is not None and not pod["spec"].get("nodeName")
        return self.queue if without_node else self.most

    def check(self, pod: Mapping[str, Any] | None, now: datetime) -> None:
        """Do nothing while a pod that does not run yet may still do so.

        Parameters
        ----------
        pod : mapping or None
            As the API has it; None if it has none.
        now : datetime
            Aware UTC.

        Raises
        ------
        PodFailed
            It never will, or its time is over.
        """
        if pod is None:
            self._end_if_over(self._seen, self.start, "its pod is not there", now)
            return
        self._seen = now
        why, final = why_not(pod)
        if final:
            raise PodFailed(why)
        if not pod["spec"].get("nodeName"):
            self._end_if_over(self.asked, self.queue, why, now)
        else:
            # The clock of the cluster may be wrong.
            placed = max(_placed(pod) or self.asked, self.asked)
            self._end_if_over(min(placed, now), self.start, why, now)

    @staticmethod
    def _end_if_over(since: datetime, within: timedelta, why: str, now: datetime) -> None:
        if now > since + within:
            raise PodFailed(why, within)


def _placed(pod: Mapping[str, Any]) -> datetime | None:
    """Return when a pod was given its node, if the cluster says so."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "True":
            return parse_time(condition.get("lastTransitionTime"))
    return None


def failure_words(site: str, why: str, within: timedelta | None) -> str:
    """Return what users read of a session whose pod did not start at the site with the title `site`."""
    time = f" within {render_duration(within)}" if within is not None else ""
    return f"The session did not start at {site}{time}: {why or 'the cluster does not say why'}."


def api_words(error: BaseException) -> str:
    """Return what one of `API_ERRORS` means to a user; the rest of it is for the log."""
    if isinstance(error, ConfigException):
        return "the hub has no access to Kubernetes; ask the administrator of the hub for it"
    if not isinstance(error, ApiException):
        return "its Kubernetes API does not answer; start it again later"
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = f"its API answers {error.status}"
    return shorten(str(message), 300)


def pod_settings(
    resolved: Resolved, site: KubernetesSite, present: Mapping[str, Any], service_url: str = ""
) -> dict[str, Any]:
    """Return the traits of a KubeSpawner that make it start what was resolved.

    Parameters
    ----------
    resolved : Resolved
        The user's choice.
    site : KubernetesSite
        Where.
    present : mapping
        The traits as the administrator has configured them; what can be added to is added to.
    service_url : str
        The offload service as pods reach it; empty if there is none.
    """
    ours = {"OFFLOAD_PROFILE": resolved.profile, "OFFLOAD_IMAGE": resolved.image.name}
    if service_url:
        ours["OFFLOAD_SERVICE_URL"] = service_url
    resources = resolved.resources
    settings: dict[str, Any] = {
        "image": resolved.image.docker,
        "cpu_guarantee": float(resources.cpus),
        "cpu_limit": float(resources.cpus),
        "mem_guarantee": resources.memory_bytes,
        "mem_limit": resources.memory_bytes,
        "environment": {**ours, **present["environment"], **resolved.environment},
        "node_selector": {**present["node_selector"], **site.node_selector},
        "extra_pod_config": {
            **present["extra_pod_config"],
            "activeDeadlineSeconds": int(resolved.walltime.total_seconds()),
        },
    }
    if resources.gpus:
        for name in ("extra_resource_limits", "extra_resource_guarantees"):
            settings[name] = {**present[name], site.gpu_resource: str(resources.gpus)}
    if site.labels:
        settings["extra_labels"] = {**present["extra_labels"], **site.labels}
    if site.namespace:
        settings["namespace"] = site.namespace
    if site.tolerations:
        settings["tolerations"] = [*present["tolerations"], *map(_toleration, site.tolerations)]
    if site.image_pull_secrets:
        settings["image_pull_secrets"] = [*present["image_pull_secrets"], *site.image_pull_secrets]
    return settings


def _toleration(taint: Toleration) -> dict[str, str]:
    operator = "Exists" if taint.value is None else "Equal"
    return {"operator": operator, **taint.model_dump(exclude_none=True)}
