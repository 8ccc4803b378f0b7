"""The site kind `kubernetes` obeys the contract, on a fake API or on that of KUBECONFIG."""

import dataclasses
from datetime import timedelta

import pytest

from offload_sites.jobs import ImageRef, Resources
from offload_sites.kubernetes import create
from offload_sites.kubernetes.naming import job_name
from offload_sites.site_models import KubernetesSite, Node, Toleration
from offload_sites.testing import SHELL, SiteBackendContract
from tests.support.kubekit import TAINT, KubeKit
from tests.support.processes import assert_no_process_below, processes_below

pytestmark = pytest.mark.kubernetes

# Both streams of a pod are one: what is to be last has to be printed last.
PRINTS = "echo 'this is err' >&2; echo 'this is out'"


class TestKubernetesSite(SiteBackendContract):
    slots = 6
    impossible = Resources(cpus=9)

    @pytest.fixture
    async def backend(self, tmp_path, monkeypatch):
        self.kit = KubeKit(tmp_path / "kube")
        await self.kit.start()
        monkeypatch.setenv("KUBECONFIG", str(self.kit.kubeconfig))
        self.kubelet = await self.kit.kubelet(resources={"cpu": str(self.slots)})
        async with self.make() as backend:
            yield backend
        await self.kit.close()
        assert_no_process_below(tmp_path)

    def make(self):
        site = KubernetesSite(
            kind="kubernetes",
            title="test",
            max_walltime=timedelta(hours=1),
            node=Node(cpus=8, memory="64GiB"),
            node_selector={"kubernetes.io/hostname": self.kit.node},
            tolerations=[Toleration(key=TAINT)],
        )
        return create("cluster", site)

    async def reopen(self, backend):
        return self.make()

    def spec_that(self, does, **changes):
        command = ("sh", "-c", PRINTS if does == "prints" else SHELL[does])
        spec = super().spec_that(does, command=command, image=ImageRef("base", docker="base:1"))
        return dataclasses.replace(spec, **changes)

    def folder(self, key):
        name = job_name("cluster", key)
        for place in self.kubelet.place.iterdir():
            pod = self.kubelet.pod_in(place)
            if pod == name:
                return place
        return None

    def processes_of(self, backend, key):
        folder = self.folder(key)
        return len(processes_below(folder)) if folder else 0

    def has_secret(self, backend, key, name):
        if self.kit.fake is None:
            return None
        secret = self.kit.fake.get("secrets", job_name("cluster", key), self.kit.namespace)
        return secret is not None
