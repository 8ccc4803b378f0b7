"""Make `tests.support` importable when the project itself is installed as a wheel."""

import sys
from pathlib import Path

# At the end: an installed `offload_sites` must win over the sources beside the tests.
sys.path.append(str(Path(__file__).parents[1]))
