"""What we add to the hub's own handlers: cancel, a report, a log, and the broker of site tokens.

Cancel, report and log are for the owner of a server and for administrators.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub.handlers import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from interlink_spawner import broker
from interlink_spawner.failures import render_report
from interlink_spawner.spawner import InterLinkSpawner

__all__ = ["HANDLERS"]

_SERVER = r"/(?P<user_name>[^/]+)(?:/(?P<server_name>[^/]*))?"


class _SessionHandler(BaseHandler):
    """What all of them do: find the server that the URL names."""

    def server(self, user_name: str, server_name: str | None) -> tuple[Any, InterLinkSpawner]:
        """Return the user and the spawner.

        Raises
        ------
        HTTPError
            404: there is no such server.
        """
        user, name = self.find_user(user_name), server_name or ""
        if user is None or name not in user.orm_user.orm_spawners:
            raise web.HTTPError(404, "there is no such server")
        spawner = user.spawners[name] if name in user.spawners else user.get_spawner(name)
        if not isinstance(spawner, InterLinkSpawner):
            raise web.HTTPError(404, "this server is none of ours")
        return user, spawner

    def write_text(self, text: str) -> None:
        """Send plain text that no browser takes for anything else."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(text)


class CancelHandler(_SessionHandler):
    """Cancels a start, and shows the form again. Works without a script."""

    @web.authenticated
    @needs_scope("delete:servers")
    async def post(self, user_name: str, server_name: str | None = None) -> None:
        """Cancel, or stop what has become ready meanwhile."""
        user, spawner = self.server(user_name, server_name)
        if spawner.pending == "spawn":
            future = spawner._spawn_future  # noqa: SLF001  # as the hub's own API does
            if future is not None:
                future.cancel()
                await asyncio.wait([future], timeout=5)
        if spawner.pending != "stop" and spawner.active:
            await self.stop_single_user(user, spawner.name)
        place = url_path_join("spawn", user.escaped_name, url_escape_path(spawner.name))
        self.redirect(url_path_join(self.hub.base_url, place))


class ReportHandler(_SessionHandler):
    """How the last session ended, as plain text."""

    @web.authenticated
    @needs_scope("read:servers")
    async def get(self, user_name: str, server_name: str | None = None) -> None:
        """Send the report."""
        _, spawner = self.server(user_name, server_name)
        if spawner.last_end is None:
            raise web.HTTPError(404, "nothing has gone wrong with this server")
        self.write_text(render_report(spawner.last_end))


class LogHandler(_SessionHandler):
    """What the job of a session has printed, also after it ended."""

    @web.authenticated
    @needs_scope("delete:servers")
    async def get(self, user_name: str, server_name: str | None = None) -> None:
        """Send the log, as far as the site keeps it."""
        _, spawner = self.server(user_name, server_name)
        text = await spawner.read_log()
        if not text:
            raise web.HTTPError(404, "the site has no log of this server")
        self.write_text(text)


#: For `JupyterHub.extra_handlers`.
HANDLERS = [
    (rf"/offload/cancel{_SERVER}", CancelHandler),
    (rf"/offload/report{_SERVER}", ReportHandler),
    (rf"/offload/log{_SERVER}", LogHandler),
    *broker.HANDLERS,
]
