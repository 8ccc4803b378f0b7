"""A real offload service with a real relay, and in place of a hub a program that knows tokens."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from dask_offload import OffloadCluster
from offload_relay.lease import new_key
from tests.support.clusterkit import environment
from tests.support.processes import assert_no_process_below, processes_below
from tests.support.waiting import eventually_sync, scaled

PREFIX = "/services/offload/"

CATALOG = """
sites:
  farm:
    kind: local
    title: The farm
    node: {{cpus: {per_job}, memory: 64GiB}}
    {limit}
    seed: {seed}
    max_walltime: 2h
    directory: {place}/farm
  annex:
    kind: local
    title: The annex
    node: {{cpus: 1, memory: 64GiB}}
    max_walltime: 1h
    directory: {place}/annex
images:
  here: {{title: This Python, python: current}}
  other: {{title: The same again, python: current}}
  broken: {{title: No Dask, python: {place}/broken-python}}
profiles:
  cores:
    title: Farm cores
    sites: [farm]
    images: [here, other, broken]
    resources: {{cpus: {{choices: [1, 2]}}, memory: {{per_cpu: 1GiB}}}}
    environment: {{FROM_PROFILE: "yes"}}
  gpu:
    title: For some only
    sites: [annex]
    images: [here]
    resources: {{cpus: 1, memory: 1GiB}}
    groups: [/gpu]
  lab:
    title: Sessions only
    for: [session]
    sites: [farm]
    images: [here]
    resources: {{cpus: 1, memory: 1GiB}}
