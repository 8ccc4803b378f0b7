"""Smoke test of the image of relay and service: run it with the image's Python.

It starts the relay as its deployment does, with a key that root owns and its group may read, and
asks what the probes ask.
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

OFFLOAD = [sys.executable, "-m", "offload_cli"]
# Drivers that the code loads by name or late; a missing one would be found by the first user.
IMPORTS = (
    "import htcondor2, kubernetes_asyncio, psycopg, prometheus_client, h11, jupyterhub, sqlalchemy"
)


def main():
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", IMPORTS], check=True)
    subprocess.run([*OFFLOAD, "service", "--help"], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as room:
        key = Path(room, "lease.key")
        key.write_bytes(os.urandom(32))
        key.chmod(0o440)  # as Kubernetes lays a Secret for a pod with fsGroup
        public, dial, gateway = free_ports(3)
        command = [*OFFLOAD, "relay", f"--public=127.0.0.1:{public}", f"--dial=127.0.0.1:{dial}"]
        command += [f"--gateway=127.0.0.1:{gateway}", f"--key-file={key}"]
        relay = subprocess.Popen(command, cwd=room)
        try:
            assert ask(relay, f"http://127.0.0.1:{dial}/health") == b"ok\n"
            assert ask(relay, f"http://127.0.0.1:{public}/health") == b"ok\n"
            assert b"offload_relay_agents" in ask(relay, f"http://127.0.0.1:{dial}/metrics")
        finally:
            relay.terminate()
            assert relay.wait(30) == 0, "the relay did not end in peace"
    print(f"relay-service: Python {sys.version.split()[0]}: good")


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
