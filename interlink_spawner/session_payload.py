"""The payload of a session's job: a JupyterHub server on loopback, registered with the agent.

Travels in the agent's archive: standard library and the relay's protocol, Python 3.9. Run by it as
`agent.pyz --payload interlink_spawner.session_payload session.json`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from offload_relay.heads import render_request_head

__all__ = ["main"]

log = logging.getLogger("offload-session")

_EX_CONFIG = 78
_TICK_S = 0.1
# An image on a cold network file system takes minutes to import JupyterLab.
_LISTEN_WITHIN_S = 900.0
_HUB_WITHIN_S = 45.0
_REGISTER_WITHIN_S = 60.0


class _Unfit(Exception):  # noqa: N818  # never leaves this module
    """The session cannot run here: a reason and a hint."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


def main(argv: list[str]) -> int:
    """Run the server described in the file `argv[0]` until it ends; return the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    config = json.loads(Path(argv[0]).read_bytes())
    try:
        return _Session(config).run()
    except _Unfit as unfit:
        log.error("%s (%s)", unfit.reason, unfit.hint)  # noqa: TRY400  # a sentence, no traceback
        _report(unfit.reason, unfit.hint)
        return _EX_CONFIG


def _report(reason: str, hint: str) -> None:
    """Leave why this payload ended where the agent looks for it."""
    path = os.environ.get("OFFLOAD_REPORT")
    if path and reason:
        Path(path).write_text(json.dumps({"reason": reason, "hint": hint}), encoding="utf-8")


class _Session:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._stopped = False
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        command = find_server(self._config["command"])
        check_lab(self._config["environment"])
        signal.signal(signal.SIGTERM, self._terminate)
        with _held_port() as held:
            port = held.getsockname()[1]
            environment = self._environment(port)
            hub = _Hub(environment)
            self._server = subprocess.Popen(
                [*command, *self._config["arguments"], *_as_root()],
                env=environment,
                cwd=environment["JUPYTERHUB_ROOT_DIR"],
                stdin=subprocess.DEVNULL,
            )
            self._wait_until_ready(self._server, port, hub)
        if not self._stopped:
            log.info("the server listens on port %d", port)
            with _register(port):
                self._server.wait()
        return self._ended(self._server.wait())

    def _terminate(self, *_: object) -> None:
        self._stopped = True
        if self._server is not None:
            self._server.terminate()

    def _ended(self, code: int) -> int:
        if not self._stopped:
            _report(
                f"the JupyterLab server ended by itself with exit code {code}",
                "" if code == 0 else "the job's log says why",
            )
        return 0 if self._stopped else code

    def _environment(self, port: int) -> dict[str, str]:
        here = Path.cwd()
        given: dict[str, str] = self._config["environment"]
        environment = {**os.environ, **given}
        if self._config["home"] == "job":
            environment["HOME"] = str(_made(here / "home"))
        # Home directories at sites are on network file systems, where sockets and locks fail.
        environment["JUPYTER_RUNTIME_DIR"] = str(_made(here / "runtime"))
        programs = str(Path(sys.executable).parent)
        environment["PATH"] = os.pathsep.join([programs, environment.get("PATH", os.defpath)])
        environment["JUPYTERHUB_ROOT_DIR"] = _notebook_dir(
            self._config["notebook_dir"], environment
        )
        environment["JUPYTERHUB_SERVICE_URL"] = f"http://127.0.0.1:{port}{self._config['route']}"
        return environment

    def _wait_until_ready(self, server: subprocess.Popen[bytes], port: int, hub: _Hub) -> None:
        deadline_s = time.monotonic() + _LISTEN_WITHIN_S
        try:
            while not (_listens(port) and hub.seen):
                if self._stopped:
                    return
                if server.poll() is not None:
                    raise hub.trouble(wait=True) or _Unfit(
                        "the JupyterLab server ended before it was ready, "
                        f"with exit code {server.returncode}",
                        "the job's log says why; try another image",
                    )
                trouble = hub.trouble()
                if trouble is not None:
                    raise trouble
                if time.monotonic() > deadline_s:
                    raise _Unfit(
                        f"the JupyterLab server was not ready within {_LISTEN_WITHIN_S:.0f} s",
                        "the job's log may say why; try another image or site",
                    )
                time.sleep(_TICK_S)
        except _Unfit:
            server.terminate()
            raise


# --- the image -----------------------------------------------------------------------------------


def find_server(command: list[str]) -> list[str]:
    """Return argv of the server in this image.

    The scripts of an image that was unpacked elsewhere may name an interpreter that is not there:
    the one beside our interpreter is run by our interpreter.
    """
    name, *rest = command
    beside = Path(sys.executable).with_name(name)
    if beside.is_file() and importlib.util.find_spec("jupyterhub") is not None:
        return [sys.executable, str(beside), *rest]
    if name == "jupyterhub-singleuser" and importlib.util.find_spec("jupyterhub") is not None:
        return [sys.executable, "-m", "jupyterhub.singleuser", *rest]
    found = shutil.which(name)
    if found is None:
        raise _Unfit(
            f"this image has no {name}",
            "choose an image with jupyterhub and jupyterlab in it, "
            "or ask whoever makes this one to add them",
        )
    return [found, *rest]


def check_lab(environment: dict[str, str]) -> None:
    """Refuse an image that has the server but not the JupyterLab that it is to show."""
    if importlib.util.find_spec("jupyterhub") is None:
        return  # the server belongs to another interpreter, which we do not know
    url = environment.get("JUPYTERHUB_DEFAULT_URL") or "/lab"
    if url.startswith("/lab") and importlib.util.find_spec("jupyterlab") is None:
        raise _Unfit(
            "this image has no JupyterLab",
            "choose an image with jupyterlab in it, or ask whoever makes this one to add it",
        )


def _as_root() -> list[str]:
    return ["--allow-root"] if os.geteuid() == 0 else []


def _made(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def _notebook_dir(wanted: str, environment: dict[str, str]) -> str:
    home = environment.get("HOME", "")
    path = Path(wanted.replace("~", home, 1) if wanted.startswith("~") else wanted or home)
    if not path.is_dir():
        raise _Unfit(
            f"there is no folder {str(path)!r} at this site",
            "ask the administrator for a notebook folder that this site has",
        )
    return str(path)


# --- the port ------------------------------------------------------------------------------------


def _held_port() -> socket.socket:
    """Return a socket that keeps a free loopback port from being given to others by chance.

    Bound and not listening, with SO_REUSEADDR as the server has it: Linux lets the server bind the
    same port, and gives it to nobody who asks for any free one.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _register(port: int) -> socket.socket:
    """Tell the agent that the server listens; the connection holds the endpoint."""
    host, _, number = os.environ["OFFLOAD_DIAL"].rpartition(":")
    agent = socket.create_connection((host, int(number)), timeout=_REGISTER_WITHIN_S)
    endpoint = f"127.0.0.1.{os.environ['OFFLOAD_NET']}:{port}"
    token = os.environ["OFFLOAD_DIAL_TOKEN"]
    agent.sendall(render_request_head("REGISTER", endpoint, token, serves=True))
    answer = agent.recv(4096).partition(b"\r\n")[0].decode("latin-1")
    if " 200 " not in answer:
        raise _Unfit(f"the relay refuses this session: {answer}", "start it again")
    return agent


