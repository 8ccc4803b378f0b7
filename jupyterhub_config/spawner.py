"""Sessions as jobs, and what a hub whose sessions wait in queues needs to be told."""

# Sessions wherever the catalog says. At a site of kind kubernetes it is KubeSpawner as it is.
c.JupyterHub.spawner_class = "interlink_spawner.spawner.InterLinkSpawner"
# Sites, images and profiles; read again when it changes.
c.InterLinkSpawner.catalog_file = "/etc/offload/catalog.yaml"
# The same key as the relay's. Whoever has it can use the relay as anybody.
c.InterLinkSpawner.relay_key_file = "/etc/offload/relay.key"
# One ledger with the offload service: the form knows how long jobs of both waited.
c.InterLinkSpawner.ledger_url = "sqlite:////var/lib/offload/ledger.sqlite"
# JupyterLab's panel for Dask, where an image has it, makes clusters of ours.
c.Spawner.environment = {
    "DASK_LABEXTENSION__FACTORY__MODULE": "dask_offload",
    "DASK_LABEXTENSION__FACTORY__CLASS": "OffloadCluster",
}

# A queued job is a pending spawn, for hours. With the default of 100 of them nobody could start
# anything any more.
c.JupyterHub.concurrent_spawn_limit = 2000
# A hub that exits after failed spawns is no cure for a site that is down, and anybody can fail.
c.Spawner.consecutive_failure_limit = 0
# Sessions and queued jobs go on while the hub is restarted.
c.JupyterHub.cleanup_servers = False
# A session on the hub's machines and one at a remote site, side by side.
c.JupyterHub.allow_named_servers = True
# Each named server can hold a node of a site.
c.JupyterHub.named_server_limit_per_user = 5
