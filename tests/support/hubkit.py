"""A real hub with its proxy and a relay on free ports, for tests and by hand.

The proxy is a process of its own, as in production: it keeps its routes while the hub restarts.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import requests

from offload_cli.demo.hub import LocalHub
from offload_cli.demo.programs import PROXY, free_ports, node
from offload_sites.testing import eventually_sync, scaled
from tests.support.processes import assert_no_process_below

__all__ = ["CATALOG", "PROXY", "HubKit", "free_ports", "node", "pretty"]

_ROOT = Path(__file__).parents[2]

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
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.log_level = "INFO"
c.JupyterHub.load_groups = {{"gpu": {{"users": ["grace"]}}}}
c.JupyterHub.template_paths = [TEMPLATES]
c.JupyterHub.extra_handlers = HANDLERS
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


_SERVICE = """
from interlink_spawner.hub_services import ROLES, offload_service

entry = offload_service(
    catalog_file=str(place / "catalog.yaml"),
    ledger_url=f"sqlite:///{{place}}/ledger.sqlite",
    relay_url="ws://127.0.0.1:{relay}",
    relay_key_file=str(place / "relay.key"),
    relay_dial="127.0.0.1:{dial}",
    port={port},
    options={options!r},
)
entry["environment"]["PYTHONPATH"] = {path!r}
c.JupyterHub.services.append(entry)
c.JupyterHub.load_roles.extend(ROLES)
c.InterLinkSpawner.service_url = "{url}/services/offload"
"""


class HubKit(LocalHub):
    """A hub, its proxy and a relay, with all files and jobs below `place`."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.relay_port, self.dial, self.gateway = free_ports(3)
        self.config_more = ""
        self.programs.environment["PYTHONPATH"] = str(_ROOT)

    def config(self) -> str:
        ours = _CONFIG.format(
            place=str(self.place),
            relay=self.relay_port,
            gateway=self.gateway,
            more=self.config_more,
        )
        return super().config() + ours

    def add_service(self, *options: str) -> None:
        """Let the hub start the offload service, with these options; `wait_for` its health."""
        self.config_more += _SERVICE.format(
            relay=self.relay_port,
            dial=self.dial,
            port=free_ports(1)[0],
            options=options,
            path=self.programs.environment["PYTHONPATH"],
            url=self.url,
        )

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

    def start_relay(self) -> None:
        self.programs.run(
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
        super().start_hub()

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(timeout=scaled(30))

    def restart_hub(self, number: int = signal.SIGKILL) -> None:
        self.kill("hub", number)
        self.start_hub()

    def close(self) -> None:
        """End all, jobs too, and see that nothing is left."""
        super().close()
        assert_no_process_below(self.place, within_s=30)

    @property
    def processes(self) -> dict[str, subprocess.Popen[bytes]]:
        return self.programs.processes

    def log(self, name: str) -> str:
        return self.programs.log(name)

    # --- its API ---------------------------------------------------------------------------------

    def add_user(self, name: str) -> str:
        """Add a user, and return a token with all that they may do."""
        self.api("POST", f"users/{name}")
        answer = self.api("POST", f"users/{name}/tokens", json={})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def spawn(self, user: str, server: str = "", **options: object) -> requests.Response:
        return self.api("POST", _server(user, server), json=options)

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
        return super().sign_in(name, password)


def _server(user: str, server: str) -> str:
    return f"users/{user}/servers/{server}" if server else f"users/{user}/server"


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def pretty(answer: requests.Response) -> str:
    with contextlib.suppress(ValueError):
        return json.dumps(answer.json(), indent=1)
    return answer.text[:2000]
