"""What each plugin of interLink wants to be told of a pod, and what it cannot do. Pure.

Read in interlink-slurm-plugin f8451d9, -htcondor-plugin 6f5ee3e, -docker-plugin cff29bc and
-kubernetes-plugin cfebf48, of 2025-07 to 2026-07; the table in docs/howto/virtual-nodes.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from offload_sites.jobs import Resources
from offload_sites.kubernetes.launch import WORK
from offload_sites.site_models import InterlinkSite
from offload_sites.wording import show

__all__ = [
    "HOSTNAME",
    "file_mode",
    "image_name",
    "make_annotations",
    "make_binds",
    "make_tolerations",
    "unfit",
]

#: The one label by which every virtual node can be chosen. `kubernetes.io/os` cannot: it is `linux`
#: up to interLink 0.4.0, and `virtual-kubelet` since.
HOSTNAME = "kubernetes.io/hostname"
_FLAGS = "slurm-job.vk.io/flags"
# Slurm counts from the start of the batch job, the walltime from that of the command: pulling and
# unpacking an image lies in between.
_SLURM_SLACK = timedelta(minutes=5)
# Plugins put it into a shell script as it is, which runs outside of any container (slurm: prepare.go,
# `strings.Join(containerCommand.runtimeCommand[:], " ")`).
_PLAIN_IMAGE = re.compile(r"[\w./:@+=,-]+", re.ASCII)
# Built into the HTCondor plugin.
_HTCONDOR_WALLTIME = timedelta(minutes=60)


def unfit(site: InterlinkSite, asked: Resources, walltime: timedelta, image: str) -> Iterator[str]:
    """Yield what the plugin of `site` cannot do for such a job, as parts of sentences."""
    if image and not _PLAIN_IMAGE.fullmatch(image):
        yield f"its plugin ({site.plugin}) does not quote the name of an image: {show(image)}"
    if site.plugin != "htcondor":
        return
    if asked.gpus:
        yield "its plugin (htcondor) passes on no GPUs"
    if walltime > _HTCONDOR_WALLTIME:
        yield "its plugin (htcondor) ends every job after 60 minutes"
    if "host" in image:
        # Anywhere in the name: the plugin then runs the script without a container.
        yield f"its plugin (htcondor) runs an image whose name contains 'host' outside of it: {image}"


def make_tolerations(site: InterlinkSite) -> list[dict[str, Any]]:
    """Return what lets a pod onto a virtual node, and lets it stay there while the site is away."""
    silent = [
        # Without `tolerationSeconds`: a site that is away for five minutes would orphan its jobs.
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute"}
        for what in ("not-ready", "unreachable")
    ]
    return [{"key": "virtual-node.interlink/no-schedule", "operator": "Exists"}, *silent]


def make_annotations(
    site: InterlinkSite,
    asked: Resources,
    walltime: timedelta,
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the annotations that tell the plugin what a pod itself cannot say.

    `given` are those of the pod itself; flags of Slurm are joined, all others win over the site's.
    """
    notes = {**site.annotations, **(given or {})}
    binds = " ".join(f"--bind {path}:{target}" for path, target in make_binds(site))
    if site.plugin == "slurm":
        more = [site.annotations.get(_FLAGS, ""), (given or {}).get(_FLAGS, "")]
        notes[_FLAGS] = " ".join(filter(None, [*_slurm_flags(site, asked, walltime), *more]))
        notes.setdefault("slurm-job.vk.io/singularity-mounts", binds)
        notes.setdefault("slurm-job.vk.io/singularity-options", site.container_options)
        notes.setdefault("slurm-job.vk.io/flavor", site.flavour or "")
    if site.plugin == "htcondor":
        options = " ".join(filter(None, [site.container_options, binds]))
        notes.setdefault("htcondor-job.vk.io/singularity-options", options)
    return {name: text for name, text in notes.items() if text}


def make_binds(site: InterlinkSite) -> list[tuple[str, str]]:
    """Return the folders of the node that a job sees, as (on the node, in the container)."""
    binds = [(path, path) for path in site.images.bind]
    return [*binds, (site.scratch, WORK)] if site.scratch else binds


def image_name(site: InterlinkSite, cvmfs: str, docker: str) -> str:
    """Return an image as the plugin takes it; empty if the image has no form for it."""
    if site.image_form == "cvmfs":
        return cvmfs
    # Plugins with Apptainer take a bare name for a file.
    prefix = "docker://" if docker and site.plugin in {"slurm", "htcondor"} else ""
    return prefix + docker


def file_mode(site: InterlinkSite) -> int:
    """Return the mode of a job's files where the plugin keeps them.

    Those of a batch system write them into a shared folder, as the user that the job runs as. In a
    remote Kubernetes cluster the image decides on the user, and nobody else sees the volume.
    """
    return 0o444 if site.plugin == "kubernetes" else 0o600


def _slurm_flags(site: InterlinkSite, asked: Resources, walltime: timedelta) -> list[str]:
    limit = min(walltime + _SLURM_SLACK, max(site.max_walltime, walltime))
    flags = [f"--time={math.ceil(limit.total_seconds() / 60)}"]
    if site.partition:
        flags.append(f"--partition={site.partition}")
    if site.account:
        flags.append(f"--account={site.account}")
    if asked.gpus:
        # The resource nvidia.com/gpu alone asks Slurm for nothing.
        flags.append(site.gpu_flags.replace("{gpus}", str(asked.gpus)))
    return flags
