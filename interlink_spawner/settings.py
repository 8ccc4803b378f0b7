"""What an administrator sets of `InterLinkSpawner`, besides the settings of KubeSpawner."""

from __future__ import annotations

import functools
from pathlib import Path

from traitlets import HasTraits, Integer, Unicode

from interlink_spawner.desk import Desk
from offload_relay.access import RelayAccess
from offload_sites.errors import OffloadError
from offload_sites.ledger import Ledger

__all__ = ["SpawnerSettings", "make_desk"]


class SpawnerSettings(HasTraits):
    """Settings of the spawner: in a hub's configuration, `c.InterLinkSpawner.<name>`."""

    catalog_file = Unicode(
        "",
        config=True,
        help="""
        The catalog: a YAML file of sites, images and profiles. Read again when it changes, without
        a restart; a broken edit leaves the last good content in use and is logged with its lines.
        Default: empty, there is none; then this is a KubeSpawner as it is, `profile_list` and all.
        """,
    )
    relay_url = Unicode(
        "ws://127.0.0.1:8300",
        config=True,
        help="""
        Base URL of the relay that agents of sessions dial, `ws://` or `wss://`. Worker nodes of all
        sites must be able to reach it. Default: a relay on this machine, which only sites of kind
        `local` can use.
        """,
    )
    relay_gateway = Unicode(
        "127.0.0.1:8302",
        config=True,
        help="""
        `host:port` of the relay's HTTP gateway, as the hub and its proxy reach it. Keep it private.
        """,
    )
    relay_key_file = Unicode(
        "",
        config=True,
        help="""
        File with the key that leases are signed with: the same as the relay's. Required.
        """,
    )
    relay_ca_file = Unicode(
        "",
        config=True,
        help="""
        PEM file with the authority of a `wss://` relay. Default: empty, for those that the image of
        a session trusts.
        """,
    )
    ledger_url = Unicode(
        "",
        config=True,
        help="""
        Database in which jobs are recorded, as a URL of SQLAlchemy: the same as the offload
        service's. Expected waits are known from it. Default: empty, nothing is recorded.
        """,
    )
    service_url = Unicode(
        "",
        config=True,
        help="""
        Base URL of the offload service as sessions reach it, such as
        `https://hub.example.org/services/offload`. Default: empty, sessions have none.
        """,
    )
    pod_service_url = Unicode(
        "",
        config=True,
        help="""
        Base URL of the offload service as sessions of kind `kubernetes` reach it, in the cluster of
        the hub: `http://proxy-public/services/offload`. The service has to see the pod's own address,
        which an ingress hides. Default: empty, for that of `service_url`.
        """,
    )
    public_hub_connect_url = Unicode(
        "",
        config=True,
        help="""
        Scheme, host and port of the hub as jobs at other machines reach it, such as
        `https://hub.example.org`. Default: empty, for the hub's own address, which is right for
        sites of kind `local` only.
        """,
    )
    stop_timeout = Integer(
        60,
        min=1,
        config=True,
        help="""
        Seconds in which a site has to confirm that the job of a stopped session is over. Past them
        the hub goes on, and the site is asked in the background.
        """,
    )
    job_start_timeout = Integer(
        1800,
        min=1,
        config=True,
        help="""
        Seconds that the job of a session may run before its server answers: an image that no node
        has seen so far takes minutes to open. A pod of kind `kubernetes` has `start_timeout`, from when
        it has a node.
        """,
    )


def make_desk(settings: SpawnerSettings) -> Desk:
    """Return the desk of a hub with these settings.

    Raises
    ------
    OffloadError
        One is missing or wrong.
    """
    for name in ("catalog_file", "relay_key_file"):
        if not getattr(settings, name):
            raise OffloadError(
                f"InterLinkSpawner.{name} is not set", "set it in the configuration of the hub"
            )
    authority = settings.relay_ca_file
    relay = RelayAccess(
        url=settings.relay_url,
        dial="",
        key=_read(settings.relay_key_file, "relay_key_file"),
        ca=_read(authority, "relay_ca_file").decode() if authority else "",
        gateway=settings.relay_gateway,
    )
    ledger = functools.partial(Ledger, settings.ledger_url) if settings.ledger_url else None
    return Desk(Path(settings.catalog_file), relay, ledger)


def _read(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OffloadError(
            f"InterLinkSpawner.{name}: cannot read {path}: {error.strerror}"
        ) from error
