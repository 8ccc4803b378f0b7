"""A kind of site for tests, `nodes`: local jobs, each on one of the nodes of `netns.Networks`.

Found through an entry point, as a kind of another package is: see `install`.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from offload_sites.catalog import BaseSite
from offload_sites.jobs import JobSpec
from offload_sites.local import LocalBackend
from offload_sites.registry import GROUP, SiteKind

# Its key, and so its number, is in the path of a job's working directory.
_ON_A_NODE = """
key=$(basename "$(dirname "$PWD")")
exec {ip} netns exec {networks}-node$((${{key##*-}} % 2 + 1)) "$@"
"""


class NodesSite(BaseSite):
    """Nodes in network namespaces; `networks` is what their names begin with."""

    kind: Literal["nodes"]
    directory: str
    networks: str

    @property
    def image_form(self) -> Literal["python"]:
        """There are no containers on these nodes."""
        return "python"


class NodesBackend(LocalBackend):
    """Runs each job on the node that its number says."""

    def __init__(self, name: str, site: NodesSite) -> None:
        super().__init__(name, directory=Path(site.directory), term_grace_s=1)
        self._wrapper = _ON_A_NODE.format(ip=shutil.which("ip"), networks=site.networks)

    async def submit(self, spec: JobSpec, jobs):
        """Queue the jobs; their command is run on a node."""
        command = ("sh", "-c", self._wrapper, "sh", *spec.command)
        return await super().submit(replace(spec, command=command), jobs)


KIND = SiteKind("nodes", NodesSite, lambda name, site, _tokens: NodesBackend(name, site))


def install(folder: Path) -> str:
    """Make the kind known to every program that has the returned folder in PYTHONPATH."""
    package = folder / "nodes_site-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: nodes-site\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{GROUP}]\nnodes = {__name__}:KIND\n")
    return str(folder)
