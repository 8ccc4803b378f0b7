"""What one part of a catalog says of another: names that must exist, requests that must fit. Pure.

Works on whatever parts are sound, so that one wrong field hides no wrong name elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from offload_sites.catalog import BaseSite, Catalog, Image, Profile
from offload_sites.document import Path
from offload_sites.units import render_duration, render_memory
from offload_sites.wording import did_you_mean, join_names, show

__all__ = ["DEFAULT_WALLTIME", "Parts", "check_references"]

#: Walltime of a profile that names none, if its sites allow that much.
DEFAULT_WALLTIME = timedelta(hours=8)

_A = {"site": "the name of a site", "image": "the name of an image"}


@dataclass
class Parts:
    """The entries of a catalog; None where an entry is there but not sound."""

    sites: Mapping[str, BaseSite | None] = field(default_factory=dict)
    images: Mapping[str, Image | None] = field(default_factory=dict)
    profiles: Mapping[str, Profile | None] = field(default_factory=dict)
    #: Sites and images that profiles which are not sound name, as far as these are texts.
    names: Mapping[str, tuple[Sequence[object], Sequence[object]]] = field(default_factory=dict)

    @classmethod
    def of(cls, catalog: Catalog) -> Parts:
        """Return all entries of a catalog that is sound."""
        return cls(catalog.sites, catalog.images, catalog.profiles)


def check_references(parts: Parts) -> Iterator[tuple[Path, str]]:
    """Yield path and sentence of each thing that does not fit together."""
    for name, profile in parts.profiles.items():
        sites, images = parts.names.get(name, ((), ()))
        if profile is not None:
            sites, images = profile.sites, [choice.name for choice in profile.images]
            for path, message in _check_profile(profile, parts):
                yield ("profiles", name, *path), message
        for path, message in (*_missing("site", sites, parts), *_missing("image", images, parts)):
            yield ("profiles", name, *path), message


def _missing(what: str, names: Sequence[object], parts: Parts) -> Iterator[tuple[Path, str]]:
    known: Mapping[str, object] = getattr(parts, f"{what}s")
    for index, name in enumerate(names):
        if isinstance(name, str) and name not in known:
            yield (
                (f"{what}s", index),
                f"expected {_A[what]} of this catalog ({join_names(known)}), "
                f"got {show(name)}{did_you_mean(name, known)}",
            )


def _check_profile(profile: Profile, parts: Parts) -> Iterator[tuple[Path, str]]:
    walltime = profile.walltime
    if walltime.default and walltime.max and walltime.default > walltime.max:
        yield (
            ("walltime", "default"),
            f"expected at most the max ({render_duration(walltime.max)}), "
            f"got {render_duration(walltime.default)}",
        )
    for name in profile.sites:
        site = parts.sites.get(name)
        if site is not None:
            yield from _check_site(profile, name, site, parts)


def _check_site(
    profile: Profile, name: str, site: BaseSite, parts: Parts
) -> Iterator[tuple[Path, str]]:
    for key in ("default", "max"):
        asked = getattr(profile.walltime, key)
        if asked and asked > site.max_walltime:
            yield (
                ("walltime", key),
                f"expected at most what site {name!r} allows "
                f"({render_duration(site.max_walltime)}), got {render_duration(asked)}",
            )
    form = site.image_form
    for index, choice in enumerate(profile.images):
        image = parts.images.get(choice.name) if choice.name is not None else None
        if form and image is not None and not image.has(form):
            wants = "an absolute path as python" if form == "python" else form
            yield (
                ("images", index),
                f"site {name!r} runs images by {wants}, which image {choice.name!r} does not have",
            )
        if choice.pattern is not None and form not in ("cvmfs", None):
            yield (
                ("images", index),
                f"site {name!r} runs images by {form}; a pattern is for images below /cvmfs/",
            )
    yield from _check_size(profile, name, site)


def _check_size(profile: Profile, name: str, site: BaseSite) -> Iterator[tuple[Path, str]]:
    asked = profile.resources
    most = max(asked.cpus.choices)
    total = getattr(site, "cpus", None)
    limits = [limit for limit in (site.node.cpus if site.node else None, total) if limit]
    if limits and most > min(limits):
        yield (
            ("resources", "cpus"),
            f"expected at most {min(limits)} cores, as site {name!r} has, got {most}",
        )
    if site.node is None:
        return
    memory = asked.memory.bytes_for(most)
    if memory > site.node.memory:
        yield (
            ("resources", "memory"),
            f"expected at most {render_memory(site.node.memory)}, as a node of site {name!r} has, "
            f"got {render_memory(memory)} for {most} cores",
        )
    if asked.gpus > site.node.gpus:
        yield (
            ("resources", "gpus"),
            f"expected at most {site.node.gpus} GPUs, as a node of site {name!r} has, "
            f"got {asked.gpus}",
        )
