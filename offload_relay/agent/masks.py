"""Masks the agent's WebSocket frames with zeros: the bytes stay as they are.

RFC 6455 (5.3, 10.3) has clients mask what they send with random bytes, so that a page in a browser
cannot make up bytes that a proxy on the way takes for another's HTTP request. An agent is no browser:
what runs in its job can open a connection of its own and send what it likes. In plain Python the
masking was four fifths of the agent's CPU in a bulk transfer (docs/decisions/0013-zero-masks.md).
"""

from __future__ import annotations

from typing import Any

import websockets.frames

__all__ = ["mask_with_zeros"]

_ZEROS = bytes(4)
_frames: Any = websockets.frames
_apply_mask = _frames.apply_mask


class _ZeroKeys:
    token_bytes = staticmethod(bytes)  # bytes(4) are four zeros


def _apply(data: Any, mask: Any) -> Any:
    return data if mask == _ZEROS else _apply_mask(data, mask)


def mask_with_zeros() -> None:
    """Have all WebSockets of this process use the key 0; frames are as valid as before.

    For the release of `websockets` that travels with the agent: it draws keys from the module
    `secrets` and applies them with a function, both looked up in its module `frames`.
    """
    _frames.secrets = _ZeroKeys
    _frames.apply_mask = _apply
