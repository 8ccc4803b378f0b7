"""What everybody who starts jobs shares: where the relay is, and the labels that make up nets. Pure.

A net reads `<job>.<site>.<domain>`. A domain that belongs to a user of a hub ends in that user's
label, so that one lease rule, `*.<user label>`, covers all that is theirs and nothing else:
`s1f2e.u-alice-k3v9q2xa` is a session, `c7.u-alice-k3v9q2xa` a Dask cluster.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

__all__ = ["RelayAccess", "SitePlace", "site_label", "slug", "user_label"]


@dataclass(frozen=True)
class RelayAccess:
    """How those who start jobs use a relay.

    Parameters
    ----------
    url : str
        What agents dial, `ws://` or `wss://`.
    dial : str
        `host:port` of the dial port, for schedulers and notebooks.
    key : bytes
        Signs leases.
    ca : str
        PEM authority of a `wss://` relay; empty for the system's.
    gateway : str
        `host:port` of the HTTP gateway, for the proxy of a hub; empty if there is none.
    """

    url: str
    dial: str
    key: bytes = field(repr=False)
    ca: str = ""
    gateway: str = ""


@dataclass(frozen=True)
class SitePlace:
    """What matters of a site to a payload: its label in nets, and whether its nodes reach another.

    `bind` is the address that payloads listen on: `auto` for the node's own.
    """

    label: str
    shared: bool
    bind: str


def slug(text: str, most: int = 16) -> str:
    """Return `text` as a label: lower-case letters, digits, hyphens, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"u{plain}"
    return plain[:most].rstrip("-")


def site_label(name: str) -> str:
    """Return the label of a site in nets: the name itself, if it is short and a label.

    Equal for equal names only: workers of one site dial one another directly.
    """
    label = slug(name, 20)
    return label if label == name else f"{slug(name, 13)}-{_digest(name, 6)}"


def user_label(user: str) -> str:
    """Return the label of a user in nets: equal for equal names only, and readable.

    Names that differ in what a label cannot hold (`a.b`, `a-b`, `A.B`) differ in the hash.
    """
    return f"u-{slug(user, 24)}-{_digest(user, 8)}"


def _digest(text: str, length: int) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:length]
