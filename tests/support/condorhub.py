"""A hub whose users sign in at the pool's issuer, and whose sessions and workers run at the pool's CE."""

from __future__ import annotations

from pathlib import Path

import requests

from tests.support.condorkit import Pool
from tests.support.cutline import CutLine
from tests.support.hubkit import HubKit
from tests.support.waiting import scaled

_CATALOG = """
sites:
  centre:
    kind: htcondor-ce
    title: Computing centre
    collector: {collector}
    schedd: {schedd}
    ca_file: {ca}
    credential: {{issuer: iam, audience: '{audience}'}}
    node: {{cpus: 96, memory: 96GiB}}
    disk: 1MiB
    max_walltime: 48h
    images: {{render: cvmfs, bind: [/cvmfs]}}
images:
  lab: {{title: Jupyter and Dask, cvmfs: '{lab}'}}
profiles:
  lab:
    title: A session at the centre
    sites: [centre]
    for: [session]
    images: [lab]
    resources: {{cpus: 2, memory: 1GiB}}
    walltime: {{default: 1h, max: 2h}}
  cores:
    title: HTC cores
    sites: [centre]
    for: [workers]
    images: [lab]
    resources: {{cpus: 1, memory: 256MiB}}
    walltime: 1h
"""

_CONFIG = """
from interlink_spawner.broker import keep_signed_in

iam = "{issuer}"
c.JupyterHub.authenticator_class = "generic-oauth"
c.GenericOAuthenticator.client_id = "hub"
c.GenericOAuthenticator.client_secret = "hub-secret"
c.GenericOAuthenticator.oauth_callback_url = "http://127.0.0.1:{public}/hub/oauth_callback"
c.GenericOAuthenticator.authorize_url = iam + "authorize"
c.GenericOAuthenticator.token_url = iam + "token"
c.GenericOAuthenticator.userdata_url = iam + "userinfo"
c.GenericOAuthenticator.username_claim = "preferred_username"
c.GenericOAuthenticator.scope = [
    "openid", "profile", "offline_access",
    "compute.create", "compute.read", "compute.modify", "compute.cancel",
]
c.GenericOAuthenticator.extra_authorize_params = {{"login_hint": "alice"}}
c.GenericOAuthenticator.allow_all = True
c.GenericOAuthenticator.enable_auth_state = True
c.GenericOAuthenticator.http_request_kwargs = {{"ca_certs": "{ca}"}}
c.OAuthenticator.refresh_user_hook = keep_signed_in
c.Authenticator.auth_refresh_age = 5
"""


class CondorHub(HubKit):
    """A hub with the offload service; its only site is the CE of `pool`, maybe by a `line`."""

    def __init__(self, place: Path, pool: Pool, lab: str, line: CutLine | None = None) -> None:
        super().__init__(place)
        self.line = line
        self.pool = pool
        self.lab_image = lab
        env = pool.env
        self.ca = env["IAM_CA"]
        self.programs.environment["JUPYTERHUB_CRYPT_KEY"] = "42" * 32
        self.config_more = _CONFIG.format(
            issuer=env["IAM_ISSUER"],
            ca=self.ca,
            public=self.public,
        )
        self.add_service()

    def write_catalog(self, **_: str) -> None:
        env = self.pool.env
        text = _CATALOG.format(
            collector=self.line.address if self.line else env["CE_ADDRESS"],
            audience=env["CE_ADDRESS"],
            schedd=env["CE_SCHEDD"],
            ca=self.ca,
            lab=self.lab_image,
        )
        (self.place / "catalog.yaml").write_text(text)

    def sign_in(self, name: str = "alice", password: str = "") -> requests.Session:
        """Sign alice in at the issuer, and return the browser that has done it."""
        browser = requests.Session()
        browser.trust_env, browser.verify = False, self.ca
        answer = browser.get(f"{self.url}/hub/oauth_login?next=/hub/token", timeout=scaled(30))
        assert answer.status_code == 200, f"{answer.url}: {self.log('hub')[-3000:]}"
        return browser

    def issuer_control(self, **switches: object) -> None:
        """Set switches of the issuer."""
        issuer = self.pool.env["IAM_ISSUER"]
        requests.post(f"{issuer}control", json=switches, verify=self.ca, timeout=10)
