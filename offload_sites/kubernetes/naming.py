"""Names, labels and times of Kubernetes objects. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime

__all__ = [
    "ANNOTATION",
    "JOB_LABEL",
    "MANAGED",
    "SITE_LABEL",
    "is_job_name",
    "job_labels",
    "job_name",
    "label_value",
    "parse_time",
    "render_time",
]

#: Prefix of our annotations and labels.
ANNOTATION = "interlink-offload/"
JOB_LABEL = ANNOTATION + "job"
SITE_LABEL = ANNOTATION + "site"
MANAGED = {"app.kubernetes.io/managed-by": "interlink-offload"}

# A label value, and the part of a name that a plugin may cut.
_LONGEST = 63
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def job_name(site: str, key: str) -> str:
    """Return the name of all objects of one job: unique, and at most 63 characters."""
    name = f"{site}-{key}"
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9].rstrip('-')}-{digest}"


def is_job_name(text: str) -> bool:
    """Tell whether `text` may be one: a native id from outside may be anything."""
    return _NAME.fullmatch(text) is not None


def label_value(text: str) -> str:
    """Return `text` as the value of a label: what is not allowed becomes an underscore."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)[:_LONGEST].strip("._-")


def job_labels(site: str, name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of all objects of one job.

    `labels` are for people (`owner`, `cluster`, …); they also stand, unchanged, in annotations.
    """
    ours = {ANNOTATION + label_value(k): label_value(v) for k, v in labels.items()}
    return {**ours, **MANAGED, SITE_LABEL: site, JOB_LABEL: name}


def parse_time(text: object) -> datetime | None:
    """Return a time of the API as aware UTC; None for none, or for what is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def render_time(moment: datetime) -> str:
    """Return an aware time as the API writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
