"""`python -m bench`: measure side by side, keep the results, write them into the documentation.

Everything is a ratio of things that ran in turn in one run. An idle machine is needed for numbers;
`--quick` only shows that it works.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench import gateway, htcondor, report, service, spawn, start, submit, transport

_PARTS = ("transport", "gateway", "start", "submit", "service", "spawn")
# Measured when it is asked for, with results of its own: it needs root, and a pool of HTCondor.
_HTCONDOR = "htcondor"
_PACKAGES = ("distributed", "dask", "tornado", "websockets", "cryptography", "interlink-offload")


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join(_PARTS)}; all without. Or {_HTCONDOR}, alone",
    )
    parser.add_argument("--workers", type=_numbers, default=[50, 200], help="default: 50,200")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; medians are kept (3)")
    parser.add_argument("--quick", action="store_true", help="few workers, one round")
    parser.add_argument(
        "--held",
        type=Path,
        metavar="RESULTS",
        help=f"{_HTCONDOR}: only show held jobs anew, in results of an earlier run",
    )
    parser.add_argument("--output", type=Path, help="default: a new file in bench/results")
    parser.add_argument("--report", type=Path, help="only write docs/performance.md from this file")
    options = parser.parse_args()
    alone = options.parts == [_HTCONDOR]
    if not alone and (wrong := set(options.parts) - set(_PARTS)):
        parser.error(f"{', '.join(sorted(wrong))}: there are {', '.join(_PARTS)}")
    if alone and not options.report and (reason := htcondor.missing()):
        parser.error(f"{_HTCONDOR}: {reason}")
    path = options.report or (_run_htcondor if alone else _run)(options)
    changed = report.write_page(path)
    print(f"docs/performance.md: {'written' if changed else 'was up to date'}")
    return 0


def _run(options: argparse.Namespace) -> Path:
    parts = options.parts or _PARTS
    workers = [8] if options.quick else options.workers
    repeat = 1 if options.quick else options.repeat
    tasks, gather_mib, idle_s = (500, 64, 2.0) if options.quick else (10_000, 1024, 20.0)
    results: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        "repeat": repeat,
    }
    if "transport" in parts:
        results["transport"] = {
            str(count): transport.measure(
                count, repeat=repeat, tasks=tasks, gather_mib=gather_mib, idle_s=idle_s
            )
            for count in workers
        }
    if "gateway" in parts:
        requests, transfer_mib, sessions = (500, 64, 8) if options.quick else (10_000, 1024, 50)
        results["gateway"] = gateway.measure(
            repeat=repeat, requests=requests, transfer_mib=transfer_mib
        )
        results["idle_sessions"] = {str(sessions): gateway.measure_idle(sessions, idle_s)}
    if "start" in parts:
        counts = [4] if options.quick else [16, 32]
        results["start"] = {str(count): start.measure(count, repeat=repeat) for count in counts}
    if "submit" in parts:
        results["submit"] = {
            str(per_job): submit.measure(200, per_job, repeat=repeat) for per_job in (1, 50)
        }
    if "service" in parts:
        results["service"] = {
            str(count): service.measure(count, repeat=repeat, idle_s=idle_s) for count in workers
        }
        beats = 100 if options.quick else 2000
        results["heartbeats"] = {str(jobs): service.beats(beats, jobs) for jobs in (4, 200)}
    if "spawn" in parts:
        results["spawn"] = spawn.measure(repeat=repeat)
        results["stall"] = spawn.measure_stall(sessions=20, window_s=idle_s)
    return _keep(results, options.output or report.RESULTS)


def _run_htcondor(options: argparse.Namespace) -> Path:
    if options.held:
        earlier = json.loads(options.held.read_text("utf-8"))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return _keep({**htcondor.show_held(earlier), "held_when": now}, options.held)
    results = {
        "part": _HTCONDOR,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": _versions(),
        **htcondor.measure(quick=options.quick),
    }
    return _keep(results, options.output or report.RESULTS / _HTCONDOR)


def _keep(results: dict[str, Any], place: Path) -> Path:
    path = place if place.suffix == ".json" else place / f"{results['when'][:10]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(f"results: {path}")
    return path


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release().split("-")[0],
        "load": round(os.getloadavg()[0], 1),
    }


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


if __name__ == "__main__":
    sys.exit(main())
