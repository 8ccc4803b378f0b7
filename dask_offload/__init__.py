"""Dask workers anywhere: `OffloadCluster` and the `relay://` comm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_offload.cluster import OffloadCluster

__all__ = ["OffloadCluster"]


def __getattr__(name: str) -> Any:
    # On demand: the supervisor of a cluster lives in this package too, and needs no Dask (60 MiB).
    if name in __all__:
        from dask_offload import cluster

        return getattr(cluster, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
