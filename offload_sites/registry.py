"""The kinds of sites that are installed. A package adds one by an entry point, see `SiteKind`."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from offload_sites.backend import SiteBackend, TokenSource
from offload_sites.catalog import BUILTIN_SITES, BaseSite
from offload_sites.errors import OffloadError
from offload_sites.wording import join_names

__all__ = ["GROUP", "SiteKind", "create_backend", "site_kinds", "site_models"]

log = logging.getLogger(__name__)

#: The entry point group: name of the kind = "package.module:KIND".
GROUP = "interlink_offload.sites"


@dataclass(frozen=True)
class SiteKind:
    """One kind of site: what the catalog says of it, and how it is talked to.

    Parameters
    ----------
    name : str
        The word after `kind:` in the catalog.
    model : type
        Its model, derived from `BaseSite`.
    create : callable
        Takes the name of a site, its model, and the user's `TokenSource` (None: what the
        environment offers), and returns a back end that is not entered yet.
    per_user : bool
        True if jobs run as the user whose token submits them: then each user needs a back end of
        their own. False if one back end serves all users of a hub.
    """

    name: str
    model: type[BaseSite]
    create: Callable[[str, Any, TokenSource | None], SiteBackend]
    per_user: bool = False


@functools.cache
def site_kinds() -> Mapping[str, SiteKind]:
    """Return all kinds whose packages are installed and can be imported, by name."""
    kinds = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            kind = entry.load()
        except ImportError as error:
            # Another's package, or one of our extras that is not installed: all else still works.
            log.warning("sites of kind %r cannot be used: %s", entry.name, error)
            continue
        except Exception:  # whatever a foreign module does while it is imported
            log.warning("sites of kind %r cannot be used", entry.name, exc_info=True)
            continue
        if not isinstance(kind, SiteKind):
            log.warning(
                "sites of kind %r cannot be used: %s is no SiteKind", entry.name, entry.value
            )
            continue
        kinds[kind.name] = kind
    return kinds


def site_models() -> Mapping[str, type[BaseSite]]:
    """Return the models of all kinds that a catalog may name, with or without a back end."""
    return {**BUILTIN_SITES, **{name: kind.model for name, kind in site_kinds().items()}}


def create_backend(name: str, site: BaseSite, tokens: TokenSource | None = None) -> SiteBackend:
    """Return the back end of one site of a catalog; enter it to use it.

    Parameters
    ----------
    name : str
        Name of the site in the catalog.
    site : BaseSite
        Its model.
    tokens : TokenSource or None
        Whose jobs they are to be, at a site that acts as its users; None for what the environment
        of this program offers.

    Raises
    ------
    OffloadError
        No back end for this kind is installed.
    """
    kind = site_kinds().get(site.kind)
    if kind is None:
        raise OffloadError(
            f"site {name!r} is of kind {site.kind!r}, for which no back end is installed here",
            f"installed: {join_names(site_kinds())}",
        )
    return kind.create(name, site, tokens)
