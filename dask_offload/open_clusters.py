"""The clusters that this process has open, and what becomes of them when it ends or forks.

As with Dask's own SpecCluster, a program that ends without `close()` leaves nothing behind.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref

from distributed.core import Status
from distributed.deploy import Cluster

__all__ = ["add", "discard"]

_CLOSE_S = 45.0

_open: weakref.WeakSet[Cluster] = weakref.WeakSet()


def add(cluster: Cluster) -> None:
    """Note that `cluster` is open."""
    _open.add(cluster)


def discard(cluster: Cluster) -> None:
    """Note that `cluster` is open no more."""
    _open.discard(cluster)


def _leave_to_parent() -> None:
    """Have a fork take all clusters for closed: it lacks their event loops, and would wait for them."""
    for cluster in list(_open):
        cluster.status = Status.closed
    _open.clear()


def _close_all() -> None:
    for cluster in list(_open):
        with contextlib.suppress(Exception):  # nobody is there any more to be told
            if cluster.status == Status.running and not cluster.asynchronous:
                cluster.close(timeout=_CLOSE_S)


os.register_at_fork(after_in_child=_leave_to_parent)
atexit.register(_close_all)
