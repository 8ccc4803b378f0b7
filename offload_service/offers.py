"""What one user may choose from, with how the sites are and how long they usually take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from offload_sites.catalog import Catalog, Profile, Purpose
from offload_sites.jobs import Resources, SiteHealth
from offload_sites.ledger import Waits
from offload_sites.resolve import offered, one_worker, workers_per_job

__all__ = ["offers", "site_to_json", "sites_of", "waits_to_json"]


def sites_of(catalog: Catalog, groups: frozenset[str]) -> set[str]:
    """Return the names of all sites that a member of `groups` may use, for whatever purpose."""
    purposes: tuple[Purpose, ...] = ("session", "workers")
    profiles = [
        profile
        for purpose in purposes
        for profile in offered(catalog, purpose=purpose, groups=groups).values()
    ]
    return {site for profile in profiles for site in profile.sites}


def offers(
    catalog: Catalog,
    groups: frozenset[str],
    health: Mapping[str, SiteHealth],
    waits: Mapping[tuple[str, str], Waits],
) -> dict[str, Any]:
    """Return profiles and sites for a member of `groups`, as JSON values.

    Parameters
    ----------
    catalog : Catalog
        What there is.
    groups : frozenset of str
        The user's groups.
    health : mapping
        Of each site in `sites_of`.
    waits : mapping
        Profile and site to how long jobs waited there.
    """
    purposes: tuple[Purpose, ...] = ("session", "workers")
    allowed = {purpose: offered(catalog, purpose=purpose, groups=groups) for purpose in purposes}
    names = [
        name for name in catalog.profiles if any(name in profiles for profiles in allowed.values())
    ]
    return {
        "profiles": [
            {
                **_profile(catalog, name, catalog.profiles[name], waits),
                "for": [purpose for purpose in purposes if name in allowed[purpose]],
            }
            for name in names
        ],
        "sites": [
            {"name": name, "title": site.title, **site_to_json(health[name])}
            for name, site in catalog.sites.items()
            if name in health
        ],
    }


def _profile(
    catalog: Catalog,
    name: str,
    profile: Profile,
    waits: Mapping[tuple[str, str], Waits],
) -> dict[str, Any]:
    cpus = profile.resources.cpus.choices
    memory = profile.resources.memory
    most = min(catalog.sites[site].max_walltime for site in profile.sites)
    unit = one_worker(Resources(cpus[0], memory.bytes_for(cpus[0]), profile.resources.gpus))
    return {
        "name": name,
        "title": profile.title,
        "images": [
            {"name": image.name, "title": catalog.images[image.name].title}
            if image.name is not None
            else {"pattern": image.pattern}
            for image in profile.images
        ],
        "cpus": list(cpus),
        "memory_bytes": {str(number): memory.bytes_for(number) for number in cpus},
        "gpus": profile.resources.gpus,
        "walltime_s": {
            "default": _seconds(profile.walltime.default),
            "max": _seconds(min(profile.walltime.max, most) if profile.walltime.max else most),
        },
        "sites": [
            {
                "name": site,
                "waits": waits_to_json(waits.get((name, site), Waits())),
                "workers_per_job": workers_per_job(catalog.sites[site], unit),
            }
            for site in profile.sites
        ],
    }


def waits_to_json(waits: Waits) -> dict[str, Any]:
    """Return expected waits: seconds, or null below ten jobs; and the sentence for people."""
    return {
        "jobs": waits.count,
        "p50_s": _seconds(waits.p50),
        "p90_s": _seconds(waits.p90),
        "text": str(waits),
    }


def site_to_json(health: SiteHealth) -> dict[str, Any]:
    """Return how a site is."""
    return {
        "state": health.state.value,
        "reason": health.reason,
        "free_cpus": health.free_cpus,
    }


def _seconds(duration: timedelta | None) -> float | None:
    return duration.total_seconds() if duration is not None else None
