"""The one place where an error of ours becomes one of the hub's."""

from __future__ import annotations

from typing import Any

import jupyterhub
from tornado import web

from interlink_spawner.failures import End

__all__ = ["SpawnFailed", "uncount"]


class SpawnFailed(web.HTTPError):
    """What the hub shows, and answers, when a session could not be started.

    Parameters
    ----------
    status : int
        Below 500: nothing that a session does is a reason to restart the hub.
    message : str
        One sentence.
    end : End or None
        How the session ended, for the page; None if there was none.
    """

    def __init__(self, status: int, message: str, end: End | None = None) -> None:
        # The message may hold a %, and is no format.
        super().__init__(status, "%s", message)
        self.jupyterhub_message = message  # the only part of an exception that pages show
        self.end = end
        self.headers: dict[str, str] = {}


def uncount(handler: Any) -> None:
    """Take the failure that is about to be raised out of the hub's count in advance.

    JupyterHub 5 counts every failed spawn, a user's bad request too, and exits at a limit. Later
    ones count what is an error of the hub only.

    Parameters
    ----------
    handler : BaseHandler or None
        Of the request that starts the session; None if there is none any more.
    """
    settings = getattr(handler, "settings", None)
    if settings is not None and jupyterhub.version_info[0] < 6:
        settings["failure_count"] = settings.get("failure_count", 0) - 1
