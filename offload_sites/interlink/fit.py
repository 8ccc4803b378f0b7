"""An ordinary pod made fit for a virtual node, and why each change was made. Pure.

For workflow engines and people who bring pods of their own; what the product itself sends is made by
`manifest`. The facts behind each rule are those of `plugins` and of docs/howto/virtual-nodes.md.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from offload_sites.interlink import plugins
from offload_sites.interlink.health import quantity
from offload_sites.jobs import Resources
from offload_sites.kubernetes.fit import Fitted, Notes
from offload_sites.kubernetes.manifest import resources, toleration, too_large
from offload_sites.site_models import InterlinkSite

__all__ = ["fit_virtual_pod"]

_MIB = 1024**2
_DEFAULT_MEMORY = 2 * 1024**3
_VOLUMES = ("secret", "configMap")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_SHELL = re.compile(r"[^\w@%+=:,./-]", re.ASCII)
_PLACEMENT = ("nodeName", "affinity", "topologySpreadConstraints", "runtimeClassName", "overhead")


def fit_virtual_pod(
    given_meta: Mapping[str, Any],
    given_spec: Mapping[str, Any],
    site: InterlinkSite,
    images: Mapping[str, str],
) -> Fitted:
    """Return a pod's metadata and spec as the virtual node of `site` needs them.

    Parameters
    ----------
    given_meta, given_spec : mapping
        `metadata` and `spec` of a pod or of the template of a job.
    site : InterlinkSite
        Where it is to run.
    images : mapping
        Registry reference to path below /cvmfs, of images that have both.
    """
    meta, spec = copy.deepcopy(dict(given_meta)), copy.deepcopy(dict(given_spec))
    notes = Notes()
    if not spec.get("containers"):
        notes.problem("spec.containers", "there is none")
        return Fitted(meta, spec, notes)
    _place(spec, site, notes)
    _strip(spec, notes)
    _drop_volumes(spec, site, notes)
    walltime = _walltime(spec, site, notes)
    everything = [("initContainers", i, c) for i, c in enumerate(spec.get("initContainers") or [])]
    everything += [("containers", i, c) for i, c in enumerate(spec["containers"])]
    for kind, number, container in everything:
        _fit_container(f"spec.{kind}[{number}]", container, site, images, notes)
    _check_containers(spec, site, notes)
    asked = _asked(spec["containers"], site)
    given = {str(k): str(v) for k, v in (meta.get("annotations") or {}).items()}
    made = plugins.make_annotations(site, asked, walltime, given)
    for name, text in made.items():
        if given.get(name) != text:
            notes.changed(
                f"metadata.annotations[{name}]",
                f"set to {text!r}",
                "tells the plugin what a pod cannot say",
            )
    if made:
        meta["annotations"] = made
    image = str(spec["containers"][0].get("image") or "")
    for problem in [
        *too_large(site, asked, walltime),
        *plugins.unfit(site, asked, walltime, image),
    ]:
        notes.problem("spec", problem)
    return Fitted(meta, spec, notes)


def _place(spec: dict[str, Any], site: InterlinkSite, notes: Notes) -> None:
    for field in _PLACEMENT:
        if spec.pop(field, None):
            notes.changed(f"spec.{field}", "removed", "the virtual node is chosen by its name")
    wanted = {plugins.HOSTNAME: site.node_name}
    old = spec.get("nodeSelector") or {}
    for label in old:
        if label.endswith(("kubernetes.io/os", "kubernetes.io/arch")):
            why = "virtual nodes say 'virtual-kubelet' there"
        else:
            why = "the virtual node may not have this label"
        if old[label] != wanted.get(label):
            notes.changed(f"spec.nodeSelector[{label}]", "removed", why)
    if old != wanted:
        notes.changed("spec.nodeSelector", f"set to {site.node_name}", "chooses the virtual node")
    spec["nodeSelector"] = wanted
    have = spec.get("tolerations") or []
    # One with a time would still let the pod be evicted, and its batch job be orphaned.
    kept = [
        one
        for one in have
        if one.get("tolerationSeconds") is None or one.get("key") not in _SILENT_TAINTS
    ]
    added = [
        one
        for one in [*plugins.make_tolerations(site), *map(toleration, site.tolerations)]
        if one not in kept
    ]
    if added or len(kept) != len(have):
        keys = ", ".join(one["key"] for one in added)
        notes.changed(
            "spec.tolerations",
            f"added {keys}",
            "lets the pod onto the virtual node, and stay there while its site is away",
        )
    spec["tolerations"] = [*kept, *added]


_SILENT_TAINTS = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}


def _strip(spec: dict[str, Any], notes: Notes) -> None:
    if spec.get("automountServiceAccountToken") is not False:
        notes.changed(
            "spec.automountServiceAccountToken",
            "set to false",
            "the token would travel to the site, and the API is not in reach there",
        )
    spec["automountServiceAccountToken"] = False
    if spec.get("enableServiceLinks") is not False:
        notes.changed(
            "spec.enableServiceLinks", "set to false", "services are not in reach from the site"
        )
    spec["enableServiceLinks"] = False
    if spec.get("restartPolicy") != "Never":
        notes.changed("spec.restartPolicy", "set to Never", "a virtual node restarts nothing")
    spec["restartPolicy"] = "Never"
    if spec.pop("securityContext", None):
        notes.changed(
            "spec.securityContext", "removed", "the batch system would be asked for that user"
        )
    for field, why in (
        ("imagePullSecrets", "the site pulls images as itself"),
        ("terminationGracePeriodSeconds", "virtual nodes do not read it"),
        ("hostAliases", "virtual nodes do not read it"),
    ):
        if spec.pop(field, None):
            notes.changed(f"spec.{field}", "removed", why)


def _drop_volumes(spec: dict[str, Any], site: InterlinkSite, notes: Notes) -> None:
    dropped = {}
    kept = []
    for volume in spec.get("volumes") or []:
        name = str(volume.get("name"))
        why = _why_dropped(volume, site)
        if why:
            dropped[name] = why
            kind = next((field for field in volume if field != "name"), "emptyDir")
            notes.changed(f"spec.volumes[{name}]", f"removed ({kind})", why)
        else:
            kept.append(volume)
    if "volumes" in spec:
        spec["volumes"] = kept
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind) or []:
            for mount in list(container.get("volumeMounts") or []):
                if mount.get("name") in dropped:
                    container["volumeMounts"].remove(mount)
                    notes.changed(
                        f"spec.{kind}[{container.get('name')}].volumeMounts",
                        f"removed {mount.get('mountPath')}",
                        "its volume was removed; the program will not find what it expects there",
                    )


def _why_dropped(volume: Mapping[str, Any], site: InterlinkSite) -> str:
    """Return why the virtual node cannot serve a volume; empty if it can."""
    if any(kind in volume for kind in _VOLUMES):
        return ""
    if "emptyDir" in volume:
        return "its plugin (htcondor) cannot make it" if site.plugin == "htcondor" else ""
    path = (volume.get("hostPath") or {}).get("path")
    if path:
        if path in site.images.bind or site.plugin == "docker":
            return "" if site.plugin == "docker" else "the folder is bound by an annotation instead"
        return "it is a folder of the cluster's nodes, and not of the site's"
    return "a virtual node has only Secrets, ConfigMaps and empty folders"


def _walltime(spec: dict[str, Any], site: InterlinkSite, notes: Notes) -> timedelta:
    seconds = spec.pop("activeDeadlineSeconds", None)
    if seconds:
        notes.changed(
            "spec.activeDeadlineSeconds",
            f"moved into annotations ({seconds} s)",
            "virtual nodes do not read it; the batch system is asked for this time",
        )
        return timedelta(seconds=int(seconds))
    notes.changed(
        "walltime",
        f"{site.max_walltime.total_seconds() / 3600:g} h, the longest of the site",
        "the pod says none; give activeDeadlineSeconds, since short jobs start sooner",
    )
    return site.max_walltime


def _fit_container(
    where: str,
    container: dict[str, Any],
    site: InterlinkSite,
    images: Mapping[str, str],
    notes: Notes,
) -> None:
    _fit_image(where, container, site, images, notes)
    _fit_resources(where, container, site, notes)
    _fit_words(where, container, site, notes)
    for field in _PROBES:
        if container.pop(field, None):
            notes.changed(
                f"{where}.{field}", "removed", "the site cannot be reached from the cluster"
            )
    for field in ("securityContext", "imagePullPolicy"):
        container.pop(field, None)
    _fit_folder(where, container, site, notes)


def _fit_folder(where: str, container: dict[str, Any], site: InterlinkSite, notes: Notes) -> None:
    """Go to the working directory within the command, where the plugin does not."""
    folder = container.get("workingDir")
    if not folder or site.plugin == "kubernetes":
        return
    del container["workingDir"]
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if not container.get("command") or site.plugin != "slurm":
        notes.problem(
            f"{where}.workingDir",
            "virtual nodes do not read it, and without a command of its own nothing can go there"
            if site.plugin == "slurm"
            else f"its plugin ({site.plugin}) does not read it",
        )
        return
    container["command"] = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', folder, *words]
    container.pop("args", None)
    notes.changed(f"{where}.workingDir", "moved into the command", "virtual nodes do not read it")


def _fit_image(
    where: str,
    container: dict[str, Any],
    site: InterlinkSite,
    images: Mapping[str, str],
    notes: Notes,
) -> None:
    old = str(container.get("image") or "")
    new = old
    if old.startswith("/"):
        if site.image_form != "cvmfs":
            notes.problem(f"{where}.image", f"the site pulls images from a registry, not {old}")
    elif site.image_form == "cvmfs" and old in images:
        new = images[old]
    elif "://" not in old:
        # Without a scheme Apptainer would take it for a file.
        new = plugins.image_name(site, "", old) or f"docker://{old}"
    if new != old:
        container["image"] = new
        why = (
            "unpacked in /cvmfs: no pull" if new.startswith("/") else "tells where to pull it from"
        )
        notes.changed(f"{where}.image", f"set to {new}", why)


def _fit_resources(
    where: str, container: dict[str, Any], site: InterlinkSite, notes: Notes
) -> None:
    given = container.get("resources") or {}
    asked = {**(given.get("requests") or {}), **(given.get("limits") or {})}
    gpus = int(quantity(str(asked.pop(site.gpu_resource, 0))))
    cpus = math.ceil(quantity(str(asked.pop("cpu", 1))) or 1)
    memory = int(quantity(str(asked.pop("memory", _DEFAULT_MEMORY))) or _DEFAULT_MEMORY)
    for name in asked:
        notes.changed(f"{where}.resources[{name}]", "removed", "the virtual node has none of it")
    amounts = resources(Resources(cpus, max(_MIB, memory), gpus), site.gpu_resource)
    new = {"requests": amounts, "limits": amounts}
    if new != {"requests": given.get("requests"), "limits": given.get("limits")}:
        text = ", ".join(f"{name} {amount}" for name, amount in amounts.items())
        notes.changed(
            f"{where}.resources",
            f"requests and limits set to {text}",
            "plugins read one or the other, in whole CPUs and MiB",
        )
    container["resources"] = new


def _fit_words(where: str, container: dict[str, Any], site: InterlinkSite, notes: Notes) -> None:
    env = []
    for one in container.get("env") or []:
        source = one.get("valueFrom") or {}
        if "resourceFieldRef" in source:
            notes.changed(
                f"{where}.env[{one.get('name')}]", "removed", "virtual nodes leave it empty"
            )
        else:
            env.append(one)
    if "env" in container:
        container["env"] = env
    values = {one["name"]: one.get("value") or "" for one in env if "valueFrom" not in one}
    for field in ("command", "args"):
        words = [str(word) for word in container.get(field) or []]
        new = [_expanded(word, values) for word in words]
        if new != words:
            container[field] = new
            notes.changed(f"{where}.{field}", "variables filled in", "virtual nodes expand none")
        left = {name for word in new for name in re.findall(r"\$\(([^)]+)\)", word)}
        for name in sorted(left & {one["name"] for one in env}):
            notes.problem(
                f"{where}.{field}",
                f"$({name}) is known only when the pod runs, and virtual nodes expand nothing",
            )
        if site.plugin in {"htcondor", "docker"} and any(map(_SHELL.search, new)):
            notes.problem(
                f"{where}.{field}",
                f"its plugin ({site.plugin}) joins words by blanks and quotes none of them: put the "
                "command into a script in the image",
            )


def _expanded(word: str, values: Mapping[str, str]) -> str:
    """Return `word` as a kubelet passes it on: known variables filled in, `$$` as a dollar."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else values.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", value, word)


def _check_containers(spec: Mapping[str, Any], site: InterlinkSite, notes: Notes) -> None:
    if site.plugin == "htcondor" and len(spec["containers"]) > 1:
        notes.problem("spec.containers", "its plugin (htcondor) runs only the last container")
    if site.plugin == "htcondor" and spec.get("initContainers"):
        notes.problem("spec.initContainers", "its plugin (htcondor) runs none of them")


def _asked(containers: Iterable[Mapping[str, Any]], site: InterlinkSite) -> Resources:
    limits = [one["resources"]["limits"] for one in containers]
    return Resources(
        sum(int(one["cpu"]) for one in limits),
        sum(int(quantity(one["memory"])) for one in limits),
        sum(int(one.get(site.gpu_resource, 0)) for one in limits),
    )
