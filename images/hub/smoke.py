"""Smoke test of the hub's image: run it with the image's Python.

It loads the spawner and every part of the configuration, starts the programs that the chart starts, and
has a hub make its database and a token, as the first start in a pod does.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PARTS = Path("/usr/local/etc/jupyterhub/jupyterhub_config.d")
# What the chart's own configuration imports besides; its image brings it, a plain environment may not.
FROM_THE_CHART = "pycurl"
CONFIG = """
c.JupyterHub.spawner_class = "interlink_spawner.spawner.InterLinkSpawner"
c.JupyterHub.authenticator_class = "generic-oauth"
c.GenericOAuthenticator.manage_groups = True
c.GenericOAuthenticator.admin_users = {"smoke"}
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
"""
IMPORTS = """
import htcondor2, kubernetes_asyncio, oauthenticator.generic, psycopg
from interlink_spawner.spawner import InterLinkSpawner
from kubespawner import KubeSpawner
assert issubclass(InterLinkSpawner, KubeSpawner)
"""


def main():
    run("-c", IMPORTS)
    run("-m", "pip", "check")
    run("-m", "jupyterhub_idle_culler", "--help", stdout=subprocess.DEVNULL)
    # The chart's image has the folder that the chart mounts its configuration into.
    in_image = PARTS.is_dir()
    if in_image or importlib.util.find_spec(FROM_THE_CHART):
        run("-c", f"import {FROM_THE_CHART}")
    parts = PARTS if in_image else Path(__file__).with_name(PARTS.name)
    lines = [f"load_subconfig({str(part)!r})" for part in sorted(parts.glob("*.py"))]
    assert lines, f"there is no configuration in {parts}"
    with tempfile.TemporaryDirectory() as room:
        Path(room, "jupyterhub_config.py").write_text(CONFIG + "\n".join(lines))
        token = run("-m", "jupyterhub", "token", "smoke", cwd=room, stdout=subprocess.PIPE)
        assert len(token.strip()) == 32, token
    release = run("-m", "jupyterhub", "--version", stdout=subprocess.PIPE).strip()
    print(f"hub: Python {sys.version.split()[0]}, JupyterHub {release}: good")


def run(*args, **options):
    """Run this Python, which has to end well, and return what it has printed if that is kept."""
    ended = subprocess.run(
        [sys.executable, *args], check=True, text=True, env=environment(), **options
    )
    return ended.stdout or ""


def environment():
    """Return variables without which JupyterHub asks for them on its first start."""
    return {**os.environ, "JUPYTERHUB_CRYPT_KEY": os.urandom(32).hex(), "OAUTH_CLIENT_ID": "smoke"}


if __name__ == "__main__":
    main()
