"""Who may open a connection to whom, worked out from NetworkPolicies as the API defines them.

A connection is allowed if the policies that select the one who dials let it out and those that select
the other let it in; a pod that no policy of a direction selects is free in it.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class Pod:
    """One end of a connection; `ports` are the container's names of its ports."""

    labels: dict
    namespace: str
    ip: str = "10.42.0.7"
    ports: tuple = ()


@dataclass(frozen=True)
class Outside:
    """An address that is no pod of this cluster."""

    ip: str


def allowed(policies, source, target, port):
    """Tell whether `source` may connect to TCP `port` (a number) of `target`."""
    return _passes(policies, "Egress", source, target, port, target) and _passes(
        policies, "Ingress", target, source, port, target
    )


def _passes(policies, direction, pod, other, port, listener):
    if isinstance(pod, Outside):
        return True
    selecting = [one for one in policies if _selects(one, pod) and direction in _types(one)]
    if not selecting:
        return True
    return any(
        _rule_allows(rule, direction, other, port, listener, policy["metadata"].get("namespace"))
        for policy in selecting
        for rule in policy["spec"].get(direction.lower()) or []
    )


def _types(policy):
    return policy["spec"].get("policyTypes", ["Ingress"])


def _selects(policy, pod):
    in_namespace = policy["metadata"].get("namespace", pod.namespace) == pod.namespace
    return in_namespace and _matches(policy["spec"]["podSelector"], pod.labels)


def _matches(selector, labels):
    assert not selector.get("matchExpressions"), "not needed so far"
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def _rule_allows(rule, direction, other, port, listener, namespace):
    peers = rule.get("from" if direction == "Ingress" else "to")
    return (not peers or any(_peer(peer, other, namespace) for peer in peers)) and (
        not rule.get("ports") or any(_port(one, port, listener) for one in rule["ports"])
    )


def _port(entry, port, listener):
    if entry.get("protocol", "TCP") != "TCP":
        return False
    named = dict(getattr(listener, "ports", ()))
    return entry["port"] == port or named.get(entry["port"]) == port


def _peer(peer, other, namespace):
    if block := peer.get("ipBlock"):
        address = ip_address(other.ip)
        inside = address in ip_network(block["cidr"])
        return inside and not any(address in ip_network(one) for one in block.get("except", []))
    if isinstance(other, Outside):
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace}
        if not _matches(peer["namespaceSelector"], labels):
            return False
    elif namespace is not None and namespace != other.namespace:
        return False
    return "podSelector" not in peer or _matches(peer["podSelector"], other.labels)
