"""The pages."""

from __future__ import annotations

from typing import Any

__all__ = ["routes"]


def routes(prefix: str) -> list[Any]:
    """Return the routes of the pages below `prefix`."""
    return []
