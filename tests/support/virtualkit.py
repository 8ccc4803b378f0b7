"""A real Kubernetes with interLink and Slurm behind it, which `tests/services/interlink` brings up."""

from __future__ import annotations

import json
import os
import signal
import ssl
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from dask_offload import OffloadCluster
from offload_sites.backend import SiteBackend
from offload_sites.interlink import create
from offload_sites.site_models import InterlinkSite
from tests.support.clusterkit import ClusterKit
from tests.support.hubkit import HubKit
from tests.support.relayprocess import RelayProcess
from tests.support.testbedkit import Testbed
from tests.support.waiting import eventually_sync

CATALOG = """
sites:
  hpc:
    kind: interlink
    title: The HPC centre
    node_name: {node}
    node: {{cpus: {per_job}, memory: 16GiB}}
    max_walltime: 2h
    partition: {partition}
images:
  dask: {{title: Dask, cvmfs: '{image}'}}
profiles:
  cores:
    title: HPC cores
    sites: [hpc]
    images: [dask]
    resources: {{cpus: 1, memory: 256MiB}}
    walltime: {{default: 1h, max: 2h}}
"""


class VirtualSite(Testbed):
    """One control plane, one virtual node, one Slurm."""

    scripts = "interlink"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the API server as an administrator."""
        access = yaml.safe_load(Path(self.env["KUBECONFIG"]).read_text())
        request = urllib.request.Request(
            access["clusters"][0]["cluster"]["server"] + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {access['users'][0]['user']['token']}",
                "Content-Type": "application/json",
            },
        )
        trust = ssl._create_unverified_context()
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
            return json.load(answer)

    def backend(self, **changes: object) -> SiteBackend:
        """Return a back end at the site; `KUBECONFIG` has to be set."""
        fields = {
            "kind": "interlink",
            "title": "The HPC centre",
            "max_walltime": timedelta(hours=1),
            "node_name": self.env["VIRTUAL_NODE"],
            **changes,
        }
        return create("hpc", InterlinkSite.model_validate(fields))

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods that have not ended."""
        found = self.ask("GET", "/api/v1/namespaces/default/pods")["items"]
        return [one for one in found if one["status"]["phase"] not in ("Succeeded", "Failed")]

    def ready(self) -> bool:
        node = self.ask("GET", f"/api/v1/nodes/{self.env['VIRTUAL_NODE']}")
        return any(
            c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"]
        )

    def slurm(self, *command: str) -> str:
        """Run one of Slurm's tools as the user of the jobs."""
        return self.run("enter", *command)

    def queue(self) -> dict[str, str]:
        """Return the number of each batch job that has not ended, and its state."""
        text = self.slurm("squeue", "--noheader", "--format=%i %t")
        return dict(line.split() for line in text.splitlines() if line.strip())

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one of its processes; `up` starts what is gone."""
        os.kill(self.pid(name), number)

    def slurmctld(self, number: int) -> None:
        """Send a signal to the controller of Slurm."""
        self.run("enter", "sh", "-c", f"kill -{number} $(cat /slurm/slurmctld.pid)", AS_ROOT="1")

    def empty(self, within_s: float = 60) -> None:
        """Wait until there is neither a pod nor a batch job."""

        def nothing() -> bool:
            pods = [one["metadata"]["name"] for one in self.pods()]
            assert not pods
            assert not self.queue(), self.queue()
            return True

        eventually_sync(nothing, within_s=within_s)


class VirtualKit(ClusterKit):
    """Starts clusters behind the virtual node of `site`."""

    def __init__(self, place: Path, site: VirtualSite, relay: RelayProcess, image: str) -> None:
        super().__init__(place)
        self.site, self.relay_process, self.image_path = site, relay, image

    def start(self, n_workers: int = 0, **options: Any) -> OffloadCluster:
        path = self.place / "catalog.yaml"
        described = {
            "per_job": options.pop("per_job", 4),
            "partition": options.pop("partition", "batch"),
            "node": options.pop("node", self.site.env["VIRTUAL_NODE"]),
        }
        path.write_text(CATALOG.format(image=self.image_path, **described))
        cluster = OffloadCluster(
            n_workers,
            catalog=path,
            relay=self.relay_process.settings,
            **{"quiet": True, **options},
        )
        self.clusters.append(cluster)
        return cluster


class VirtualHub(HubKit):
    """A hub with the offload service, whose only site is behind the virtual node."""

    def __init__(self, place: Path, site: VirtualSite, image: str) -> None:
        super().__init__(place)
        self.site, self.image = site, image
        self.programs.environment["KUBECONFIG"] = site.env["KUBECONFIG"]
        self.config_more = "c.Spawner.http_timeout = 120\n"
        self.add_service()

    def write_catalog(self, **_: object) -> None:
        text = CATALOG.format(
            node=self.site.env["VIRTUAL_NODE"], per_job=4, partition="batch", image=self.image
        )
        (self.place / "catalog.yaml").write_text(text)
