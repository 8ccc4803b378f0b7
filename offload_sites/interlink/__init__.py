"""The site kind `interlink`: virtual nodes of interLink, with a batch system behind them.

Importing it needs no client of Kubernetes: what is pure in it can be used without one.
"""

from __future__ import annotations

from offload_sites.backend import SiteBackend, TokenSource
from offload_sites.catalog import InterlinkSite
from offload_sites.errors import OffloadError
from offload_sites.registry import SiteKind

__all__ = ["KIND", "create"]


def create(name: str, site: InterlinkSite, _tokens: TokenSource | None = None) -> SiteBackend:
    """Return the back end of the site `name`, which the credentials of this program reach.

    Raises
    ------
    OffloadError
        The client of Kubernetes is not installed.
    """
    try:
        from offload_sites.kubernetes.backend import PodBackend
        from offload_sites.kubernetes.client import KubeApi
    except ImportError as error:
        raise OffloadError(
            f"site {name!r} needs the client of Kubernetes, which is not installed here",
            "pip install 'interlink-offload[kubernetes]'",
        ) from error
    from offload_sites.interlink.node import VirtualNode

    api = KubeApi(name, context=site.context, namespace=site.namespace)
    return PodBackend(name, api, VirtualNode(name, site))


KIND = SiteKind("interlink", InterlinkSite, create)
