"""A whole hub on one machine, from the parts beside this file: jupyterhub -f jupyterhub_config.py."""

from pathlib import Path

here = Path(__file__).parent

load_subconfig(str(here / "authentication_iam.py"))
load_subconfig(str(here / "spawner.py"))
load_subconfig(str(here / "pages.py"))
load_subconfig(str(here / "services.py"))
load_subconfig(str(here / "tokens.py"))
load_subconfig(str(here / "culling.py"))

# Behind a web server that ends TLS and passes WebSockets on.
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
# Where the hub keeps who is signed in and which sessions there are; the default is the folder it is
# started in.
c.JupyterHub.db_url = "sqlite:////var/lib/jupyterhub/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = "/var/lib/jupyterhub/cookie-secret"
