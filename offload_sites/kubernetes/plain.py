"""Pods on ordinary nodes: what is special about the kind `kubernetes`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any

from offload_sites.jobs import JobSpec, JobState, JobStatus, SiteHealth, SiteState
from offload_sites.kubernetes import launch, manifest
from offload_sites.kubernetes.client import KubeApi
from offload_sites.kubernetes.states import status_of_pod
from offload_sites.site_models import KubernetesSite

__all__ = ["PlainPods"]


class PlainPods:
    """Pods that a kubelet runs (a `PodKind`).

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    site : KubernetesSite
        Its model.
    """

    def __init__(self, name: str, site: KubernetesSite) -> None:
        self._name = name
        self._site = site

    def check(self, spec: JobSpec) -> None:
        """Raise JobRejectedError if no node can run this."""
        manifest.check_spec(self._name, self._site, spec)

    def script(self, key: str, spec: JobSpec, files: Iterable[str]) -> str:
        """Return the script that starts a job."""
        return launch.render_script(
            key, spec.command, spec.environment, files, walltime_s=spec.walltime.total_seconds()
        )

    def pod(self, job: manifest.PodJob) -> dict[str, Any]:
        """Return the pod of a job."""
        return manifest.make_pod(job, self._site)

    def status(
        self, pod: Mapping[str, Any], walltime: timedelta, warnings: Iterable[str]
    ) -> JobStatus:
        """Return what a pod says of its job."""
        return status_of_pod(pod, walltime, warnings)

    async def trouble(self, _api: KubeApi, *, to_end: bool = False) -> str:
        """Return nothing: what an API server says of ordinary pods is as it is."""
        return ""

    async def health(self, _api: KubeApi, pods: Collection[Mapping[str, Any]]) -> SiteHealth:
        """Return FULL while jobs of ours find no node."""
        waiting = [
            status
            for pod in pods
            if (status := status_of_pod(pod, timedelta(0))).state is JobState.QUEUED and status.said
        ]
        if waiting:
            return SiteHealth(SiteState.FULL, f"{len(waiting)} jobs wait for a node with room")
        return SiteHealth(SiteState.UP)
