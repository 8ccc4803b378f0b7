"""Fixtures of real sites."""

from tests.support.condor_fixtures import pool

__all__ = ["pool"]
