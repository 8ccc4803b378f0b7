"""The site kind `interlink`: virtual nodes of interLink, with a batch system behind them."""

from __future__ import annotations

from offload_sites.backend import TokenSource
from offload_sites.catalog import InterlinkSite
from offload_sites.interlink.node import VirtualNode
from offload_sites.kubernetes.backend import PodBackend
from offload_sites.kubernetes.client import KubeApi
from offload_sites.registry import SiteKind

__all__ = ["KIND", "create"]


def create(name: str, site: InterlinkSite, _tokens: TokenSource | None = None) -> PodBackend:
    """Return the back end of the site `name`, which the credentials of this program reach."""
    api = KubeApi(name, context=site.context, namespace=site.namespace)
    return PodBackend(name, api, VirtualNode(name, site))


KIND = SiteKind("interlink", InterlinkSite, create)
