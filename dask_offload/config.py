"""Dask configuration of this package: `offload.*`, with defaults in `offload.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.config
import yaml

from dask_offload.bounds import seconds_in

__all__ = ["load_defaults", "seconds", "setting"]


def load_defaults() -> None:
    """Make the defaults known to Dask; what the user has set stays."""
    defaults = yaml.safe_load(Path(__file__).with_name("offload.yaml").read_text(encoding="utf-8"))
    dask.config.update_defaults(defaults)
    dask.config.ensure_file(source=str(Path(__file__).with_name("offload.yaml")))


def setting(name: str) -> Any:
    """Return the value of `offload.<name>`."""
    return dask.config.get(f"offload.{name}")


def seconds(name: str) -> float:
    """Return the duration `offload.<name>` in seconds. Raises OffloadError if it is none."""
    return seconds_in(f"the setting offload.{name}", setting(name))
