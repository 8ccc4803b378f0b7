"""What a job of Dask workers is made of: its command, its lease, its certificate, its settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dask_offload.tls import Credential
from offload_relay.access import RelayAccess, SitePlace, site_label
from offload_relay.agent.config import AgentConfig
from offload_relay.lease import Lease, sign
from offload_sites.jobs import ImageRef, JobSpec, Resources, SecretFiles

__all__ = ["WorkerJobs", "site_place"]

AGENT_FILE = "offload-agent.pyz"
_AGENT_CONFIG = "agent.json"
_WORKER_CONFIG = "worker.json"

# What Dask's nanny sets before it starts a worker (distributed 2026.8, nanny.pre-spawn-environ and
# nanny.py); equal hash seeds in all jobs are needed by shuffles.
_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "6640",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class WorkerJobs:
    """Makes the jobs of one cluster (the `prepare` of a fleet's recruiter).

    Parameters
    ----------
    domain : str
        Last labels of the nets of the cluster, unique to it.
    user : str
        Whose it is.
    scheduler : str
        Address of the scheduler, `relay://…`.
    relay : RelayAccess
        Where agents dial.
    credential : callable
        Returns a worker's certificate that is good for at least the time given.
    agent : Path
        The agent's archive.
    image : ImageRef
        What the workers run in.
    unit : Resources
        What one worker asks for.
    walltime, queue_budget, unreachable : timedelta
        How long a job may run, wait, and be without its relay.
    places : mapping
        Name of a site to what matters of it.
    settings : mapping
        `versions`, `version_check`, `preload`, `dask_config`, `worker_config`,
        `register_timeout_s` for workers.
    environment, labels : mapping
        For the payload; for people who look at a queue.
    unwatched : timedelta or None
        For how long a job goes on while nobody watches its domain; None for the relay's own limit.
    """

    domain: str
    user: str
    scheduler: str
    relay: RelayAccess
    credential: Callable[[timedelta], Credential]
    agent: Path
    image: ImageRef
    unit: Resources
    walltime: timedelta
    queue_budget: timedelta
    unreachable: timedelta
    places: Mapping[str, SitePlace]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    unwatched: timedelta | None = None

    def prepare(
        self, site: str, workers: int, keys: Sequence[str]
    ) -> tuple[JobSpec, Mapping[str, SecretFiles]]:
        """Return the spec of jobs with `workers` workers each at `site`, and each job's secrets."""
        spec = JobSpec(
            command=(self.image.python, AGENT_FILE, _AGENT_CONFIG),
            resources=self.unit.times(workers),
            walltime=self.walltime,
            image=self.image,
            inputs={AGENT_FILE: self.agent},
            labels={**self.labels, "workers": str(workers)},
            max_wait=self.queue_budget,
        )
        expires = datetime.now(UTC) + self.queue_budget + self.walltime
        # One certificate for the jobs of one submission: they are of one user and one cluster.
        credential = self.credential(self.queue_budget + self.walltime)
        tls = {"ca": credential.ca, "cert": credential.cert, "key": credential.key}
        return spec, {key: self._secrets(site, workers, key, expires, tls) for key in keys}

    def _secrets(
        self, site: str, workers: int, key: str, expires: datetime, tls: Mapping[str, str]
    ) -> SecretFiles:
        place = self.places[site]
        shared = f"{place.label}.{self.domain}"
        net = f"j{key.rpartition('-')[2]}.{shared}"
        lease = Lease(
            role="agent",
            user=self.user,
            domain=self.domain,
            expires=expires,
            job=key,
            net=net,
            dial=(self.scheduler.removeprefix("relay://"), f"*.{self.domain}"),
            unwatched_s=self.unwatched.total_seconds() if self.unwatched else None,
        )
        agent = AgentConfig(
            relay=self.relay.url,
            lease=sign(lease, self.relay.key),
            job=key,
            net=net,
            payload=["{python}", "{agent}", "--payload", "dask_offload.worker", _WORKER_CONFIG],
            walltime_s=self.walltime.total_seconds(),
            drain_s=120.0,
            unreachable_s=self.unreachable.total_seconds(),
            environment={**_ENVIRONMENT, **self.environment},
            relay_ca=self.relay.ca,
        )
        worker = {
            **self.settings,
            "scheduler": self.scheduler,
            "name": key,
            "workers": workers,
            "nthreads": self.unit.cpus,
            "memory_bytes": self.unit.memory_bytes,
            "gpus": self.unit.gpus,
            # As dask-cuda calls it: tasks that ask for {"GPU": 1} run where there is one.
            "resources": {"GPU": self.unit.gpus} if self.unit.gpus else {},
            "scope": shared if place.shared else net,
            "bind": place.bind,
            "tls": tls,
        }
        return {_AGENT_CONFIG: agent.render(), _WORKER_CONFIG: json.dumps(worker).encode()}


def site_place(name: str, kind: str, network: str) -> SitePlace:
    """Return what matters to workers of the site `name`, with `kind` and `network` of the catalog."""
    shared = network == "site"
    bind = "127.0.0.1" if kind == "local" or not shared else "auto"
    return SitePlace(site_label(name), shared, bind)
