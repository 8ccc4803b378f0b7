"""What the hub's service costs: a cluster with all its workers, kept by it and kept directly.

The workers are real jobs of a local site in both forms, and what is measured is what keeps them: the
supervisor next to the notebook, and in one form the service and the relay that all users share.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import dask.config
import psutil

from bench.processes import Measured, Stopwatch, until
from dask_offload import OffloadCluster
from offload_relay.lease import new_key

__all__ = ["FORMS", "beats", "measure"]

FORMS = ("direct", "service")
_PER_JOB = 50
_CATALOG = """
sites:
  here: {{kind: local, title: Here, node: {{cpus: {per_job}, memory: 4TiB}}, max_walltime: 1h,
         directory: {place}/site}}
images:
  here: {{title: This Python, python: current}}
profiles:
  here: {{title: Here, sites: [here], images: [here], resources: {{cpus: 1, memory: 2GiB}}}}
"""


def measure(
    workers: int, *, repeat: int, idle_s: float, say=print
) -> dict[str, list[dict[str, float]]]:
    """Start `workers` workers in each form, `repeat` times in turn; return the rounds by form.

    CPU of supervisor (and service) is that of `idle_s` seconds with all workers connected and idle,
    as a percentage of one core; `scaled_s` is from `scale` until all workers are registered.
    """
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(repeat):
        for form in FORMS:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                values = _one(form, workers, Path(folder), idle_s)
            found[form].append(values)
            say(
                f"{workers} workers, round {number + 1}, {form}: all after {values['scaled_s']:.1f} s, "
                f"supervisor {values['supervisor_percent']:.2f} % of a core"
            )
    return dict(found)


def _one(form: str, workers: int, place: Path, idle_s: float) -> dict[str, float]:
    catalog = place / "catalog.yaml"
    catalog.write_text(_CATALOG.format(per_job=min(_PER_JOB, workers), place=place))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(OFFLOAD_RUNTIME_DIR=str(place / "run")))
        stack.enter_context(dask.config.set({"offload.dashboard-address": None}))
        service = None
        options = {"catalog": str(catalog)}
        if form == "service":
            service = stack.enter_context(_service(place, catalog))
            options = {}
        cluster = stack.enter_context(OffloadCluster(quiet=True, **options))
        supervisor = _child("dask_offload.supervisor", place)
        with Stopwatch() as watch:
            cluster.scale(workers)
            cluster.wait_for_workers(workers, timeout=300)
        until(lambda: cluster.snapshot.count("working") == workers, 60, [])
        watched = {"supervisor": supervisor, **({"service": service} if service else {})}
        before = {name: _cpu_s(process) for name, process in watched.items()}
        time.sleep(idle_s)
        used = {
            f"{name}_percent": 100 * (_cpu_s(process) - before[name]) / idle_s
            for name, process in watched.items()
        }
        memory = {f"{name}_mib": p.memory_info().rss / 2**20 for name, p in watched.items()}
        return {"scaled_s": watch.wall_s, **used, **memory}


def beats(count: int, jobs: int, *, say=print) -> dict[str, float]:
    """Send `count` heartbeats of a cluster with `jobs` jobs; return what one costs the service.

    One after the other, as fast as they are answered: what is counted is the service's CPU.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        catalog = place / "catalog.yaml"
        catalog.write_text(_CATALOG.format(per_job=1, place=place))
        with _service(place, catalog) as service:
            url = os.environ["OFFLOAD_SERVICE_URL"] + "/api/clusters"
            made = _post(url, os.environ["JUPYTERHUB_API_TOKEN"], {"api": 1, "name": "bench"})
            body = {"api": 1, "jobs": {f"{made['id']}-{n}": [50, 3, 2**20] for n in range(jobs)}}
            before_s = _cpu_s(service)
            with Stopwatch() as watch:
                for _ in range(count):
                    _post(f"{url}/{made['id']}/heartbeat", made["secret"], body)
            found = {
                "cpu_ms_per_beat": 1000 * (_cpu_s(service) - before_s) / count,
                "ms_per_beat": 1000 * watch.wall_s / count,
            }
    say(f"heartbeat with {jobs} jobs: {found['cpu_ms_per_beat']:.2f} ms CPU of the service")
    return found


def _post(url: str, token: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read()))


@contextlib.contextmanager
def _service(place: Path, catalog: Path) -> Iterator[psutil.Process]:
    """Run relay and service with a hub that knows one user, and be in that user's session."""
    key = place / "relay.key"
    key.touch(mode=0o600)
    key.write_bytes(new_key())
    public, dial, port = (_free_port() for _ in range(3))
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(_hub())
        argv = ["--public", f"127.0.0.1:{public}", "--dial", f"127.0.0.1:{dial}"]
        relay = ["python", "-m", "offload_cli", "relay", *argv, "--key-file", str(key)]
        (place / "relay").mkdir()
        stack.enter_context(Measured(relay, place / "relay"))
        variables = {
            "JUPYTERHUB_API_URL": hub,
            "JUPYTERHUB_API_TOKEN": "service",
            "JUPYTERHUB_SERVICE_NAME": "offload",
            "JUPYTERHUB_SERVICE_PREFIX": "/services/offload/",
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}",
            "JUPYTERHUB_CLIENT_ID": "service-offload",
            "OFFLOAD_CATALOG": str(catalog),
            "OFFLOAD_LEDGER": str(place / "ledger.sqlite"),
            "OFFLOAD_RELAY_URL": f"ws://127.0.0.1:{public}",
            "OFFLOAD_RELAY_DIAL": f"127.0.0.1:{dial}",
            "OFFLOAD_RELAY_KEY_FILE": str(key),
        }
        (place / "service").mkdir()
        with _environment(**variables):
            command = ["python", "-m", "offload_cli", "service", "--max-workers", "100000"]
            service = stack.enter_context(Measured(command, place / "service"))
        url = f"http://127.0.0.1:{port}/services/offload"
        until(lambda: _answers(url), 60, [service])
        stack.enter_context(_environment(OFFLOAD_SERVICE_URL=url, JUPYTERHUB_API_TOKEN="alice"))
        yield psutil.Process(service.popen.pid)


@contextlib.contextmanager
def _hub() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            model = {
                "kind": "user",
                "name": "alice",
                "groups": [],
                "scopes": ["access:services!service=offload"],
            }
            body = json.dumps(model).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hub/api"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _child(module: str, place: Path) -> psutil.Process:
    """Return the process of this module whose files are below `place`."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if module in line and any(str(place) in word for word in line):
            return process
    raise RuntimeError(f"no process of {module}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    print(json.dumps(beats(int(sys.argv[1]), int(sys.argv[2]))))
