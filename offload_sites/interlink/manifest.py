"""The pod of a job on a virtual node. Pure.

It holds nothing that a plugin could read in its own way: three plain words as its command, no
variables, one volume with the script and one with the files, whole CPUs and MiB.
"""

from __future__ import annotations

from typing import Any

from offload_sites.errors import JobRejectedError
from offload_sites.interlink import plugins
from offload_sites.jobs import JobSpec
from offload_sites.kubernetes import launch
from offload_sites.kubernetes.manifest import (
    PodJob,
    pod_metadata,
    resources,
    toleration,
    too_large,
)
from offload_sites.site_models import InterlinkSite

__all__ = ["DONE", "check_spec", "make_pod"]

# A virtual kubelet passes a deletion on at once, and then lets the pod stand for this time, 30 s if a pod
# says nothing. No plugin of a batch system reads it; in a remote cluster it is what a pod has to end.
_GRACE_S = 1
#: What a job's script exits with when its command has ended with 0. Virtual nodes say 0 themselves of
#: jobs that were killed (states.py), so 0 can be no proof of success.
DONE = 100


def check_spec(name: str, site: InterlinkSite, spec: JobSpec) -> None:
    """Check that `spec` can ever run at the site `name`.

    Raises
    ------
    JobRejectedError
        What was asked, and what the limit is.
    """
    image = _image(site, spec)
    if not image:
        wanted = f"image {spec.image.name!r}" if spec.image else "a job without an image"
        raise JobRejectedError(
            f"site {name!r} cannot run {wanted}: it needs its {site.image_form!r} form",
            f"give the image `{site.image_form}` in the catalog",
        )
    problems = [
        *too_large(site, spec.resources, spec.walltime),
        *plugins.unfit(site, spec.resources, spec.walltime, image),
    ]
    for problem in problems:
        raise JobRejectedError(f"site {name!r} refused the job: {problem}")


def make_pod(job: PodJob, site: InterlinkSite) -> dict[str, Any]:
    """Return the pod of a job on the virtual node of `site`."""
    spec = job.spec
    asked = resources(spec.resources, site.gpu_resource)
    meta = pod_metadata(job, site)
    notes = plugins.make_annotations(site, spec.resources, spec.walltime)
    meta["annotations"] = {**meta["annotations"], **notes}
    own = plugins.make_tolerations(site)
    more = [toleration(one) for one in site.tolerations]
    secret = {"secretName": job.name, "defaultMode": plugins.file_mode(site)}
    folders = plugins.make_binds(site) if site.plugin == "docker" else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **({} if site.plugin == "kubernetes" else {"terminationGracePeriodSeconds": _GRACE_S}),
            "nodeSelector": {plugins.HOSTNAME: site.node_name},
            "tolerations": [*own, *(one for one in more if one not in own)],
            "containers": [
                {
                    # Its own name: plugins keep files of different pods in one folder by it.
                    "name": job.name,
                    "image": _image(site, spec),
                    "command": list(launch.COMMAND),
                    "resources": {"requests": asked, "limits": asked},
                    "volumeMounts": [
                        {"name": "run", "mountPath": launch.RUN, "readOnly": True},
                        {"name": "files", "mountPath": launch.FILES, "readOnly": True},
                        *(
                            {"name": f"bind-{number}", "mountPath": target}
                            for number, (_, target) in enumerate(folders)
                        ),
                    ],
                }
            ],
            "volumes": [
                {"name": "run", "configMap": {"name": job.name}},
                {"name": "files", "secret": secret},
                *(
                    {"name": f"bind-{number}", "hostPath": {"path": path, "type": "Directory"}}
                    for number, (path, _) in enumerate(folders)
                ),
            ],
        },
    }


def _image(site: InterlinkSite, spec: JobSpec) -> str:
    image = spec.image
    return plugins.image_name(site, image.cvmfs, image.docker) if image else ""
