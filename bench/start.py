"""What it costs to start the workers of one job: forked from one starter, and Dask's two ways."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.processes import Measured, Stopwatch, cpu_of_tree_s, pss_of_tree_bytes
from bench.setups import Setup, setup

__all__ = ["WAYS", "measure"]

WAYS = ("forked", "nworkers", "separate")


def measure(workers: int, *, repeat: int, say=print) -> dict[str, list[dict[str, float]]]:
    """Start `workers` workers in each way, `repeat` times in turn; return the rounds by way.

    Ways: `forked` (agent and starter, through the relay), `nworkers` (one `dask worker --nworkers`),
    `separate` (as many `dask worker`). CPU is that of all processes until all workers are registered.
    """
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(repeat):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                values = _one(way, workers, Path(folder))
            found[way].append(values)
            cpu, memory = values["cpu_s_per_worker"], values["mib_per_worker"]
            say(f"{workers} by {way}, round {number + 1}: {cpu:.3f} s CPU, {memory:.0f} MiB each")
    return dict(found)


def _one(way: str, workers: int, place: Path) -> dict[str, float]:
    with setup("relay" if way == "forked" else "tcp", place / "s") as one:
        with Stopwatch() as watch:
            if way == "forked":
                one.start_workers(workers)
            else:
                one.jobs += _dask_workers(way, workers, one, place)
            one.wait(workers)
        cpu_s = cpu_of_tree_s(one.jobs)
        return {
            "cpu_s_per_worker": cpu_s / workers,
            "mib_per_worker": pss_of_tree_bytes(one.jobs) / 2**20 / workers,
            "all_registered_s": watch.wall_s,
        }


def _dask_workers(way: str, workers: int, one: Setup, place: Path) -> list[Measured]:
    program = shutil.which("dask", path=str(Path(sys.executable).parent)) or "dask"
    address = one.client.scheduler.address
    common = ["worker", address, "--nthreads", "1", "--memory-limit", "2GiB", "--no-dashboard"]
    common += ["--dashboard-address", "127.0.0.1:0"]
    if way == "nworkers":
        return [_run([program, *common, "--nworkers", str(workers)], place / "n")]
    return [_run([program, *common], place / f"w{number}") for number in range(workers)]


def _run(argv: list[str], place: Path) -> Measured:
    with contextlib.suppress(FileExistsError):
        place.mkdir()
    return Measured([*argv, "--local-directory", str(place)], place)
