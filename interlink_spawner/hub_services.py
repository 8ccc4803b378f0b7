"""What a hub's configuration says of relay, offload service and culler: entries for its lists.

Both lists of JupyterHub, `services` and `load_roles`, can hold others beside these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import jupyterhub

__all__ = ["CULLING_ROLE", "ROLES", "culling_service", "offload_service", "relay_service"]

_OFFLOAD = "access:services!service=offload"
_CULLER = "offload-culler"

# JupyterHub hands a service hardly anything of its own environment. These are how sites are reached.
_REACH = ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "CONDOR_CONFIG")

# A hub exits if a service that it starts does not answer in time: a slow disk must not be the reason.
# JupyterHub 5 cannot be told, and waits for 10 s.
_PATIENCE = {"timeout": 120} if jupyterhub.version_info[0] >= 6 else {}

#: For `JupyterHub.load_roles`: users may use the service from their browser, and notebooks with the
#: token of their server. These two roles are JupyterHub's own, with one scope more.
ROLES: list[dict[str, Any]] = [
    {"name": "user", "scopes": ["self", _OFFLOAD]},
    {"name": "server", "scopes": ["users:activity!user", "access:servers!server", _OFFLOAD]},
]

#: For `JupyterHub.load_roles`, with `culling_service`: it looks at all servers and stops idle ones.
CULLING_ROLE: dict[str, Any] = {
    "name": _CULLER,
    "services": [_CULLER],
    # The last one shows it how a job is doing; it allows to read this, and nothing else.
    "scopes": [
        *("list:users", "read:users:activity", "read:servers", "delete:servers"),
        "admin:server_state",
    ],
}


def relay_service(
    *,
    key_file: str,
    port: int = 8300,
    dial: str = "127.0.0.1:8301",
    gateway: str = "127.0.0.1:8302",
) -> dict[str, Any]:
    """Return the relay as a service that the hub starts, at `/services/relay` of its public address.

    Parameters
    ----------
    key_file : str
        File with the key that leases are signed with; made on the first start.
    port : int
        Of this machine's loopback address, where the hub's proxy finds it.
    dial : str
        `host:port` that schedulers of notebooks reach. Sessions on other machines than the hub's
        that are no jobs (pods, containers) need one that is not loopback.
    gateway : str
        `host:port` that the hub's proxy reaches; the same as `InterLinkSpawner.relay_gateway`.
    """
    command = ["relay", "--public", f"127.0.0.1:{port}", "--dial", dial, "--gateway", gateway]
    return {
        "name": "relay",
        "url": f"http://127.0.0.1:{port}",
        "command": _offload(*command, "--key-file", key_file),
        # Agents visit it, people do not.
        "display": False,
        **_PATIENCE,
    }


def offload_service(
    *,
    catalog_file: str,
    ledger_url: str,
    relay_url: str,
    relay_key_file: str,
    relay_dial: str = "127.0.0.1:8301",
    port: int = 8400,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the offload service as one that the hub starts, at `/services/offload`.

    Parameters
    ----------
    catalog_file, ledger_url, relay_key_file : str
        The same as of `InterLinkSpawner`.
    relay_url : str
        What agents dial, as `InterLinkSpawner.relay_url`.
    relay_dial : str
        `host:port` of the relay's dial port, as notebooks reach it.
    port : int
        Of this machine's loopback address, where the hub's proxy finds it.
    options : sequence of str
        Further options of `offload service`.

    Notes
    -----
    What the hub's environment says of Kubernetes and HTCondor is handed on: KUBECONFIG, within a
    cluster where its API is, and CONDOR_CONFIG.
    """
    return {
        "name": "offload",
        "url": f"http://127.0.0.1:{port}",
        "command": _offload("service", *options),
        "environment": {
            **{name: os.environ[name] for name in _REACH if name in os.environ},
            "OFFLOAD_CATALOG": catalog_file,
            # A URL may hold a password, which has no place in a command line.
            "OFFLOAD_LEDGER": ledger_url,
            "OFFLOAD_RELAY_URL": relay_url,
            "OFFLOAD_RELAY_DIAL": relay_dial,
            "OFFLOAD_RELAY_KEY_FILE": relay_key_file,
        },
        # So that it knows who is an admin of the hub: they get the administrator's page.
        "oauth_client_allowed_scopes": ["admin-ui"],
        # Signing in to the hub is consent enough for the hub's own pages.
        "oauth_no_confirm": True,
        "display": False,
        **_PATIENCE,
    }


def culling_service(
    *, idle: timedelta = timedelta(hours=1), options: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the service that stops idle servers; it needs `CULLING_ROLE`.

    Parameters
    ----------
    idle : timedelta
        For how long a server may be idle. What counts as idle: `interlink_spawner.culling`.
    options : sequence of str
        Further options of jupyterhub-idle-culler. Not `--max-age`, which counts from the request on
        and so ends jobs that waited in a queue: the longest time is the profile's walltime.
    """
    timeout = f"--timeout={int(idle.total_seconds())}"
    return {
        "name": _CULLER,
        "command": [sys.executable, "-m", "interlink_spawner.culling", timeout, *options],
    }


def _offload(*args: str) -> list[str]:
    # Not the script: it may not be in the hub's PATH, and belongs to this Python in any case.
    return [sys.executable, "-m", "offload_cli", *args]
