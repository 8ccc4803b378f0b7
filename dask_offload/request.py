"""What `OffloadCluster` asks of its supervisor: arguments, settings, and what is known of this process."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask
import dask.config
import distributed

from dask_offload.config import seconds, setting
from dask_offload.relay_option import check_relay
from dask_offload.runtime import user_name
from dask_offload.service_client import service_url
from offload_relay.access import slug

__all__ = ["cluster_id", "make_request"]

# Sections of Dask's configuration that mean something on a worker.
_TRAVELS = ("array", "dataframe", "distributed", "optimization", "tokenize")


def make_request(
    *,
    profile: str | None,
    image: str | None,
    walltime: str | timedelta | None,
    cpus: int | None,
    site: str | None,
    catalog: str | Path | None,
    relay: Mapping[str, Any] | None,
    preload: Sequence[str],
) -> dict[str, Any]:
    """Return what the supervisor has to know, but for the name: arguments first, then settings.

    Raises
    ------
    OffloadError
        A relay is named in a way that cannot be meant.
    """
    relay = check_relay(relay) if relay else _relay_setting()
    catalog = catalog or setting("catalog")
    if isinstance(walltime, timedelta):
        walltime = f"{walltime.total_seconds():.0f}s"
    return {
        # The supervisor works in another folder than the notebook.
        "catalog": str(Path(catalog).expanduser().resolve()) if catalog else None,
        "service": None if catalog or relay else _service(),
        "choice": {
            "profile": profile or setting("profile"),
            "image": image or setting("image"),
            "walltime": walltime or setting("walltime"),
            "cpus": cpus,
            "site": site,
        },
        "relay": relay,
        "user": user_name(),
        "owner_grace_s": seconds("owner-grace"),
        "relay_grace_s": seconds("relay-grace"),
        "queue_budget_s": seconds("queue-budget"),
        "dashboard_address": setting("dashboard-address"),
        "adaptive": {
            "interval_s": seconds("adaptive.interval"),
            "target_duration_s": seconds("adaptive.target-duration"),
            "grace_s": seconds("adaptive.scale-down-grace"),
        },
        "worker": _for_workers([*setting("worker.preload"), *preload]),
    }


def cluster_id(name: str) -> str:
    """Return an id for a cluster of this name; it never comes again."""
    return f"{slug(name, 24)}-{secrets.token_hex(3)}"


def _for_workers(preload: Sequence[str]) -> dict[str, Any]:
    config = {section: dask.config.get(section, {}) for section in _TRAVELS}
    config["distributed"] = {
        **config["distributed"],
        "comm": {k: v for k, v in config["distributed"].get("comm", {}).items() if k != "tls"},
    }
    return {
        "preload": list(preload),
        "register_timeout_s": seconds("worker.register-timeout"),
        "version_check": setting("version-check"),
        "dask_config": config,
        "worker_config": setting("worker.config"),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "dask": dask.__version__,
            "distributed": distributed.__version__,
        },
    }


def _service() -> dict[str, Any] | None:
    """Return the service of this hub, and in which session we are; None outside of a hub."""
    url = service_url()
    if not url:
        return None
    names = {"profile": "OFFLOAD_PROFILE", "image": "OFFLOAD_IMAGE"}
    session = {key: os.environ.get(name) or None for key, name in names.items()}
    return {"url": url, "session": session}


def _relay_setting() -> dict[str, Any] | None:
    relay = setting("relay")
    return check_relay(relay) if relay["url"] else None
