"""The site kind `interlink` obeys the contract with the real thing: interLink, its plugin, and Slurm."""

import uuid

import pytest

from offload_sites.jobs import ImageRef, Resources
from offload_sites.site_models import Node
from offload_sites.testing import SiteBackendContract
from tests.support.processes import processes_below

pytestmark = [pytest.mark.interlink, pytest.mark.timeout(1500)]


class TestInterlinkAndSlurm(SiteBackendContract):
    slots = 2  # each takes all cores of a node
    impossible = Resources(cpus=17)
    # The plugin looks for one pod in ten seconds, mostly for that which the node has known longest:
    # the second of two has waited for two minutes and more.
    within_s = 400.0
    lingers_s = 30.0  # a virtual node says that a pod has gone before its site has ended the job

    @pytest.fixture
    async def backend(self, virtual_site, virtual_image, monkeypatch):
        virtual_site.up()
        monkeypatch.setenv("KUBECONFIG", virtual_site.env["KUBECONFIG"])
        self.site, self.mark = virtual_site, uuid.uuid4().hex
        self.image = ImageRef("dask", cvmfs=virtual_image)
        async with self.make() as backend:
            yield backend

    def make(self):
        return self.site.backend(node=Node(cpus=16, memory="64GiB"))

    async def reopen(self, backend):
        return self.make()

    def spec_that(self, does, **changes):
        fields = {"image": self.image, "resources": Resources(cpus=16, memory_bytes=64 * 1024**2)}
        environment = {"CONTRACT": self.mark, **changes.pop("environment", {})}
        return super().spec_that(does, **{**fields, **changes, "environment": environment})

    def processes_of(self, backend, key):
        # One job at a time is looked at, so that the mark of the test is enough.
        return len(processes_below(f"CONTRACT={self.mark}"))

    def has_secret(self, backend, key, name):
        found = (self.site.state / "slurm/jobs").rglob("*")
        return any(path.read_bytes() == b"hush" for path in found if path.is_file())

    async def test_logs_are_what_the_job_has_printed(self, backend, prefix):
        """The plugin writes words of its own before it, and how long it took behind it."""
        handle, _ = await self.run(backend, f"{prefix}a", self.spec_that("prints"))
        logs = await backend.logs(handle)
        assert "\nthis is out\n" in logs.stdout
        assert "\nthis is err\n" in logs.stdout
        assert len((await backend.logs(handle, tail_bytes=4)).stdout) == 4
