"""The site kind `kubernetes`: plain pods in a cluster."""

from __future__ import annotations

from offload_sites.backend import TokenSource
from offload_sites.catalog import KubernetesSite
from offload_sites.kubernetes.backend import PodBackend
from offload_sites.kubernetes.client import KubeApi
from offload_sites.kubernetes.plain import PlainPods
from offload_sites.registry import SiteKind

__all__ = ["KIND", "create"]


def create(name: str, site: KubernetesSite, _tokens: TokenSource | None = None) -> PodBackend:
    """Return the back end of the site `name`, which the credentials of this program reach."""
    api = KubeApi(name, context=site.context, namespace=site.namespace)
    return PodBackend(name, api, PlainPods(name, site))


KIND = SiteKind("kubernetes", KubernetesSite, create)
