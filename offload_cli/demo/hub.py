"""A JupyterHub with its proxy on free ports of loopback, and what an administrator or a browser says to it.

The proxy is a program of its own, as in production: it keeps its routes while the hub restarts.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from offload_cli.demo.programs import PROXY, Programs, free_ports, node
from offload_sites.testing import eventually_sync, scaled

__all__ = ["LocalHub"]

# What any hub here needs; the rest is said by whoever starts one.
_CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.db_url = "sqlite:///" + {place!r} + "/hub.sqlite"
c.JupyterHub.cookie_secret_file = {place!r} + "/cookie-secret"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.auth_token = {token!r}
c.JupyterHub.services.append({{"name": "keeper", "api_token": {token!r}}})
c.JupyterHub.load_roles.append(
    {{"name": "keeper", "services": ["keeper"],
      "scopes": ["admin:users", "admin:servers", "access:servers", "tokens", "admin:groups"]}},
)
"""


class LocalHub:
    """A hub and its proxy, with all their files below one folder.

    Parameters
    ----------
    place : Path
        The folder. Its path becomes a part of the paths of sockets: a short one.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.token = secrets.token_hex(16)
        self.public, self.hub_port, self.proxy_api = free_ports(3)
        programs = str(Path(sys.executable).parent)
        environment = {
            "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
            "HOME": str(place),
            "LANG": "C.UTF-8",
            "CONFIGPROXY_AUTH_TOKEN": self.token,
        }
        self.programs = Programs(place, environment)

    def config(self) -> str:
        """Return the hub's configuration; a subclass adds what makes it the hub it is."""
        return _CONFIG.format(
            place=str(self.place),
            public=self.public,
            hub=self.hub_port,
            proxy_api=self.proxy_api,
            token=self.token,
        )

    # --- its programs ----------------------------------------------------------------------------

    def start_proxy(self) -> None:
        """Start the proxy."""
        self.programs.run(
            "proxy",
            *(node(), str(PROXY), "--ip", "127.0.0.1", "--port", str(self.public)),
            *("--api-ip", "127.0.0.1", "--api-port", str(self.proxy_api)),
            *("--default-target", f"http://127.0.0.1:{self.hub_port}", "--error-target"),
            f"http://127.0.0.1:{self.hub_port}/hub/error",
        )

    def start_hub(self) -> None:
        """Write the configuration, start the hub, and wait until it answers."""
        config = self.place / "jupyterhub_config.py"
        config.touch(mode=0o600)  # it holds tokens
        config.write_text(self.config(), encoding="utf-8")
        self.programs.run("hub", sys.executable, "-m", "jupyterhub", "-f", str(config))
        self.wait_hub()

    def wait_hub(self) -> None:
        """Wait until the hub answers through its proxy. Raises as `wait_for` does."""
        self.wait_for("/hub/api/")

    def wait_for(self, path: str) -> None:
        """Wait until there is an answer at a path of the public address.

        Raises
        ------
        RuntimeError
            One of its programs has ended; the message is its log.
        """

        def up() -> bool:
            for name in self.programs.ended():
                raise RuntimeError(f"{name} has ended:\n{self.programs.log(name)}")
            try:
                return bool(requests.get(self.url + path, timeout=5).ok)
            except requests.RequestException:
                return False

        eventually_sync(up, within_s=60, saying=f"{path} answers")

    def close(self) -> None:
        """Stop all servers, then the hub with the services it has started, then the proxy."""
        try:
            if "hub" in self.programs.processes:
                self.stop_all_servers()
        finally:
            for name in reversed(list(self.programs.processes)):
                self.programs.stop(name, signal.SIGTERM)

    # --- its API ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The public address."""
        return f"http://127.0.0.1:{self.public}"

    def api(self, method: str, path: str, *, token: str = "", **options: Any) -> requests.Response:
        """Ask the hub's API, as an administrator if no other token is given."""
        headers = {"Authorization": f"token {token or self.token}"}
        return requests.request(
            method, f"{self.url}/hub/api/{path}", headers=headers, timeout=scaled(60), **options
        )

    def server(self, user: str, server: str = "") -> Mapping[str, Any]:
        """Return the hub's model of a server; empty if it does not run."""
        answer = self.api("GET", f"users/{user}")
        answer.raise_for_status()
        found: Mapping[str, Any] = answer.json().get("servers", {}).get(server) or {}
        return found

    def stop(self, user: str, server: str = "") -> None:
        """Stop a server, and wait until it is gone."""
        path = f"users/{user}/servers/{server}" if server else f"users/{user}/server"
        self.api("DELETE", path)
        eventually_sync(lambda: not self.server(user, server), within_s=60, saying="stopped")

    def stop_all_servers(self) -> None:
        """Stop all servers, if the hub is still there to do it."""
        if self.programs.processes["hub"].poll() is None:
            for user in self.api("GET", "users").json():
                for name in user.get("servers", {}):
                    self.stop(user["name"], name)

    def sign_in(self, name: str, password: str) -> requests.Session:
        """Return a browser's session, signed in.

        Raises
        ------
        ValueError
            The hub says no.
        """
        browser = requests.Session()
        browser.trust_env = False  # loopback needs no proxy, whatever the environment says
        page = browser.get(f"{self.url}/hub/login", timeout=scaled(30))
        answer = browser.post(
            f"{self.url}/hub/login?next=",
            data={"username": name, "password": password, "_xsrf": xsrf_of(page.text)},
            timeout=scaled(30),
        )
        if not answer.ok:
            raise ValueError(f"{name} cannot sign in: {answer.status_code}")
        return browser


def xsrf_of(page: str) -> str:
    """Return the hidden token of a form on a page of the hub."""
    found = re.search(r'name="_xsrf"\s+value="([^"]+)"', page)
    if found is None:
        raise ValueError(f"there is no form: {page[:2000]}")
    return found[1]
