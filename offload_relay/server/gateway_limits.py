"""What one user of the gateway may cost: kept apart, so that a relay without it needs no `h11`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GatewayLimits"]


@dataclass(frozen=True)
class GatewayLimits:
    """Limits of the gateway. Sizes in bytes, times in seconds.

    Parameters
    ----------
    head_bytes : int
        Largest head of a request or response: cookies of a hub and long queries fit.
    chunk_bytes : int
        Most that is read at once of a body; a few chunks are all that is held of it.
    head_s : float
        From the first byte of a request to the end of its head.
    idle_s : float
        How long a client's connection may wait for its next request. Longer than any proxy keeps
        its own, so that none sends a request into a connection that is being closed.
    stall_s : float
        How long a body may stand still: a client that neither sends the rest nor takes any.
    settle_s : float
        How long a request waits for an agent that may be back at any moment.
    open_s : float
        How long a request waits for a stream to its agent.
    streams : int
        Streams of one session at once, requests and WebSockets together.
    pooled : int
        Idle streams that are kept for one session.
    pooled_s : float
        How long an idle stream is kept.
    fresh_s : float
        A stream that idles for less is taken for requests that cannot be repeated, too.
    """

    head_bytes: int = 64 * 1024
    chunk_bytes: int = 128 * 1024
    head_s: float = 30.0
    idle_s: float = 3600.0
    stall_s: float = 120.0
    settle_s: float = 5.0
    open_s: float = 10.0
    streams: int = 512
    pooled: int = 16
    pooled_s: float = 60.0
    fresh_s: float = 2.0
