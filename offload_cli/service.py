"""`offload service`: the hub's service for Dask clusters, until it is told to end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import tempfile
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import click

from offload_cli.relay import read_key
from offload_relay.access import RelayAccess
from offload_relay.parent import end_with_hub
from offload_service.settings import ServiceSettings, UserLimits
from offload_sites.units import parse_duration

__all__ = ["service"]


class _Duration(click.ParamType[timedelta]):
    name = "DURATION"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Network(click.ParamType[str]):
    name = "NETWORK"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        try:
            return str(ipaddress.ip_network(str(value), strict=False))
        except ValueError:
            self.fail(f"{value!r} is not a network such as 10.0.0.0/8", param, ctx)


_file = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--catalog",
    type=_file,
    envvar="OFFLOAD_CATALOG",
    show_envvar=True,
    required=True,
    help="Sites, images and profiles. Read again when it changes.",
)
@click.option(
    "--ledger",
    envvar="OFFLOAD_LEDGER",
    show_envvar=True,
    default="offload-ledger.sqlite",
    show_default=True,
    help="Database: a file for SQLite, or postgresql://user:password@host/name. Give a URL with a "
    "password by the variable, never on the command line.",
)
@click.option(
    "--relay",
    envvar="OFFLOAD_RELAY_URL",
    show_envvar=True,
    required=True,
    help="What agents dial: wss://hub.example.org/services/relay.",
)
@click.option(
    "--relay-dial",
    envvar="OFFLOAD_RELAY_DIAL",
    show_envvar=True,
    required=True,
    help="HOST:PORT of the relay's dial port, as notebooks on the hub's side reach it.",
)
@click.option(
    "--relay-key-file",
    type=_file,
    envvar="OFFLOAD_RELAY_KEY_FILE",
    show_envvar=True,
    required=True,
    help="File with the key that leases are signed with; the relay has the same.",
)
@click.option(
    "--relay-ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="OFFLOAD_RELAY_CA_FILE",
    show_envvar=True,
    help="PEM authority of a wss:// relay, if it is none that images know.",
)
@click.option(
    "--bind",
    envvar="JUPYTERHUB_SERVICE_URL",
    show_envvar=True,
    default="http://127.0.0.1:8400",
    show_default=True,
    help="Where to listen; the hub tells its own services.",
)
@click.option(
    "--max-clusters", type=click.IntRange(0), default=10, show_default=True, help="For one user."
)
@click.option(
    "--max-workers",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="For one user, in all clusters together.",
)
@click.option(
    "--owner-grace",
    type=_Duration(),
    default="90s",
    show_default=True,
    help="How long a cluster goes on without a word from its notebook's side.",
)
@click.option(
    "--keep",
    type=_Duration(),
    default="90d",
    show_default=True,
    help="How long the ledger remembers jobs that have ended.",
)
@click.option(
    "--admin-group",
    "admin_groups",
    multiple=True,
    help="A group of the hub whose members see the administrator's page, besides the hub's admins.",
)
@click.option(
    "--scheduler-network",
    "scheduler_networks",
    type=_Network(),
    multiple=True,
    help="Where schedulers of notebooks may listen, besides the address their requests come from.",
)
@click.option(
    "--proxy-network",
    "proxy_networks",
    type=_Network(),
    multiple=True,
    help="Network of a proxy whose X-Forwarded-For is believed, besides those on this computer.",
)
def service(
    *,
    catalog: Path,
    ledger: str,
    relay: str,
    relay_dial: str,
    relay_key_file: Path,
    relay_ca_file: Path | None,
    bind: str,
    max_clusters: int,
    max_workers: int,
    owner_grace: timedelta,
    keep: timedelta,
    admin_groups: tuple[str, ...],
    scheduler_networks: tuple[str, ...],
    proxy_networks: tuple[str, ...],
) -> None:
    """Run the hub's service for Dask clusters.

    Its notebooks find it by OFFLOAD_SERVICE_URL. It wants the environment of a JupyterHub service
    (JUPYTERHUB_API_TOKEN and others), which a hub that starts it provides.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # The hub's API token is the only one this program has, and is logged by nobody.
    if not os.environ.get("JUPYTERHUB_API_TOKEN"):
        raise click.UsageError(
            "JUPYTERHUB_API_TOKEN is not set: this program runs as a service of a JupyterHub"
        )
    ca = relay_ca_file.read_text(encoding="utf-8") if relay_ca_file else ""
    access = RelayAccess(relay, relay_dial, read_key(relay_key_file), ca)
    with tempfile.TemporaryDirectory(prefix="offload-service-") as folder:
        settings = ServiceSettings(
            catalog=catalog,
            ledger=ledger,
            relay=access,
            folder=Path(folder),
            limits=UserLimits(clusters=max_clusters, workers=max_workers),
            owner_grace=owner_grace,
            kept=keep,
            admin_groups=frozenset(admin_groups),
            scheduler_networks=scheduler_networks,
            proxy_networks=proxy_networks,
        )
        try:
            asyncio.run(_serve(settings, bind))
        except OSError as error:
            raise click.ClickException(f"cannot listen on {bind}: {error.strerror}") from error


async def _serve(settings: ServiceSettings, bind: str) -> None:
    # Here: what the command needs besides is an extra, and other commands do without.
    from offload_service.app import open_service
    from offload_service.tokens import hub_tokens

    url = urlsplit(bind)
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/services/offload/")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    end_with_hub()
    async with open_service(
        settings,
        prefix=f"/{prefix.strip('/')}/",
        host=url.hostname or "127.0.0.1",
        port=url.port or 0,
        tokens=hub_tokens(
            os.environ.get("JUPYTERHUB_API_URL", "http://127.0.0.1:8081/hub/api"),
            os.environ.get("JUPYTERHUB_API_TOKEN", ""),
        ),
    ):
        await ended.wait()
