"""An HTCondor-CE obeys the contract: a real pool, real tokens, jobs in real containers."""

from datetime import timedelta

import pytest

from offload_sites.jobs import ImageRef, Resources
from offload_sites.testing import SiteBackendContract
from tests.support.processes import processes_below

pytestmark = pytest.mark.htcondor

IMAGE = ImageRef("python", cvmfs="/cvmfs/unpacked.infn.it/testbed/python:3.11")


class TestHTCondorCE(SiteBackendContract):
    slots = 4  # each takes all cores of a node
    impossible = Resources(cpus=97)
    walltime = timedelta(seconds=2)
    within_s = 60.0
    live_logs = False
    tells_where = False
    lingers_s = 30.0

    @pytest.fixture
    async def backend(self, pool):
        self.pool = pool
        async with pool.backend() as backend:
            yield backend

    async def reopen(self, backend):
        return self.pool.backend()

    def spec_that(self, does, **changes):
        fields = {"image": IMAGE, "resources": Resources(cpus=96, memory_bytes=64 * 1024**2)}
        return super().spec_that(does, **{**fields, **changes})

    def processes_of(self, backend, key):
        return len(processes_below(f"OFFLOAD_JOB={key}"))

    def has_secret(self, backend, key, name):
        places = [self.pool.state / name for name in ("ce/spool", "pool/spool", "pool/execute")]
        found = [path for place in places for path in place.rglob(name)]
        return any(path.read_bytes() == b"hush" for path in found if path.is_file())
