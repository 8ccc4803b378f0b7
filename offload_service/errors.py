"""What the service answers when it does not do what it was asked: a status and a sentence."""

from __future__ import annotations

from typing import Any

from offload_relay.errors import RelayError
from offload_sites.errors import (
    InvalidOptionsError,
    NotAuthorizedError,
    OffloadError,
)

__all__ = ["BadRequestError", "MismatchError", "NoSuchClusterError", "QuotaError", "answer_to"]


class BadRequestError(OffloadError):
    """The request is not what the service expects."""


class MismatchError(OffloadError):
    """The other side is of a release that this one cannot talk to."""


class NoSuchClusterError(OffloadError):
    """The caller has no such cluster: never had, or not any more."""

    def __init__(self, cluster: str, reason: str = "") -> None:
        super().__init__(
            f"the cluster {cluster!r} has ended: {reason}"
            if reason
            else f"you have no cluster {cluster!r}",
            "start a new one with OffloadCluster()",
        )


class QuotaError(OffloadError):
    """The user has as much as one user may have."""


_STATUS: dict[type[OffloadError], int] = {
    BadRequestError: 400,
    InvalidOptionsError: 400,
    MismatchError: 409,
    NoSuchClusterError: 404,
    QuotaError: 403,
    NotAuthorizedError: 403,
}


def answer_to(error: OffloadError | RelayError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON body for an error."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        status = 503 if error.transient else 400
    body: dict[str, Any] = {"message": error.message, "hint": error.hint}
    if isinstance(error, NoSuchClusterError):
        body["gone"] = True
    return status, body
