"""What the relay costs: the same work through it, and over Dask's own `tcp://` and `tls://`."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path

from distributed import wait

from bench.processes import Stopwatch
from bench.setups import KINDS, Setup, setup

__all__ = ["measure"]

_MIB = 2**20
_CHUNK = 4 * _MIB
_PACE_S = 0.05


def increment(x: int) -> int:
    return x + 1


def nap(_: int) -> None:
    time.sleep(_PACE_S)


def chunk(number: int) -> bytes:
    return bytes([number % 256]) * _CHUNK


def measure(
    workers: int, *, repeat: int, tasks: int, gather_mib: int, idle_s: float, say=print
) -> dict[str, list[dict[str, float]]]:
    """Measure each kind `repeat` times, in turn, and return the rounds by kind.

    Parameters
    ----------
    workers : int
        How many, in jobs of at most 50.
    repeat : int
        Rounds; in each the kinds follow one another, so that all see the same machine.
    tasks, gather_mib : int
        How much of each to do in one round.
    idle_s : float
        How long to watch an idle relay.
    """
    # Sent whole: workers cannot import this module.
    for function in (increment, nap, chunk):
        function.__module__ = "__main__"
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(repeat):
        for kind in KINDS:
            with (
                tempfile.TemporaryDirectory(prefix="bench-") as folder,
                setup(kind, Path(folder, "s")) as one,
            ):
                values = _one(one, workers, tasks, gather_mib, idle_s)
            found[kind].append(values)
            say(f"{workers} workers, round {number + 1}, {kind}: {_short(values)}")
    return dict(found)


def _one(one: Setup, workers: int, tasks: int, gather_mib: int, idle_s: float) -> dict[str, float]:
    return {
        **_register(one, workers),
        **_memory(one, workers),
        **_idle(one, idle_s),
        **_tasks(one, tasks),
        **_paced(one, workers, max(2, tasks // 100)),
        **_gather(one, gather_mib),
    }


def _register(one: Setup, workers: int) -> dict[str, float]:
    with Stopwatch(scheduler=one.scheduler, relay=one.relay) as watch:
        one.start_workers(workers)
        one.wait(workers)
    return {
        "register_s": watch.wall_s,
        "register_scheduler_cpu_ms_per_worker": 1e3 * watch.cpu_s["scheduler"] / workers,
        **_relay(watch, "register_relay_cpu_ms_per_worker", 1e3 / workers),
    }


def _memory(one: Setup, workers: int) -> dict[str, float]:
    if one.relay is None:
        return {}
    return {"relay_mb_per_worker": (one.relay.rss_bytes() - one.relay_rss_bytes) / 1e6 / workers}


def _idle(one: Setup, idle_s: float) -> dict[str, float]:
    time.sleep(idle_s / 5)  # what the registrations have left to do
    with Stopwatch(scheduler=one.scheduler, relay=one.relay) as watch:
        time.sleep(idle_s)
    return {
        "idle_scheduler_percent_of_core": 100 * watch.cpu_s["scheduler"] / watch.wall_s,
        **_relay(watch, "idle_relay_percent_of_core", 100 / watch.wall_s),
    }


def _tasks(one: Setup, tasks: int) -> dict[str, float]:
    one.client.gather(one.client.map(increment, range(tasks // 5), pure=False))  # first use
    agents_s = _agents_cpu_s(one)
    with Stopwatch(scheduler=one.scheduler, relay=one.relay) as watch:
        one.client.gather(one.client.map(increment, range(tasks), pure=False))
    return {
        "tasks_per_s": tasks / watch.wall_s,
        "scheduler_cpu_ms_per_task": 1e3 * watch.cpu_s["scheduler"] / tasks,
        **_relay(watch, "relay_cpu_ms_per_task", 1e3 / tasks),
        **_agents(one, agents_s, "agent_cpu_ms_per_task", 1e3 / tasks),
    }


def _paced(one: Setup, workers: int, each: int) -> dict[str, float]:
    """Tasks that mostly wait, on a few workers: no core is full, so latency is what counts."""
    few = list(one.client.scheduler_info(n_workers=-1)["workers"])[: min(8, workers)]
    tasks = each * len(few)
    with Stopwatch(scheduler=one.scheduler) as watch:
        futures = one.client.map(nap, range(tasks), pure=False, workers=few)
        wait(futures)
    return {
        "paced_tasks_per_s": tasks / watch.wall_s,
        "paced_scheduler_cpu_ms_per_task": 1e3 * watch.cpu_s["scheduler"] / tasks,
    }


def _gather(one: Setup, gather_mib: int) -> dict[str, float]:
    futures = one.client.map(chunk, range(gather_mib * _MIB // _CHUNK), pure=False)
    wait(futures)
    agents_s = _agents_cpu_s(one)
    with Stopwatch(scheduler=one.scheduler, relay=one.relay) as watch:
        got = one.client.gather(futures, direct=True)
    size_mib = sum(map(len, got)) / _MIB
    return {
        "gather_mib_per_s": size_mib / watch.wall_s,
        **_relay(watch, "relay_cpu_ms_per_mib", 1e3 / size_mib),
        **_agents(one, agents_s, "agent_cpu_ms_per_mib", 1e3 / size_mib),
    }


def _relay(watch: Stopwatch, name: str, factor: float) -> dict[str, float]:
    return {name: watch.cpu_s["relay"] * factor} if "relay" in watch.cpu_s else {}


def _agents_cpu_s(one: Setup) -> float:
    return sum(job.cpu_s() for job in one.jobs)


def _agents(one: Setup, before_s: float, name: str, factor: float) -> dict[str, float]:
    return {name: (_agents_cpu_s(one) - before_s) * factor} if one.relay else {}


def _short(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
