"""Run code in the kernel of a session, and a command in its terminal, as a browser would."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator

from websockets.sync.client import ClientConnection, connect

from offload_sites.testing import scaled


@contextlib.contextmanager
def new_kernel(hub, user: str, server: str = "") -> Iterator[tuple[str, ClientConnection]]:
    """Start a kernel; give its id and an open socket to it. It lives on."""
    answer = hub.lab("POST", user, "api/kernels", server=server)
    answer.raise_for_status()
    kernel = answer.json()["id"]
    with connect_kernel(hub, user, kernel, server) as socket:
        yield kernel, socket


@contextlib.contextmanager
def connect_kernel(hub, user: str, kernel: str, server: str = "") -> Iterator[ClientConnection]:
    """Give an open socket to a kernel that is there."""
    place = f"{user}/{server}" if server else user
    with connect(
        f"ws://127.0.0.1:{hub.public}/user/{place}/api/kernels/{kernel}/channels",
        additional_headers={"Authorization": f"token {hub.token}"},
        open_timeout=scaled(30),
        max_size=2**26,
        proxy=None,
    ) as socket:
        yield socket


def execute(socket: ClientConnection, code: str, within_s: float = 60) -> str:
    """Run `code` and return what it printed.

    Raises
    ------
    AssertionError
        It raised, or did not end in time.
    """
    message_id = uuid.uuid4().hex
    header = {
        "msg_id": message_id,
        "msg_type": "execute_request",
        "username": "",
        "session": uuid.uuid4().hex,
        "version": "5.3",
        "date": "",
    }
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    socket.send(json.dumps({**message, "channel": "shell", "buffers": []}))
    printed, deadline = "", time.monotonic() + scaled(within_s)
    while True:
        heard = json.loads(socket.recv(timeout=max(0.1, deadline - time.monotonic())))
        if heard["parent_header"].get("msg_id") != message_id:
            continue
        content = heard["content"]
        if heard["msg_type"] == "stream":
            printed += content["text"]
        if heard["msg_type"] == "error":
            raise AssertionError("\n".join(content["traceback"]))
        if heard["msg_type"] == "status" and content["execution_state"] == "idle":
            return printed


def run_in_kernel(hub, user: str, code: str, *, server: str = "", within_s: float = 60) -> str:
    """Run `code` in a new kernel, end the kernel, and return what was printed."""
    with new_kernel(hub, user, server) as (kernel, socket):
        printed = execute(socket, code, within_s)
    hub.lab("DELETE", user, f"api/kernels/{kernel}", server=server)
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
