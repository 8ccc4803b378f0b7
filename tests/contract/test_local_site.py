"""The site kind `local` obeys the contract."""

import pytest

from offload_sites.jobs import Resources
from offload_sites.local import LocalBackend
from offload_sites.testing import SiteBackendContract
from tests.support.processes import assert_no_process_below, processes_below


class TestLocalSite(SiteBackendContract):
    slots = 6
    impossible = Resources(cpus=7)

    @pytest.fixture
    async def backend(self, tmp_path):
        async with self.make(tmp_path / "site") as backend:
            yield backend
        assert_no_process_below(tmp_path)

    def make(self, directory):
        self.directory = directory
        return LocalBackend("local", directory=directory, cpus=6, term_grace_s=1)

    async def reopen(self, backend):
        return self.make(self.directory)

    def processes_of(self, backend, key):
        return len(processes_below(self.directory / "jobs" / key))

    def has_secret(self, backend, key, name):
        return any(self.directory.rglob(f"{key}/**/{name}"))
