"""Pods on a virtual node: what is special about the kind `interlink`. Thin."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from offload_sites.interlink import manifest
from offload_sites.interlink.health import node_health, node_silence, node_trouble
from offload_sites.interlink.states import status_of_virtual_pod
from offload_sites.jobs import JobSpec, JobStatus, SiteHealth, SiteState
from offload_sites.kubernetes import launch
from offload_sites.kubernetes.client import ApiError, KubeApi
from offload_sites.kubernetes.manifest import PodJob
from offload_sites.site_models import InterlinkSite

__all__ = ["VirtualNode"]

# A virtual node tells how it is every 30 s: to ask more often than this is of no use.
_FRESH_S = 1.0
_FORBIDDEN, _MISSING = 403, 404


class VirtualNode:
    """Pods that a virtual kubelet passes on (a `PodKind`).

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    site : InterlinkSite
        Its model.
    """

    def __init__(self, name: str, site: InterlinkSite) -> None:
        self._name = name
        self._site = site
        self._node: Mapping[str, Any] | None = None
        self._looked_s = -_FRESH_S
        self._readable = True

    def check(self, spec: JobSpec) -> None:
        """Raise JobRejectedError if no node can run this."""
        manifest.check_spec(self._name, self._site, spec)

    def script(self, key: str, spec: JobSpec, files: Iterable[str]) -> str:
        """Return the script that starts a job."""
        return launch.render_script(
            key,
            spec.command,
            spec.environment,
            files,
            walltime_s=spec.walltime.total_seconds(),
            done=manifest.DONE,
        )

    def pod(self, job: PodJob) -> dict[str, Any]:
        """Return the pod of a job."""
        return manifest.make_pod(job, self._site)

    def status(
        self, pod: Mapping[str, Any], walltime: timedelta, warnings: Iterable[str]
    ) -> JobStatus:
        """Return what a pod says of its job."""
        return status_of_virtual_pod(pod, walltime, warnings)

    async def trouble(self, api: KubeApi, *, to_end: bool = False) -> str:
        """Return why the virtual node cannot be relied on; empty if it can, or if none may tell.

        A node that is not there any more hinders nobody from ending jobs: there is nobody left who
        could pass it on. Nor does one whose virtual kubelet is gone: the API keeps the wish until it is
        back, which else would hand over what nobody wants any more.
        """
        node, now = await self._look(api), datetime.now(UTC)
        if node is None and self._readable:
            return "" if to_end else f"there is no node {self._site.node_name!r} any more"
        if node is None or (to_end and node_silence(node, now)):
            return ""
        return node_trouble(node, now)

    async def health(self, api: KubeApi, pods: Collection[Mapping[str, Any]]) -> SiteHealth:
        """Return how the node is, and how many cores of it nobody has taken."""
        node = await self._look(api)
        if not self._readable:
            return SiteHealth(
                SiteState.DEGRADED, f"the state of node {self._site.node_name!r} may not be read"
            )
        if node is None:
            return SiteHealth(SiteState.DOWN, f"there is no node {self._site.node_name!r}")
        try:
            pods = await api.list(
                "/api/v1/pods", fieldSelector=f"spec.nodeName={self._site.node_name}"
            )
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise
            # Only ours, then: still an upper bound.
        return node_health(node, pods, datetime.now(UTC))

    async def _look(self, api: KubeApi) -> Mapping[str, Any] | None:
        """Return the node as it was at most a second ago; None if there is none, or none to see."""
        if time.monotonic() - self._looked_s < _FRESH_S:
            return self._node
        try:
            self._node = await api.get(f"/api/v1/nodes/{self._site.node_name}")
            self._readable = True
        except ApiError as error:
            if error.status not in {_FORBIDDEN, _MISSING}:
                raise
            self._node = None
            self._readable = error.status == _MISSING
        self._looked_s = time.monotonic()
        return self._node
