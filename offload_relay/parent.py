"""Processes that end with those that have started them. Linux; standard library, Python 3.9."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["end_with_hub", "end_with_parent"]

# prctl(2), linux/prctl.h
_PR_SET_PDEATHSIG = 1
# Loaded before any fork: nothing may be loaded between fork and exec.
_libc = ctypes.CDLL(None)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process sent a signal when the thread that has started it is gone.

    Takes no lock and loads nothing, so that it can stand between fork and exec (`preexec_fn`).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def end_with_hub() -> None:
    """Have this program asked to end (SIGTERM) when the hub that has started it is gone.

    A hub that is killed leaves its services behind, and those of the next one find their ports and
    files taken. Does nothing in a program that no hub has started: see JUPYTERHUB_SERVICE_NAME.
    """
    if "JUPYTERHUB_SERVICE_NAME" in os.environ:
        end_with_parent(signal.SIGTERM)
