"""Merge patch, strategic merge patch and JSON patch, as an API server applies them."""

from __future__ import annotations

import copy
from typing import Any

# Lists that a strategic merge patch merges, by the field their items are known by
# (`x-kubernetes-patch-merge-key` of the API's schema).
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "ownerReferences": "uid",
    "conditions": "type",
    "addresses": "type",
    "taints": "key",
    "containerStatuses": None,
}


def merge_patch(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), part)
    return result


def strategic_patch(value: Any, patch: Any, field: str = "") -> Any:
    if isinstance(patch, list):
        return _merge_lists(value if isinstance(value, list) else [], patch, field)
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {name: part for name, part in patch.items() if name != "$patch"}
    result = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            result.pop(name, None)
        elif not name.startswith("$"):
            result[name] = strategic_patch(result.get(name), part, name)
    return result


def _merge_lists(value: list[Any], patch: list[Any], field: str) -> list[Any]:
    key = _MERGE_KEYS.get(field)
    if field == "finalizers":
        return [*value, *(one for one in patch if one not in value)]
    if key is None:
        return copy.deepcopy(patch)
    result = list(value)
    for part in patch:
        place = next((i for i, one in enumerate(result) if one.get(key) == part.get(key)), None)
        if part.get("$patch") == "delete":
            result = [one for one in result if one.get(key) != part.get(key)]
        elif place is None:
            result.append(copy.deepcopy(part))
        else:
            result[place] = strategic_patch(result[place], part)
    return result


def json_patch(value: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902, but for move, copy and test."""
    result = copy.deepcopy(value)
    for operation in operations:
        parts = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        target = result
        for part in parts[:-1]:
            target = target[int(part)] if isinstance(target, list) else target[part]
        last = parts[-1]
        if isinstance(target, list):
            place = len(target) if last == "-" else int(last)
            if operation["op"] == "add":
                target.insert(place, operation["value"])
            elif operation["op"] == "replace":
                target[place] = operation["value"]
            else:
                del target[place]
        elif operation["op"] == "remove":
            del target[last]
        else:
            target[last] = operation["value"]
    return result
