"""Relay, agent and leases. Knows no jobs, no Dask and no hub."""
