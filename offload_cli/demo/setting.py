"""The hub of the demo: who may sign in, what the catalog offers, what users find in their folders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import string
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

from offload_cli.demo.hub import LocalHub
from offload_cli.demo.programs import free_ports
from offload_relay.access import user_label
from offload_sites.local import LocalBackend
from offload_sites.testing import eventually

__all__ = ["USERS", "DemoHub", "User"]

_ROOT = Path(__file__).parents[2]
_PARTS = _ROOT / "jupyterhub_config"
_FOR_USERS = [_ROOT / "examples" / name for name in ("dimuon.ipynb", "dimuon.py")]

# The parts as they are, and what differs here: ports, files, passwords.
_CONFIG = """
from interlink_spawner.hub_services import ROLES, offload_service, relay_service

for part in ("authentication_demo.py", "spawner.py", "pages.py", "culling.py"):
    load_subconfig({parts!r} + "/" + part)
c.SharedPasswordAuthenticator.user_password = {password!r}
c.SharedPasswordAuthenticator.admin_password = {admin_password!r}
relay = dict(dial="127.0.0.1:{dial}", gateway="127.0.0.1:{gateway}", key_file={key!r})
c.JupyterHub.services.append(relay_service(port={relay_port}, **relay))
c.JupyterHub.services.append(
    offload_service(
        catalog_file={catalog!r},
        ledger_url={ledger!r},
        relay_url={relay_url!r},
        relay_key_file={key!r},
        relay_dial=relay["dial"],
        port={service_port},
    )
)
c.JupyterHub.load_roles.extend(ROLES)
c.JupyterHub.last_activity_interval = 20
c.InterLinkSpawner.catalog_file = {catalog!r}
c.InterLinkSpawner.ledger_url = {ledger!r}
c.InterLinkSpawner.relay_url = {relay_url!r}
c.InterLinkSpawner.relay_gateway = relay["gateway"]
c.InterLinkSpawner.relay_key_file = {key!r}
c.InterLinkSpawner.service_url = {service_url!r}
"""


@dataclass(frozen=True)
class User:
    """Somebody who may sign in, as `jupyterhub_config/authentication_demo.py` says."""

    name: str
    told: str
    admin: bool = False


USERS = [
    User("alice", "an analyst"),
    User("grace", "in the group gpu: sees one profile more"),
    User("ada", "an administrator: sees everybody's sessions and jobs", admin=True),
]


class DemoHub(LocalHub):
    """A hub with relay, offload service and culler, which it starts itself.

    Parameters
    ----------
    place : Path
        Folder for all that ends with it.
    homes : Path
        Folder for what users keep.
    """

    def __init__(self, place: Path, homes: Path) -> None:
        super().__init__(place)
        self.homes = homes
        self.catalog = place / "catalog.yaml"
        self._passwords = {False: secrets.token_urlsafe(9), True: secrets.token_urlsafe(24)}
        self._ports = free_ports(4)
        #: What did not end by itself: pid to arguments. Should be empty.
        self.killed: dict[int, str] = {}

    def password(self, user: User) -> str:
        """Return the password of a user; all users who are no administrators have the same."""
        return self._passwords[user.admin]

    def start(self) -> None:
        """Write all files, and start everything; `close` ends it, from any point on."""
        self._write_catalog()
        for user in USERS:
            self._fill(self.home(user.name))
        self.start_proxy()
        self.start_hub()
        # The hub answers before the services that it starts do.
        for service in ("relay", "offload"):
            self.wait_for(f"/services/{service}/health")

    # --- its files -------------------------------------------------------------------------------

    def home(self, user: str) -> Path:
        """Return the folder of a user."""
        return self.homes / user_label(user)

    def _write_catalog(self) -> None:
        bare = self.place / "bare-python"
        # What is installed for the demo is out of its sight.
        base = f"{sys.base_prefix}/bin/python{sys.version_info[0]}"
        bare.write_text(f"""#!/bin/sh\nPATH=/usr/bin:/bin exec '{base}' -I -S "$@"\n""")
        bare.chmod(0o755)
        template = Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8")
        values = {"jobs": self.place / "jobs", "home": self.homes / "{user}", "bare": bare}
        quoted = {name: json.dumps(str(path)) for name, path in values.items()}
        self.catalog.write_text(string.Template(template).substitute(quoted), encoding="utf-8")

    def _fill(self, home: Path) -> None:
        """Put the example there, unless its user has it already: it may have been changed."""
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in _FOR_USERS:
            if not (home / file.name).exists():
                shutil.copy(file, home)

    def config(self) -> str:
        """Return the hub's configuration."""
        relay_port, service_port, dial, gateway = self._ports
        ours = _CONFIG.format(
            parts=str(_PARTS),
            password=self._passwords[False],
            admin_password=self._passwords[True],
            relay_port=relay_port,
            service_port=service_port,
            dial=dial,
            gateway=gateway,
            key=str(self.place / "relay.key"),
            catalog=str(self.catalog),
            ledger=f"sqlite:///{self.place}/ledger.sqlite",
            # As in production: agents dial the hub's public address, and its proxy leads them on.
            relay_url=f"ws://127.0.0.1:{self.public}/services/relay",
            service_url=f"{self.url}/services/offload",
        )
        return super().config() + ours

    # --- its end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything: servers, hub, proxy, and jobs of clusters whose notebooks are gone."""
        try:
            # A hub that is still starting, or has ended, stops no server; their site does below.
            with contextlib.suppress(requests.RequestException, AssertionError):
                super().close()
        finally:
            # In a thread: whoever calls this may have an event loop of their own.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: asyncio.run(self._end_jobs())).result()
            self.killed = self.programs.sweep()

    async def _end_jobs(self) -> None:
        async with LocalBackend("computer", directory=self.place / "jobs") as site:
            handles = list((await site.find("")).values())
            await site.cancel(handles)

            async def over() -> bool:
                seen = await site.status(handles)
                return all(status.state.ended for status in seen.values())

            await eventually(over, within_s=30, saying="the site says that all jobs have ended")
