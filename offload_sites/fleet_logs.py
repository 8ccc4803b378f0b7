"""What the jobs of a fleet have printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from offload_sites.backend import SiteBackend
from offload_sites.errors import OffloadError
from offload_sites.fleet_plan import FleetJob

__all__ = ["read_logs"]


async def read_logs(
    jobs: Iterable[FleetJob], backends: Mapping[str, SiteBackend], wanted: str | None = None
) -> dict[str, str]:
    """Return the ends of the logs of one job (its key or handle), or of all that have some.

    Parameters
    ----------
    jobs : iterable of FleetJob
        All of a fleet; those that their site has not accepted yet are passed over.
    backends : mapping
        Name of the site to its back end.
    wanted : str or None
        Which job; None for all.

    Returns
    -------
    dict
        Key to both streams, or to why there are none, in brackets.

    Raises
    ------
    OffloadError
        There is no such job.
    """
    found: dict[str, str] = {}
    for job in jobs:
        if job.handle is None or wanted not in (None, job.key, str(job.handle)):
            continue
        try:
            logs = await backends[job.site].logs(job.handle)
        except OffloadError as error:
            found[job.key] = f"({error.message})"
        else:
            found[job.key] = "\n".join(text for text in (logs.stdout, logs.stderr) if text)
    if wanted is not None and not found:
        raise OffloadError(
            f"no job of this cluster is called {wanted!r}", "its jobs are listed by cluster.jobs()"
        )
    return found
