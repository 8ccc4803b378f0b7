"""Which interLink is behind a virtual node, and whether its plugin goes with it; for `offload doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from offload_sites.errors import OffloadError
from offload_sites.interlink.health import version_of
from offload_sites.kubernetes.client import ApiError, KubeApi
from offload_sites.site_models import InterlinkSite

__all__ = ["Finding", "examine", "findings"]


class Finding(NamedTuple):
    """One thing found out: `good` is None where it is only worth knowing."""

    good: bool | None
    what: str
    advice: str = ""


async def examine(name: str, site: InterlinkSite) -> list[Finding]:
    """Look at the node of the site `name`. Raises as `KubeApi` does if the API does not answer."""
    async with KubeApi(name, context=site.context, namespace=site.namespace) as api:
        try:
            node = await api.get(f"/api/v1/nodes/{site.node_name}")
        except ApiError as error:
            if error.status == 403:
                return [
                    Finding(
                        None,
                        f"node {site.node_name} may not be read, so its state is not known",
                        "grant the verb get on nodes to see it",
                    )
                ]
            problem: OffloadError = api.problem(error, f"to look at node {site.node_name}")
            return [Finding(False, problem.message, "correct `node_name`")]
    return findings(site, node)


def findings(site: InterlinkSite, node: Mapping[str, Any]) -> list[Finding]:
    """Return what `node` tells of itself. Pure."""
    version, why = version_of(node)
    if not version:
        return [
            Finding(
                False,
                f"node {site.node_name} is no virtual node of interLink: {why}",
                "correct `node_name`, or use the kind kubernetes",
            )
        ]
    found = [Finding(True, f"node {site.node_name}: interLink {version} ({why})")]
    known = (node.get("status") or {}).get("allocatable") or {}
    if site.node and site.node.gpus and site.gpu_resource not in known:
        found.append(
            Finding(
                False,
                f"node {site.node_name} has no {site.gpu_resource}",
                "its administrator has to list them under Resources.Accelerators",
            )
        )
    if site.plugin == "htcondor" and not version.startswith("0.4"):
        found.append(
            Finding(
                False,
                "the HTCondor plugin answers 201, which interLink 0.5 and later take for a failure",
                "use a site of kind htcondor-ce in its place",
            )
        )
    if site.plugin == "slurm":
        found.append(
            Finding(
                None,
                "the Slurm plugin must run with SHARED_FS=true and ExportPodData: true",
                "without them files of jobs do not arrive (docs/howto/virtual-nodes.md)",
            )
        )
    return found
