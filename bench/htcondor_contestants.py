"""One contestant of `bench.htcondor`: reads what to do from standard input, prints what it measured."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil

from tests.support.condorkit import Pool
from tests.support.relayprocess import RelayProcess

_WORKER_MIB = 512
_SUBMIT_S = 120.0
_GONE_S = 60.0
_SHOWN_S = 20.0
# Each look costs the scheduler something, or starts a program; there are few cores for everybody.
_LOOK_S, _QUEUE_S, _SAY_S = 0.1, 0.5, 10.0

_CATALOG = """
sites:
  pool:
    kind: htcondor-ce
    title: The pool
    collector: {CE_ADDRESS}
    schedd: {CE_SCHEDD}
    ca_file: {IAM_CA}
    node: {{cpus: {per_job}, memory: 96GiB}}
    disk: 1MiB
    max_walltime: 48h
images:
  dask: {{title: Dask, cvmfs: '{image}'}}
profiles:
  cores:
    title: Cores
    sites: [pool]
    images: [dask]
    resources: {{cpus: 1, memory: {memory}MiB}}
"""


class Ours:
    """`OffloadCluster`, through the CE, with a relay beside it."""

    per_job = 96

    def __init__(self, task: dict[str, Any], pool: Pool, place: Path) -> None:
        self.task = task
        self.pool = pool
        self.place = place

    @contextlib.contextmanager
    def cluster(self, per_job: int) -> Iterator[Any]:
        """Start a cluster without workers, whose jobs have up to `per_job`."""
        from dask_offload import OffloadCluster

        catalog = self.place / "catalog.yaml"
        catalog.write_text(
            _CATALOG.format(
                **self.pool.env, per_job=per_job, image=self.task["image"], memory=_WORKER_MIB
            )
        )
        os.environ["BEARER_TOKEN_FILE"] = str(self.pool.state / "tokens" / "alice")
        os.environ["OFFLOAD_RUNTIME_DIR"] = str(self.place / "run")
        with RelayProcess(self.place) as relay:
            yield OffloadCluster(catalog=catalog, relay=relay.settings, quiet=True)

    def jobs(self, cluster: Any) -> tuple[int, int]:
        """Return how many jobs there are, and how many of them the site has confirmed."""
        rows = cluster.jobs()
        return len(rows), sum(bool(row.handle) for row in rows)

    def processes(self) -> list[psutil.Process]:
        """Return what runs where a person submits: supervisor and scheduler are no children."""
        place = str(self.place / "run")
        mine = {process.pid: process for process in _tree(psutil.Process())}
        for process in psutil.process_iter(["cmdline"]):
            if any(place in word for word in process.info["cmdline"] or ()):
                mine |= {one.pid: one for one in _tree(process)}
        return list(mine.values())


class JobQueue:
    """`HTCondorCluster` of dask-jobqueue, by the pool's own `condor_submit`, as alice's account.

    Its settings are those of its documentation: one worker per job, or several as `processes`.
    """

    def __init__(self, task: dict[str, Any], pool: Pool, place: Path, processes: int) -> None:
        self.task = task
        self.pool = pool
        self.per_job = processes
        self._tools(place)

    def _tools(self, place: Path) -> None:
        """Put HTCondor's tools on the PATH: each enters the pool's namespaces."""
        pid = (self.pool.state / "run" / "pool.pid").read_text().split()[0]
        shared = self.pool.state / "tmp"  # /tmp in the pool
        for name in ("condor_submit", "condor_rm", "condor_q"):
            tool = place / name
            tool.write_text(
                "#!/bin/sh\n"
                f'case "$*" in {shared}/*) chmod a+r "$1"; set -- "/tmp/${{1##*/}}";; esac\n'
                f"exec nsenter --target {pid} --mount --pid "
                "setpriv --reuid 3001 --regid 3001 --clear-groups "
                "env -i PATH=/usr/bin:/usr/sbin:/bin HOME=/home/wp5 "
                "CONDOR_CONFIG=/pool/condor_config "
                f'sh -c \'cd && exec "$@"\' - {name} "$@"\n'
            )
            tool.chmod(0o755)
        os.environ["PATH"] = f"{place}:{os.environ['PATH']}"
        os.environ["TMPDIR"] = tempfile.tempdir = str(shared)

    @contextlib.contextmanager
    def cluster(self, _: int) -> Iterator[Any]:
        """Start a cluster without workers."""
        from dask_jobqueue import HTCondorCluster

        yield HTCondorCluster(
            cores=self.per_job,
            processes=self.per_job,
            memory=f"{self.per_job * _WORKER_MIB} MiB",
            disk="1 MB",
            python=f"/usr/bin/apptainer exec --bind /cvmfs {self.task['image']} python3",
            scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        )

    def jobs(self, cluster: Any) -> tuple[int, int]:
        """Return how many jobs there are, and how many of them HTCondor has confirmed."""
        jobs = list(cluster.workers.values())
        return len(jobs), sum(bool(getattr(job, "job_id", None)) for job in jobs)

    def processes(self) -> list[psutil.Process]:
        """Return what runs where a person submits: the scheduler is in this process."""
        return _tree(psutil.Process())


def _tree(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def _memory_mib(processes: Iterable[psutil.Process]) -> int:
    """Return their memory; pages that several share count once."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return round(total / 2**20)


def _count_workers(dask_scheduler: Any) -> int:
    return len(dask_scheduler.workers)


