"""Which servers of a hub are idle, and the program that stops them: jupyterhub-idle-culler with our rule.

A server whose start is pending, queued ones included, is left alone by that program itself. For a
session that runs as a job three more things count:

* it cannot have been used before it was there: the time in the queue is not idleness;
* while its link is lost its user cannot use it, and nobody knows whether they would;
* when the link is back they have all of the time again.

How long a session may run at all is its walltime, which begins with its job and ends without us.

Run as `python -m interlink_spawner.culling --timeout=3600`, by a hub: see `hub_services`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from jupyterhub_idle_culler import IdleCuller
from traitlets import default

from interlink_spawner.session import Session, load_session
from offload_relay.parent import end_with_hub
from offload_sites.jobs import AgentState

__all__ = ["Culler", "idle_for", "is_idle"]


def idle_for(inactive: timedelta, server: Mapping[str, Any], now: datetime) -> timedelta:
    """Return for how long a server could have been used, and was not.

    Parameters
    ----------
    inactive : timedelta
        Since its last activity, as the hub has noticed it.
    server : mapping
        The hub's model of it, with `state`.
    now : datetime
        Aware UTC.
    """
    session = _job_of(server)
    if session is None:
        return inactive
    if session.agent.state is not AgentState.CONNECTED:
        return timedelta(0)
    there = [time for time in (session.ready, session.agent.since) if time is not None]
    return min([inactive, *(now - time for time in there)])


def _job_of(server: Mapping[str, Any]) -> Session | None:
    """Return the session if it runs as a job; None if it is a pod, or none of ours."""
    ours = (server.get("state") or {}).get("offload") or {}
    return None if ours.get("pod") else load_session(ours.get("session"))


def is_idle(
    *, inactive: timedelta | None, inactive_limit: float, server: Mapping[str, Any], **_: object
) -> bool:
    """Tell whether a server is to be stopped: a `cull_arbiter_hook` of jupyterhub-idle-culler.

    Parameters
    ----------
    inactive : timedelta or None
        Since its last activity; None if the hub knows of none.
    inactive_limit : float
        Seconds for which it may be idle.
    server : mapping
        The hub's model of it.
    """
    if inactive is None:
        return False
    return idle_for(inactive, server, datetime.now(UTC)).total_seconds() >= inactive_limit


class Culler(IdleCuller):
    """jupyterhub-idle-culler with our rule; all its options are there."""

    @default("cull_arbiter_hook")
    def _our_rule(self) -> Callable[..., bool]:
        return is_idle


if __name__ == "__main__":
    end_with_hub()
    Culler.launch_instance()
