"""Controllers of nodes: one that notices a silent node, one that removes the pods of a node that is gone.

After Kubernetes 1.33, `pkg/controller/nodelifecycle` and `podgc`. A real cluster has its own.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp

from offload_sites.kubernetes.client import ApiError
from offload_sites.kubernetes.naming import parse_time
from tests.services.kubernetes.api import now
from tests.services.kubernetes.client import Client

# A real one waits for 50 s; heartbeats are told in whole seconds.
_GRACE_S = 3.0
_SILENT = "NodeStatusUnknown"


async def watch_nodes(client: Client) -> None:
    """Judge nodes by their heartbeats for ever."""
    while True:
        try:
            # In this order: the node of every pod is in the list unless it was removed.
            pods = (await client.ask("GET", "/api/v1/pods"))["items"]
            listed = (await client.ask("GET", "/api/v1/nodes"))["items"]
            nodes = {one["metadata"]["name"]: one for one in listed}
            for pod in pods:
                name = pod["spec"].get("nodeName")
                if name and name not in nodes:
                    await client.ask("DELETE", _path(pod), {"gracePeriodSeconds": 0})
                elif name and _silent(nodes[name]):
                    await _take_ready(client, pod)
            for name, node in nodes.items():
                if _silent(node) and not _given_up(node):
                    await _give_up(client, name)
        except (ApiError, aiohttp.ClientError, OSError):
            pass  # changed or gone meanwhile: the next turn sees
        await asyncio.sleep(0.2)


def _silent(node: dict[str, Any]) -> bool:
    beats = [parse_time(one.get("lastHeartbeatTime")) for one in _conditions(node)]
    last = max((beat for beat in beats if beat), default=None)
    return last is not None and (datetime.now(UTC) - last).total_seconds() > _GRACE_S


def _given_up(node: dict[str, Any]) -> bool:
    return any(one.get("reason") == _SILENT for one in _conditions(node))


def _conditions(node: dict[str, Any]) -> list[dict[str, Any]]:
    return (node.get("status") or {}).get("conditions") or []


async def _give_up(client: Client, name: str) -> None:
    condition = {
        "type": "Ready",
        "status": "Unknown",
        "reason": _SILENT,
        "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": now(),
    }
    await client.apply(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [condition]}})


async def _take_ready(client: Client, pod: dict[str, Any]) -> None:
    """Declare a pod not ready. Nothing else of it changes, and no reason is given."""
    for condition in pod["status"].get("conditions") or []:
        if (condition["type"], condition["status"]) == ("Ready", "True"):
            patch = {**condition, "status": "False", "lastTransitionTime": now()}
            await client.apply(f"{_path(pod)}/status", {"status": {"conditions": [patch]}})


def _path(pod: dict[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
