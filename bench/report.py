"""Turns results into the tables of `docs/performance.md`. Pure, but for reading and writing files."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import htcondor_report

__all__ = ["RESULTS", "newest", "render", "write_page"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"

_TRANSPORT = (
    ("register_s", "until all are registered, s"),
    ("register_scheduler_cpu_ms_per_worker", "CPU of the scheduler per registration, ms"),
    ("tasks_per_s", "trivial tasks per s, all cores full"),
    ("paced_tasks_per_s", "tasks of 50 ms per s on 8 workers, cores free"),
    ("scheduler_cpu_ms_per_task", "CPU of the scheduler per trivial task, ms"),
    ("paced_scheduler_cpu_ms_per_task", "the same, cores free, ms"),
    ("gather_mib_per_s", "gather of 4 MiB chunks, MiB/s"),
    ("idle_scheduler_percent_of_core", "idle scheduler, % of a core"),
)
_RELAY = (
    ("register_relay_cpu_ms_per_worker", "CPU of the relay per registration, ms"),
    ("relay_cpu_ms_per_task", "CPU of the relay per trivial task, ms"),
    ("agent_cpu_ms_per_task", "CPU of the agents per trivial task, ms"),
    ("relay_cpu_ms_per_mib", "CPU of the relay per MiB, ms"),
    ("agent_cpu_ms_per_mib", "CPU of the agents per MiB, ms"),
    ("relay_mb_per_worker", "memory of the relay per connected worker, MB"),
    ("idle_relay_percent_of_core", "idle relay, % of a core"),
)
_SERVICE_BOTH = (
    ("scaled_s", "from `scale` until all are registered, s"),
    ("supervisor_percent", "supervisor with all workers idle, % of a core"),
    ("supervisor_mib", "memory of the supervisor, MiB"),
)
_SERVICE_ONLY = (
    ("service_percent", "service with this one cluster, % of a core"),
    ("service_mib", "memory of the service, MiB"),
)
_GATEWAY = (
    ("latency_ms", "a small request on a kept connection, ms"),
    ("latency_p99_ms", "the slowest of a hundred, ms"),
    ("requests_per_s", "small requests per s on 16 connections, all cores full"),
    ("websocket_ms", "a WebSocket message and its echo, ms"),
    ("download_mib_per_s", "download, MiB/s"),
    ("upload_mib_per_s", "upload, MiB/s"),
)
_GATEWAY_CPU = (
    ("relay_cpu_ms_per_request", "CPU of the relay per request, ms"),
    ("agent_cpu_ms_per_request", "CPU of the agent per request, ms"),
    ("relay_cpu_ms_per_mib_down", "CPU of the relay per MiB downloaded, ms"),
    ("relay_cpu_ms_per_mib_up", "CPU of the relay per MiB uploaded, ms"),
)
_SESSION = (
    ("ready_s", "from the request until the hub says ready, s"),
    ("launcher_s", "from the click until JupyterLab shows its launcher, s"),
    ("stop_s", "stop, s"),
)
_WAYS = {
    "forked": "one job, forked, behind agent and relay",
    "nworkers": "`dask worker --nworkers N`",
    "separate": "N × `dask worker`",
}


def newest(part: str = "") -> Path | None:
    """Return the newest file of results, or of those of a part that has its own; None without one."""
    return max((RESULTS / part).glob("*.json"), default=None)


def render(results: dict[str, Any]) -> str:
    """Return the tables and goals for one file of results."""
    return "\n".join(
        [
            *_machine(results),
            *_transport(results),
            *_gateway(results),
            *_start(results),
            *_submit(results),
            *_service(results),
            *_spawn(results),
            *_goals(results),
        ]
    )


def write_page(path: Path) -> bool:
    """Put the results in the file `path` into the page; return whether that changed it."""
    results = json.loads(path.read_text("utf-8"))
    name = results.get("part", "results")
    text = (htcondor_report.render if name == "htcondor" else render)(results)
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    old = PAGE.read_text("utf-8")
    before, _, rest = old.partition(begin)
    new = f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(new, "utf-8")
    return new != old


def _machine(results: dict[str, Any]) -> Iterator[str]:
    machine, versions = results["machine"], results["versions"]
    yield (
        f"Measured on {results['when'][:10]}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; load {machine['load']} before the run. Python "
        f"{versions['python']}, distributed {versions['distributed']}, websockets "
        f"{versions['websockets']}. Medians of {results['repeat']} "
        f"round{'s' * (results['repeat'] != 1)}."
    )
    if results["repeat"] < 3:
        yield ""
        yield "**This was a short run, to see that everything works. Take no numbers from it.**"


def _transport(results: dict[str, Any]) -> Iterator[str]:
    for workers, kinds in results.get("transport", {}).items():
        yield from ("", f"### {workers} workers", "")
        yield "| | `tcp://` | `tls://` | `relay://` | relay / TLS |"
        yield "|---|--:|--:|--:|--:|"
        for name, title in _TRANSPORT:
            cells = [_number(_median(kinds[kind], name)) for kind in ("tcp", "tls", "relay")]
            ratio = _ratio(kinds["relay"], kinds["tls"], name)
            yield f"| {title} | {' | '.join(cells)} | {ratio:.2f} |"
        for name, title in _RELAY:
            yield f"| {title} | | | {_number(_median(kinds['relay'], name))} | |"


def _gateway(results: dict[str, Any]) -> Iterator[str]:
    kinds = results.get("gateway")
    if not kinds:
        return
    yield from ("", "### Sessions through the gateway", "")
    yield "| | direct | gateway | gateway / direct |"
    yield "|---|--:|--:|--:|"
    for name, title in _GATEWAY:
        cells = [_number(_median(kinds[kind], name)) for kind in ("direct", "gateway")]
        ratio = _ratio(kinds["gateway"], kinds["direct"], name)
        yield f"| {title} | {' | '.join(cells)} | {ratio:.2f} |"
    for name, title in _GATEWAY_CPU:
        yield f"| {title} | | {_number(_median(kinds['gateway'], name))} | |"
    for sessions, values in results.get("idle_sessions", {}).items():
        memory, idle = values["relay_mb_per_session"], values["idle_relay_percent_of_core"]
        yield f"| memory of the relay per idle session, of {sessions}, MB | | {_number(memory)} | |"
        yield f"| relay with {sessions} idle sessions, % of a core | | {_number(idle)} | |"


def _start(results: dict[str, Any]) -> Iterator[str]:
    for workers, ways in results.get("start", {}).items():
        yield from ("", f"### Start of {workers} workers", "")
        yield "| | CPU per worker, s | × forked | memory per worker, MiB | all registered, s |"
        yield "|---|--:|--:|--:|--:|"
        for way, title in _WAYS.items():
            cpu, memory, wall = (
                _number(_median(ways[way], name))
                for name in ("cpu_s_per_worker", "mib_per_worker", "all_registered_s")
            )
            times = _ratio(ways[way], ways["forked"], "cpu_s_per_worker")
            yield f"| {title} | {cpu} | {times:.2f} | {memory} | {wall} |"


def _submit(results: dict[str, Any]) -> Iterator[str]:
    found = results.get("submit", {})
    if not found:
        return
    yield from ("", "### Submission at a local site", "")
    yield (
        "| jobs | submitted, s | all running, s | CPU of the submitter, s "
        "| of what starts jobs, s | longest stall of its loop, ms |"
    )
    yield "|--:|--:|--:|--:|--:|--:|"
    for rounds in found.values():
        names = (
            "submit_s",
            "all_running_s",
            "submitter_cpu_s",
            "starting_cpu_s",
            "longest_stall_ms",
        )
        cells = [_number(_median(rounds, name)) for name in names]
        yield f"| {rounds[0]['jobs']:.0f} | {' | '.join(cells)} |"


def _service(results: dict[str, Any]) -> Iterator[str]:
    for workers, forms in results.get("service", {}).items():
        yield from ("", f"### {workers} workers, kept directly and by the hub's service", "")
        yield "| | directly | by the service | service / directly |"
        yield "|---|--:|--:|--:|"
        for name, title in _SERVICE_BOTH:
            cells = [_number(_median(forms[form], name)) for form in ("direct", "service")]
            ratio = _ratio(forms["service"], forms["direct"], name)
            yield f"| {title} | {' | '.join(cells)} | {ratio:.2f} |"
        for name, title in _SERVICE_ONLY:
            yield f"| {title} | | {_number(_median(forms['service'], name))} | |"
    beats = results.get("heartbeats", {})
    if beats:
        yield from ("", "A heartbeat costs the service, by the number of jobs of the cluster:", "")
        yield "| jobs | CPU of the service, ms | until it is answered, ms |"
        yield "|--:|--:|--:|"
        for jobs, values in beats.items():
            cells = [_number(values[name]) for name in ("cpu_ms_per_beat", "ms_per_beat")]
            yield f"| {jobs} | {' | '.join(cells)} |"


def _spawn(results: dict[str, Any]) -> Iterator[str]:
    kinds = results.get("spawn", {})
    if kinds:
        yield from (
            "",
            "### A session, started plainly on the hub's machine and through the relay",
            "",
        )
        yield "| | plain | through the relay | relay / plain | more, s |"
        yield "|---|--:|--:|--:|--:|"
        for name, title in _SESSION:
            if name in kinds["relay"][0]:
                cells = [_number(_median(kinds[kind], name)) for kind in ("plain", "relay")]
                ratio = _ratio(kinds["relay"], kinds["plain"], name)
                more = _number(_more(kinds, name))
                yield f"| {title} | {' | '.join(cells)} | {ratio:.2f} | {more} |"
    stall = results.get("stall", {})
    if stall:
        yield from ("", "The hub's event loop while 20 sessions wait at a site:", "")
        yield "| the site | loop late at most, ms | the hub's API answers, ms | 99 of 100, ms |"
        yield "|---|--:|--:|--:|"
        for mood, title in (("queue", "answers"), ("hang", "never answers")):
            names = ("worst_ms", "answer_ms", "answer_p99_ms")
            cells = [_number(stall[mood][name]) for name in names]
            yield f"| {title} | {' | '.join(cells)} |"


def _more(kinds: dict[str, list[dict[str, float]]], name: str) -> float:
    """Return the median of what a round took more through the relay."""
    pairs = zip(kinds["relay"], kinds["plain"], strict=True)
    return statistics.median(relay[name] - plain[name] for relay, plain in pairs)


def _goals(results: dict[str, Any]) -> Iterator[str]:
    yield from ("", "### Goals", "", "| goal | measured | |", "|---|--:|---|")
    for goal, measured, good in goals(results):
        yield f"| {goal} | {_number(measured)} | {'reached' if good else '**missed**'} |"


def goals(results: dict[str, Any]) -> Iterator[tuple[str, float, bool]]:
    """Yield what was to be reached, what was measured, and whether it was reached."""
    for workers, kinds in results.get("transport", {}).items():
        tls, relay = kinds["tls"], kinds["relay"]
        cpu = _ratio(relay, tls, "paced_scheduler_cpu_ms_per_task")
        yield (
            f"{workers} workers: scheduler CPU per task ≤ 1.05 × TLS, cores free",
            cpu,
            cpu <= 1.05,
        )
        paced = _ratio(relay, tls, "paced_tasks_per_s")
        yield f"{workers} workers: tasks/s ≥ 0.95 × TLS, cores free", paced, paced >= 0.95
        bulk = _ratio(relay, tls, "gather_mib_per_s")
        yield f"{workers} workers: gather ≥ 0.8 × TLS", bulk, bulk >= 0.8
        memory = _median(relay, "relay_mb_per_worker")
        yield f"{workers} workers: relay ≤ 1 MB per worker", memory, memory <= 1
        idle = _median(relay, "idle_relay_percent_of_core")
        yield f"{workers} workers: idle relay < 4 % of a core", idle, idle < 4
    for workers, ways in results.get("start", {}).items():
        times = _ratio(ways["separate"], ways["forked"], "cpu_s_per_worker")
        yield f"{workers} forked workers ≥ 5 × cheaper than separate ones", times, times >= 5
    kinds = results.get("spawn", {})
    for name, title in _SESSION[:2]:
        if kinds and name in kinds["relay"][0]:
            ratio = _ratio(kinds["relay"], kinds["plain"], name)
            yield f"a session, {title.rpartition(',')[0]}: ≤ 1.1 × plain", ratio, ratio <= 1.1
            more = _more(kinds, name)
            yield "the same, more than plain: ≤ 1 s", more, more <= 1
    stall = results.get("stall", {})
    if stall:
        worst = stall["hang"]["worst_ms"]
        yield "the hub's event loop while a site hangs: late by < 50 ms", worst, worst < 50


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return statistics.median(values[name] for values in rounds)


def _ratio(rounds: list[dict[str, float]], others: list[dict[str, float]], name: str) -> float:
    """Return the median of the ratios of each round: what ran in turn saw the same machine."""
    return statistics.median(
        values[name] / other[name] if other[name] else math.nan
        for values, other in zip(rounds, others, strict=True)
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
