"""Our pages: the form, progress, and why a start failed. For every hub, the chart's as well."""

from interlink_spawner.handlers import HANDLERS
from interlink_spawner.pages import TEMPLATES

# Before the templates of the hub, which they extend.
c.JupyterHub.template_paths.insert(0, TEMPLATES)
# What the pages link to (cancel a start, its report, its log), and where the offload service asks for
# a token of one user for one site: what a user has signed in with stays in the hub.
c.JupyterHub.extra_handlers.extend(HANDLERS)
