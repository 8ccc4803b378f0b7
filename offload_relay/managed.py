"""What a program does that a hub starts as one of its services. Linux."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["end_with_hub"]

_PR_SET_PDEATHSIG = 1


def end_with_hub() -> None:
    """Have this program asked to end (SIGTERM) when the hub that has started it is gone.

    A hub that is killed leaves its services behind, and those of the next one find their ports and
    files taken. Does nothing in a program that no hub has started: see JUPYTERHUB_SERVICE_NAME. The
    signal comes with the end of the thread that has started the program; a hub has but one for that.
    """
    if "JUPYTERHUB_SERVICE_NAME" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
