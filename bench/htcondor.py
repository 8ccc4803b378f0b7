"""Our cluster against dask-jobqueue's `HTCondorCluster`, in turn on one real HTCondor pool.

Brings up the pool of the tests, or takes the running one that OFFLOAD_TEST_POOL names. Ours submits
through the CE with a token, dask-jobqueue with the pool's own `condor_submit`, as a person on the
submit host would. Both run their workers in the same image. Each contestant is a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.condorkit import Pool
from tests.support.hubkit import free_ports
from tests.support.testbedkit import why_not

__all__ = ["CONTESTANTS", "measure", "missing", "show_held"]

#: In the order in which they run.
CONTESTANTS = ("ours", "jobqueue-25", "jobqueue")

_ROOT = Path(__file__).parents[1]
_PORTS = ("CE_PORT", "POOL_PORT", "IAM_PORT")
_CALLS = 10


def missing() -> str:
    """Return what is missing to measure here; empty if nothing is."""
    if reason := why_not():
        return f"{reason}: a pool of its own is brought up in namespaces, on Debian"
    if importlib.util.find_spec("dask_jobqueue") is None:
        return "needs the package dask-jobqueue: make setup"
    return ""


def measure(*, quick: bool, say=print) -> dict[str, Any]:
    """Return what each contestant needed for 200 workers; `quick`: for 8."""
    workers, held, patience_s = (8, 2, 120.0) if quick else (200, 10, 120.0)
    say("htcondor: bringing up a pool and its image, which takes a minute or two the first time")
    with _pool() as pool:
        image = _image(pool)
        found: dict[str, Any] = {
            "htcondor": pool.condor("pool", "condor_version").split()[1],
            "dask_jobqueue": importlib.metadata.version("dask-jobqueue"),
            "workers": workers,
            "held": held,
            "patience_s": patience_s,
            "enter_ms": _entering_ms(pool),
        }
        for name in CONTESTANTS:
            say(f"htcondor: {name}: {workers} workers")
            found[name] = _contest(_task(found, name, pool, image))
            say(f"htcondor: {name}: {json.dumps(found[name])}")
        return found


def show_held(results: dict[str, Any], *, say=print) -> dict[str, Any]:
    """Return the results of an earlier run with what is shown of held jobs today, which is no number."""
    with _pool() as pool:
        image = _image(pool)
        found = dict(results)
        for name in ("ours", "jobqueue"):
            say(f"htcondor: {name}: {results['held']} held jobs")
            task = _task(results, name, pool, image)
            found[name] = {**results[name], **_contest({**task, "only_held": True})}
        return found


def _task(results: dict[str, Any], name: str, pool: Pool, image: str) -> dict[str, Any]:
    wanted = {key: results[key] for key in ("workers", "held", "patience_s")}
    return {"contestant": name, "pool": str(pool.state), "image": image, **wanted}


@contextlib.contextmanager
def _pool() -> Iterator[Pool]:
    if running := os.environ.get("OFFLOAD_TEST_POOL"):
        yield Pool(Path(running))
        return
    with tempfile.TemporaryDirectory(prefix="bench-pool-") as folder:
        ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
        pool = Pool(Path(folder), **ports)
        try:
            pool.up()
            yield pool
        finally:
            pool.down(purge=True)


def _image(pool: Pool) -> str:
    packages = [
        f"{name}=={importlib.metadata.version(name)}" for name in ("dask", "distributed", "numpy")
    ]
    image = f"testbed/dask:{importlib.metadata.version('distributed')}"
    path = pool.make_image(image, *packages)
    # What is only slow the first time is nobody's: files that are not in memory yet.
    warm = ("exec", "--bind", "/cvmfs", path, "python3", "-c", "import distributed")
    pool.as_account("pool", "apptainer", *warm)
    return path


def _entering_ms(pool: Pool) -> float:
    """Return what it costs to enter the pool's namespaces, which each of its tools has to do."""
    first = (pool.state / "run" / "pool.pid").read_text().split()[0]
    began_s = time.perf_counter()
    for _ in range(_CALLS):
        subprocess.run(["nsenter", "--target", first, "--mount", "--pid", "true"], check=True)
    return 1e3 * (time.perf_counter() - began_s) / _CALLS


def _contest(task: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.htcondor_contestants"],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))
