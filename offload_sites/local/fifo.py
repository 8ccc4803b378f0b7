"""Who may start: strict first in, first out. Pure, and standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from offload_sites.local.records import Limits


class Size(NamedTuple):
    """What one job takes."""

    cpus: int
    gpus: int = 0


class Usage(NamedTuple):
    """What a site's running jobs take together."""

    jobs: int = 0
    cpus: int = 0
    gpus: int = 0

    def plus(self, size: Size) -> Usage:
        """Return what it is with one more job of this size."""
        return Usage(self.jobs + 1, self.cpus + size.cpus, self.gpus + size.gpus)


def usage(running: Iterable[Size]) -> Usage:
    """Return what jobs take together, given the size of each."""
    used = Usage()
    for size in running:
        used = used.plus(size)
    return used


def fits(size: Size, used: Usage, limits: Limits) -> bool:
    """Tell whether a job of this size may start now.

    Alone on the site any job may: one that was accepted before the limits were lowered must not
    stop the queue for ever.
    """
    after = used.plus(size)
    jobs_left = limits.max_jobs is None or after.jobs <= limits.max_jobs
    cpus_left = limits.cpus is None or after.cpus <= limits.cpus
    gpus_left = limits.gpus is None or after.gpus <= limits.gpus
    return used.jobs == 0 or (jobs_left and cpus_left and gpus_left)


def startable(waiting: Sequence[Size], used: Usage, limits: Limits) -> int:
    """Return how many of the waiting jobs, from the first on, may start now.

    A small job never overtakes a large one that waits: under a stream of small ones the large one
    would wait for ever.
    """
    for count, size in enumerate(waiting):
        if not fits(size, used, limits):
            return count
        used = used.plus(size)
    return len(waiting)


def free_gpus(wanted: int, taken: Iterable[int], there: int) -> list[int]:
    """Return the numbers of `wanted` GPUs of `there` that are not `taken`; fewer if there are."""
    held = set(taken)
    return [number for number in range(there) if number not in held][:wanted]


def render_wait(ahead: int, used: Usage, limits: Limits) -> str:
    """Return why a job waits, for its user."""
    place = {0: "it is the next to start", 1: "1 job is ahead"}.get(
        ahead, f"{ahead} jobs are ahead"
    )
    full = []
    if limits.cpus is not None:
        full.append(f"{used.cpus} of {limits.cpus} CPUs in use")
    if limits.gpus:
        full.append(f"{used.gpus} of {limits.gpus} GPUs in use")
    if limits.max_jobs is not None:
        full.append(f"{used.jobs} of {limits.max_jobs} jobs running")
    return "; ".join([place, *full])
