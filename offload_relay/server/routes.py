"""Which session answers for a path: literal prefixes, of which the longest counts. Pure.

Two spellings of one URI have to find one session, and no spelling may find another one's. So paths
are compared in one canonical form, are refused if they hold steps upwards, and travel as they came.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from offload_relay.errors import RemoteProtocolError

if TYPE_CHECKING:
    from offload_relay.server.endpoints import Agent

__all__ = ["Routes", "canonical_path"]

# RFC 3986, 2.3, and "@", which hubs leave as it is in the names of users.
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~@")
_ENCODED = re.compile(r"%([0-9A-Fa-f]{2})")
_SEPARATORS = re.compile(r"/|%2F|%5C")
# A hub's base URL, "user", a name, a server's name: no route has more parts.
_DEEPEST = 16


def canonical_path(path: str) -> str:
    """Return the form of `path` in which equivalent paths are equal (RFC 3986, 6.2.2).

    Raises
    ------
    RemoteProtocolError
        It does not start with exactly one slash, or holds a backslash, a fragment, or a step like
        `..`, written plainly or encoded.
    """
    if not path.startswith("/") or path.startswith("//"):
        raise RemoteProtocolError("the path does not start with one slash")
    if "\\" in path or "#" in path:
        raise RemoteProtocolError("the path holds a character that no path may hold")
    plain = _ENCODED.sub(_decode, path)
    if any(part in (".", "..") for part in _SEPARATORS.split(plain)):
        raise RemoteProtocolError("the path holds steps like '..'")
    return plain


def _decode(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _PLAIN else match[0].upper()


class Routes:
    """The routes of all agents at a relay, and those that owners keep for agents to come."""

    def __init__(self) -> None:
        self._agents: dict[str, list[Agent]] = {}
        self._kept: Counter[str] = Counter()

    def add(self, agent: Agent) -> None:
        """Let `agent` answer for the route of its lease; the newest one does, if there are more."""
        if agent.lease.route:
            self._agents.setdefault(canonical_path(agent.lease.route), []).append(agent)

    def remove(self, agent: Agent) -> None:
        """Forget `agent`."""
        if agent.lease.route:
            route = canonical_path(agent.lease.route)
            self._agents[route].remove(agent)
            if not self._agents[route]:
                del self._agents[route]

    def keep(self, route: str, by: int) -> None:
        """Keep `route` for one owner more (`by` = 1) or less (`by` = -1)."""
        if route:
            name = canonical_path(route)
            self._kept[name] += by
            if not self._kept[name]:
                del self._kept[name]

    def find(self, path: str) -> Agent | None:
        """Return the agent for `path`, which is canonical; None if there is none (yet)."""
        route = self._longest(path)
        agents = self._agents.get(route, [])
        # An ended one still tells its user that it has ended, unless another took its place.
        living = [agent for agent in agents if agent.ended is None]
        return next(reversed(living or agents), None)

    def _longest(self, path: str) -> str:
        whole = path if path.endswith("/") else path + "/"
        ends = [match.end() for match in re.finditer("/", whole[:1024])][:_DEEPEST]
        prefixes = (whole[:end] for end in reversed(ends))
        return next((p for p in prefixes if p in self._agents or p in self._kept), "")
