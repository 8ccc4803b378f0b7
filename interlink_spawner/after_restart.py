"""What a hub that has just started does with a session that was there before: the start goes on.

The hub would ask the server for an answer, and end what does not give one within `http_timeout`: a
queued job, or a running one whose relay was restarted with the hub. So its question is answered here,
and the start goes on as one that is pending.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import jupyterhub
from jupyterhub.app import JupyterHub
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders

from interlink_spawner.spawn_failed import SpawnFailed

if TYPE_CHECKING:
    from interlink_spawner.spawner import InterLinkSpawner

__all__ = ["StartGoesOn"]


class StartGoesOn:
    """The rest of a start that a hub found when it began.

    Parameters
    ----------
    spawner : InterLinkSpawner
        With the session that it has stored.
    url : str
        Where the session is, or will be.
    """

    def __init__(self, spawner: InterLinkSpawner, url: str) -> None:
        self._spawner = spawner
        self._url = url

    def begin(self) -> None:
        """Go on in the background, as a start that is pending for the hub."""
        spawner = self._spawner
        spawner.server.wait_up = self._believed
        spawner._spawn_pending = True  # noqa: SLF001  # the hub's own, as the next one
        future = spawner._spawn_future = asyncio.ensure_future(self._go_on())  # noqa: SLF001
        future.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[None]) -> None:
        """Keep what has failed for pages, and nothing else: the hub's stop asks a future why it failed."""
        if future.cancelled() or future.exception() is None:
            self._spawner._spawn_future = None  # noqa: SLF001

    async def _believed(self, **_: object) -> HTTPResponse:
        """Stand in for `Server.wait_up`, once."""
        del self._spawner.server.wait_up
        headers = HTTPHeaders({"X-JupyterHub-Version": jupyterhub.__version__})
        return HTTPResponse(HTTPRequest(self._url), 200, headers=headers)

    async def _go_on(self) -> None:
        """Do what is left of a start, as the hub's own `spawn_single_user` does."""
        spawner, proxy = self._spawner, _hub_proxy()
        try:
            await spawner.start_again()
            await proxy.add_user(spawner.user, spawner.name)
        except SpawnFailed:
            spawner.going_on = None
            await proxy.delete_user(spawner.user, spawner.name)
            await spawner.user.stop(spawner.name)
            raise
        finally:
            spawner.going_on = None
            spawner._spawn_pending = False  # noqa: SLF001


def _hub_proxy() -> Any:
    """Return the proxy of the hub that this process is."""
    return JupyterHub.instance().proxy
