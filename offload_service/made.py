"""What one cluster was made of, as it is kept: no later edit of the catalog changes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from dask_offload.recruit import site_place
from offload_relay.access import SitePlace
from offload_service.bodies import CreateBody
from offload_service.settings import UserLimits
from offload_sites.catalog import Catalog
from offload_sites.choose import DEFAULT_PATIENCE
from offload_sites.errors import InvalidOptionsError
from offload_sites.jobs import ImageRef, Resources
from offload_sites.resolve import Choice, Resolved, offered, resolve, workers_per_job

__all__ = ["Made", "MadeSite", "make"]


@dataclass(frozen=True)
class MadeSite:
    """What matters of one of its sites."""

    title: str
    workers_per_job: int
    place: SitePlace


@dataclass(frozen=True)
class Made:
    """What a cluster was made of.

    Parameters
    ----------
    profile, title : str
        Of the profile.
    image : ImageRef
        What workers run in.
    unit : Resources
        Of one worker.
    walltime, queue_budget, unreachable : timedelta
        How long a job may run, wait, and be without its relay.
    preload : tuple of str
        Modules of the profile.
    environment : mapping
        Variables of the profile.
    sites : mapping
        Name to what matters of it, the preferred one first.
    patience : timedelta
        How long a job may wait at one of several sites.
    """

    profile: str
    title: str
    image: ImageRef
    unit: Resources
    walltime: timedelta
    queue_budget: timedelta
    unreachable: timedelta
    preload: tuple[str, ...]
    environment: Mapping[str, str]
    sites: Mapping[str, MadeSite]
    patience: timedelta = DEFAULT_PATIENCE

    @property
    def lifetime(self) -> timedelta:
        """After this time from its submission no job can be there any more."""
        return self.queue_budget + self.walltime

    def ordered(self, sites: Sequence[str]) -> Made:
        """Return it with its sites in another order."""
        return replace(self, sites={name: self.sites[name] for name in sites})

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        durations = ("walltime", "queue_budget", "unreachable", "patience")
        return {**asdict(self), **{name: getattr(self, name).total_seconds() for name in durations}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Made:
        """Return what `to_json` wrote."""
        durations = ("walltime", "queue_budget", "unreachable", "patience")
        return cls(
            **{
                **value,
                **{name: timedelta(seconds=value[name]) for name in durations},
                "image": ImageRef(**value["image"]),
                "unit": Resources(**value["unit"]),
                "preload": tuple(value["preload"]),
                "sites": {
                    name: MadeSite(**{**site, "place": SitePlace(**site["place"])})
                    for name, site in value["sites"].items()
                },
            }
        )


def make(body: CreateBody, catalog: Catalog, groups: frozenset[str], limits: UserLimits) -> Made:
    """Return what a cluster that `body` asks for is made of.

    Raises
    ------
    InvalidOptionsError
        A sentence on the first thing that is not offered to a member of `groups`, with what is.
    """
    resolved = _resolve(body, catalog, groups)
    return Made(
        profile=resolved.profile,
        title=resolved.title,
        image=resolved.image,
        unit=resolved.resources,
        walltime=resolved.walltime,
        queue_budget=min(timedelta(seconds=body.queue_budget_s), limits.queue_budget),
        unreachable=min(timedelta(seconds=body.relay_grace_s), limits.relay_grace),
        preload=resolved.preload,
        environment=dict(resolved.environment),
        sites={
            name: MadeSite(
                site.title,
                workers_per_job(site, resolved.resources),
                site_place(name, site.kind, site.network),
            )
            for name in resolved.sites
            if (site := catalog.sites[name])
        },
        patience=resolved.patience,
    )


def _resolve(body: CreateBody, catalog: Catalog, groups: frozenset[str]) -> Resolved:
    """Return what was asked for; what was not, as the caller's session has it where that is offered."""
    choice = Choice(**body.choice.model_dump())
    if choice.profile is None and body.session.profile in offered(
        catalog, purpose="workers", groups=groups
    ):
        choice = Choice(**{**body.choice.model_dump(), "profile": body.session.profile})
    if choice.image is None and body.session.image is not None:
        like = Choice(**{**choice.__dict__, "image": body.session.image})
        try:
            return resolve(catalog, like, purpose="workers", groups=groups)
        except InvalidOptionsError:
            pass  # the profile has no such image, or something else is wrong: said below
    return resolve(catalog, choice, purpose="workers", groups=groups)