"""


class FakeHub:
    """Answers `/hub/api/user` for the tokens it knows, as a JupyterHub does.

    Attributes
    ----------
    users : dict
        Token to the model of its user.
    calls : int
        How often it was asked.
    down : bool
        Whether it answers 503, as a proxy does for a hub that restarts.
    """

    def __init__(self) -> None:
        self.users: dict[str, dict[str, object]] = {}
        self.calls = 0
        self.down = False
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.calls += 1
                token = self.headers.get("Authorization", "").partition(" ")[2]
                model = hub.users.get(token)
                status = 503 if hub.down else 200 if model else 403
                body = json.dumps(model or {"status": status, "message": "no"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hub/api"

    def user(self, name: str, *groups: str, **fields: object) -> str:
        """Return a token of a user, such as a server of theirs has."""
        token = f"{name}-{secrets.token_hex(8)}"
        self.users[token] = {
            "kind": "user",
            "name": name,
            "groups": list(groups),
            "scopes": ["access:services!service=offload"],
            **fields,
        }
        return token

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ServiceKit:
    """Starts relay and service as processes; all their files lie below `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.hub = FakeHub()
        self.alice = self.hub.user("alice", "/highrate")
        self.bob = self.hub.user("bob", "/gpu")
        self.root = self.hub.user("root", admin=True)
        self.relay: subprocess.Popen[bytes] | None = None
        self.service: subprocess.Popen[bytes] | None = None
        self.clusters: list[OffloadCluster] = []
        self.key = place / "relay.key"
        self.key.touch(mode=0o600)
        self.key.write_bytes(new_key())
        # They outlive the relay, as those of a supervisor do: its ports stay.
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2)]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        broken = place / "broken-python"
        broken.write_text("#!/bin/sh\necho 'no distributed <b>here</b>'; exit 3\n")
        broken.chmod(0o755)
        self.write_catalog()

    # --- start and stop --------------------------------------------------------------------------

    def write_catalog(
        self, *, per_job: int = 2, max_jobs: int | None = None, seed: int = 0
    ) -> Path:
        path = self.place / "catalog.yaml"
        limit = f"max_jobs: {max_jobs}" if max_jobs else ""
        text = CATALOG.format(per_job=per_job, limit=limit, seed=seed, place=self.place)
        path.write_text(text)
        return path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PREFIX.rstrip('/')}"

    @property
    def relay_url(self) -> str:
        return f"ws://127.0.0.1:{self._sockets[0].getsockname()[1]}"

    def start_relay(self) -> None:
        for one in self._sockets:
            one.set_inheritable(True)
        public, dial = (one.fileno() for one in self._sockets)
        argv = ["relay", "--public", f"fd:{public}", "--dial", f"fd:{dial}"]
        with (self.place / "relay.log").open("ab") as log:
            self.relay = subprocess.Popen(
                [sys.executable, "-m", "offload_cli", *argv, "--key-file", str(self.key)],
                stdout=log,
                stderr=log,
                pass_fds=(public, dial),
            )

    def start_service(self, *options: str) -> None:
        public, dial = (one.getsockname()[1] for one in self._sockets)
        variables = {
            **os.environ,
            "JUPYTERHUB_API_URL": self.hub.url,
            "JUPYTERHUB_API_TOKEN": "the service itself",
            "JUPYTERHUB_SERVICE_NAME": "offload",
            "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{self.port}",
            "JUPYTERHUB_CLIENT_ID": "service-offload",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:services!service=offload"]',
            "OFFLOAD_CATALOG": str(self.place / "catalog.yaml"),
            "OFFLOAD_LEDGER": str(self.place / "ledger.sqlite"),
            "OFFLOAD_RELAY_URL": f"ws://127.0.0.1:{public}",
            "OFFLOAD_RELAY_DIAL": f"127.0.0.1:{dial}",
            "OFFLOAD_RELAY_KEY_FILE": str(self.key),
            "TMPDIR": str(self.place),
        }
        with (self.place / "service.log").open("ab") as log:
            self.service = subprocess.Popen(
                [sys.executable, "-m", "offload_cli", "service", *options],
                stdout=log,
                stderr=log,
                env=variables,
            )
        self.wait_service()

    def wait_service(self) -> None:
        def answers():
            assert self.service is not None
            assert self.service.poll() is None, (self.place / "service.log").read_text()
            return self.get(self.alice, "")[0] == 200

        eventually_sync(answers, within_s=40)

    def kill(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def stop_service(self) -> None:
        """End it as a hub does: its clusters stay."""
        if self.service is not None:
            self.service.terminate()
            self.service.wait(timeout=scaled(20))

    def close(self) -> None:
        for cluster in self.clusters:
            with contextlib.suppress(Exception):
                cluster.close()
        self.kill(self.service)
        self.kill(self.relay)
        for pid in self.jobs_left():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.hub.close()
        for one in self._sockets:
            one.close()

    # --- the API ---------------------------------------------------------------------------------

    def call(self, token, method, path, body=None, *, headers=None):
        """Return status and JSON of a request; bytes are sent as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/api{path}",
            data=data,
            method=method,
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"token {token}"} if token else {}),
                **(headers or {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=scaled(40)) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except (urllib.error.URLError, OSError):
            return 0, None

    def get(self, token, path):
        return self.call(token, "GET", path)

    def post(self, token, path, body):
        return self.call(token, "POST", path, body)

    # --- clusters --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def session(self, token, **variables):
        """Be inside a JupyterHub server of the user with `token`."""
        values = {
            **environment(self.place),
            "OFFLOAD_SERVICE_URL": self.url,
            "JUPYTERHUB_API_TOKEN": token,
            "JUPYTERHUB_USER": str(self.hub.users.get(token, {}).get("name", "nobody")),
            **variables,
        }
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def cluster(self, token, n_workers=0, *, variables=None, **options):
        with self.session(token, **(variables or {})):
            cluster = OffloadCluster(n_workers, **{"quiet": True, **options})
        self.clusters.append(cluster)
        return cluster

    # --- processes -------------------------------------------------------------------------------

    def agents(self) -> list[int]:
        return [pid for pid, line in processes_below(self.place).items() if "agent.json" in line]

    def jobs_left(self) -> list[int]:
        """Return all processes below `place` but relay and service."""
        own = {p.pid for p in (self.relay, self.service) if p is not None}
        return [pid for pid in processes_below(self.place) if pid not in own]

    def nothing_left(self, within_s: float = 40) -> None:
        """Wait until only relay and service are there, then end them and wait for these too."""

        def only_ours():
            left = processes_below(self.place)
            for process in (self.relay, self.service):
                if process is not None:
                    left.pop(process.pid, None)
            assert not left, left
            return True

        eventually_sync(only_ours, within_s=within_s)
        self.kill(self.service)
        self.kill(self.relay)
        assert_no_process_below(self.place)


def wait_for(condition, *, within_s: float = 40, every_s: float = 0.1):
    """Return what `condition` gives once it is true."""
    deadline_s = time.monotonic() + scaled(within_s)
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(every_s)
