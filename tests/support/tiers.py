"""Tiers of tests that need more than Python packages: skipped with the reason, or required."""

import pytest


def lacking(config, tier, why):
    """Skip the test because of `why`; fail it under `--require=<tier>`, as in CI."""
    if tier in config.getoption("--require"):
        pytest.fail(f"{tier} is required here: {why}", pytrace=False)
    pytest.skip(f"{tier}: {why}")
