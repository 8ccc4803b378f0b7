"""A scheduler: binds pods to nodes that have the labels and the room they ask for."""

from __future__ import annotations

import asyncio
import contextlib
from fractions import Fraction
from typing import Any

import aiohttp

from offload_sites.kubernetes.client import ApiError
from tests.services.kubernetes.api import now
from tests.services.kubernetes.client import Client
from tests.services.kubernetes.validating import quantity


async def schedule(client: Client) -> None:
    """Bind pods for ever. A real cluster has its own scheduler; this one is for the fake."""
    seen: list[dict[str, Any]] = []
    news = asyncio.Event()

    async def follow() -> None:
        async for pods in client.follow("/api/v1/pods"):
            seen[:] = pods
            news.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        while True:
            news.clear()
            waiting = [
                pod
                for pod in sorted(seen, key=lambda pod: pod["metadata"]["creationTimestamp"])
                if not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp")
            ]
            if waiting:
                with contextlib.suppress(ApiError, aiohttp.ClientError, OSError):
                    nodes = (await client.ask("GET", "/api/v1/nodes"))["items"]
                    for pod in waiting:
                        await _place(client, pod, nodes, seen)
            # Nodes come and go as well.
            with contextlib.suppress(TimeoutError):
                # Python 3.11's wait_for may swallow a cancellation that comes with the news.
                async with asyncio.timeout(0.2 if waiting else None):
                    await news.wait()


async def _place(
    client: Client, pod: dict[str, Any], nodes: list[dict[str, Any]], pods: list[dict[str, Any]]
) -> None:
    why: dict[str, int] = {}
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
    for node in nodes:
        trouble = _trouble(pod, node, pods)
        if trouble:
            why[trouble] = why.get(trouble, 0) + 1
            continue
        target = {"apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"]}
        try:
            await client.ask("POST", f"{path}/binding", {"target": target})
        except ApiError:  # somebody was faster, or it has gone
            return
        pod["spec"]["nodeName"] = node["metadata"]["name"]
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(why.items()))
    message = f"0/{len(nodes)} nodes are available: {reasons}."
    old = next(
        (c for c in pod["status"].get("conditions") or [] if c["type"] == "PodScheduled"), {}
    )
    if old.get("message") != message:
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": now(),
        }
        try:
            await client.apply(f"{path}/status", {"status": {"conditions": [condition]}})
        except ApiError:
            return


def _trouble(pod: dict[str, Any], node: dict[str, Any], pods: list[dict[str, Any]]) -> str:
    labels = node["metadata"].get("labels") or {}
    selector = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(name) != value for name, value in selector.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    for taint in (node.get("spec") or {}).get("taints") or []:
        if taint["effect"] != "PreferNoSchedule" and not _tolerates(pod, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    conditions = {c["type"]: c["status"] for c in node["status"].get("conditions") or []}
    if conditions.get("Ready") != "True":
        return "node(s) were not ready"
    free = {name: quantity(text) for name, text in node["status"]["allocatable"].items()}
    for other in pods:
        here = other["spec"].get("nodeName") == node["metadata"]["name"]
        if here and other["status"].get("phase") not in ("Succeeded", "Failed"):
            for name, amount in _asked(other).items():
                free[name] = free.get(name, Fraction(0)) - amount
    for name, amount in _asked(pod).items():
        if amount > free.get(name, Fraction(0)):
            return f"Insufficient {name}"
    return ""


def _tolerates(pod: dict[str, Any], taint: dict[str, Any]) -> bool:
    return any(
        one.get("key") in (taint["key"], None, "")
        and one.get("effect") in (taint["effect"], None, "")
        and (one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""))
        for one in pod["spec"].get("tolerations") or []
    )


def _asked(pod: dict[str, Any]) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {"pods": Fraction(1)}
    for container in pod["spec"]["containers"]:
        for name, text in ((container.get("resources") or {}).get("requests") or {}).items():
            total[name] = total.get(name, Fraction(0)) + quantity(text)
    return total
