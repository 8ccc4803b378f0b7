import contextlib
import tempfile
from pathlib import Path

import pytest

from tests.support.clusterkit import settings
from tests.support.servicekit import ServiceKit
from tests.support.waiting import scaled


@pytest.fixture
def kit():
    """A relay and a service; nothing may be left of all their jobs at the end."""
    with tempfile.TemporaryDirectory(prefix="offload-") as folder:
        place = Path(folder)
        kit = ServiceKit(place)
        with settings(owner_grace=f"{scaled(3)}s", relay_grace=f"{scaled(20)}s"):
            try:
                kit.start_relay()
                kit.start_service("--owner-grace", f"{scaled(6):.0f}s")
                yield kit
                for cluster in kit.clusters:
                    cluster.close()
                kit.nothing_left()
            finally:
                kit.close()
                show_logs(place)


def show_logs(place):
    """Print the logs of every process; pytest shows them for a test that fails."""
    logs = [*place.glob("*.log"), *place.glob("run/*/*.log"), *place.glob("*/jobs/*/std*")]
    for path in sorted(logs):
        with contextlib.suppress(OSError):
            print(f"--- {path.relative_to(place)}\n{path.read_text(errors='replace')[-4000:]}")
