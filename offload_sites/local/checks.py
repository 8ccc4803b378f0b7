"""What a `local` site refuses. Reads files' names and modes, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from offload_sites.errors import JobRejectedError
from offload_sites.jobs import JobSpec, Resources, SecretFiles
from offload_sites.local.records import Limits


def check_request(
    site: str,
    spec: JobSpec,
    jobs: Mapping[str, SecretFiles],
    limits: Limits,
    node: Resources | None,
) -> None:
    """Check what `submit` was asked for.

    Raises
    ------
    JobRejectedError
        It can never run here; says what was asked and what the limit is.
    """
    secrets = {name for files in jobs.values() for name in files}
    for problem in (
        *_too_large(spec.resources, limits, node),
        *_not_plain([*spec.inputs, *secrets]),
        *(f"{name!r} is an input and a secret file at once" for name in secrets & set(spec.inputs)),
        *_unreadable(spec.inputs),
        *_not_text(spec),
    ):
        raise JobRejectedError(f"site {site!r} refused the job: {problem}")


def _too_large(asked: Resources, limits: Limits, node: Resources | None) -> Iterator[str]:
    known = [limits.cpus, node.cpus if node else None]
    cpus = min((number for number in known if number is not None), default=asked.cpus)
    if asked.cpus > cpus:
        yield f"it asks for {asked.cpus} CPUs, and the site has {cpus}"
    if node and asked.memory_bytes > node.memory_bytes:
        yield (
            f"it asks for {_gib(asked.memory_bytes)} GiB of memory, "
            f"and the site has {_gib(node.memory_bytes)} GiB"
        )
    if node and asked.gpus > node.gpus:
        yield f"it asks for {asked.gpus} GPUs, and the site has {node.gpus}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.4g}"


def _not_plain(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name in {"", ".", ".."} or PurePath(name).name != name or "\0" in name:
            yield f"{name!r} is not the plain name of a file in its working directory"


def _unreadable(inputs: Mapping[str, Path]) -> Iterator[str]:
    for name, path in inputs.items():
        if not path.is_file():
            yield f"its input {name!r} is not a file on this machine"
        elif not os.access(path, os.R_OK):
            yield f"its input {name!r} cannot be read"


def _not_text(spec: JobSpec) -> Iterator[str]:
    """Find what execve(2) cannot pass on."""
    if any("\0" in text for text in (*spec.command, *spec.environment, *spec.environment.values())):
        yield "its command or environment holds a NUL character"
    for name in spec.environment:
        if not name or "=" in name:
            yield f"{name!r} is not the name of an environment variable"
