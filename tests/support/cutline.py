"""A line to a server on loopback that is cut after so many bytes: by an end, a reset, or silence."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from typing import Self

from tests.support.netns import entered

_serial = itertools.count()
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset


class CutLine:
    """Carries bytes between its clients and the server at `port` of 127.0.0.1; a context manager.

    `cut` sets when it goes; from then on, and until it is set anew, nothing gets through. `passed`
    counts what has, in both directions and over all connections. Clients come to `address`.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.cut()

    def cut(self, after: int | None = None, how: str = "end") -> None:
        """Let so many bytes pass, all if None; then `how`: `end`, `reset` or `silence`."""
        with self._lock:
            self.passed = 0
            self._after = after
            self._how = how

    def __enter__(self) -> Self:
        self._listener = self._listen()
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Closing alone does not end an accept() that waits.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            _end(one)

    def _listen(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0), backlog=128)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        # One thread for both directions: a socket at which another one waits would not be reset.
        other = {near: far, far: near}
        with contextlib.suppress(OSError):
            while other:
                for source in select.select(list(other), [], [])[0]:
                    data = source.recv(65536)
                    passing, over = self._measure(data)
                    other[source].sendall(passing)
                    if over:
                        self._over(near, far)
                        return
                    if not data:
                        other[source].shutdown(socket.SHUT_WR)
                        del other[source]
                        break

    def _measure(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of `data` may pass, and whether the line is cut."""
        with self._lock:
            left = len(data) if self._after is None else max(0, self._after - self.passed)
            self.passed += len(data[:left])
            return data[:left], left < len(data)

    def _over(self, *ends: socket.socket) -> None:
        if self._how == "silence":
            return  # both stay open, and nobody reads what comes
        for one in ends:
            if self._how == "reset":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.close()
            else:
                _end(one)


class OnlyLine(CutLine):
    """A line that is all there is for who is `inside`, at the very address of the server.

    What a client checks of a server, its name and certificate, and what servers tell of where they
    are, is as without it. Needs root and the program `ip` (iproute2).
    """

    _name = ""

    def _listen(self) -> socket.socket:
        self._name = f"offload-{os.getpid()}-line{next(_serial)}"
        subprocess.run(["ip", "netns", "add", self._name], check=True)
        subprocess.run(["ip", "-n", self._name, "link", "set", "lo", "up"], check=True)
        with self.inside():
            return socket.create_server(("127.0.0.1", self._port), backlog=128)

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        subprocess.run(["ip", "netns", "del", self._name], check=True)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread, and what it starts, to where the line is the only way to the server."""
        with entered(self._name):
            yield


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
