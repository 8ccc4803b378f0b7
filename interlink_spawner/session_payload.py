"""The payload of a session's job: a JupyterHub server on loopback, registered with the agent.

Travels in the agent's archive: standard library and the relay's protocol, Python 3.9. Run by it as
`agent.pyz --payload interlink_spawner.session_payload session.json`.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from interlink_spawner.session_image import (
    check_lab,
    find_server,
    write_lab_extension,
    write_lab_settings,
)
from interlink_spawner.session_node import (
    UnfitError,
    held_port,
    listens,
    register,
    wait_for_hub,
)
from offload_relay.parent import end_with_parent
from offload_relay.protocol import EXIT_WALLTIME

__all__ = ["main"]

log = logging.getLogger("offload-session")

_EX_CONFIG = 78
_TICK_S = 0.05
# An image on a cold network file system takes minutes to import JupyterLab.
_LISTEN_WITHIN_S = 900.0
# The agent asks to finish this long before the end of the walltime, or a little less.
_NEARLY_OVER_S = 60.0


def main(argv: list[str]) -> int:
    """Run the server described in the file `argv[0]` until it ends; return the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    config = json.loads(Path(argv[0]).read_bytes())
    try:
        return _Session(config).run()
    except UnfitError as unfit:
        log.error("%s (%s)", unfit.reason, unfit.hint)  # noqa: TRY400  # a sentence, no traceback
        _report(unfit.reason, unfit.hint)
        return _EX_CONFIG


def _report(reason: str, hint: str) -> None:
    """Leave why this payload ended where the agent looks for it."""
    path = os.environ.get("OFFLOAD_REPORT")
    if path:
        Path(path).write_text(json.dumps({"reason": reason, "hint": hint}), encoding="utf-8")


class _Session:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._environment: dict[str, str] = {**os.environ, **config["environment"]}
        self._stopped = False
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._stop)
        command = find_server(self._config["command"])
        check_lab(self._environment.get("JUPYTERHUB_DEFAULT_URL", ""))
        self._make_places()
        wait_for_hub(
            self._environment.get("JUPYTERHUB_API_URL", ""),
            self._environment.get("JUPYTERHUB_SSL_CLIENT_CA", ""),
        )
        with held_port() as held:
            port = held.getsockname()[1]
            server = self._start(command, port)
            try:
                self._wait_until_listening(server, port)
            except UnfitError:
                server.terminate()
                raise
        if self._stopped:
            return self._ended(server.wait())
        log.info("the server listens on port %d", port)
        with register(port):
            return self._ended(server.wait())

    def _stop(self, *_: object) -> None:
        self._stopped = True
        if self._server is None:
            raise SystemExit(self._ended(0))
        self._server.terminate()

    def _ended(self, code: int) -> int:
        """Say why it has ended, and return the exit code for the agent."""
        if not self._stopped:
            hint = "" if code == 0 else "the log of the job says why"
            _report(f"the JupyterLab server ended by itself with exit code {code}", hint)
            return code
        if time.time() > _ends_at_s() - _NEARLY_OVER_S:
            _report("its walltime was used up", "")
            return EXIT_WALLTIME
        return 0

    def _make_places(self) -> None:
        """Make the folders of this session, and point its environment at them."""
        here, environment = Path.cwd(), self._environment
        own = here / "offload"
        own.mkdir(mode=0o700)
        if self._config["home"] == "job":
            environment["HOME"] = str(own / "home")
            (own / "home").mkdir()
            write_lab_settings(own)
            config_path = _before(str(own), environment, "JUPYTER_CONFIG_PATH")
            environment["JUPYTER_CONFIG_PATH"] = config_path
        elif self._config["home"] != "site":
            environment["HOME"] = _own_home(self._config["home"])
        # Home directories at sites are on network file systems, where sockets and locks fail.
        environment["JUPYTER_RUNTIME_DIR"] = str(own / "runtime")
        environment["PATH"] = _before(str(Path(sys.executable).parent), environment, "PATH")
        environment["JUPYTER_PATH"] = _before(str(own), environment, "JUPYTER_PATH")
        environment["JUPYTERHUB_ROOT_DIR"] = _notebook_dir(
            self._config["notebook_dir"], environment.get("HOME", str(here))
        )
        shown = {
            "site": self._config["site"],
            "home": self._config["home"],
            "started_at": int(time.time()),
            "ends_at": int(_ends_at_s()),
        }
        write_lab_extension(own, shown)

    def _start(self, command: list[str], port: int) -> subprocess.Popen[bytes]:
        as_root = ["--allow-root"] if os.geteuid() == 0 else []
        server = subprocess.Popen(
            [*command, *self._config["arguments"], *as_root],
            env={
                **self._environment,
                "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}{self._config['route']}",
            },
            cwd=self._environment["JUPYTERHUB_ROOT_DIR"],
            stdin=subprocess.DEVNULL,
            # Safe: this process has one thread, and the function takes no lock.
            preexec_fn=functools.partial(_end_with, os.getpid()),  # noqa: PLW1509
        )
        self._server = server
        return server

    def _wait_until_listening(self, server: subprocess.Popen[bytes], port: int) -> None:
        deadline_s = time.monotonic() + _LISTEN_WITHIN_S
        while not self._stopped and not listens(port):
            if server.poll() is not None:
                raise UnfitError(
                    "the JupyterLab server ended before it was ready, "
                    f"with exit code {server.returncode}",
                    "the log of the job says why; try another image",
                )
            if time.monotonic() > deadline_s:
                raise UnfitError(
                    f"the JupyterLab server did not listen within {_LISTEN_WITHIN_S:.0f} s",
                    "the log of the job may say why; try another image or site",
                )
            time.sleep(_TICK_S)


def _end_with(parent: int) -> None:
    """Let the server end with this process, which ends with the agent: none outlives its job."""
    # Not SIGKILL: a server that is told to end ends its kernels.
    end_with_parent(signal.SIGTERM)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


def _ends_at_s() -> float:
    """Return when the walltime ends, in seconds since the epoch, as the agent has said."""
    return float(os.environ["OFFLOAD_ENDS_AT"])


def _before(first: str, environment: dict[str, str], name: str) -> str:
    rest = environment.get(name, os.defpath if name == "PATH" else "")
    return os.pathsep.join([first, rest] if rest else [first])


def _own_home(path: str) -> str:
    """Return the folder that a user has in each session at this site; the first one makes it."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnfitError(
            f"the home folder {path!r} cannot be made at this site: {error.strerror}",
            "tell an administrator",
        ) from error
    return path


def _notebook_dir(wanted: str, home: str) -> str:
    path = Path(home + wanted[1:] if wanted.startswith("~") else wanted or home)
    if not path.is_dir():
        raise UnfitError(
            f"there is no folder {str(path)!r} at this site",
            "ask the administrator for a notebook folder that this site has",
        )
    return str(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
