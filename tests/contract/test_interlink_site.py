"""The site kind `interlink` obeys the contract, with a virtual kubelet and a batch system behind it."""

import dataclasses
from datetime import timedelta

import pytest

from offload_sites.interlink import create
from offload_sites.jobs import ImageRef, Resources
from offload_sites.kubernetes.naming import job_name
from offload_sites.site_models import InterlinkSite, Node
from offload_sites.testing import SHELL, SiteBackendContract
from tests.services.kubernetes.virtual import VirtualKubelet
from tests.support.kubekit import KubeKit
from tests.support.processes import assert_no_process_below, processes_below
from tests.support.waiting import eventually

pytestmark = pytest.mark.kubernetes

PRINTS = "echo 'this is err' >&2; echo 'this is out'"


class TestInterlinkSite(SiteBackendContract):
    slots = 6
    impossible = Resources(cpus=9)

    @pytest.fixture
    async def backend(self, tmp_path, monkeypatch):
        self.kit = KubeKit(tmp_path / "kube")
        await self.kit.start()
        monkeypatch.setenv("KUBECONFIG", str(self.kit.kubeconfig))
        self.kubelet = await self.kit.kubelet(
            VirtualKubelet, resources={"cpu": "100", "nvidia.com/gpu": "4"}, slots=self.slots
        )
        async with self.make() as backend:
            yield backend
        await self.kit.close()
        assert_no_process_below(tmp_path)

    def make(self):
        site = InterlinkSite(
            kind="interlink",
            title="test",
            max_walltime=timedelta(hours=1),
            node=Node(cpus=8, memory="64GiB"),
            node_name=self.kit.node,
        )
        return create("hpc", site)

    async def reopen(self, backend):
        return self.make()

    def spec_that(self, does, **changes):
        command = ("sh", "-c", PRINTS if does == "prints" else SHELL[does])
        image = ImageRef("base", cvmfs="/cvmfs/unpacked.example.org/base")
        return dataclasses.replace(super().spec_that(does, command=command, image=image), **changes)

    def folder(self, key):
        name = job_name("hpc", key)
        uids = [uid for uid, found in self.kubelet._names.items() if found == name]
        return self.kubelet.folder_of(uids[0]) if uids else None

    def processes_of(self, backend, key):
        """Say nothing: a virtual node forgets a pod before its site has ended it."""

    async def test_a_cancelled_job_leaves_no_process_in_the_end(self, backend, prefix):
        key = f"{prefix}tree"
        handle = (await backend.submit(self.spec_that("spawns_a_tree"), {key: {}}))[key]
        await eventually(lambda: self._prints(backend, handle, "ready"))
        await backend.cancel([handle])
        await eventually(lambda: not processes_below(self.folder(key)))

    def has_secret(self, backend, key, name):
        if self.kit.fake is None:
            return None
        secret = self.kit.fake.get("secrets", job_name("hpc", key), self.kit.namespace)
        return secret is not None
