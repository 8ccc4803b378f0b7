"""Real clusters on a real HTCondor pool, started as from a login node, each test with its own relay."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dask_offload import OffloadCluster
from tests.support.clusterkit import ClusterKit
from tests.support.condorkit import Pool
from tests.support.relayprocess import RelayProcess
from tests.support.waiting import eventually_sync

_CATALOG = """
sites:
  centre:
    kind: htcondor-ce
    title: Computing centre
    collector: {collector}
    schedd: {schedd}
    ca_file: {ca}
    node: {{cpus: {per_job}, memory: 96GiB}}
    disk: 1MiB
    max_walltime: 48h
    seed: {seed}
    images: {{render: cvmfs, bind: [/cvmfs], repositories: [unpacked.infn.it]}}
images:
  dask: {{title: Dask, cvmfs: '{dask}'}}
  bare: {{title: No Dask, cvmfs: /cvmfs/unpacked.infn.it/testbed/python:3.11}}
  missing: {{title: Not there, cvmfs: /cvmfs/unpacked.infn.it/testbed/no-such:1}}
  broken: {{title: No image, cvmfs: /cvmfs/unpacked.infn.it/testbed}}
profiles:
  cores:
    title: HTC cores
    sites: [centre]
    images: [dask, bare, missing, broken]
    resources: {{cpus: {{choices: {choices}}}, memory: {{per_cpu: 256MiB}}}}
    walltime: {{default: 1h, max: 48h}}
"""


class FarmKit(ClusterKit):
    """Starts clusters at the CE of `pool`."""

    def __init__(self, place: Path, pool: Pool, relay: RelayProcess, dask: str) -> None:
        super().__init__(place)
        self.pool = pool
        self.relay_process = relay
        self.dask = dask

    def catalog(self, *, per_job: int = 96, collector: str = "", seed: int = 0) -> Path:
        env = self.pool.env
        path = self.place / "catalog.yaml"
        text = _CATALOG.format(
            collector=collector or env["CE_ADDRESS"],
            schedd=env["CE_SCHEDD"],
            ca=env["IAM_CA"],
            per_job=per_job,
            choices=[cpus for cpus in (1, 8, 48, 96) if cpus <= per_job],
            seed=seed,
            dask=self.dask,
        )
        path.write_text(text)
        return path

    def start(self, n_workers: int = 0, **options) -> OffloadCluster:
        names = ("per_job", "collector", "seed")
        described = {name: options.pop(name) for name in names if name in options}
        cluster = OffloadCluster(
            n_workers,
            catalog=self.catalog(**described),
            relay=self.relay_process.settings,
            **{"quiet": True, **options},
        )
        self.clusters.append(cluster)
        return cluster

    def queue(self, where: str = "ce") -> dict[str, int]:
        """Return key to HTCondor's JobStatus of our jobs that have not ended."""
        attributes = ("-af", "OffloadKey", "JobStatus")
        alive = "OffloadKey =!= undefined && JobStatus != 4 && JobStatus != 3"
        text = self.pool.condor(where, "condor_q", "-allusers", "-constraint", alive, *attributes)
        return {key: int(state) for key, state in map(str.split, text.splitlines())}

    def empty(self, within_s: float = 30) -> None:
        """Wait until neither the CE nor the pool has a job that has not ended."""

        def nothing() -> bool:
            left = {**self.queue("ce"), **self.queue("pool")}
            assert not left, f"still there: {left}"
            return True

        eventually_sync(nothing, within_s=within_s)

    def show_logs(self) -> None:
        """Print the logs of every process of ours; pytest shows them for a test that fails."""
        for path in sorted([*self.place.glob("run/*/*.log"), self.relay_process.log]):
            with contextlib.suppress(OSError):
                print(f"--- {path.name}\n{path.read_text(errors='replace')[-6000:]}")
