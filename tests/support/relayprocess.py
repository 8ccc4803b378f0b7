"""A relay as an administrator runs it: a process of its own, on ports that stay when it restarts."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import eventually_sync


class RelayProcess:
    """`offload relay` on loopback; `settings` is what `OffloadCluster(relay=…)` takes."""

    def __init__(self, place: Path) -> None:
        self._key = place / "relay.key"
        self._key.touch(mode=0o600)
        self._key.write_text(secrets.token_hex(32))
        self.log = place / "relay.log"
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(2)]
        for one in self._sockets:
            one.set_inheritable(True)
        public, dial = (one.getsockname()[1] for one in self._sockets)
        self.settings = {
            "url": f"ws://127.0.0.1:{public}",
            "dial": f"127.0.0.1:{dial}",
            "key_file": str(self._key),
        }

    def __enter__(self) -> RelayProcess:
        self.start()
        return self

    def start(self) -> None:
        public, dial = (one.fileno() for one in self._sockets)
        argv = ["relay", "--public", f"fd:{public}", "--dial", f"fd:{dial}"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "offload_cli", *argv, "--key-file", str(self._key)],
                stderr=log,
                pass_fds=(public, dial),
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        eventually_sync(lambda: self.process.poll() is not None)
        for one in self._sockets:
            one.close()
