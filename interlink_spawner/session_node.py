"""A session and the node it runs on: its port, the hub it must reach, the agent beside it.

Travels in the agent's archive: standard library and the relay's protocol, Python 3.9.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from offload_relay.heads import render_request_head

__all__ = ["UnfitError", "held_port", "listens", "register", "wait_for_hub"]

# A hub that is being restarted or upgraded is back by then; a server itself waits half a minute.
_HUB_WITHIN_S = 300.0
_HUB_ANSWERS_S = 10.0
_REGISTER_WITHIN_S = 60.0
_LISTEN = "0A"


class UnfitError(Exception):
    """The session cannot run here: a reason and a hint."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


# --- the port ------------------------------------------------------------------------------------


def held_port() -> socket.socket:
    """Return a socket that keeps a free loopback port from being given to others by chance.

    Bound and not listening, with SO_REUSEADDR as the server has it: Linux lets the server bind the
    same port, and gives it to nobody who asks for any free one.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def listens(port: int, table: Path = Path("/proc/net/tcp")) -> bool:
    """Tell whether the server listens on `port` of the loopback address.

    Raises
    ------
    UnfitError
        A program of somebody else does: it must not get the requests of this user.
    """
    try:
        rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return _answers(port)
    owners = {row[7] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == _LISTEN}
    if owners - {str(os.geteuid())}:
        raise UnfitError(
            f"a program of another user of this node has taken port {port}", "start it again"
        )
    return bool(owners)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def register(port: int) -> socket.socket:
    """Tell the agent that the server listens; the connection that is returned holds the endpoint.

    Raises
    ------
    UnfitError
        The relay refuses.
    """
    host, _, number = os.environ["OFFLOAD_DIAL"].rpartition(":")
    agent = socket.create_connection((host, int(number)), timeout=_REGISTER_WITHIN_S)
    endpoint = f"127.0.0.1.{os.environ['OFFLOAD_NET']}:{port}"
    token = os.environ["OFFLOAD_DIAL_TOKEN"]
    agent.sendall(render_request_head("REGISTER", endpoint, token, serves=True))
    answer = agent.recv(4096).partition(b"\r\n")[0].decode("latin-1")
    if " 200 " not in answer:
        agent.close()
        raise UnfitError(f"the relay refuses this session: {answer}", "start it again")
    return agent


# --- the hub -------------------------------------------------------------------------------------


def wait_for_hub(url: str, ca: str, within_s: float = _HUB_WITHIN_S) -> None:
    """Return once the hub's API at `url` answers.

    A server that does not reach its hub ends half a minute after its start, and cannot say why.

    Raises
    ------
    UnfitError
        It cannot be reached from this node, or not within `within_s` seconds.
    """
    deadline_s = time.monotonic() + within_s
    while url:
        why, final = _ask(url, ca)
        if not why:
            return
        if final or time.monotonic() > deadline_s:
            raise UnfitError(
                f"this node cannot reach the hub at {urlsplit(url).netloc}: {why}",
                "ask whether nodes of this site may connect to it",
            )
        time.sleep(1.0)


def _ask(url: str, ca: str) -> tuple[str, bool]:
    """Return why there is no answer (empty if there is one), and whether that will not change."""
    # Servers dial the hub directly, whatever proxies this node's environment names.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    try:
        if url.startswith("https:"):
            context = ssl.create_default_context(cafile=ca or None)
            handlers.append(urllib.request.HTTPSHandler(context=context))
        urllib.request.build_opener(*handlers).open(url, timeout=_HUB_ANSWERS_S).close()
    except urllib.error.HTTPError as error:
        # A proxy answers for a hub that is being started.
        return (f"it answers {error.code}", False) if error.code >= 500 else ("", False)
    except urllib.error.URLError as error:
        untrusted = isinstance(error.reason, ssl.SSLCertVerificationError)
        why = "its certificate is not trusted here" if untrusted else _words(error.reason)
        return why, untrusted
    except (OSError, ValueError) as error:
        return _words(error), False
    return "", False


def _words(reason: object) -> str:
    return getattr(reason, "strerror", None) or type(reason).__name__
