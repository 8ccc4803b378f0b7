"""How a program connects to a cluster of this user on this computer: certificates, and the way.

`Client("relay://…")` alone names a scheduler and nothing else (so does what dask-labextension puts
into a notebook). The supervisor of that cluster gives whoever can open its socket what is missing.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from distributed.security import Security

from dask_offload.comm import Reach
from dask_offload.rpc import RpcClient
from dask_offload.runtime import cluster_folders
from offload_sites.errors import OffloadError

__all__ = ["connection_args_for", "security_of"]

# By address. The connection stays open: it says that this program is attached to the cluster.
_attached: dict[str, tuple[RpcClient, dict[str, Any]]] = {}


def security_of(hello: dict[str, Any]) -> Security:
    """Return what a client needs, from what the supervisor says to one that attaches."""
    tls = hello["tls"]
    return Security(
        require_encryption=True,
        tls_ca_file=tls["ca"],
        tls_client_cert=tls["cert"],
        tls_client_key=tls["key"],
        extra_conn_args={"relay": Reach(**hello["reach"])},
    )


async def connection_args_for(address: str) -> dict[str, Any] | None:
    """Return the arguments of a connection to the scheduler at `address`.

    Returns
    -------
    dict or None
        None if no cluster of this user on this computer has a scheduler there.
    """
    known = _attached.get(address)
    if known is not None and not known[0].closed:
        return known[1]
    for folder in await asyncio.to_thread(cluster_folders):
        if folder.read("scheduler-at.json").get("address") != address:
            continue
        try:
            supervisor = await RpcClient.connect(folder.supervisor_socket)
            hello = await supervisor.call("attach", pid=os.getpid())
        except (OSError, OffloadError):
            return None
        args = security_of(hello).get_connection_args("client")
        _attached[address] = supervisor, args
        return args
    return None
