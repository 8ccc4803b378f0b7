"""Fixtures of real services."""

from tests.support.condor_fixtures import dask_image, farm, pool

__all__ = ["dask_image", "farm", "pool"]
