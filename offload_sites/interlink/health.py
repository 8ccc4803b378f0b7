"""How a virtual node is, and what it has left. Pure.

Source: interLink 0.6.2, virtualkubelet.go: the node pings its plugin every 30 s and tells the result
in two conditions and an annotation. Versions up to 0.4 have only the annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from offload_sites.jobs import SiteHealth, SiteState
from offload_sites.kubernetes.naming import parse_time
from offload_sites.units import render_duration

__all__ = [
    "free_cpus",
    "node_health",
    "node_silence",
    "node_trouble",
    "quantity",
    "version_of",
]

PING = "interlink.virtual-kubelet.io/ping-response"
_CONNECTED = "InterlinkConnectivity"
_SILENT = timedelta(seconds=180)

_UNITS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000) ** n for n, unit in enumerate("kMGTPE", 1)},
    **{unit + "i": Fraction(1024) ** n for n, unit in enumerate("KMGTPE", 1)},
}


def node_silence(node: Mapping[str, Any], now: datetime) -> str:
    """Return for how long the virtual kubelet itself has been silent, as a sentence; empty if it is not.

    What is asked of it meanwhile waits in the API, deletions too.
    """
    conditions = _conditions(node)
    beat = max(
        (time for one in conditions.values() if (time := parse_time(one.get("lastHeartbeatTime")))),
        default=None,
    )
    # The control plane says so after 40 to 50 s, where it looks after nodes.
    given_up = conditions.get("Ready", {}).get("status") == "Unknown"
    if given_up or (beat is not None and now - beat > _SILENT):
        age = f" for {render_duration(now - beat)}" if beat else ""
        return f"the virtual node has not answered{age}"
    return ""


def node_trouble(node: Mapping[str, Any], now: datetime) -> str:
    """Return why `node` cannot be relied on at `now`, as a sentence; empty if it can."""
    silence = node_silence(node, now)
    if silence:
        return silence
    conditions = _conditions(node)
    ready, connected = conditions.get("Ready", {}), conditions.get(_CONNECTED)
    notes = (node.get("metadata") or {}).get("annotations") or {}
    pinged = bool(notes.get(PING))
    if connected is None:  # an old one
        good = ready.get("status") == "True" and (pinged or PING not in notes)
    else:
        good = ready.get("status") == "True" and connected.get("status") == "True" and pinged
    if good:
        return ""
    bad = connected if connected and connected.get("status") != "True" else ready
    since = parse_time(bad.get("lastTransitionTime"))
    age = f" for {render_duration(now - since)}" if since else ""
    return f"the virtual node has had no contact to its site{age}"


def _conditions(node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(one.get("type")): one for one in (node.get("status") or {}).get("conditions") or []}


def node_health(
    node: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], now: datetime
) -> SiteHealth:
    """Return how the site behind `node` is; `pods` are all those on it, as far as known."""
    trouble = node_trouble(node, now)
    if trouble:
        return SiteHealth(SiteState.NO_ANSWER, trouble)
    if (node.get("spec") or {}).get("unschedulable"):
        return SiteHealth(SiteState.DOWN, "the virtual node is closed for new jobs")
    free = free_cpus(node, pods)
    if free == 0:
        return SiteHealth(SiteState.FULL, "all of the virtual node is taken", 0)
    return SiteHealth(SiteState.UP, free_cpus=free)


def free_cpus(node: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the cores that are not taken on `node`: an upper bound of what would start at once.

    Nothing tells how long the queue of the batch system is.
    """
    total = ((node.get("status") or {}).get("allocatable") or {}).get("cpu")
    if total is None:
        return None
    taken = sum(
        (_cpus(pod) for pod in pods if (pod.get("status") or {}).get("phase") in _ALIVE),
        Fraction(0),
    )
    return max(0, int(quantity(str(total)) - taken))


_ALIVE = {"Pending", "Running", "Unknown", None}


def _cpus(pod: Mapping[str, Any]) -> Fraction:
    return sum(
        (
            quantity(str(((one.get("resources") or {}).get("requests") or {}).get("cpu", "0")))
            for one in (pod.get("spec") or {}).get("containers") or []
        ),
        Fraction(0),
    )


def quantity(text: str) -> Fraction:
    """Return an amount of Kubernetes (`500m`, `2`, `4Gi`) as a number; 0 for what is none."""
    number = text.rstrip("mkKMGTPEi")
    try:
        return Fraction(number) * _UNITS[text[len(number) :]]
    except (ValueError, KeyError, ZeroDivisionError):
        return Fraction(0)


def version_of(node: Mapping[str, Any]) -> tuple[str, str]:
    """Return which interLink is behind `node`, and what tells so.

    The first is a version, or a range of them; empty if `node` is no virtual node of interLink.
    """
    meta, state = node.get("metadata") or {}, node.get("status") or {}
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    told = str((state.get("nodeInfo") or {}).get("kubeletVersion") or "").lstrip("v")
    virtual = labels.get("virtual-node.interlink/type") == "virtual-kubelet"
    kinds = {one.get("type") for one in state.get("conditions") or []}
    if not virtual and PING not in notes and _CONNECTED not in kinds:
        return "", "it has neither label nor conditions of interLink"
    if told[:2] == "0." and told[2:3].isdigit():
        return told, "it says so"
    if _CONNECTED in kinds:
        return "0.5 or later", f"it has the condition {_CONNECTED}"
    if labels.get("kubernetes.io/os") == "virtual-kubelet":
        return "0.4.1 or later", "its label kubernetes.io/os is virtual-kubelet"
    return "0.4.0 or earlier", "its label kubernetes.io/os is linux"