def _until(
    condition: Callable[[], object], within_s: float, every_s: float = _LOOK_S
) -> float | None:
    """Return after how many seconds `condition` was true; None if it was not in time."""
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < within_s:
        if condition():
            return time.perf_counter() - began_s
        time.sleep(every_s)
    return None


class Contest:
    """Scales one contestant up, looks, and scales it down."""

    def __init__(self, one: Ours | JobQueue, task: dict[str, Any], pool: Pool) -> None:
        self.one = one
        self.task = task
        self.pool = pool
        self._said_s = 0.0

    def say(self, words: str) -> None:
        """Tell how far it is, on standard error."""
        print(f"htcondor: {self.task['contestant']}: {words}", file=sys.stderr, flush=True)

    def run(self) -> dict[str, Any]:
        """Return what it took."""
        with self.one.cluster(self.one.per_job) as cluster, cluster.get_client() as client:
            result = self._grow(cluster, client)
            result |= self._submit_host()
            began_s = time.perf_counter()
            client.close()
            cluster.close()
            result["close_s"] = time.perf_counter() - began_s
            result["left_at_close"] = len(self._queue())
            gone = _until(lambda: not self._queue(), _GONE_S, _QUEUE_S)
            result["closed_s"] = time.perf_counter() - began_s if gone is not None else None
            result["left"] = len(self._queue())
            self.say(f"{result['left']} jobs are left after close")
        self._empty()
        if self.task["contestant"] != "jobqueue-25":
            result |= self.held()
        return result

    def _grow(self, cluster: Any, client: Any) -> dict[str, Any]:
        workers, patience_s = self.task["workers"], self.task["patience_s"]
        wanted = -(-workers // self.one.per_job)
        began_s = time.perf_counter()

        def submitted() -> bool:
            there, confirmed = self.one.jobs(cluster)
            return there == confirmed >= wanted

        def registered() -> int:
            there = int(client.run_on_scheduler(_count_workers))
            now_s = time.perf_counter()
            if now_s - self._said_s > _SAY_S:
                self._said_s = now_s
                self.say(f"{there} of {workers} workers after {now_s - began_s:.0f} s")
            return there

        cluster.scale(workers)
        if _until(submitted, _SUBMIT_S, 0.02) is None:
            raise TimeoutError(f"only {self.one.jobs(cluster)} jobs and confirmed ones: see above")
        result: dict[str, Any] = {"submitted_s": time.perf_counter() - began_s}
        result["jobs"] = self.one.jobs(cluster)[0]
        self.say(f"{result['jobs']} jobs submitted in {result['submitted_s']:.2f} s")
        first = _until(registered, patience_s)
        result["first_s"] = time.perf_counter() - began_s if first is not None else None
        left_s = patience_s - (time.perf_counter() - began_s)
        reached = _until(lambda: registered() >= workers, left_s)
        result["registered_s"] = time.perf_counter() - began_s if reached is not None else None
        result["registered"] = registered()
        self.say(f"{result['registered']} workers after {time.perf_counter() - began_s:.0f} s")
        return result

    def _submit_host(self) -> dict[str, Any]:
        mine = self.one.processes()
        first = int((self.pool.state / "run" / "pool.pid").read_text().split()[0])
        shadows = [one for one in _tree(psutil.Process(first)) if one.name() == "condor_shadow"]
        return {
            "processes": len(mine),
            "memory_mib": _memory_mib(mine),
            "shadows": len(shadows),
            "shadows_mib": _memory_mib(shadows),
        }

    def _queue(self) -> list[str]:
        """Return the jobs, at the CE and in the pool, that wait, run or are held."""
        alive = "JobStatus == 1 || JobStatus == 2 || JobStatus == 5"
        at = ("ce", "pool") if isinstance(self.one, Ours) else ("pool",)
        ids = ("-allusers", "-constraint", alive, "-af", "ClusterId")
        return [one for where in at for one in self.pool.condor(where, "condor_q", *ids).split()]

    def _empty(self) -> None:
        if self._queue():
            self.pool.condor("pool", "condor_rm", "-all")
            _until(lambda: not self._queue(), _GONE_S, _QUEUE_S)

    def held(self) -> dict[str, Any]:
        """Return what is shown of jobs that the site has put on hold."""
        count = self.task["held"]
        # So many jobs: of ours with one worker each, as jobs of dask-jobqueue have it here.
        with self.one.cluster(1) as cluster:
            cluster.scale(count)
            _until(lambda: len(self._in_pool()) >= count, 120, _QUEUE_S)
            self.pool.condor(
                "pool", "condor_hold", "-all", "-reason", "your group is over its share"
            )
            time.sleep(_SHOWN_S)  # as long for each: not all of them ever show it
            shown = repr(cluster)
            cluster.close()
        self._empty()
        return {"shown": shown}

    def _in_pool(self) -> list[str]:
        return self.pool.condor("pool", "condor_q", "-allusers", "-af", "ClusterId").split()


def main() -> int:
    """Measure one contestant."""
    task = json.load(sys.stdin)
    pool = Pool(Path(task["pool"]))
    dask.config.set({"distributed.comm.timeouts.connect": "60s"})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        one: Ours | JobQueue
        if task["contestant"] == "ours":
            one = Ours(task, pool, place)
        else:
            one = JobQueue(task, pool, place, 25 if task["contestant"].endswith("25") else 1)
        contest = Contest(one, task, pool)
        result = contest.held() if task.get("only_held") else contest.run()
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
