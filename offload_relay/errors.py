"""The errors of the relay and the agent. Standard library only: the agent runs in any image."""

from __future__ import annotations

__all__ = [
    "LeaseError",
    "RelayError",
    "RemoteProtocolError",
    "TunnelClosedError",
]


class RelayError(Exception):
    """Something failed between two programs that talk through the relay.

    Parameters
    ----------
    message : str
        One sentence: what failed, the value and the limit.
    hint : str
        What to do about it; empty if there is nothing to do.
    transient : bool
        True if the same call may succeed later without any change.
    """

    def __init__(self, message: str, hint: str = "", *, transient: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.transient = transient

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class LeaseError(RelayError):
    """A lease is forged, expired, or does not allow what was asked."""


class TunnelClosedError(RelayError):
    """A stream or a control connection is gone; connect again."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, transient=True)


class RemoteProtocolError(RelayError):
    """The other side sent something that the protocol does not allow; nothing of it was used."""
