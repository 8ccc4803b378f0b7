"""Who may start: strict first in, first out. Pure, and standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from offload_sites.local.records import Limits


class Usage(NamedTuple):
    """What a site's running jobs take together."""

    jobs: int = 0
    cpus: int = 0

    def plus(self, cpus: int) -> Usage:
        """Return what it is with one more job of `cpus`."""
        return Usage(self.jobs + 1, self.cpus + cpus)


def usage(running_cpus: Iterable[int]) -> Usage:
    """Return what jobs take together, given the cpus of each."""
    sizes = list(running_cpus)
    return Usage(len(sizes), sum(sizes))


def fits(cpus: int, used: Usage, limits: Limits) -> bool:
    """Tell whether a job of `cpus` may start now.

    Alone on the site any job may: one that was accepted before the limits were lowered must not
    stop the queue for ever.
    """
    jobs_left = limits.max_jobs is None or used.jobs < limits.max_jobs
    cpus_left = limits.cpus is None or used.cpus + cpus <= limits.cpus
    return used.jobs == 0 or (jobs_left and cpus_left)


def startable(waiting_cpus: Sequence[int], used: Usage, limits: Limits) -> int:
    """Return how many of the waiting jobs, from the first on, may start now.

    A small job never overtakes a large one that waits: under a stream of small ones the large one
    would wait for ever.
    """
    for count, cpus in enumerate(waiting_cpus):
        if not fits(cpus, used, limits):
            return count
        used = used.plus(cpus)
    return len(waiting_cpus)


def render_wait(ahead: int, used: Usage, limits: Limits) -> str:
    """Return why a job waits, for its user."""
    place = {0: "it is the next to start", 1: "1 job is ahead"}.get(
        ahead, f"{ahead} jobs are ahead"
    )
    full = []
    if limits.cpus is not None:
        full.append(f"{used.cpus} of {limits.cpus} CPUs in use")
    if limits.max_jobs is not None:
        full.append(f"{used.jobs} of {limits.max_jobs} jobs running")
    return "; ".join([place, *full])
