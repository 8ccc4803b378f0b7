"""Stands between interLink's API and its plugin, and spoils what the plugin answers."""

from __future__ import annotations

import http.client
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

__all__ = ["PluginProxy"]

PING = "ping"  # a request for the state of no pod at all
_HEADERS = ("Content-Type", "InterLink-Http-Session")


class PluginProxy:
    """Listens on one Unix socket and passes everything on to another.

    Parameters
    ----------
    path, plugin : Path
        Where it listens, and where the plugin does.

    Notes
    -----
    Requests are called `create`, `status`, `delete`, `getLogs`, and `ping`.
    """

    def __init__(self, path: Path, plugin: Path) -> None:
        self.path, self.plugin = path, plugin
        self.seen: list[str] = []
        self._faults: dict[str, str] = {}
        self._released = threading.Event()

    def fails(self, *calls: str) -> None:
        """Answer 500 to these from now on; the plugin does not hear of them."""
        self._set("fails", calls)

    def hangs(self, *calls: str) -> None:
        """Answer these not before `heals`; the plugin does not hear of them before either."""
        self._set("hangs", calls)

    def loses_answers(self, *calls: str) -> None:
        """Pass these on, and let the connection break where the answer would come."""
        self._set("loses", calls)

    def heals(self) -> None:
        """Pass on everything, also what hangs."""
        self._faults = {}
        self._released.set()

    def _set(self, fault: str, calls: tuple[str, ...]) -> None:
        self._released.clear()
        self._faults = {**self._faults, **dict.fromkeys(calls, fault)}

    def __enter__(self) -> PluginProxy:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.path.unlink(missing_ok=True)  # of one that was killed
        self._server = _Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heals()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.path.unlink()

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Ask the plugin."""
        connection = _Connection(self.plugin)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("plugin", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True  # one that hangs may never be waited for

    def handle_error(self, *_: object) -> None:
        """Say nothing: interLink may hang up whenever it likes."""


class _Handler(BaseHTTPRequestHandler):
    owner: PluginProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = self.path.strip("/").partition("?")[0]
        if call == "status" and body.strip() in {b"[]", b"null"}:
            call = PING
        self.owner.seen.append(call)
        fault = self.owner._faults.get(call)
        self.close_connection = True
        if fault == "fails":
            self._answer(500, b"the plugin has a bad day")
            return
        if fault == "hangs":
            self.owner._released.wait()
        headers = {name: self.headers[name] for name in _HEADERS if self.headers.get(name)}
        try:
            status, answer = self.owner.ask(self.command, self.path, body, headers)
        except OSError as error:
            status, answer = 502, str(error).encode()
        if fault != "loses":
            self._answer(status, answer)

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - names of the library

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Say nothing."""
