"""The service as a whole: everything opened in its order, and served below one prefix."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

from jupyterhub.services.auth import HubOAuth
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from dask_offload.bundle import write_worker_agent
from offload_service import api, pages
from offload_service.bodies import MOST_BYTES
from offload_service.bookkeeper import Bookkeeper
from offload_service.catalog_keeper import CatalogKeeper
from offload_service.cluster import Tools
from offload_service.clusters import Clusters
from offload_service.handlers import Service
from offload_service.settings import ServiceSettings
from offload_service.site_pool import SitePool, TokenSources
from offload_service.store import CLUSTERS, ClusterStore
from offload_sites.backend import TokenSource
from offload_sites.catalog import BaseSite
from offload_sites.database import Database
from offload_sites.ledger import JOBS, Ledger

__all__ = ["open_service"]

log = logging.getLogger(__name__)


def _no_tokens(_user: str, _site: str, _model: BaseSite) -> TokenSource | None:
    return None


@contextlib.asynccontextmanager
async def open_service(
    settings: ServiceSettings,
    *,
    prefix: str,
    host: str,
    port: int,
    auth: HubOAuth | None = None,
    tokens: TokenSources = _no_tokens,
) -> AsyncIterator[int]:
    """Serve until left; gives the port. Leaving it leaves all jobs alone.

    Parameters
    ----------
    settings : ServiceSettings
        How it runs.
    prefix : str
        Path below which everything is, with both slashes.
    host : str
        Address to listen on.
    port : int
        0 takes a free one.
    auth : HubOAuth or None
        How the hub is asked who a caller is; None for what the environment of a hub's service says.
    tokens : callable
        Where users' tokens for sites come from.

    Raises
    ------
    OffloadError
        The catalog is not good, or the ledger cannot be opened.
    OSError
        The port is taken.
    """
    async with contextlib.AsyncExitStack() as stack:
        database = await asyncio.to_thread(Database, settings.ledger, JOBS, CLUSTERS)
        stack.callback(database.close)
        await asyncio.to_thread(stack.enter_context, database.alone("service"))
        store = ClusterStore(database)
        books = await stack.enter_async_context(Bookkeeper(Ledger(database), settings.kept))
        catalog = await stack.enter_async_context(CatalogKeeper(settings.catalog, books, store))
        pool = await stack.enter_async_context(SitePool(lambda: catalog.catalog, tokens))
        agent = write_worker_agent(settings.folder)
        tools = Tools(settings, pool, books, store, agent)
        clusters = await stack.enter_async_context(Clusters(tools))
        service = Service(tools, clusters, catalog, auth or HubOAuth.instance(), prefix)
        server = HTTPServer(_application(service), max_body_size=MOST_BYTES)
        sockets = bind_sockets(port, host)
        server.add_sockets(sockets)
        stack.push_async_callback(_closed, server)
        listening = int(sockets[0].getsockname()[1])
        log.info("the service listens on %s:%d%s", host, listening, prefix)
        yield listening


def _application(service: Service) -> web.Application:
    prefix = service.prefix
    # Those with arguments of their own are tornado's: static files, a redirect.
    routes: list[Any] = [
        route if len(route) > 2 else (*route, {"service": service})
        for route in [*pages.routes(prefix), *api.routes(prefix)]
    ]
    return web.Application(
        routes,
        # Only the state of a sign-in is signed with it; a restart makes users click once more.
        cookie_secret=secrets.token_bytes(32),
        log_function=_log_request,
    )


def _log_request(handler: web.RequestHandler) -> None:
    """Heartbeats and probes at DEBUG, the rest at INFO; never a header or a body."""
    beat = handler.request.path.endswith(("/heartbeat", "/health")) and handler.get_status() == 200
    log.log(
        logging.DEBUG if beat else logging.INFO,
        "%d %s %s (%.0f ms)",
        handler.get_status(),
        handler.request.method,
        handler.request.path,
        1000 * handler.request.request_time(),
    )


async def _closed(server: HTTPServer) -> None:
    server.stop()
    await server.close_all_connections()
