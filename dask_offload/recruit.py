"""What a job of Dask workers is made of: its command, its lease, its certificate, its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dask_offload.tls import ClusterAuthority
from offload_relay.access import RelayAccess, SitePlace
from offload_relay.agent.config import AgentConfig
from offload_relay.lease import Lease, sign
from offload_sites.jobs import ImageRef, JobSpec, Resources, SecretFiles

__all__ = ["WorkerJobs"]

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
    cluster : str
        Unique id of the cluster, a label: the domain of its nets and the prefix of its keys.
    user : str
        Whose it is.
    scheduler : str
        Address of the scheduler, `relay://…`.
    relay : RelayAccess
        Where agents dial.
    authority : ClusterAuthority
        Signs the workers' certificates.
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
    """

    cluster: str
    user: str
    scheduler: str
    relay: RelayAccess
    authority: ClusterAuthority
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
        )
        expires = datetime.now(UTC) + self.queue_budget + self.walltime
        # One certificate for the jobs of one submission: they are of one user and one cluster.
        credential = self.authority.issue("worker", self.queue_budget + self.walltime)
        tls = {"ca": credential.ca, "cert": credential.cert, "key": credential.key}
        return spec, {key: self._secrets(site, workers, key, expires, tls) for key in keys}

    def _secrets(
        self, site: str, workers: int, key: str, expires: datetime, tls: Mapping[str, str]
    ) -> SecretFiles:
        place = self.places[site]
        shared = f"{place.label}.{self.cluster}"
        net = f"j{key.rpartition('-')[2]}.{shared}"
        lease = Lease(
            role="agent",
            user=self.user,
            domain=self.cluster,
            expires=expires,
            job=key,
            net=net,
            dial=(self.scheduler.removeprefix("relay://"), f"*.{self.cluster}"),
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
            "scope": shared if place.shared else net,
            "bind": place.bind,
            "tls": tls,
        }
        return {_AGENT_CONFIG: agent.render(), _WORKER_CONFIG: json.dumps(worker).encode()}
