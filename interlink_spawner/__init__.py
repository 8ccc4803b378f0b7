"""The JupyterHub edge: `InterLinkSpawner`, its pages, and what a session job is made of."""
