"""HTCondor obeys the contract: a real pool, real tokens, jobs in real containers."""

from datetime import timedelta

import pytest

from offload_sites.jobs import ImageRef, Resources
from offload_sites.testing import SiteBackendContract
from tests.support.processes import processes_below

pytestmark = pytest.mark.htcondor

IMAGE = ImageRef("python", cvmfs="/cvmfs/unpacked.infn.it/testbed/python:3.11")


class HTCondor(SiteBackendContract):
    slots = 4  # each takes all cores of a node
    impossible = Resources(cpus=97)
    walltime = timedelta(seconds=2)
    within_s = 60.0
    live_logs = False
    image = None

    async def reopen(self, backend):
        return self.make()

    def spec_that(self, does, **changes):
        fields = {"image": self.image, "resources": Resources(cpus=96, memory_bytes=64 * 1024**2)}
        return super().spec_that(does, **{**fields, **changes})

    def processes_of(self, backend, key):
        return len(processes_below(f"OFFLOAD_JOB={key}"))

    def has_secret(self, backend, key, name):
        places = [self.pool.state / name for name in ("ce/spool", "pool/spool", "pool/execute")]
        found = [path for place in places for path in place.rglob(name)]
        return any(path.read_bytes() == b"hush" for path in found if path.is_file())


class TestHTCondorCE(HTCondor):
    """Behind a CE, with WLCG tokens, in containers by the node's apptainer."""

    image = IMAGE
    tells_where = False
    lingers_s = 30.0  # a CE says that a job has ended before its pool has ended it

    @pytest.fixture
    async def backend(self, pool):
        self.pool = pool
        async with self.make() as backend:
            yield backend

    def make(self):
        return self.pool.backend()


class TestPlainSchedd(HTCondor):
    """A schedd without a CE, with HTCondor's own tokens, on bare nodes."""

    @pytest.fixture
    async def backend(self, pool, tmp_path):
        self.pool, self.tokens = pool, tmp_path / "tokens"
        pool.write_idtoken(self.tokens)
        async with self.make() as backend:
            yield backend

    def make(self):
        return self.pool.plain(self.tokens)
