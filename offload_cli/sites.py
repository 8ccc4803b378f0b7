"""What the commands share: the catalog option, and back ends that are open while a command runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from offload_sites.backend import SiteBackend
from offload_sites.catalog import Catalog
from offload_sites.errors import InvalidOptionsError
from offload_sites.load import default_catalog, load_catalog
from offload_sites.registry import create_backend

__all__ = ["catalog_option", "open_catalog", "open_sites", "run", "site_option", "table"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

catalog_option: Callable[[F], F] = click.option(
    "--catalog",
    "catalog_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="OFFLOAD_CATALOG",
    help="File with sites, images and profiles. Default: $OFFLOAD_CATALOG, else processes here.",
)
site_option: Callable[[F], F] = click.option(
    "--site", help="Only this site of the catalog. Default: all of them."
)


def open_catalog(path: Path | None) -> Catalog:
    """Return the catalog at `path`, or the built-in one. Raises CatalogError."""
    return load_catalog(path) if path else default_catalog()


@contextlib.asynccontextmanager
async def open_sites(
    catalog: Catalog, only: str | None = None
) -> AsyncIterator[Mapping[str, SiteBackend]]:
    """Yield the entered back ends of all sites, or of the site `only`."""
    if only is not None and only not in catalog.sites:
        raise InvalidOptionsError(
            f"the catalog has no site {only!r}", f"it has {', '.join(catalog.sites)}"
        )
    async with contextlib.AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(create_backend(name, site))
            for name, site in catalog.sites.items()
            if only in (None, name)
        }


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run an async command; Ctrl-C ends it with the usual exit code."""
    try:
        return asyncio.run(coroutine)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...]) -> str:
    """Return rows as text in columns; the last column is as wide as it is."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
        for row in [head, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
