"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# What each resource can be selected by, beside metadata.name and metadata.namespace
# (`AddFieldLabelConversionFunc` of core/v1, Kubernetes 1.36).
_FIELDS = {
    "pods": {
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    },
    "nodes": {"spec.unschedulable"},
    "events": {
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.resourceVersion",
        "reason",
        "reportingComponent",
        "source",
        "type",
    },
    "secrets": {"type"},
    "namespaces": {"status.phase"},
}


class BadSelector(Exception):
    pass


def label_selector(text: str) -> Callable[[dict[str, Any]], bool]:
    tests = [_label_test(part.strip()) for part in _split(text) if part.strip()]
    return lambda value: all(test(value["metadata"].get("labels") or {}) for test in tests)


def _split(text: str) -> list[str]:
    return re.split(r",(?![^()]*\))", text)


def _label_test(part: str) -> Callable[[dict[str, str]], bool]:
    among = re.fullmatch(r"([^\s!=]+)\s+(in|notin)\s*\(([^)]*)\)", part)
    if among:
        name, how, values = among[1], among[2], {one.strip() for one in among[3].split(",")}
        if how == "in":
            return lambda labels: labels.get(name) in values
        return lambda labels: labels.get(name) not in values
    equal = re.fullmatch(r"([^\s!=]+)\s*(==|=|!=)\s*(\S*)", part)
    if equal:
        name, how, wanted = equal[1], equal[2], equal[3]
        if how == "!=":
            return lambda labels: labels.get(name) != wanted
        return lambda labels: labels.get(name) == wanted
    absent = re.fullmatch(r"!\s*(\S+)", part)
    if absent:
        return lambda labels: absent[1] not in labels
    if re.fullmatch(r"[\w./-]+", part):
        return lambda labels: part in labels
    raise BadSelector(f"unable to parse requirement: {part!r}")


def field_selector(text: str, resource: str) -> Callable[[dict[str, Any]], bool]:
    tests = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([\w.]+)(==|=|!=)(.*)", part)
        if not match:
            raise BadSelector(f"invalid field selector: {part!r}")
        path, how, wanted = match.groups()
        if path not in {"metadata.name", "metadata.namespace", *_FIELDS.get(resource, ())}:
            raise BadSelector(f"field label not supported: {path}")
        tests.append((path.split("."), how != "!=", wanted))

    def holds(value: dict[str, Any]) -> bool:
        return all((_at(value, path) == wanted) is equal for path, equal, wanted in tests)

    return holds


def _at(value: Any, path: list[str]) -> str:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return "" if value is None else str(value)
