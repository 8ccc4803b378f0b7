"""Smoke test of the image of relay and service: run it with the image's Python.

It starts relay and service as their deployments do, with a key as Kubernetes lays it, and asks what the
probes ask.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# Drivers that the code loads by name or late; a missing one would be found by the first user.
IMPORTS = (
    "import htcondor2, kubernetes_asyncio, psycopg, prometheus_client, h11, jupyterhub, sqlalchemy"
)


CATALOG = """
sites: {here: {kind: local, title: This machine, max_walltime: 1h}}
images: {python: {title: This Python, python: current}}
profiles:
  one: {title: One core, sites: [here], images: [python], resources: {cpus: 1, memory: 1GiB}}
"""


def main():
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    with tempfile.TemporaryDirectory() as room, contextlib.ExitStack() as stack:
        key = Path(room, "lease.key")
        key.write_bytes(os.urandom(32))
        key.chmod(0o440 if os.getuid() == 0 else 0o400)
        public, dial, gateway, http = (f"127.0.0.1:{port}" for port in free_ports(4))
        relay = stack.enter_context(
            program(
                "relay", f"--public={public}", f"--dial={dial}", f"--gateway={gateway}", key=key
            )
        )
        for port in (public, dial):
            assert ask(relay, f"http://{port}/health") == b"ok\n"
        assert b"offload_relay_agents" in ask(relay, f"http://{dial}/metrics")
        Path(room, "catalog.yaml").write_text(CATALOG)
        service = stack.enter_context(
            program(
                *("service", f"--bind=http://{http}", f"--relay=ws://{public}"),
                *(f"--relay-dial={dial}", f"--catalog={room}/catalog.yaml"),
                key=key,
                OFFLOAD_LEDGER=f"{room}/ledger.sqlite",
                JUPYTERHUB_API_TOKEN="none",
                JUPYTERHUB_API_URL="http://127.0.0.1:9/hub/api",
                JUPYTERHUB_SERVICE_NAME="offload",
                JUPYTERHUB_CLIENT_ID="service-offload",
                HOME=room,
            )
        )
        assert ask(service, f"http://{http}/services/offload/health") == b"ok\n"
    print(f"relay-service: Python {sys.version.split()[0]}: good")


@contextlib.contextmanager
def program(name, *options, key, **variables):
    """Run `offload NAME` until the block ends; it has to end in peace."""
    option = "--key-file" if name == "relay" else "--relay-key-file"
    command = [sys.executable, "-m", "offload_cli", name, *options, f"{option}={key}"]
    process = subprocess.Popen(command, cwd=key.parent, env={**os.environ, **variables})
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(30) == 0, f"offload {name} did not end in peace"


def free_ports(count):
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def ask(process, url):
    """Return what `url` says, once it does."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with contextlib.suppress(OSError), opener.open(url, timeout=5) as answer:
            return answer.read()
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
