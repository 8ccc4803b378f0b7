"""A real issuer of tokens, and a real JupyterHub whose users sign in there; without a proxy.

Sessions are none of its business: it is for what the hub does with a sign-in.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import requests

from tests.support.hubkit import free_ports
from tests.support.testbedkit import SERVICES
from tests.support.waiting import eventually_sync, scaled

_CONFIG = """
import os, sys
from jupyterhub.proxy import Proxy
from interlink_spawner.broker import HANDLERS, keep_signed_in

class NoProxy(Proxy):
    should_start = False
    routes = {{}}
    async def add_route(self, spec, target, data):
        self.routes[spec] = {{"routespec": spec, "target": target, "data": data}}
    async def delete_route(self, spec):
        self.routes.pop(spec, None)
    async def get_all_routes(self):
        return self.routes

c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.db_url = "sqlite:///{place}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{place}/cookie-secret"
c.JupyterHub.authenticator_class = "generic-oauth"
c.JupyterHub.extra_handlers = HANDLERS
c.JupyterHub.services = [
    {{"name": "offload", "api_token": "{tokens[offload]}"}},
    {{"name": "other", "api_token": "{tokens[other]}"}},
]
c.JupyterHub.load_roles = [
    {{"name": "other", "services": ["other"], "scopes": ["admin:users", "admin:auth_state", "tokens"]}}
]
c.JupyterHub.log_level = "DEBUG"
iam = "{issuer}"
c.GenericOAuthenticator.client_id = "hub"
c.GenericOAuthenticator.client_secret = "hub-secret"
c.GenericOAuthenticator.oauth_callback_url = "http://127.0.0.1:{port}/hub/oauth_callback"
c.GenericOAuthenticator.authorize_url = iam + "authorize"
c.GenericOAuthenticator.token_url = iam + "token"
c.GenericOAuthenticator.userdata_url = iam + "userinfo"
c.GenericOAuthenticator.username_claim = "preferred_username"
c.GenericOAuthenticator.scope = [
    "openid", "profile", "email", "offline_access",
    "compute.create", "compute.read", "compute.modify", "compute.cancel",
]
c.GenericOAuthenticator.extra_authorize_params = {{"login_hint": os.environ.get("LOGIN", "alice")}}
c.GenericOAuthenticator.allow_all = True
c.GenericOAuthenticator.enable_auth_state = True
c.GenericOAuthenticator.http_request_kwargs = {{"ca_certs": "{ca}"}}
c.Authenticator.refresh_pre_spawn = False
c.TokenBroker.catalog_file = "{place}/catalog.yaml"
{more}
"""

_SITE = """
  {name}:
    kind: htcondor-ce
    title: {name}
    collector: {name}.example.org:9619
    credential: {{issuer: {issuer}, scope: {scope}}}
    max_walltime: 48h
"""
_COMPUTE = "compute.create compute.read compute.modify compute.cancel"
_SITES = [
    *((f"ce{number}", "iam", _COMPUTE) for number in range(11)),
    ("greedy", "iam", "compute.read storage.read:/"),
    ("elsewhere", "egi", _COMPUTE),
]
_CATALOG = f"""
sites:
{"".join(_SITE.format(name=name, issuer=issuer, scope=scope) for name, issuer, scope in _SITES)}
  here: {{kind: local, title: Here, max_walltime: 2h}}
images:
  image: {{title: Image, cvmfs: /cvmfs/unpacked.example.org/image, python: /usr/bin/python3}}
profiles:
  cores: {{title: Cores, sites: [ce0], images: [image], resources: {{cpus: 1, memory: 1GiB}}}}
"""


class Issuer:
    """The stand-in for INDIGO IAM, on a port of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        [self.port] = free_ports(1)

    def up(self, **settings: str) -> None:
        self._run("up", IAM_PORT=str(self.port), **settings)

    def down(self) -> None:
        self._run("down")

    def _run(self, program: str, **environ: str) -> None:
        done = subprocess.run(
            [SERVICES / "iam" / program, str(self.state)],
            env={**os.environ, "TESTBED_PYTHON": sys.executable, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/"

    @property
    def ca(self) -> str:
        return str(self.state / "pki" / "ca.pem")

    def control(self, **switches: object) -> dict[str, object]:
        """Set switches of the issuer, and return all of them with its counters."""
        answer = requests.post(f"{self.url}control", json=switches, verify=self.ca, timeout=10)
        return dict(answer.json())

    @property
    def hits(self) -> Counter[str]:
        """How often each grant was asked for."""
        answer = requests.get(f"{self.url}control", verify=self.ca, timeout=10)
        return Counter(answer.json()["hits"])


class SignInHub:
    """One hub in a process of its own."""

    def __init__(self, place: Path, issuer: Issuer, more: str = "") -> None:
        self.place = place
        self.issuer = issuer
        [self.port] = free_ports(1)
        self.tokens = {name: secrets.token_hex(16) for name in ("offload", "other")}
        (place / "catalog.yaml").write_text(_CATALOG)
        (place / "jupyterhub_config.py").write_text(
            _CONFIG.format(
                place=place,
                port=self.port,
                tokens=self.tokens,
                issuer=issuer.url,
                ca=issuer.ca,
                more=more,
            )
        )
        self.key = secrets.token_hex(32)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/hub/api"

    @property
    def log(self) -> str:
        return (self.place / "hub.log").read_text(errors="replace")

    def start(self, **environ: str) -> None:
        with (self.place / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterhub",
                    "-f",
                    str(self.place / "jupyterhub_config.py"),
                ],
                cwd=self.place,
                env={
                    **os.environ,
                    "JUPYTERHUB_CRYPT_KEY": self.key,
                    "PYTHONPATH": str(SERVICES.parents[1]),
                    **environ,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually_sync(self._answers, within_s=60, saying=f"the hub answers: {self.place}/hub.log")

    def _answers(self) -> bool:
        ended = self.process is None or self.process.poll() is not None
        assert not ended, self.log[-3000:]
        try:
            return requests.get(f"{self.api}/", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(scaled(20))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def sign_in(self) -> requests.Session:
        """Sign in, and return the browser that has done it."""
        browser = requests.Session()
        browser.trust_env, browser.verify = False, self.issuer.ca
        answer = browser.get(
            f"http://127.0.0.1:{self.port}/hub/oauth_login?next=/hub/token", timeout=scaled(30)
        )
        assert answer.status_code == 200, f"{answer.status_code} {answer.url}: {self.log[-3000:]}"
        return browser

    def ask(
        self, user: str = "alice", site: str = "ce0", *, token: str | None = None
    ) -> requests.Response:
        """Ask the broker for a token, by default as the offload service."""
        return requests.post(
            f"{self.api}/offload/token",
            json={"user": user, "site": site},
            headers={
                "Authorization": f"token {self.tokens['offload'] if token is None else token}"
            },
            timeout=scaled(60),
        )

    def user_token(self, user: str) -> str:
        """Return a new token of the hub for this user."""
        answer = requests.post(
            f"{self.api}/users/{user}/tokens",
            json={},
            headers={"Authorization": f"token {self.tokens['other']}"},
            timeout=30,
        )
        return str(answer.json()["token"])
