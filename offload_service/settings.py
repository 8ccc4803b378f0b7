"""What the service is told when it is started, and what one user may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from offload_relay.access import RelayAccess

__all__ = ["ServiceSettings", "UserLimits"]


@dataclass(frozen=True)
class UserLimits:
    """What one user may have at a time.

    Parameters
    ----------
    clusters : int
        Dask clusters.
    workers : int
        Workers that are wanted, in all clusters together.
    queue_budget : timedelta
        How long a job may wait; a notebook may ask for less.
    relay_grace : timedelta
        How long a job may go on without its relay; a notebook may ask for less.
    """

    clusters: int = 10
    workers: int = 1000
    queue_budget: timedelta = timedelta(days=7)
    relay_grace: timedelta = timedelta(minutes=30)


@dataclass(frozen=True)
class ServiceSettings:
    """How one service runs.

    Parameters
    ----------
    catalog : Path
        Sites, images and profiles; read again when it changes.
    ledger : str
        URL of the database, see `offload_sites.database.Database`.
    relay : RelayAccess
        Where agents dial, where schedulers dial, and the key that leases are signed with.
    folder : Path
        Where files are made that go with jobs; private to this program.
    limits : UserLimits
        Of each user.
    owner_grace : timedelta
        How long a cluster goes on without a word from its notebook's side.
    heartbeat : timedelta
        How often that side is to give word.
    unwatched : timedelta
        How long a job goes on while no service watches it. Workers whose scheduler is gone end
        sooner, by themselves.
    kept : timedelta
        How long the ledger remembers jobs that have ended.
    admin_groups : frozenset of str
        Groups of the hub whose members see the pages of the administrator, with all admins.
    scheduler_networks : tuple of str
        Networks (`10.0.0.0/8`) in which schedulers of sessions may listen, besides the address
        that their requests come from.
    proxy_networks : tuple of str
        Networks of proxies in front of this service whose `X-Forwarded-For` is believed, besides
        those on the same computer.
    """

    catalog: Path
    ledger: str
    relay: RelayAccess
    folder: Path
    limits: UserLimits = field(default_factory=UserLimits)
    owner_grace: timedelta = timedelta(seconds=90)
    heartbeat: timedelta = timedelta(seconds=1)
    unwatched: timedelta = timedelta(hours=6)
    kept: timedelta = timedelta(days=90)
    admin_groups: frozenset[str] = frozenset()
    scheduler_networks: tuple[str, ...] = ()
    proxy_networks: tuple[str, ...] = ()
