"""`offload relay`: run a relay until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import tempfile
from pathlib import Path

import click

from offload_relay.errors import RelayError
from offload_relay.lease import KEY_BYTES, new_key
from offload_relay.parent import end_with_hub
from offload_relay.server import Relay, RelaySettings

__all__ = ["read_key", "relay"]

_BACKLOG = 1024


class _Address(click.ParamType[tuple[str, int] | socket.socket]):
    name = "HOST:PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int] | socket.socket:
        text = str(value)
        if text.startswith("fd:") and text[3:].isdecimal():
            try:
                return socket.socket(fileno=int(text[3:]))
            except OSError:
                self.fail(f"{text[3:]} is no open socket", param, ctx)
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{text!r} is not HOST:PORT with a port from 0 to 65535", param, ctx)
        return host.strip("[]"), int(port)


@click.command()
@click.option(
    "--public",
    type=_Address(),
    default="127.0.0.1:8300",
    show_default=True,
    help="Where agents connect (WebSocket). fd:N takes an inherited socket.",
)
@click.option(
    "--dial",
    type=_Address(),
    default="127.0.0.1:8301",
    show_default=True,
    help="Where hub-side programs connect, with /health and /metrics. Keep it private.",
)
@click.option(
    "--gateway",
    type=_Address(),
    default=None,
    help="Where the proxy of a hub reaches sessions (HTTP). Keep it private. Not given: no sessions.",
)
@click.option(
    "--key-file",
    "key_files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    help="File with the key that leases are signed with; made if it is not there. Give it twice "
    "while a key is being replaced.",
)
@click.option(
    "--tls-cert",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificate of the public port with its chain, PEM. Without it the port speaks ws://.",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Key of the certificate, PEM. Not needed if the certificate's file holds it.",
)
def relay(
    *,
    public: tuple[str, int] | socket.socket,
    dial: tuple[str, int] | socket.socket,
    gateway: tuple[str, int] | socket.socket | None,
    key_files: tuple[Path, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Run a relay. Agents dial it from the sites; programs on this side reach them through it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("offload_relay.websockets").setLevel(logging.WARNING)
    keys = [read_key(path) for path in key_files]
    context = _tls(tls_cert, tls_key)
    with contextlib.ExitStack() as sockets:
        settings = RelaySettings(
            keys,
            public=sockets.enter_context(_listen(public)),
            dial=sockets.enter_context(_listen(dial)),
            gateway=sockets.enter_context(_listen(gateway)) if gateway else None,
            tls=context,
        )
        try:
            asyncio.run(_serve(settings))
        except RelayError as error:
            raise click.ClickException(str(error)) from error


async def _serve(settings: RelaySettings) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    end_with_hub()
    async with Relay(settings):
        await ended.wait()


def _listen(where: tuple[str, int] | socket.socket) -> socket.socket:
    """Return a socket that listens at an address, or the one that was inherited."""
    if isinstance(where, socket.socket):
        return where
    host, port = where
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(where, family=family, backlog=_BACKLOG)
    except OSError as error:
        lookup = isinstance(error, socket.gaierror)
        why = error.strerror if lookup else os.strerror(error.errno or 0)
        raise click.ClickException(f"cannot listen on {host}:{port}: {why}") from error


def _make_key(path: Path) -> None:
    """Make a key, whole or not at all; the first of several who try at once wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as partial:
        partial.write(new_key())
        partial.flush()
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(partial.name)


def read_key(path: Path) -> bytes:
    """Return the key in `path`; make both if the file is not there."""
    try:
        if not path.exists():
            _make_key(path)
    except OSError as error:
        raise click.ClickException(f"cannot make the key {path}: {error.strerror}") from error
    try:
        if _open_to_others(path.stat()):
            raise click.ClickException(f"{path} is open to others: chmod 600 {path}")
        key = path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read the key {path}: {error.strerror}") from error
    if len(key) < KEY_BYTES:
        raise click.ClickException(f"{path} holds {len(key)} bytes; a key has at least {KEY_BYTES}")
    return key


def _open_to_others(found: os.stat_result) -> bool:
    """Tell whether more than the owner can read a key, or more than its group if root owns it.

    A Secret of Kubernetes belongs to root, and to the group of the pod (`fsGroup`). libpq has the
    same rule for its keys.
    """
    return bool(found.st_mode & (0o027 if found.st_uid == 0 else 0o077))


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None:
        if key is not None:
            raise click.UsageError(
                "--tls-key needs --tls-cert: without it the port is not encrypted"
            )
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise click.ClickException(
            f"{cert} is no certificate with its key, as PEM; check --tls-cert and --tls-key"
        ) from error
    return context
