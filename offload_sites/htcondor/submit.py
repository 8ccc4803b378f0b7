"""A JobSpec as an HTCondor submit description and a start script. Pure.

All jobs of one submission are one transaction: one description with one row of values per job. The
start script travels with each job, starts the container, and keeps to the walltime; secrets travel
as files with mode 0600. What others at the site can read (ads, argv, the script) holds none.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from offload_sites.errors import JobRejectedError
from offload_sites.jobs import ImageRef, JobSpec, Resources, SecretFiles
from offload_sites.site_models import HTCondorCESite
from offload_sites.start_script import SUPERVISE, read_script
from offload_sites.units import render_memory
from offload_sites.wording import join_names, show

__all__ = ["KEY", "START", "SUBMISSION", "Submission", "make_submission", "render_image"]

#: Attributes of our jobs: their key, and the call that submitted them.
KEY, SUBMISSION = "OffloadKey", "OffloadSubmission"
#: Name of the start script, which is what people see in the queue.
START = "offload-start"

# The site's own limit ends a job only if the start script, the agent and the payload have not.
_SLACK = timedelta(minutes=5)
# So much of the end of what a job has printed comes back, of each stream.
_LOG_BYTES = 1024**2
# Finished jobs stay in the queue for so long, with what they have printed.
_KEPT = timedelta(days=1)
# An upload that takes longer than this has been given up by whoever began it.
_STALE_UPLOAD = timedelta(minutes=15)
# A job that has waited for longer is not wanted by anybody, if nobody has said for how long it is.
_MAX_WAIT = timedelta(days=7)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
# Files that HTCondor and the start script make in the working directory.
_TAKEN = frozenset({START, "out", "err", "stdout", "stderr", "tmp"})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_UNSAFE_IN_LABEL = re.compile(r"[^\w .:@/+-]")


@dataclass(frozen=True)
class Submission:
    """One transaction.

    Parameters
    ----------
    description : mapping
        Submit commands; ``$(key)``, ``$(files)`` and ``$(secrets)`` stand for a row's values.
    start : str
        The start script.
    """

    description: Mapping[str, str]
    start: str


def make_submission(
    site_name: str, site: HTCondorCESite, spec: JobSpec, jobs: Mapping[str, SecretFiles]
) -> Submission:
    """Return what to send for `jobs`.

    Raises
    ------
    JobRejectedError
        The site could never run it; says what was asked and what the limit is.
    """
    for problem in _problems(site, spec, jobs):
        raise JobRejectedError(f"site {site_name!r} refused the job: {problem}")
    universe = spec.image is not None and site.container == "universe"
    description = {
        "universe": "container" if universe else "vanilla",
        "executable": START,
        "arguments": "$(key) $(secrets)",
        "transfer_executable": "true",
        "should_transfer_files": "YES",
        "when_to_transfer_output": "ON_EXIT",
        "transfer_input_files": "$(files)",
        # The start script empties the secrets, and they come back in place of the full ones.
        "transfer_output_files": "$(outputs)",
        "output": "out",
        "error": "err",
        "notification": "never",
        "job_max_vacate_time": "30",
        "leave_in_queue": f"JobStatus == 4 && time() - CompletionDate < {_seconds(_KEPT)}",
        "periodic_remove": _periodic_remove(spec),
        **_requests(site, spec),
        **_labels(spec),
        f"My.{KEY}": '"$(key)"',
        "My.OffloadWalltime": str(_seconds(spec.walltime)),
        **site.submit,
    }
    if universe and spec.image is not None:
        description["container_image"] = render_image(site_name, site, spec.image)
    return Submission(description, _start_script(site_name, site, spec, universe=universe))


def render_image(site_name: str, site: HTCondorCESite, image: ImageRef) -> str:
    """Return the image as apptainer takes it: a path below /cvmfs, or ``docker://…``.

    Raises
    ------
    JobRejectedError
        It has no such form, its path is not a plain one, or it is on another repository.
    """
    if site.images.render == "docker":
        if not image.docker:
            raise _refused(site_name, f"the image {image.name!r} is in no registry")
        return f"docker://{image.docker}"
    path = image.cvmfs
    if not path.startswith("/cvmfs/") or posixpath.normpath(path) != path:
        raise _refused(
            site_name, f"the image {show(path or image.name)} is no plain path below /cvmfs/"
        )
    if not path.isprintable():
        raise _refused(site_name, f"the path {show(path)} of the image is not printable")
    repository = path.split("/")[2]
    if site.images.repositories and repository not in site.images.repositories:
        raise JobRejectedError(
            f"site {site_name!r} refused the job: its image is on the repository {repository!r}",
            f"images may come from {join_names(site.images.repositories)}",
        )
    return path


def _refused(site_name: str, problem: str) -> JobRejectedError:
    return JobRejectedError(f"site {site_name!r} refused the job: {problem}")


# --- what is refused -----------------------------------------------------------------------------


def _problems(
    site: HTCondorCESite, spec: JobSpec, jobs: Mapping[str, SecretFiles]
) -> Iterator[str]:
    yield from _too_large(site, spec)
    secrets = {name for files in jobs.values() for name in files}
    for name in (*spec.inputs, *secrets):
        if not _PLAIN_NAME.fullmatch(name) or name in _TAKEN:
            yield f"{show(name)} cannot be the name of a file in its working directory"
    for name in secrets & set(spec.inputs):
        yield f"{name!r} is an input and a secret file at once"
    for name, path in spec.inputs.items():
        if not path.is_file():
            yield f"its input {name!r} is not a file on this machine"
    for name in spec.environment:
        if not _VARIABLE.fullmatch(name):
            yield f"{show(name)} is not the name of an environment variable"
    if any("\0" in text for text in (*spec.command, *spec.environment.values())):
        yield "its command or environment holds a NUL character"


def _too_large(site: HTCondorCESite, spec: JobSpec) -> Iterator[str]:
    if spec.walltime > site.max_walltime:
        yield f"it asks for a walltime of {spec.walltime}, and the site allows {site.max_walltime}"
    if site.node is None:
        return
    asked = spec.resources
    node = Resources(site.node.cpus, site.node.memory, site.node.gpus)
    if asked.cpus > node.cpus:
        yield f"it asks for {asked.cpus} CPUs, and a node of the site has {node.cpus}"
    if asked.memory_bytes > node.memory_bytes:
        yield (
            f"it asks for {render_memory(asked.memory_bytes)} of memory, "
            f"and a node of the site has {render_memory(node.memory_bytes)}"
        )
    if asked.gpus > node.gpus:
        yield f"it asks for {asked.gpus} GPUs, and a node of the site has {node.gpus}"


# --- the description -----------------------------------------------------------------------------


def _requests(site: HTCondorCESite, spec: JobSpec) -> dict[str, str]:
    """Return what the job asks for, as HTCondor and as HTCondor-CE read it.

    A CE's default routes take memory from `maxMemory` alone (2000 MiB without it), cores from
    `xcount`, and end a job after `maxWallTime` minutes (htcondor-ce 23, 01-ce-router-defaults.conf).
    """
    asked = spec.resources
    memory_mib = -(-asked.memory_bytes // 1024**2)
    minutes = -(-min(spec.walltime + _SLACK, site.max_walltime).total_seconds() // 60)
    requests = {
        "request_cpus": str(asked.cpus),
        "request_memory": f"{memory_mib}",
        "request_disk": f"{-(-site.disk // 1024)}",
        "My.xcount": str(asked.cpus),
        "My.maxMemory": str(memory_mib),
        "My.maxWallTime": f"{minutes:.0f}",
    }
    if asked.gpus:
        requests["request_gpus"] = str(asked.gpus)
    return requests


def _periodic_remove(spec: JobSpec) -> str:
    """Return when the site is to remove a job by itself.

    It has waited for longer than anybody wants it, whoever wanted it being gone; it runs far beyond
    its walltime; or its files never came. The attributes in it cannot be renewed later: of a job that
    a CE has passed on, its job router looks at a copy from that moment (HTCondor 23.9). The copy in
    the pool (`RoutedFromJobId`) is left to the CE.
    """
    waits = "JobStatus == 1 || JobStatus == 5"
    too_long = _seconds(spec.walltime + 2 * _SLACK)
    return (
        "RoutedFromJobId =?= undefined && ("
        f"(({waits}) && time() - QDate > {_seconds(spec.max_wait or _MAX_WAIT)})"
        f" || (JobStatus == 2 && time() - JobCurrentStartDate > {too_long})"
        f" || (HoldReasonCode =?= 16 && time() - QDate > {_seconds(_STALE_UPLOAD)}))"
    )


def _labels(spec: JobSpec) -> dict[str, str]:
    labels = {
        f"My.Offload{name.capitalize()}": f'"{_UNSAFE_IN_LABEL.sub("_", value)}"'
        for name, value in spec.labels.items()
        if _VARIABLE.fullmatch(name)
    }
    cluster = spec.labels.get("cluster")
    if cluster:
        labels["batch_name"] = _UNSAFE_IN_LABEL.sub("_", cluster)
    return labels


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


# --- the start script ----------------------------------------------------------------------------

_GPU_VARIABLES = (
    "CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ROCR_VISIBLE_DEVICES"
)


def _start_script(site_name: str, site: HTCondorCESite, spec: JobSpec, *, universe: bool) -> str:
    asked = spec.resources
    image = "" if universe or spec.image is None else render_image(site_name, site, spec.image)
    filled_in = {
        "settings": [
            f"walltime_s={_seconds(spec.walltime)} cpus={asked.cpus} log_bytes={_LOG_BYTES}",
            f"memory_bytes={asked.memory_bytes}",
            f"gpu_variables={shlex.quote(_GPU_VARIABLES if asked.gpus else '')}",
            f"image={shlex.quote(image)}",
        ],
        "environment": [
            f"put {name} {shlex.quote(value)}" for name, value in spec.environment.items()
        ],
        "supervise": [SUPERVISE],
        "command": [f"set -- {shlex.join(spec.command)}"],
        "container": _container(site.images.bind, asked.gpus),
    }
    text = read_script(__package__, "start.sh")
    for name, lines in filled_in.items():
        text = text.replace(f"# @{name}@", "\n".join(lines), 1)
    return text


def _container(folders: Sequence[str], gpus: int) -> list[str]:
    """Return the lines that put the command into its container.

    Nothing of the node but what is bound is seen inside: not its environment, home or /tmp. Home is
    the scratch directory, since accounts at a site may have none.
    """
    quoted = [shlex.quote(folder) for folder in folders]
    checks = [f"[ -e {folder} ] || fail 72 'this node has no '{folder}" for folder in quoted]
    binds = " ".join(f"--bind {folder}" for folder in quoted)
    return [
        *checks,
        'set -- "$runtime" --quiet exec --containall --home "$scratch" --pwd "$scratch" '
        f'--workdir "$scratch/tmp" {"--nv " if gpus else ""}{binds} "$image" "$@"',
    ]
