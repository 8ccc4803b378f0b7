"""Sites, jobs and the catalog. Knows no hub, no Dask and no relay."""
