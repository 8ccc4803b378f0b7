"""Objects with versions and a history, as etcd keeps them for an API server."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Key(NamedTuple):
    resource: str
    namespace: str
    name: str


class Change(NamedTuple):
    version: int
    kind: str  # ADDED, MODIFIED, DELETED
    key: Key
    object: dict[str, Any]
    before: dict[str, Any] | None


class Expired(Exception):
    """The history does not go back so far."""


class Store:
    def __init__(self) -> None:
        self._versions = itertools.count(1)
        self.version = 0
        self.objects: dict[Key, dict[str, Any]] = {}
        self.history: list[Change] = []
        self.oldest = 0
        self._changed = asyncio.Event()

    def put(self, key: Key, value: dict[str, Any]) -> dict[str, Any]:
        before = self.objects.get(key)
        value = copy.deepcopy(value)
        self._stamp(value)
        self.objects[key] = value
        self._note("MODIFIED" if before else "ADDED", key, value, before)
        return value

    def drop(self, key: Key) -> dict[str, Any]:
        before = self.objects.pop(key)
        value = copy.deepcopy(before)
        self._stamp(value)
        self._note("DELETED", key, value, before)
        return value

    def select(
        self, resource: str, namespace: str, holds: Callable[[dict[str, Any]], bool]
    ) -> list[dict[str, Any]]:
        return [
            value
            for key, value in sorted(self.objects.items())
            if key.resource == resource and namespace in ("", key.namespace) and holds(value)
        ]

    def compact(self) -> None:
        """Forget the history: watches and pages that go back further get a 410."""
        self.history.clear()
        self._bump()
        self.oldest = self.version

    def since(self, version: int) -> list[Change]:
        if version < self.oldest:
            raise Expired
        return [change for change in self.history if change.version > version]

    async def changed(self, version: int) -> None:
        """Wait until there is a change after `version`."""
        while self.version <= version:
            await self._changed.wait()

    def _bump(self) -> None:
        self.version = next(self._versions)
        self._changed.set()
        self._changed = asyncio.Event()

    def _stamp(self, value: dict[str, Any]) -> None:
        self._bump()
        value["metadata"]["resourceVersion"] = str(self.version)

    def _note(
        self, kind: str, key: Key, value: dict[str, Any], before: dict[str, Any] | None
    ) -> None:
        self.history.append(Change(self.version, kind, key, copy.deepcopy(value), before))

    def owned_by_nobody(self) -> Iterator[Key]:
        """Yield what the garbage collector removes: all owners are gone."""
        uids = {value["metadata"]["uid"] for value in self.objects.values()}
        for key, value in self.objects.items():
            owners = value["metadata"].get("ownerReferences") or []
            if owners and not any(owner["uid"] in uids for owner in owners):
                yield key
