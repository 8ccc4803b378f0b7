"""What of this package travels in the agent's archive."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from offload_relay.bundle import write_agent

__all__ = ["write_worker_agent"]

_TRAVELS = ("comm.py", "gpus.py", "slots.py", "worker.py")


def write_worker_agent(folder: Path) -> Path:
    """Write the agent that can run Dask workers into `folder` and return its path."""
    package = importlib.resources.files("dask_offload")
    payload = {f"dask_offload/{name}": (package / name).read_bytes() for name in _TRAVELS}
    # The package's own __init__ imports what images do not have.
    payload["dask_offload/__init__.py"] = b'"""Workers of a cluster; see interlink-offload."""\n'
    return write_agent(folder, payload)
