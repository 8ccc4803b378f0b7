"""What tests of site kinds, and of everything above `SiteBackend`, are built with. Needs pytest."""

import pytest

# Before it is imported: a failed assertion in an inherited test shall show its values as well.
pytest.register_assert_rewrite("offload_sites.testing.contract")

from offload_sites.testing.contract import SHELL, SiteBackendContract  # noqa: E402
from offload_sites.testing.fake import Call, FakeJob, FakeSite  # noqa: E402
from offload_sites.testing.waiting import eventually, eventually_sync, scaled  # noqa: E402

__all__ = [
    "SHELL",
    "Call",
    "FakeJob",
    "FakeSite",
    "SiteBackendContract",
    "eventually",
    "eventually_sync",
    "scaled",
]
