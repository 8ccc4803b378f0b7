"""The objects of one job, as JSON of the Kubernetes API. Pure.

A job is a record (a ConfigMap that also holds its script), a Secret with its files, and a pod. The
record owns the other two, so that nothing outlives it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from offload_sites.errors import JobRejectedError
from offload_sites.jobs import JobSpec, Resources, SecretFiles
from offload_sites.kubernetes import launch
from offload_sites.kubernetes.naming import ANNOTATION, job_labels
from offload_sites.site_models import KubernetesSite, PodSite
from offload_sites.units import render_duration, render_memory

__all__ = [
    "CONTAINER",
    "PodJob",
    "check_files",
    "check_spec",
    "make_pod",
    "make_record",
    "make_secret",
    "pod_metadata",
    "resources",
    "toleration",
    "too_large",
]

CONTAINER = "job"
# What the API server allows in the data of one Secret, before base64.
_SECRET_BYTES = 1024**2
_MIB = 1024**2
# Pulling a large image counts as running; the script ends the job by its walltime, and this is for
# the case that it cannot.
_DEADLINE_SLACK = timedelta(hours=1)


@dataclass(frozen=True)
class PodJob:
    """One job as its objects know it.

    Parameters
    ----------
    site : str
        Name of its site.
    name, key : str
        Name of all its objects; our name for it.
    spec : JobSpec
        What it asks for.
    owner_uid : str
        UID of its record, once that exists.
    """

    site: str
    name: str
    key: str
    spec: JobSpec
    owner_uid: str = ""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all its objects."""
        return job_labels(self.site, self.name, self.spec.labels)

    @property
    def annotations(self) -> dict[str, str]:
        """What the record and the pod of a job say of it."""
        return {
            **{ANNOTATION + label: value for label, value in self.spec.labels.items()},
            ANNOTATION + "key": self.key,
            ANNOTATION + "walltime-s": f"{self.spec.walltime.total_seconds():.0f}",
        }

    @property
    def owner(self) -> list[dict[str, Any]]:
        """The ownerReferences of what the record owns."""
        record = {"apiVersion": "v1", "kind": "ConfigMap", "name": self.name}
        return [{**record, "uid": self.owner_uid}]


def check_spec(name: str, site: PodSite, spec: JobSpec) -> None:
    """Check that `spec` can ever run at the site `name`.

    Raises
    ------
    JobRejectedError
        What was asked, and what the limit is.
    """
    for problem in too_large(site, spec.resources, spec.walltime):
        raise JobRejectedError(f"site {name!r} refused the job: {problem}")
    if spec.image is None or not spec.image.docker:
        wanted = f"image {spec.image.name!r}" if spec.image else "a job without an image"
        raise JobRejectedError(
            f"site {name!r} cannot run {wanted}: it pulls images from a registry",
            "give the image a `docker` reference in the catalog",
        )


def too_large(site: PodSite, asked: Resources, walltime: timedelta) -> Iterator[str]:
    """Yield what is asked for that no node of `site` has."""
    node = site.node
    if node and asked.cpus > node.cpus:
        yield f"it asks for {asked.cpus} CPUs, and a node has {node.cpus}"
    if node and asked.memory_bytes > node.memory:
        yield (
            f"it asks for {render_memory(asked.memory_bytes)} of memory, "
            f"and a node has {render_memory(node.memory)}"
        )
    if node and asked.gpus > node.gpus:
        yield f"it asks for {asked.gpus} GPUs, and a node has {node.gpus}"
    if walltime > site.max_walltime:
        yield (
            f"it asks for {render_duration(walltime)}, and a job may run for "
            f"{render_duration(site.max_walltime)}"
        )


