"""Fixtures of real services, and of a real browser."""

import pytest

from tests.support.browserkit import a_browser
from tests.support.condor_fixtures import dask_image, farm, pool
from tests.support.virtual_fixtures import (
    hpc,
    virtual_backend,
    virtual_hub,
    virtual_image,
    virtual_site,
)

__all__ = [
    "dask_image",
    "farm",
    "hpc",
    "pool",
    "virtual_backend",
    "virtual_hub",
    "virtual_image",
    "virtual_site",
]


@pytest.fixture(scope="module")
def chromium(request):
    # While there is one, an event loop runs: it must not meet tests that have their own.
    with a_browser(request.config) as browser:
        yield browser