# --- the hub -------------------------------------------------------------------------------------


class _Hub:
    """Asks, while the server starts, whether this node reaches the hub: no server can do without."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._url = environment.get("JUPYTERHUB_API_URL", "")
        self._ca = environment.get("JUPYTERHUB_SSL_CLIENT_CA") or None
        self._trouble: _Unfit | None = None
        self.seen = not self._url
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def trouble(self, *, wait: bool = False) -> _Unfit | None:
        """Return why the hub cannot be reached; None if it can, or if that is not known yet."""
        if wait:
            self._thread.join()
        return self._trouble

    def _ask(self) -> None:
        deadline_s = time.monotonic() + _HUB_WITHIN_S
        while not self.seen and self._trouble is None:
            why = self._once()
            if why and time.monotonic() > deadline_s:
                self._trouble = _Unfit(
                    f"this node cannot reach the hub at {urlsplit(self._url).netloc}: {why}",
                    "ask whether nodes of this site may connect to it",
                )
            elif why:
                time.sleep(1.0)

    def _once(self) -> str:
        # Servers dial the hub directly, whatever proxies this node's environment names.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self._url.startswith("https:"):
            context = ssl.create_default_context(cafile=self._ca)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        try:
            with urllib.request.build_opener(*handlers).open(self._url, timeout=10):
                self.seen = True
        except urllib.error.HTTPError:
            self.seen = True
        except urllib.error.URLError as error:
            untrusted = isinstance(error.reason, ssl.SSLError)
            return "its certificate is not trusted here" if untrusted else _words(error.reason)
        except (OSError, ValueError) as error:
            return _words(error)
        return ""


def _words(reason: object) -> str:
    return getattr(reason, "strerror", None) or type(reason).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
