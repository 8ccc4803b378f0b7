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

from dask_offload import bounds
from dask_offload.bounds import for_workers, modules, some_time, text, whole
from dask_offload.config import seconds, setting
from dask_offload.relay_option import check_relay
from dask_offload.runtime import absolute, user_name
from dask_offload.service_client import service_url
from offload_relay.access import slug
from offload_sites.errors import OffloadError

__all__ = ["cluster_id", "make_request"]

# Sections of Dask's configuration that mean something on a worker.
_TRAVELS = ("array", "dataframe", "distributed", "optimization", "tokenize")


def make_request(
    *,
    profile: str | None,
    image: str | Path | None,
    walltime: str | timedelta | None,
    cpus: int | None,
    site: str | None,
    catalog: str | Path | None,
    relay: Mapping[str, Any] | None,
    preload: str | Sequence[str],
) -> dict[str, Any]:
    """Return what the supervisor has to know, but for the name: arguments first, then settings.

    Raises
    ------
    OffloadError
        An argument or a setting is something that cannot be meant.
    """
    relay = check_relay(relay) if relay else _relay_setting()
    catalog = text("catalog", catalog or setting("catalog"))
    return {
        "catalog": str(absolute("catalog", catalog)) if catalog else None,
        "service": None if catalog or relay else _service(),
        "choice": {
            "profile": text("profile", profile or setting("profile")),
            "image": text("image", image or setting("image")),
            "walltime": bounds.walltime(setting("walltime") if walltime is None else walltime),
            "cpus": None if cpus is None else whole("cpus", cpus),
            "site": text("site", site),
        },
        "relay": relay,
        "user": user_name(),
        "owner_grace_s": seconds("owner-grace"),
        "relay_grace_s": seconds("relay-grace"),
        "queue_budget_s": seconds("queue-budget"),
        "dashboard_address": setting("dashboard-address"),
        "adaptive": {
            "interval_s": seconds("adaptive.interval"),
            "target_duration_s": some_time(
                "the setting offload.adaptive.target-duration", seconds("adaptive.target-duration")
            ),
            "grace_s": seconds("adaptive.scale-down-grace"),
        },
        "worker": _for_workers(
            [
                *modules("the setting offload.worker.preload", setting("worker.preload")),
                *modules("preload", preload),
            ]
        ),
    }


def cluster_id(name: str) -> str:
    """Return an id for a cluster of this name; it never comes again."""
    return f"{slug(name, 24)}-{secrets.token_hex(3)}"


def _for_workers(preload: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {name: dask.config.get(name, {}) for name in _TRAVELS}
    config["distributed"] = {
        **config["distributed"],
        "comm": {k: v for k, v in config["distributed"].get("comm", {}).items() if k != "tls"},
    }
    return {
        "preload": list(preload),
        "register_timeout_s": seconds("worker.register-timeout"),
        "version_check": _version_check(),
        "dask_config": {name: for_workers(name, part) for name, part in config.items()},
        "worker_config": for_workers("offload.worker.config", setting("worker.config")),
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "dask": dask.__version__,
            "distributed": distributed.__version__,
        },
    }


def _version_check() -> str:
    found = setting("version-check")
    if found not in ("strict", "warn"):
        raise OffloadError(
            f"the setting offload.version-check is {found!r}", "it is either strict or warn"
        )
    return str(found)


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
    unset = not relay or (isinstance(relay, Mapping) and not relay.get("url"))
    return None if unset else check_relay(relay)