def check_files(name: str, spec: JobSpec, secrets: SecretFiles) -> dict[str, bytes]:
    """Return all files of one job, read.

    Raises
    ------
    JobRejectedError
        One cannot be read, has no plain name, or together they are too large for a Secret.
    """
    files = dict(secrets)
    for file, path in spec.inputs.items():
        if file in files:
            raise JobRejectedError(
                f"site {name!r} refused the job: {file!r} is an input and a secret file at once"
            )
        try:
            files[file] = path.read_bytes()
        except OSError as error:
            raise JobRejectedError(
                f"site {name!r} refused the job: its input {file!r} cannot be read"
            ) from error
    for file in files:
        if file in {"", ".", ".."} or "/" in file or "\0" in file or "\n" in file:
            raise JobRejectedError(
                f"site {name!r} refused the job: {file!r} is not the plain name of a file"
            )
    size = sum(map(len, files.values()))
    if size > _SECRET_BYTES - 4096:
        raise JobRejectedError(
            f"site {name!r} refused the job: its files have {render_memory(size)}, "
            f"and a Secret holds {render_memory(_SECRET_BYTES)}",
            "large files belong into the image, or on storage that the site can reach",
        )
    return files


def make_record(job: PodJob, script: str) -> dict[str, Any]:
    """Return the record of a job: what is known of it without its pod, and its script."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": job.name, "labels": job.labels, "annotations": job.annotations},
        "data": {launch.SCRIPT: script},
    }


def make_secret(job: PodJob, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the Secret with all files of a job."""
    packed = launch.pack_files(files)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": job.name, "labels": job.labels, "ownerReferences": job.owner},
        "data": {key: base64.b64encode(content).decode() for key, content in packed.items()},
    }


def make_pod(job: PodJob, site: KubernetesSite) -> dict[str, Any]:
    """Return the pod of a job on an ordinary node."""
    spec, name = job.spec, job.name
    assert spec.image is not None  # noqa: S101  # check_spec
    asked = resources(spec.resources, site.gpu_resource)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": pod_metadata(job, site),
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 30,
            "activeDeadlineSeconds": int((spec.walltime + _DEADLINE_SLACK).total_seconds()),
            "nodeSelector": dict(site.node_selector),
            "tolerations": [toleration(one) for one in site.tolerations],
            "imagePullSecrets": [{"name": secret} for secret in site.image_pull_secrets],
            "containers": [
                {
                    "name": CONTAINER,
                    "image": spec.image.docker,
                    "command": list(launch.COMMAND),
                    "resources": {"requests": asked, "limits": asked},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "run", "mountPath": launch.RUN, "readOnly": True},
                        {"name": "files", "mountPath": launch.FILES, "readOnly": True},
                        {"name": "work", "mountPath": launch.WORK},
                    ],
                }
            ],
            "volumes": [
                {"name": "run", "configMap": {"name": name}},
                # The image decides as whom the job runs, so everybody in it may read; nobody else
                # sees this volume. The script copies the files with mode 0600.
                {"name": "files", "secret": {"secretName": name, "defaultMode": 0o444}},
                {"name": "work", "emptyDir": {}},
            ],
        },
    }


def pod_metadata(job: PodJob, site: PodSite) -> dict[str, Any]:
    """Return the metadata of the pod of a job."""
    return {
        "name": job.name,
        "labels": {**site.labels, **job.labels},
        "annotations": job.annotations,
        "ownerReferences": job.owner,
    }


def resources(asked: Resources, gpu_resource: str) -> dict[str, str]:
    """Return `asked` in units that every plugin reads: whole CPUs, and whole MiB."""
    amounts = {"cpu": str(asked.cpus), "memory": f"{-(-asked.memory_bytes // _MIB)}Mi"}
    return {**amounts, gpu_resource: str(asked.gpus)} if asked.gpus else amounts


def toleration(one: Any) -> dict[str, Any]:
    """Return a toleration of the catalog as a pod has it."""
    match = {"operator": "Exists"} if one.value is None else {"value": one.value}
    return {"key": one.key, **match, **({"effect": one.effect} if one.effect else {})}
