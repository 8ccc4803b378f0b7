"""Where the workers of a cluster come from, as its supervisor sees it.

There are two: sites that the supervisor talks to itself (`direct`), and the offload service of a hub
that does so for all users (`remote`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from dask_offload.snapshot import WorkerInfo
from offload_sites.fleet_view import FleetSnapshot

__all__ = ["Crew", "Plan", "Workforce"]


@dataclass(frozen=True)
class Plan:
    """What a cluster is made of, as far as its supervisor and its scheduler have to know.

    Parameters
    ----------
    id : str
        Unique.
    title, image : str
        Of the profile and of the image, for people.
    sites : mapping
        Name of each site to its title, the preferred one first.
    workers_per_job, gpus_per_worker : int
        How many workers share a job, and how many GPUs each has.
    bind : str
        Address that the scheduler listens on.
    reach : mapping
        The arguments of `comm.Reach` for the scheduler.
    """

    id: str
    title: str
    image: str
    sites: Mapping[str, str]
    workers_per_job: int
    gpus_per_worker: int
    bind: str
    reach: Mapping[str, Any] = field(repr=False)


class Crew(Protocol):
    """What a workforce asks of the supervisor, who alone can ask the scheduler."""

    def workers(self) -> Sequence[WorkerInfo]:
        """Return the workers that are registered."""

    async def let_go(self, job: str, workers: int) -> None:
        """Let the workers of `job` that hold least hand it over and end. Safe to cancel."""

    def bounds(self) -> tuple[int, int] | None:
        """Return the bounds of adaptive scaling; None if the number of workers is fixed."""

    def adapt(self, bounds: tuple[int, int] | None) -> None:
        """Move within `bounds` from now on, or (None) stay at what is wanted."""

    def poke(self) -> None:
        """Take note that something has changed."""


class Workforce(Protocol):
    """Keeps as many workers in jobs as are wanted. An async context manager."""

    @property
    def plan(self) -> Plan:
        """Known before the context is entered."""

    @property
    def wanted(self) -> int:
        """How many workers there should be."""

    @property
    def most(self) -> int:
        """How many workers may be wanted at present."""

    @property
    def seed(self) -> int:
        """How many workers an adaptive cluster may keep at present while it has nothing to do."""

    @property
    def trouble(self) -> str:
        """Why relay or service cannot be reached; empty if they can."""

    @property
    def over(self) -> str:
        """Why this workforce has ended by itself; empty while it goes on."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    def begin(self, scheduler: str) -> None:
        """Note where workers find their scheduler; none is submitted before."""

    async def want(self, workers: int) -> None:
        """Set how many workers there should be. Raises OffloadError if that is not allowed."""

    async def step(self) -> None:
        """See what there is, and do what brings it nearer to what is wanted. Safe to cancel."""

    def snapshot(self) -> FleetSnapshot:
        """Return jobs, failures and troubles, as fresh as they are known."""

    async def bytes_carried(self, *, fresh: bool = False) -> int:
        """Return how many bytes the relay has carried; `fresh`: of this second."""

    async def logs(self, job: str | None) -> dict[str, str]:
        """Return the ends of the logs of one job, or of all, by key. Raises OffloadError."""

    async def retry(self) -> None:
        """Forget past failures, and start the refill again."""

    async def close(self, reason: str) -> list[str]:
        """End all jobs; return those that their sites have not confirmed as ended in time."""
