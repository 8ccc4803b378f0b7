"""Clusters whose workers are pods: a relay of their own, a Kubernetes API, a node, a catalog."""

import contextlib
import sys
import tempfile
from pathlib import Path

import pytest

from dask_offload import OffloadCluster
from tests.services.kubernetes.kubelet import Kubelet
from tests.support.clusterkit import environment, settings
from tests.support.kubekit import TAINT, InThread, KubeKit
from tests.support.processes import assert_no_process_below
from tests.support.relayprocess import RelayProcess
from tests.support.waiting import eventually_sync, scaled

CATALOG = """
sites:
  pods:
    kind: kubernetes
    title: Pods
    max_walltime: 2h
    node: {{cpus: {per_job}, memory: 64GiB, gpus: {gpus}}}
    node_selector: {{kubernetes.io/hostname: {node}}}
    tolerations: [{{key: {taint}}}]
images:
  here: {{title: This Python, docker: example/python:1, python: {python}}}
profiles:
  pods:
    title: Pods
    for: [workers]
    sites: [pods]
    images: [here]
    resources: {{cpus: 1, memory: 1GiB, gpus: {gpus_each}}}
"""

VIRTUAL = """
sites:
  hpc:
    kind: interlink
    title: The HPC centre
    max_walltime: 2h
    node: {{cpus: {per_job}, memory: 64GiB, gpus: {gpus}}}
    node_name: {node}
images:
  here: {{title: This Python, cvmfs: /cvmfs/unpacked.example.org/here, python: {python}}}
profiles:
  hpc:
    title: HPC cores
    for: [workers]
    sites: [hpc]
    images: [here]
    resources: {{cpus: 1, memory: 1GiB, gpus: {gpus_each}}}
"""


class PodClusters:
    """Starts clusters on pods. Everything lies below `place`."""

    def __init__(self, place, kit, thread, relay):
        self.place, self.kit, self.thread, self.relay = place, kit, thread, relay
        self.clusters = []

    def node(self, make=Kubelet, **options):
        self.kubelet = self.thread.run(self.kit.kubelet(make, **options))
        return self.kubelet

    def start(self, n_workers=0, *, catalog=CATALOG, per_job=4, gpus=0, gpus_each=0, **options):
        path = self.place / "catalog.yaml"
        path.write_text(
            catalog.format(
                per_job=per_job,
                node=self.kit.node,
                taint=TAINT,
                python=sys.executable,
                gpus=gpus,
                gpus_each=gpus_each,
            )
        )
        cluster = OffloadCluster(
            n_workers, catalog=path, relay=self.relay.settings, **{"quiet": True, **options}
        )
        self.clusters.append(cluster)
        return cluster

    def pods(self):
        return self.thread.run(self.kit.pods())

    def do(self, method, path, body=None, **query):
        """Make a request to the API as an administrator."""
        return self.thread.run(self.kit.client.ask(method, path, body, **query))

    def compact(self):
        """Have the API forget its history, in the thread that serves it."""

        async def compact():
            self.kit.fake.store.compact()

        self.thread.run(compact())

    def close(self):
        for cluster in self.clusters:
            cluster.close()


@pytest.fixture
def pods(monkeypatch):
    """Lend a `PodClusters` without a node yet; nothing may be left of it at the end."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="offload-")))
        stack.callback(assert_no_process_below, place)
        for name, value in environment(place).items():
            monkeypatch.setenv(name, value)
        thread = stack.enter_context(InThread())
        relay = stack.enter_context(RelayProcess(place))
        kit = KubeKit(place / "kube")
        thread.run(kit.start())
        stack.callback(lambda: thread.run(kit.close()))
        monkeypatch.setenv("KUBECONFIG", str(kit.kubeconfig))
        stack.enter_context(settings(owner_grace=f"{scaled(15)}s", relay_grace=f"{scaled(8)}s"))
        clusters = PodClusters(place, kit, thread, relay)
        try:
            yield clusters
        finally:
            clusters.close()
            show_logs(place)
            # Jobs end with their cluster, whatever became of it.
            eventually_sync(lambda: not [p for p in clusters.pods() if alive(p)], within_s=30)


def alive(pod):
    return pod["status"]["phase"] not in ("Succeeded", "Failed")


def show_logs(place):
    """Print the logs of every process; pytest shows them for a test that fails."""
    for path in sorted(
        [*place.glob("run/*/*.log"), *place.glob("*.log"), *place.glob("kube/node/*/log")]
    ):
        with contextlib.suppress(OSError):
            print(f"--- {path.relative_to(place)}\n{path.read_text(errors='replace')[-4000:]}")
