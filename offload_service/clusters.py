"""All clusters of all users: who may make one, whose is which, and all of them after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from offload_relay.access import slug
from offload_service.cluster import Cluster, Tools
from offload_service.errors import NoSuchClusterError, QuotaError
from offload_service.made import Made
from offload_service.store import ClusterRow
from offload_sites.catalog import Catalog
from offload_sites.errors import LedgerError
from offload_sites.seed import seed_share

__all__ = ["TOKEN_PREFIX", "Caller", "Clusters"]

log = logging.getLogger(__name__)

#: Tokens of clusters are told from the hub's by it: nobody asks the hub about them.
TOKEN_PREFIX = "ofl-"  # noqa: S105  # no secret
_SWEEP_S = 60.0


@dataclass(frozen=True)
class Caller:
    """Who asks. `cluster` is set if it is the supervisor of that cluster, and not a user.

    Parameters
    ----------
    name : str
        User of the hub.
    groups : frozenset of str
        The user's groups.
    admin : bool
        Whether the pages of the administrator are for this user.
    cluster : str
        Id of the one cluster that this caller may touch; empty for all that are the user's.
    """

    name: str
    groups: frozenset[str] = frozenset()
    admin: bool = False
    cluster: str = ""


class Clusters:
    """The clusters of a service. An async context manager: leaving it leaves all jobs alone.

    Parameters
    ----------
    tools : Tools
        What clusters share.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._clusters: dict[str, Cluster] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def __aenter__(self) -> Self:
        books, store = self._tools.books, self._tools.store
        for row in await books.read(store.living):
            jobs = await books.read(
                lambda row=row: books.ledger.jobs(group=row.id, ended=True, limit=100_000)
            )
            try:
                self._add(Cluster(row, self._tools, jobs))
            except Exception:  # one cluster must not keep the service from starting
                log.exception("cluster %s of %s cannot be taken up", row.id, row.user)
            else:
                log.info("cluster %s of %s goes on with %d jobs", row.id, row.user, len(jobs))
        self._sweeper = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        await asyncio.gather(*(cluster.stop() for cluster in self._clusters.values()))

    def _add(self, cluster: Cluster) -> None:
        self._clusters[cluster.id] = cluster
        cluster.start()

    async def _sweep(self) -> None:
        books, store, kept = self._tools.books, self._tools.store, self._tools.settings.kept
        while True:
            await asyncio.sleep(_SWEEP_S)
            for cluster in [one for one in self._clusters.values() if one.ended.is_set()]:
                del self._clusters[cluster.id]
            try:
                await self._tools.pool.sweep()
                await books.write(store.forget, datetime.now(UTC) - kept)
            except LedgerError:
                pass  # said by the bookkeeper
            except Exception:  # the loop must survive; the traceback is logged
                log.exception("sweeping")

    # --- whose is which --------------------------------------------------------------------------

    def all(self) -> Sequence[Cluster]:
        """Return all clusters that are there, for the administrator."""
        return [one for one in self._clusters.values() if not one.ended.is_set()]

    def of(self, user: str) -> Sequence[Cluster]:
        """Return the clusters of a user that are there, the oldest first."""
        return [one for one in self.all() if one.user == user]

    async def get(self, cluster: str, caller: Caller) -> Cluster:
        """Return a cluster of `caller`.

        Raises
        ------
        NoSuchClusterError
            It is nobody's, or somebody else's: a caller cannot tell.
        """
        found = self._clusters.get(cluster)
        if found is not None and _may_touch(caller, found):
            if found.ended.is_set():
                raise NoSuchClusterError(cluster, found.closing)
            return found
        row = await self._tools.books.read(self._tools.store.ended, cluster)
        own = row is not None and row.user == caller.name and caller.cluster in ("", cluster)
        raise NoSuchClusterError(cluster, row.closing if row is not None and own else "")

    async def by_token(self, cluster: str, token: str) -> Caller:
        """Return the supervisor of a cluster, whose token it shows.

        Raises
        ------
        NoSuchClusterError
            There is no such cluster, or the token is another's: a caller cannot tell.
        """
        found: Cluster | ClusterRow | None = self._clusters.get(cluster)
        if found is None:
            found = await self._tools.books.read(self._tools.store.ended, cluster)
        if found is None or not hmac.compare_digest(found.token_hash, _hash(token)):
            raise NoSuchClusterError(cluster)
        return Caller(found.user, cluster=found.id)

    # --- what a user may have --------------------------------------------------------------------

    def _lock(self, user: str) -> asyncio.Lock:
        """Return what a change is made under: what is counted first is written down only later."""
        return self._locks.setdefault(user, asyncio.Lock())

    def most(self, cluster: Cluster) -> int:
        """Return how many workers `cluster` may want, beside what its user's other ones want."""
        others = sum(one.wanted for one in _going_on(self.of(cluster.user)) if one is not cluster)
        return max(0, self._tools.settings.limits.workers - others)

    def seed(self, cluster: Cluster, catalog: Catalog) -> int:
        """Return how many workers `cluster` may keep of its site's seed, if it is adaptive.

        All adaptive clusters that prefer this site share it, whosever they are; and no user has more
        workers by it than one user may have.
        """
        name = _first_site(cluster)
        site = catalog.sites.get(name)
        if site is None or not site.seed:
            return 0
        holders: dict[str, set[str]] = {cluster.user: {cluster.id}}
        for one in _going_on(self.all()):
            if one.notebook.adaptive and _first_site(one) == name:
                holders.setdefault(one.user, set()).add(one.id)
        return min(seed_share(site.seed, holders, cluster.user, cluster.id), self.most(cluster))

    async def scale(self, cluster: Cluster, workers: int) -> None:
        """Have `cluster` want `workers` workers.

        Raises
        ------
        QuotaError
            Its user would have too many.
        LedgerError
            It cannot be written down.
        """
        async with self._lock(cluster.user):
            if cluster.closing:
                raise NoSuchClusterError(cluster.id, cluster.closing)
            most = self.most(cluster)
            if workers > max(most, cluster.wanted):
                limit = self._tools.settings.limits.workers
                raise QuotaError(
                    f"{workers} workers are more than the {most} that this cluster may have: "
                    f"one user may have {limit}, in all clusters together",
                    "scale others down or close them, or ask the hub's administrator for more",
                )
            await cluster.scale(workers)

    async def create(self, name: str, made: Made, caller: Caller) -> tuple[Cluster, str]:
        """Make a cluster, and return it with its token.

        Raises
        ------
        QuotaError
            The user has as many as one may have.
        LedgerError
            It cannot be written down.
        """
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        async with self._lock(caller.name):
            limit = self._tools.settings.limits.clusters
            if len(_going_on(self.of(caller.name))) >= limit:
                raise QuotaError(
                    f"you have {limit} clusters, as many as one user may have",
                    "close one that you do not need: the page of this service lists them",
                )
            row = ClusterRow(
                id=f"{slug(name, 24)}-{secrets.token_hex(4)}",
                user=caller.name,
                name=name,
                token_hash=_hash(token),
                made=made.to_json(),
                created=datetime.now(UTC),
            )
            await self._tools.books.write(self._tools.store.add, row)
            cluster = Cluster(row, self._tools)
            self._add(cluster)
        log.info("cluster %s of %s: profile %s", row.id, row.user, made.profile)
        return cluster, token


def _going_on(clusters: Iterable[Cluster]) -> list[Cluster]:
    return [cluster for cluster in clusters if not cluster.closing]


def _first_site(cluster: Cluster) -> str:
    """Return the site that a cluster prefers: it is that one's seed that it shares in."""
    return next(iter(cluster.made.sites))


def _may_touch(caller: Caller, cluster: Cluster) -> bool:
    if caller.cluster:
        return caller.cluster == cluster.id
    return caller.admin or caller.name == cluster.user


def _hash(token: str) -> str:
    # A random token of 256 bits needs no salt and no slow hash.
    return hashlib.sha256(token.encode()).hexdigest()
