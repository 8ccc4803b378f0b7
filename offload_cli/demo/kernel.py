"""Runs code in the kernel of a Jupyter server, over its WebSocket, as JupyterLab does.

Messages: "Messaging in Jupyter", version 5.3 of the protocol.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from websockets.sync.client import ClientConnection, connect

from offload_sites.testing import scaled

__all__ = ["CellError", "Output", "execute", "open_channels"]

_OPEN_WITHIN_S = 30.0


class CellError(Exception):
    """Code has raised; the message is its traceback, as text."""


@dataclass
class Output:
    """What one cell has shown: text that it printed, and pictures as PNG."""

    text: str = ""
    pictures: list[bytes] = field(default_factory=list)


def open_channels(url: str, headers: Mapping[str, str]) -> ClientConnection:
    """Connect to the channels of a kernel: `ws://…/api/kernels/<id>/channels`."""
    return connect(
        url,
        additional_headers=dict(headers),
        open_timeout=scaled(_OPEN_WITHIN_S),
        max_size=2**26,
        proxy=None,
    )


def execute(channels: ClientConnection, code: str, *, within_s: float = 60.0) -> Output:
    """Run `code` and return what it has shown.

    Raises
    ------
    CellError
        It raised.
    TimeoutError
        It was not done within the time.
    """
    message_id = uuid.uuid4().hex
    channels.send(_request(message_id, code))
    output, deadline_s = Output(), time.monotonic() + scaled(within_s)
    while True:
        left_s = max(0.1, deadline_s - time.monotonic())
        heard = json.loads(channels.recv(timeout=left_s))
        if heard["parent_header"].get("msg_id") != message_id:
            continue
        content = heard["content"]
        match heard["msg_type"]:
            case "stream":
                output.text += content["text"]
            case "display_data" | "execute_result" if "image/png" in content["data"]:
                output.pictures.append(base64.b64decode(content["data"]["image/png"]))
            case "error":
                raise CellError("\n".join(content["traceback"]))
            case "status" if content["execution_state"] == "idle":
                return output


def _request(message_id: str, code: str) -> str:
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
    return json.dumps({**message, "channel": "shell", "buffers": []})
