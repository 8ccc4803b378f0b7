"""Real clusters on this machine for tests, each test with its own catalog, sites and files."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import dask.config
import psutil

from dask_offload import OffloadCluster
from tests.support.processes import assert_no_process_below, processes_below
from tests.support.waiting import eventually_sync, scaled

_CATALOG = """
sites:
  farm:
    kind: local
    title: The farm
    node: {{cpus: {per_job}, memory: 64GiB}}
    {limit}
    max_walltime: 2h
    directory: {directory}
    network: {network}
    seed: {seed}
images:
  here: {{title: This Python, python: current}}
{images}
profiles:
  farm:
    title: Farm cores
    for: [workers]
    sites: [farm]
    images: [{names}]
    resources: {{cpus: {{choices: {choices}}}, memory: {{per_cpu: 1GiB}}}}
"""


class ClusterKit:
    """Starts clusters whose files, jobs and processes all lie below `place`.

    Parameters
    ----------
    place : Path
        A folder with a short name, since paths of sockets are.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clusters: list[OffloadCluster] = []
        self.images: dict[str, Path] = {}

    def catalog(
        self,
        *,
        per_job: int = 2,
        max_jobs: int | None = None,
        network: str = "site",
        seed: int = 0,
    ):
        names = ["here", *self.images]
        images = "".join(f"  {n}: {{title: {n}, python: {p}}}\n" for n, p in self.images.items())
        text = _CATALOG.format(
            per_job=per_job,
            limit=f"max_jobs: {max_jobs}" if max_jobs else "",
            directory=self.place / "site",
            network=network,
            seed=seed,
            images=images,
            choices=[cpus for cpus in (1, 2) if cpus <= per_job],
            names=", ".join(names),
        )
        path = self.place / "catalog.yaml"
        path.write_text(text)
        return path

    def image(self, name: str, script: str) -> None:
        """Add an image whose interpreter is a shell script; PYTHON is the real one."""
        path = self.place / f"{name}-python"
        path.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.images[name] = path

    def start(self, n_workers: int = 0, **options) -> OffloadCluster:
        names = ("per_job", "max_jobs", "network", "seed")
        catalog_options = {key: options.pop(key) for key in names if key in options}
        cluster = OffloadCluster(
            n_workers, catalog=self.catalog(**catalog_options), **{"quiet": True, **options}
        )
        self.clusters.append(cluster)
        return cluster

    def close(self) -> None:
        for cluster in self.clusters:
            if not cluster.asynchronous:
                cluster.close()

    # --- its processes -----------------------------------------------------------------------------

    def one(self, *words: str) -> psutil.Process:
        """Return the one process below `place` whose command line contains all `words`."""
        found = self.all(*words)
        assert len(found) == 1, (words, processes_below(self.place))
        return found[0]

    def all(self, *words: str) -> list[psutil.Process]:
        below = processes_below(self.place)
        return [
            psutil.Process(pid)
            for pid, line in below.items()
            if all(word in line for word in words)
        ]

    def supervisor(self) -> psutil.Process:
        return self.one("dask_offload.supervisor")

    def relay(self) -> psutil.Process:
        return self.one("offload_cli relay")

    def agents(self) -> list[psutil.Process]:
        return self.all("agent.json")

    def workers(self) -> list[psutil.Process]:
        """Return the forked worker processes: children of a starter."""
        starters = {process.pid for process in self.all("--payload", "dask_offload.worker")}
        return [
            process
            for process in self.all("--payload", "dask_offload.worker")
            if process.ppid() in starters
        ]

    def nothing_left(self, within_s: float = 30) -> None:
        assert_no_process_below(self.place, within_s=within_s)


def wait_workers(client, count, within_s: float = 40) -> None:
    """Wait until exactly `count` workers are registered."""
    eventually_sync(
        lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == count, within_s=within_s
    )


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def settings(**values: object):
    """Return a context in which `offload.*` settings are set; `_` stands for `-`."""
    return dask.config.set(
        {f"offload.{key.replace('__', '.').replace('_', '-')}": v for key, v in values.items()}
    )


def environment(place: Path) -> dict[str, str]:
    """Return the variables that keep all files of clusters below `place`."""
    return {
        "OFFLOAD_RUNTIME_DIR": str(place / "run"),
        "XDG_DATA_HOME": str(place / "data"),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[2])])
        ),
    }


TIMEOUT_S = scaled(60)
