"""Makes `tests.support` importable when the project is a wheel, and knows the tiers."""

import sys
from pathlib import Path

# At the end: an installed `offload_sites` must win over the sources beside the tests.
sys.path.append(str(Path(__file__).parents[1]))


def pytest_addoption(parser):
    parser.addoption(
        "--require",
        action="append",
        default=[],
        metavar="TIER",
        help="fail, instead of skipping, tests of this tier whose services cannot be started",
    )
