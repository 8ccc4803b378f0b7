"""A user's choice, checked against the catalog and made complete. Pure.

The form is no boundary: whatever asks, only what `resolve` returns may become a job.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from offload_sites.catalog import BaseSite, Catalog, Image, Profile, Purpose
from offload_sites.choose import DEFAULT_PATIENCE
from offload_sites.errors import InvalidOptionsError
from offload_sites.jobs import ImageRef, Resources
from offload_sites.references import DEFAULT_WALLTIME
from offload_sites.units import parse_duration, render_duration
from offload_sites.wording import did_you_mean, join_names, show

__all__ = [
    "Choice",
    "Resolved",
    "image_reference",
    "offered",
    "one_worker",
    "resolve",
    "workers_per_job",
]

# As long as a file name may be on Linux, several times over.
_PATH_LIMIT = 1000
# Registries, names, tags and digests. Nothing that a shell takes for more than a name: not every site
# quotes it (see offload_sites/interlink/plugins.py), and a pattern may end with `.+`.
_PLAIN_PATH = re.compile(r"/cvmfs(?:/[\w.,:@+=-]+)+", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """What a user asks for; whatever is None is left to the catalog.

    Parameters
    ----------
    profile, site : str or None
        Names in the catalog.
    image : str or None
        A name in the catalog, or a path below /cvmfs where the profile has a pattern for it.
    walltime : str, timedelta or None
        How long the job may run, as `"8h"`.
    cpus : int or None
        Cores of a session or of each worker.
    """

    profile: str | None = None
    image: str | None = None
    walltime: str | timedelta | None = None
    cpus: int | None = None
    site: str | None = None


@dataclass(frozen=True)
class Resolved:
    """What one session or worker gets.

    Parameters
    ----------
    profile, title : str
        Name and title of the profile.
    sites : tuple of str
        Where it may run, the preferred one first.
    image : ImageRef
        What it runs in.
    resources : Resources
        Of one session, or one worker.
    walltime, queue_budget : timedelta
        How long its job may run; and, for a session, wait.
    preload : tuple of str
        Modules to import before workers are forked.
    environment : mapping
        Variables, not secret.
    patience : timedelta
        How long it may wait at one of several sites.
    """

    profile: str
    title: str
    sites: tuple[str, ...]
    image: ImageRef
    resources: Resources
    walltime: timedelta
    queue_budget: timedelta
    preload: tuple[str, ...]
    environment: Mapping[str, str]
    patience: timedelta = DEFAULT_PATIENCE


def offered(
    catalog: Catalog, *, purpose: Purpose, groups: Collection[str] | None
) -> Mapping[str, Profile]:
    """Return the profiles for a purpose that a member of `groups` may use; None: of every group."""
    return {
        name: profile
        for name, profile in catalog.profiles.items()
        if purpose in profile.purposes
        and (groups is None or not profile.groups or set(groups) & set(profile.groups))
    }


def resolve(
    catalog: Catalog, choice: Choice, *, purpose: Purpose, groups: Collection[str] | None
) -> Resolved:
    """Return what `choice` comes to.

    Parameters
    ----------
    catalog : Catalog
        What there is.
    choice : Choice
        What is asked for, by anybody.
    purpose : "session" or "workers"
        What for.
    groups : collection of str, or None
        The user's groups; None where groups do not count.

    Raises
    ------
    InvalidOptionsError
        A sentence on the first thing that is not offered, with what is.
    """
    profiles = offered(catalog, purpose=purpose, groups=groups)
    name = _one_of("profile", choice.profile, profiles)
    profile = profiles[name]
    sites = _sites(choice, name, profile)
    resources = _resources(choice, name, profile)
    if purpose == "workers":
        resources = one_worker(resources)
    return Resolved(
        profile=name,
        title=profile.title,
        sites=sites,
        image=_image(catalog, choice, name, profile),
        resources=resources,
        walltime=_walltime(choice, name, profile, [catalog.sites[site] for site in sites]),
        queue_budget=profile.queue_budget,
        preload=tuple(profile.preload),
        environment=dict(profile.environment),
        patience=profile.patience or DEFAULT_PATIENCE,
    )


def one_worker(profile: Resources) -> Resources:
    """Return what one worker asks for, of a profile with these resources.

    A worker has one GPU: a profile with several is as many workers, each with its part of the rest.
    """
    if profile.gpus <= 1:
        return profile
    cpus, memory = profile.cpus // profile.gpus, profile.memory_bytes // profile.gpus
    return Resources(max(1, cpus), max(1, memory), 1)


def workers_per_job(site: BaseSite, worker: Resources) -> int:
    """Return how many workers that ask for `worker` share one job at `site`; at least 1."""
    if site.node is None:
        return 1
    node = Resources(site.node.cpus, site.node.memory, site.node.gpus)
    cpus = getattr(site, "cpus", None)
    if cpus is not None:  # a site with fewer cores in all than a node has
        node = Resources(min(node.cpus, cpus), node.memory_bytes, node.gpus)
    return max(1, worker.fits(node))


def image_reference(name: str, image: Image) -> ImageRef:
    """Return the image `name` of the catalog as jobs know it; `current` becomes a path."""
    python = sys.executable if image.python == "current" else image.python or "python3"
    return ImageRef(name, image.title, image.cvmfs or "", image.docker or "", python)


def _one_of(what: str, asked: object, known: Iterable[str]) -> str:
    """Return the name that is asked for, or the first known one."""
    names = list(known)
    if not names:
        raise InvalidOptionsError(
            f"there is no {what} for this here", "ask the administrator of the catalog"
        )
    if asked is None:
        return names[0]
    if not isinstance(asked, str) or asked not in names:
        guess = did_you_mean(asked, names) if isinstance(asked, str) else ""
        raise InvalidOptionsError(
            f"there is no {what} {show(asked)}{guess}", f"there is {join_names(names)}"
        )
    return asked


def _sites(choice: Choice, name: str, profile: Profile) -> tuple[str, ...]:
    if choice.site is None:
        return tuple(profile.sites)
    return (_one_of(f"site for profile {name!r} called", choice.site, profile.sites),)


def _image(catalog: Catalog, choice: Choice, name: str, profile: Profile) -> ImageRef:
    names = [one.name for one in profile.images if one.name is not None]
    patterns = [one.pattern for one in profile.images if one.pattern is not None]
    asked = choice.image
    if asked is None and names:
        asked = names[0]
    if isinstance(asked, str) and asked in names:
        return image_reference(asked, catalog.images[asked])
    if asked is None:
        raise InvalidOptionsError(
            f"profile {name!r} needs the path of an image", "give one below /cvmfs/"
        )
    if patterns and isinstance(asked, str) and asked.startswith("/"):
        return _free_image(asked, name, patterns)
    known = [*names, *(["a path below /cvmfs/"] if patterns else [])]
    guess = did_you_mean(asked, names) if isinstance(asked, str) else ""
    raise InvalidOptionsError(
        f"profile {name!r} has no image {show(asked)}{guess}", f"there is {join_names(known)}"
    )


def _free_image(path: str, name: str, patterns: list[str]) -> ImageRef:
    # What is matched is what is used: a path that would change when it is normalised is refused.
    clean = len(path) <= _PATH_LIMIT and posixpath.normpath(path) == path
    plain = clean and _PLAIN_PATH.fullmatch(path)
    if not plain or not any(re.fullmatch(pattern, path) for pattern in patterns):
        raise InvalidOptionsError(
            f"profile {name!r} does not allow the image {show(path)}",
            f"it has to match {join_names(patterns)}, of letters, digits and '_.,:@+=-', "
            "without '..', '//' or a '/' at its end",
        )
    return ImageRef(path, posixpath.basename(path), cvmfs=path)


def _resources(choice: Choice, name: str, profile: Profile) -> Resources:
    asked = profile.resources
    cpus = choice.cpus if choice.cpus is not None else asked.cpus.choices[0]
    if isinstance(cpus, bool) or not isinstance(cpus, int) or cpus not in asked.cpus.choices:
        raise InvalidOptionsError(
            f"profile {name!r} does not offer {show(cpus)} CPUs",
            f"it offers {', '.join(map(str, asked.cpus.choices))}",
        )
    return Resources(cpus, asked.memory.bytes_for(cpus), asked.gpus)


def _walltime(choice: Choice, name: str, profile: Profile, sites: list[BaseSite]) -> timedelta:
    allowed = min(site.max_walltime for site in sites)
    most = min(profile.walltime.max, allowed) if profile.walltime.max else allowed
    if choice.walltime is None:
        return min(profile.walltime.default or DEFAULT_WALLTIME, most)
    asked = choice.walltime
    if isinstance(asked, str):
        try:
            asked = parse_duration(asked)
        except ValueError as error:
            raise InvalidOptionsError(f"walltime: {error}") from error
    if not isinstance(asked, timedelta):
        raise InvalidOptionsError(f"walltime: expected a duration such as '8h', got {show(asked)}")
    if not timedelta(0) < asked <= most:
        raise InvalidOptionsError(
            f"a walltime of {render_duration(asked)} is not possible with profile {name!r}",
            f"ask for more than zero and at most {render_duration(most)}",
        )
    return asked
