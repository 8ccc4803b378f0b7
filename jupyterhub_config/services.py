"""Relay and offload service, started by the hub, and who may use them."""

from interlink_spawner.hub_services import ROLES, offload_service, relay_service

# Beside others that the hub may have.
c.JupyterHub.services.extend(
    [
        # At the hub's own public address: nodes of sites need to reach no other.
        relay_service(key_file="/etc/offload/relay.key"),
        # The same files and addresses as those of the spawner.
        offload_service(
            catalog_file="/etc/offload/catalog.yaml",
            ledger_url="sqlite:////var/lib/offload/ledger.sqlite",
            relay_url="wss://hub.example.org/services/relay",
            relay_key_file="/etc/offload/relay.key",
        ),
    ]
)
# A proxy that was restarted by others than the hub leads nobody anywhere until the hub looks at it: by
# default for up to 5 min, in which no agent comes back, and Dask clusters lose their notebooks.
c.JupyterHub.last_activity_interval = 20
# Users may use the service in their browser, notebooks by the token of their server.
c.JupyterHub.load_roles.extend(ROLES)
# What agents of sessions dial: the relay above.
c.InterLinkSpawner.relay_url = "wss://hub.example.org/services/relay"
# The service and the hub, as sessions at other sites reach them.
c.InterLinkSpawner.service_url = "https://hub.example.org/services/offload"
c.InterLinkSpawner.public_hub_connect_url = "https://hub.example.org"
