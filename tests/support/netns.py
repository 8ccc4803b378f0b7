"""Real networks for tests: a site whose nodes can only dial out, behind a router that can be cut.

::

    node1 10.98.1.11 ─┐
    node2 10.98.1.12 ─┴─ site's switch ── router ── hub 10.98.2.10

Each is a network namespace of its own, made and removed here; the machine's own network is not
touched. The router can lose everything without a word, as a firewall or a broken fibre does, and
can be slow. Needs root and the program `ip` (iproute2).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.tiers import lacking

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count()

NODES = ("node1", "node2")
HUB_ADDRESS = "10.98.2.10"


def require_namespaces(config) -> None:
    """Skip the test, or fail it where it is required, unless namespaces can be made here."""
    if os.geteuid() != 0:
        lacking(config, "netns", "only root can make network namespaces")
    if shutil.which("ip") is None:
        lacking(config, "netns", "the program ip is missing (apt-get install iproute2)")
    probe = f"offload-{os.getpid()}-probe"
    made = subprocess.run(
        ["ip", "netns", "add", probe], capture_output=True, text=True, check=False
    )
    if made.returncode == 0:
        # A container may make one and still not be allowed to enter it.
        made = subprocess.run(
            ["ip", "netns", "exec", probe, "true"], capture_output=True, text=True, check=False
        )
        _ip("netns", "del", probe)
    if made.returncode != 0:
        lacking(config, "netns", f"this machine makes no namespaces: {made.stderr.strip()}")


class Networks:
    """The picture above. A context manager; leaving ends what still runs inside, and removes all."""

    def __init__(self) -> None:
        self._prefix = f"offload-{os.getpid()}-{next(_serial)}"
        self._names = ("switch", *NODES, "router", "hub")

    def __enter__(self) -> Networks:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._remove()

    def name(self, place: str) -> str:
        """Return the name of the namespace of a place (`node1`, `hub`, …)."""
        return f"{self._prefix}-{place}"

    def inside(self, place: str) -> list[str]:
        """Return the words before a command that have it run at a place."""
        return ["ip", "netns", "exec", self.name(place)]

    def listener(self, place: str, address: str, port: int = 0) -> socket.socket:
        """Return a listening socket of this process that belongs to the network of a place."""
        with self.entered(place):
            return socket.create_server((address, port), backlog=1024)

    def entered(self, place: str) -> contextlib.AbstractContextManager[None]:
        """Move this thread into the network of a place, with what it starts meanwhile."""
        return entered(self.name(place))

    # --- faults --------------------------------------------------------------------------------

    def cut(self) -> None:
        """Lose every packet between site and hub: no reset, no refusal, no sign of life."""
        self._forward("0")

    def heal(self) -> None:
        """Let packets through again."""
        self._forward("1")

    def slow(self, mbit_per_s: float, queue_ms: float = 50.0) -> None:
        """Limit the throughput between site and hub, each way, with a queue as routers have."""
        for device in ("to-site", "to-hub"):
            self._tc(
                device,
                "tbf",
                "rate",
                f"{mbit_per_s}mbit",
                "burst",
                "16kb",
                "latency",
                f"{queue_ms}ms",
            )

    def _forward(self, value: str) -> None:
        command = ["sh", "-c", f"echo {value} > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run([*self.inside("router"), *command], check=True)

    def _tc(self, device: str, *words: str) -> None:
        command = ["tc", "qdisc", "replace", "dev", device, "root", *words]
        subprocess.run([*self.inside("router"), *command], check=True, capture_output=True)

    # --- making and removing -------------------------------------------------------------------

    def _make(self) -> None:
        for place in self._names:
            _ip("netns", "add", self.name(place))
            self._ip(place, "link", "set", "lo", "up")
        self._ip("switch", "link", "add", "name", "bridge", "type", "bridge")
        self._ip("switch", "link", "set", "bridge", "up")
        for number, node in enumerate(NODES, start=11):
            self._cable(node, "out", "switch", f"port{number}")
            self._plug(f"port{number}")
            self._address(node, "out", f"10.98.1.{number}/24")
            self._ip(node, "route", "add", "default", "via", "10.98.1.1")
        self._cable("router", "to-site", "switch", "port1")
        self._plug("port1")
        self._address("router", "to-site", "10.98.1.1/24")
        self._cable("router", "to-hub", "hub", "out")
        self._address("router", "to-hub", "10.98.2.1/24")
        self._address("hub", "out", f"{HUB_ADDRESS}/24")
        self._ip("hub", "route", "add", "default", "via", "10.98.2.1")
        self.heal()

    def _cable(self, one: str, device: str, other: str, other_device: str) -> None:
        ends = ("link", "add", device, "type", "veth", "peer", "name", other_device)
        self._ip(one, *ends, "netns", self.name(other))

    def _plug(self, port: str) -> None:
        self._ip("switch", "link", "set", port, "master", "bridge")
        self._ip("switch", "link", "set", port, "up")

    def _address(self, place: str, device: str, address: str) -> None:
        self._ip(place, "address", "add", address, "dev", device)
        self._ip(place, "link", "set", device, "up")

    def _ip(self, place: str, *words: str) -> None:
        _ip("-n", self.name(place), *words)

    def _remove(self) -> None:
        for place in self._names:
            found = subprocess.run(
                ["ip", "netns", "pids", self.name(place)],
                capture_output=True,
                text=True,
                check=False,
            )
            for pid in found.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            subprocess.run(
                ["ip", "netns", "del", self.name(place)], capture_output=True, check=False
            )


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Move this thread into a network namespace, with what it starts meanwhile."""
    with (
        Path("/proc/thread-self/ns/net").open("rb") as ours,
        Path("/run/netns", namespace).open("rb") as theirs,
    ):
        _set_namespace(theirs.fileno())
        try:
            yield
        finally:
            _set_namespace(ours.fileno())


def _set_namespace(file: int) -> None:
    if _libc.setns(file, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
