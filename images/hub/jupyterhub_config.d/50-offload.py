"""What values of the chart cannot say, since it is Python. The chart loads it after `hub.config`.

It adds to what values have set, and leaves to them what they have decided. `c` is there already; the
chart uses the name `get_config` for something else.
"""
# ruff: noqa: F821

from interlink_spawner.broker import keep_signed_in
from interlink_spawner.handlers import HANDLERS
from interlink_spawner.iam import iam_groups
from interlink_spawner.pages import TEMPLATES

# Spawn form, progress and failure pages. Templates of the site itself come first.
c.JupyterHub.template_paths = [*c.JupyterHub.get("template_paths", []), TEMPLATES]
# What those pages call, and where the service gets users' tokens for sites.
c.JupyterHub.extra_handlers = [*c.JupyterHub.get("extra_handlers", []), *HANDLERS]
# JupyterHub 5 locks running sessions out while the sign-in service does not answer.
c.OAuthenticator.refresh_user_hook = keep_signed_in
# Names of claims may hold dots, which no string in the values can express.
if c.GenericOAuthenticator.get("manage_groups"):
    c.GenericOAuthenticator.setdefault("auth_state_groups_key", iam_groups)
