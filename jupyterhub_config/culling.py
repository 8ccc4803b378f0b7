"""Idle servers are stopped: a node that nobody uses is one that others wait for."""

from datetime import timedelta

from interlink_spawner.hub_services import CULLING_ROLE, culling_service

# Time in a queue and a lost link are no idleness; a session's walltime ends it in any case.
c.JupyterHub.services.append(culling_service(idle=timedelta(hours=2)))
# It looks at all servers, and stops those.
c.JupyterHub.load_roles.append(CULLING_ROLE)
