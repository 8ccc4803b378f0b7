"""What an API server refuses: unknown and mistyped fields (by the models of the client library, which
are generated from Kubernetes' OpenAPI), and the rules that a schema does not tell."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

import kubernetes_asyncio.client
from kubernetes_asyncio.client import Configuration

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"([+-]?[0-9.]+)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei|[eE][+-]?\d+)?")
_FACTORS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000) ** n for n, unit in enumerate("kMGTPE", 1)},
    **{unit + "i": Fraction(1024) ** n for n, unit in enumerate("KMGTPE", 1)},
}
_AMOUNT = re.compile(r"\.(limits|requests)\.[\w./-]+$")
_PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "datetime": str}
_MIB = 1024**2
_NO_NAME_CHECK = {"events"}


class Invalid(Exception):
    """Problems as the API server would list them; `strict`: fields that the schema does not know."""

    def __init__(self, problems: list[str], *, strict: bool = False) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.strict = strict


def check_schema(value: Any, model: str) -> None:
    problems = list(_mismatches(value, model, ""))
    if problems:
        raise Invalid(problems, strict=True)


def _mismatches(value: Any, kind: str, path: str) -> Iterator[str]:
    if value is None or kind == "object":
        return
    inner = re.fullmatch(r"list\[(.+)\]", kind)
    if inner:
        if not isinstance(value, list):
            yield f"{path}: expected a list, got {value!r}"
            return
        for number, one in enumerate(value):
            yield from _mismatches(one, inner[1], f"{path}[{number}]")
        return
    inner = re.fullmatch(r"dict\(str, (.+)\)", kind)
    if inner:
        if not isinstance(value, dict):
            yield f"{path}: expected a map, got {value!r}"
            return
        for name, one in value.items():
            yield from _mismatches(one, inner[1], f"{path}.{name}")
        return
    if kind in _PLAIN:
        yield from _plain_mismatches(value, kind, path)
    else:
        yield from _model_mismatches(value, kind, path)


def _plain_mismatches(value: Any, kind: str, path: str) -> Iterator[str]:
    if kind == "str" and isinstance(value, int | float) and _AMOUNT.search(path):
        return  # amounts may be numbers, and are stored as text
    if not isinstance(value, _PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
        yield f"{path}: expected {kind}, got {value!r}"
    elif kind == "datetime":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield f"{path}: expected a time, got {value!r}"


def _model_mismatches(value: Any, kind: str, path: str) -> Iterator[str]:
    model = getattr(kubernetes_asyncio.client, kind)
    if not isinstance(value, dict):
        yield f"{path}: expected an object, got {value!r}"
        return
    by_json = {json: name for name, json in model.attribute_map.items()}
    for name, one in value.items():
        if name not in by_json:
            yield f'unknown field "{path}.{name}"'.replace('".', '"')
        else:
            yield from _mismatches(one, model.openapi_types[by_json[name]], f"{path}.{name}")
    known = {by_json[name]: one for name, one in value.items() if name in by_json}
    try:
        model(**known, local_vars_configuration=Configuration())
    except ValueError as error:
        yield f"{path}: {error}"


def check_meta(meta: Mapping[str, Any], resource: str) -> None:
    problems = []
    name = meta.get("name") or ""
    if resource not in _NO_NAME_CHECK and (not _SUBDOMAIN.fullmatch(name) or len(name) > 253):
        problems.append(f"metadata.name: Invalid value: {name!r}: a lowercase RFC 1123 subdomain")
    for label, value in (meta.get("labels") or {}).items():
        problems += _qualified(label, "metadata.labels")
        if len(value) > 63 or not _VALUE.fullmatch(value):
            problems.append(f"metadata.labels: Invalid value: {value!r}: a valid label value")
    notes = meta.get("annotations") or {}
    for note in notes:
        problems += _qualified(note.lower(), "metadata.annotations")
    if sum(len(a) + len(b) for a, b in notes.items()) > 256 * 1024:
        problems.append("metadata.annotations: Too long: may not be more than 262144 bytes")
    for owner in meta.get("ownerReferences") or []:
        problems += [
            f"metadata.ownerReferences.{field}: must not be empty"
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        ]
    for finalizer in meta.get("finalizers") or []:
        if "/" not in finalizer:
            problems.append(f"metadata.finalizers: {finalizer!r}: name is neither a standard one")
    if problems:
        raise Invalid(problems)


def _qualified(name: str, where: str) -> list[str]:
    prefix, slash, last = name.rpartition("/")
    good = 0 < len(last) <= 63 and _VALUE.fullmatch(last)
    if slash:
        good = good and len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix)
    return [] if good else [f"{where}: Invalid value: {name!r}: a qualified name"]


def check_data(value: Mapping[str, Any], resource: str) -> None:
    problems, size = [], 0
    encoded = dict(value.get("data" if resource == "secrets" else "binaryData") or {})
    plain = {} if resource == "secrets" else dict(value.get("data") or {})
    problems += [
        f"data[{key}]: Invalid value: a valid config key"
        for key in [*encoded, *plain]
        if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) or key in {".", ".."}
    ]
    for content in encoded.values():
        try:
            size += len(base64.b64decode(content, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Invalid(["illegal base64 data"], strict=True) from error
    size += sum(len(text.encode()) for text in plain.values())
    if size > _MIB:
        problems.append("data: Too long: may not be more than 1048576 bytes")
    if problems:
        raise Invalid(problems)


def quantity(text: str) -> Fraction:
    text = str(text)
    match = _QUANTITY.fullmatch(text)
    if not match:
        raise Invalid([f"quantities must match the regular expression, got {text!r}"], strict=True)
    unit = match[2] or ""
    if unit[:1] in {"e", "E"} and len(unit) > 1 and unit != "Ei":
        return Fraction(match[1]) * Fraction(10) ** int(unit[1:])
    return Fraction(match[1]) * _FACTORS[unit]


def check_pod(pod: Mapping[str, Any]) -> None:
    spec = pod["spec"]
    problems = list(_volume_problems(spec))
    containers = [*spec.get("containers", []), *(spec.get("initContainers") or [])]
    names = [one.get("name", "") for one in containers]
    if not spec.get("containers"):
        problems.append("spec.containers: Required value")
    problems += [f"spec.containers: Duplicate value: {n!r}" for n in {*names} if names.count(n) > 1]
    for one in containers:
        problems += _container_problems(one)
    if spec["restartPolicy"] not in {"Always", "OnFailure", "Never"}:
        problems.append(f"spec.restartPolicy: Unsupported value: {spec['restartPolicy']!r}")
    if (spec.get("activeDeadlineSeconds") or 1) < 1:
        problems.append("spec.activeDeadlineSeconds: must be between 1 and 2147483647")
    problems += _toleration_problems(spec)
    for label, value in (spec.get("nodeSelector") or {}).items():
        problems += _qualified(label, "spec.nodeSelector")
        if len(value) > 63 or not _VALUE.fullmatch(value):
            problems.append(f"spec.nodeSelector: Invalid value: {value!r}")
    if problems:
        raise Invalid(problems)


def _toleration_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    for one in spec.get("tolerations") or []:
        operator = one.get("operator") or "Equal"
        if operator == "Exists" and one.get("value"):
            yield "spec.tolerations: value must be empty when `operator` is 'Exists'"
        if not one.get("key") and operator != "Exists":
            yield "spec.tolerations: operator must be Exists when `key` is empty"
        if one.get("tolerationSeconds") is not None and one.get("effect") != "NoExecute":
            yield "spec.tolerations: effect must be 'NoExecute' with tolerationSeconds"
        if one.get("effect", "") not in {"", "NoSchedule", "PreferNoSchedule", "NoExecute"}:
            yield f"spec.tolerations: Unsupported value: {one['effect']!r}"


def _volume_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    volumes = spec.get("volumes") or []
    names = [one.get("name", "") for one in volumes]
    yield from (f"spec.volumes: Duplicate value: {n!r}" for n in {*names} if names.count(n) > 1)
    for one in volumes:
        if not _LABEL.fullmatch(one.get("name", "")):
            yield f"spec.volumes.name: Invalid value: {one.get('name')!r}"
        if len([field for field in one if field != "name"]) > 1:
            yield f"spec.volumes[{one['name']}]: may not specify more than 1 volume type"
        mode = (one.get("secret") or one.get("configMap") or {}).get("defaultMode", 0)
        if not 0 <= mode <= 0o777:
            yield "spec.volumes: defaultMode must be a number between 0 and 0777 (octal)"
    for container in [*spec.get("containers", []), *(spec.get("initContainers") or [])]:
        mounts = container.get("volumeMounts") or []
        for mount in mounts:
            if mount["name"] not in names:
                yield f"spec.containers.volumeMounts: Not found: {mount['name']!r}"
        paths = [mount["mountPath"] for mount in mounts]
        if len({*paths}) != len(paths):
            yield "spec.containers.volumeMounts.mountPath: must be unique"


def _container_problems(one: Mapping[str, Any]) -> Iterator[str]:
    if not _LABEL.fullmatch(one.get("name", "")) or len(one["name"]) > 63:
        yield f"spec.containers.name: Invalid value: {one.get('name')!r}"
    if not (one.get("image") or "").strip():
        yield "spec.containers.image: Required value"
    wanted = one.get("resources") or {}
    limits = {name: quantity(value) for name, value in (wanted.get("limits") or {}).items()}
    requests = {name: quantity(value) for name, value in (wanted.get("requests") or {}).items()}
    for name, value in requests.items():
        if name in limits and value > limits[name]:
            yield f"spec.containers.resources.requests: must be less than or equal to {name} limit"
    for name, value in limits.items():
        if "/" in name and (requests.get(name, value) != value or value.denominator != 1):
            yield f"spec.containers.resources: {name} must be an integer, equal in requests"
    for env in one.get("env") or []:
        if not env.get("name") or "=" in env["name"]:
            yield f"spec.containers.env.name: Invalid value: {env.get('name')!r}"
        if env.get("value") and env.get("valueFrom"):
            yield "spec.containers.env.valueFrom: may not be specified when `value` is not empty"
