"""Run code in the kernel of a session, and a command in its terminal, as a browser would."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from websockets.sync.client import ClientConnection, connect

from offload_cli.demo import kernel
from offload_sites.testing import scaled


@contextlib.contextmanager
def new_kernel(hub, user: str, server: str = "") -> Iterator[tuple[str, ClientConnection]]:
    """Start a kernel; give its id and an open socket to it. It lives on."""
    answer = hub.lab("POST", user, "api/kernels", server=server)
    answer.raise_for_status()
    which = answer.json()["id"]
    with connect_kernel(hub, user, which, server) as socket:
        yield which, socket


@contextlib.contextmanager
def connect_kernel(hub, user: str, which: str, server: str = "") -> Iterator[ClientConnection]:
    """Give an open socket to a kernel that is there."""
    place = f"{user}/{server}" if server else user
    url = f"ws://127.0.0.1:{hub.public}/user/{place}/api/kernels/{which}/channels"
    with kernel.open_channels(url, {"Authorization": f"token {hub.token}"}) as socket:
        yield socket


def execute(socket: ClientConnection, code: str, within_s: float = 60) -> str:
    """Run `code` and return what it printed.

    Raises
    ------
    AssertionError
        It raised, or did not end in time.
    """
    try:
        return kernel.execute(socket, code, within_s=within_s).text
    except (kernel.CellError, TimeoutError) as error:
        raise AssertionError(str(error)) from error


def run_in_kernel(hub, user: str, code: str, *, server: str = "", within_s: float = 60) -> str:
    """Run `code` in a new kernel, end the kernel, and return what was printed."""
    with new_kernel(hub, user, server) as (which, socket):
        printed = execute(socket, code, within_s)
    hub.lab("DELETE", user, f"api/kernels/{which}", server=server)
    return printed


def run_in_terminal(hub, user: str, command: str) -> str:
    """Type `command` into a new terminal and return what it shows until it shows the result."""
    name = hub.lab("POST", user, "api/terminals").json()["name"]
    url = f"ws://127.0.0.1:{hub.public}/user/{user}/terminals/websocket/{name}"
    shown = ""
    with connect(
        url,
        additional_headers={"Authorization": f"token {hub.token}"},
        open_timeout=scaled(30),
        proxy=None,
    ) as socket:
        socket.send(json.dumps(["stdin", f"{command}; echo do''ne\r"]))
        deadline = time.monotonic() + scaled(30)
        while "done" not in shown:
            kind, *words = json.loads(socket.recv(timeout=max(0.1, deadline - time.monotonic())))
            shown += words[0] if kind == "stdout" else ""
    hub.lab("DELETE", user, f"api/terminals/{name}")
    return shown
