"""Pods of others made fit for a site: which documents are read, and what is said of each change. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offload_sites.errors import InvalidOptionsError
from offload_sites.kubernetes.manifest import toleration
from offload_sites.kubernetes.naming import SITE_LABEL
from offload_sites.site_models import KubernetesSite
from offload_sites.wording import show

__all__ = [
    "Change",
    "Fitted",
    "Notes",
    "fit_plain_pod",
    "is_with_pod",
    "open_document",
    "site_of_namespace",
]

# Where the pod is in each kind of document.
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
# What the API server has written, and does not want to be told.
_SERVERS = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
)


@dataclass(frozen=True)
class Change:
    """One change of a pod, or one problem that no change can mend.

    Parameters
    ----------
    where : str
        Path of the field.
    what, why : str
        What was done, and the reason; of a problem, only `why`.
    """

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.what}: {self.why}" if self.what else f"{self.where}: {self.why}"
        )


@dataclass
class Notes:
    """What there is to say of a pod: changes, and problems."""

    changes: list[Change] = field(default_factory=list)
    problems: list[Change] = field(default_factory=list)

    def changed(self, where: str, what: str, why: str) -> None:
        """Note a change."""
        self.changes.append(Change(where, what, why))

    def problem(self, where: str, why: str) -> None:
        """Note a problem: the pod will not do there what it is meant to."""
        self.problems.append(Change(where, "", why))


@dataclass(frozen=True)
class Fitted:
    """A pod that was made fit: its metadata and spec, and what was done."""

    meta: dict[str, Any]
    spec: dict[str, Any]
    notes: Notes


def fit_plain_pod(
    given_meta: Mapping[str, Any], given_spec: Mapping[str, Any], site: KubernetesSite
) -> Fitted:
    """Return a pod's metadata and spec as the nodes of `site` need them: little is changed."""
    meta, spec = copy.deepcopy(dict(given_meta)), copy.deepcopy(dict(given_spec))
    notes = Notes()
    selector = {**(spec.get("nodeSelector") or {}), **site.node_selector}
    if selector != (spec.get("nodeSelector") or {}):
        text = ", ".join(f"{name}={value}" for name, value in site.node_selector.items())
        notes.changed("spec.nodeSelector", f"set {text}", "chooses the nodes of the site")
        spec["nodeSelector"] = selector
    have = spec.get("tolerations") or []
    added = [one for one in map(toleration, site.tolerations) if one not in have]
    if added:
        keys = ", ".join(one["key"] for one in added)
        notes.changed("spec.tolerations", f"added {keys}", "lets the pod onto these nodes")
        spec["tolerations"] = [*have, *added]
    if site.labels:
        notes.changed("metadata.labels", "added those of the site", "its quota system needs them")
        meta["labels"] = {**(meta.get("labels") or {}), **site.labels}
    return Fitted(meta, spec, notes)


@dataclass(frozen=True)
class Document:
    """One document with a pod in it. `meta` and `spec` are those of the pod."""

    whole: dict[str, Any]
    path: tuple[str, ...]

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata of the pod."""
        return dict(self._pod.get("metadata") or {})

    @property
    def spec(self) -> dict[str, Any]:
        """Spec of the pod."""
        return dict(self._pod.get("spec") or {})

    def filled(self, fitted: Fitted, namespace: str | None) -> dict[str, Any]:
        """Return the document with another pod in it, ready to be created."""
        whole = copy.deepcopy(self.whole)
        pod = whole
        for step in self.path:
            pod = pod[step]
        pod["metadata"], pod["spec"] = fitted.meta, fitted.spec
        whole.pop("status", None)
        meta = whole.setdefault("metadata", {})
        for name in _SERVERS:
            meta.pop(name, None)
        if namespace:
            meta["namespace"] = namespace
        return whole

    @property
    def _pod(self) -> Mapping[str, Any]:
        pod: Mapping[str, Any] = self.whole
        for step in self.path:
            pod = pod.get(step) or {}
        return pod


def is_with_pod(value: object) -> bool:
    """Tell whether a document is of a kind with a pod in it."""
    return isinstance(value, dict) and value.get("kind") in _TEMPLATES


def open_document(value: object) -> Document:
    """Return a document with a pod in it.

    Raises
    ------
    InvalidOptionsError
        It holds none.
    """
    if not isinstance(value, dict):
        raise InvalidOptionsError(f"expected an object of Kubernetes, got {show(value)}")
    kind = str(value.get("kind"))
    if kind not in _TEMPLATES:
        raise InvalidOptionsError(
            f"expected a Pod, Job or CronJob, got {show(kind)}",
            "for other kinds, render the pod that they make",
        )
    document = Document(copy.deepcopy(value), _TEMPLATES[kind])
    if not document.spec:
        raise InvalidOptionsError(f"this {kind} has no pod in it")
    return document


def site_of_namespace(namespace: Mapping[str, Any]) -> str:
    """Return the site that a namespace is labelled with; empty if with none."""
    labels = (namespace.get("metadata") or {}).get("labels") or {}
    return str(labels.get(SITE_LABEL) or "")
