"""The site kind `local`: processes on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from offload_sites.backend import TokenSource
from offload_sites.catalog import LocalSite
from offload_sites.errors import OffloadError
from offload_sites.jobs import Resources
from offload_sites.local.backend import LocalBackend
from offload_sites.registry import SiteKind

__all__ = ["KIND", "LocalBackend", "create"]


def create(name: str, site: LocalSite, _tokens: TokenSource | None = None) -> LocalBackend:
    """Return the back end of the local site `name`, with its jobs in the user's data folder."""
    node = site.node
    return LocalBackend(
        name,
        directory=Path(site.directory) if site.directory else _default_directory(name),
        max_jobs=site.max_jobs,
        cpus=site.cpus,
        node=Resources(node.cpus, node.memory, node.gpus) if node else None,
    )


def _default_directory(name: str) -> Path:
    try:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:  # containers run under numbers that have neither name nor home
        raise OffloadError(
            f"site {name!r} has no directory for its jobs, since this user has no home folder",
            "set `directory` in the catalog, or the variable HOME or XDG_DATA_HOME",
        ) from error
    return home / "interlink-offload" / "sites" / name


KIND = SiteKind("local", LocalSite, create)
