"""The REST API, as docs/reference/service-api.md describes it."""

from __future__ import annotations

import asyncio
import contextlib
from importlib.metadata import version
from typing import Any

from dask_offload.service_client import API
from dask_offload.tls import LIFETIME
from offload_service.addresses import check_scheduler
from offload_service.bodies import (
    AdaptBody,
    CheckBody,
    CreateBody,
    HeartbeatBody,
    NoBody,
    ScaleBody,
)
from offload_service.cluster import Cluster
from offload_service.handlers import ApiHandler, Service
from offload_service.made import make
from offload_service.offers import offers, site_to_json, sites_of, waits_to_json
from offload_sites.choose import in_order
from offload_sites.errors import CatalogError, OffloadError
from offload_sites.ledger import JobRecord, Waits
from offload_sites.load import parse_catalog

__all__ = ["catalog_problems", "routes"]

_CLOSE_S = 30.0
_MOST_ROWS = 1000

# tornado types its handlers for subclasses of itself; each method here is what it calls for a verb.


class Root(ApiHandler):
    """Which release this is, and who the caller is to it."""

    async def get(self) -> None:
        caller = self.user()
        limits = self.service.tools.settings.limits
        self.answer(
            {
                "api": API,
                "release": version("interlink-offload"),
                "user": caller.name,
                "admin": caller.admin,
                "limits": {"clusters": limits.clusters, "workers": limits.workers},
            }
        )


class Offers(ApiHandler):
    """Profiles and sites that the caller may use."""

    async def get(self) -> None:
        caller = self.user()
        catalog = self.service.catalog.catalog
        health = await self.service.health(sites_of(catalog, caller.groups), caller.name)
        waits = await self.read(self.service.tools.books.ledger.all_waits)
        self.answer(offers(catalog, caller.groups, health, waits))


class AllClusters(ApiHandler):
    """The caller's clusters."""

    async def get(self) -> None:
        caller = self.user()
        self.answer([_summary(cluster) for cluster in self.service.clusters.of(caller.name)])

    async def post(self) -> None:
        caller = self.user()
        body = self.body(CreateBody)
        catalog = self.service.catalog.catalog
        made = make(body, catalog, caller.groups, self.service.tools.settings.limits)
        if len(made.sites) > 1:
            health = await self.service.health(set(made.sites), caller.name)
            found = await self.read(self.service.tools.books.ledger.all_waits)
            waits = {site: found.get((made.profile, site), Waits()) for site in made.sites}
            made = made.ordered(in_order(made.sites, health, waits))
        cluster, token = await self.service.clusters.create(body.name, made, caller)
        self.answer(_created(self.service, cluster, token), 201)


class OneCluster(ApiHandler):
    """One cluster, and its end."""

    async def get(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        self.answer({**_summary(found), "snapshot": found.snapshot().to_json()})

    async def delete(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        await found.close(
            "its notebook has ended it" if self.known.cluster else "ended from outside"
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await found.ended.wait()
        self.answer({**_state(self.service, found, -1), "left": found.left})


class Heartbeat(ApiHandler):
    """The word of a cluster's notebook side."""

    async def post(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        body = self.body(HeartbeatBody)
        if body.crew is not None:
            check_scheduler(
                body.crew.scheduler,
                user=found.user,
                caller=self.address,
                networks=self.service.tools.settings.scheduler_networks,
            )
        found.heard(body)
        self.answer(_state(self.service, found, body.seen))


class Scale(ApiHandler):
    """How many workers there should be."""

    async def post(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        await self.service.clusters.scale(found, self.body(ScaleBody).workers)
        if not self.known.cluster:
            found.notebook.order(None)
        self.answer(_state(self.service, found, -1))


class Adapt(ApiHandler):
    """The bounds within which the number of workers follows the load."""

    async def post(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        body = self.body(AdaptBody)
        if body.minimum > body.maximum:
            raise OffloadError(f"the minimum {body.minimum} is above the maximum {body.maximum}")
        within = max(body.minimum, min(body.maximum, found.wanted))
        await self.service.clusters.scale(found, within)
        found.notebook.order((body.minimum, body.maximum))
        self.answer(_state(self.service, found, -1))


class Retry(ApiHandler):
    """Submit again after jobs have failed too often."""

    async def post(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        self.body(NoBody)
        found.retry()
        self.answer(_state(self.service, found, -1))


class Jobs(ApiHandler):
    """The jobs of one cluster, both axes of each."""

    async def get(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        self.answer(_state(self.service, found, -1)["fleet"]["jobs"])


class Logs(ApiHandler):
    """What jobs have printed, as text; who shows it has to escape it."""

    async def get(self, cluster: str) -> None:
        found = await self.cluster(cluster)
        self.answer(await found.logs(self.get_query_argument("job", None)))


class MyJobs(ApiHandler):
    """The caller's jobs of all sorts, from the ledger; an administrator may ask for everybody's."""

    async def get(self) -> None:
        everybody = self.get_query_argument("all", "") == "yes"
        caller = self.admin() if everybody else self.user()
        ended = self.get_query_argument("ended", "") == "yes"
        ledger = self.service.tools.books.ledger
        jobs = await self.read(
            lambda: ledger.jobs(
                user=None if everybody else caller.name, ended=ended, limit=_MOST_ROWS
            )
        )
        self.answer([_job(job) for job in jobs])


class Sites(ApiHandler):
    """All sites and profiles with their waits, for the administrator."""

    async def get(self) -> None:
        caller = self.admin()
        catalog = self.service.catalog.catalog
        health = await self.service.health(set(catalog.sites), caller.name)
        ledger = self.service.tools.books.ledger
        waits = await self.read(ledger.all_waits)
        usage = await self.read(ledger.usage)
        self.answer(
            {
                "sites": {name: site_to_json(one) for name, one in health.items()},
                "waits": [
                    {"profile": profile, "site": site, **waits_to_json(one)}
                    for (profile, site), one in sorted(waits.items())
                ],
                "usage": [dict(one.__dict__) for one in usage],
                "ledger": self.service.tools.books.trouble,
            }
        )


class CatalogText(ApiHandler):
    """The catalog in use, with the problems of the file as it is now."""

    async def get(self) -> None:
        self.admin()
        keeper = self.service.catalog
        self.answer({"file": keeper.path.name, "text": keeper.text, "problems": keeper.problems})


class CatalogCheck(ApiHandler):
    """All problems of a catalog that is not in use."""

    async def post(self) -> None:
        self.admin()
        self.answer(
            {"problems": await asyncio.to_thread(catalog_problems, self.body(CheckBody).text)}
        )


class Nothing(ApiHandler):
    """Whatever is not there."""

    async def prepare(self) -> None:
        self.answer({"message": f"there is no {self.request.path}", "hint": ""}, 404)


def routes(prefix: str) -> list[Any]:
    """Return the routes below `prefix`, which ends in a slash."""
    one = rf"{prefix}api/clusters/(?P<cluster>[a-z0-9-]{{1,63}})"
    return [
        (rf"{prefix}api/?", Root),
        (rf"{prefix}api/offers", Offers),
        (rf"{prefix}api/clusters", AllClusters),
        (one, OneCluster),
        (rf"{one}/heartbeat", Heartbeat),
        (rf"{one}/scale", Scale),
        (rf"{one}/adapt", Adapt),
        (rf"{one}/retry", Retry),
        (rf"{one}/jobs", Jobs),
        (rf"{one}/logs", Logs),
        (rf"{prefix}api/jobs", MyJobs),
        (rf"{prefix}api/sites", Sites),
        (rf"{prefix}api/catalog", CatalogText),
        (rf"{prefix}api/catalog/check", CatalogCheck),
        (rf"{prefix}api/.*", Nothing),
    ]


# --- JSON ----------------------------------------------------------------------------------------


def _state(service: Service, cluster: Cluster, seen: int) -> dict[str, Any]:
    return cluster.answer(
        seen=seen,
        most=service.clusters.most(cluster),
        seed=service.clusters.seed(cluster, service.catalog.catalog),
    )


def _created(service: Service, cluster: Cluster, token: str) -> dict[str, Any]:
    made, settings = cluster.made, service.tools.settings
    return {
        "id": cluster.id,
        "secret": token,
        "title": made.title,
        "image": made.image.title or made.image.name,
        "sites": {name: site.title for name, site in made.sites.items()},
        "workers_per_job": next(iter(made.sites.values())).workers_per_job,
        "gpus_per_worker": made.unit.gpus,
        "reach": {"dial": settings.relay.dial, "token": cluster.owner_lease(LIFETIME)},
        "most": service.clusters.most(cluster),
        "seed": service.clusters.seed(cluster, service.catalog.catalog),
        "order": 0,
        "heartbeat_s": settings.heartbeat.total_seconds(),
        "credential_s": cluster.credential_for.total_seconds(),
    }


def _summary(cluster: Cluster) -> dict[str, Any]:
    snapshot = cluster.snapshot()
    return {
        "id": cluster.id,
        "name": cluster.name,
        "user": cluster.user,
        "profile": cluster.made.profile,
        "image": cluster.made.image.name,
        "created": cluster.created.isoformat(),
        "wanted": cluster.wanted,
        "workers": {
            word: snapshot.count(word) for word in ("working", "starting", "queued", "held", "lost")
        },
        "adaptive": list(cluster.notebook.adaptive) if cluster.notebook.adaptive else None,
        "stopped": snapshot.stopped,
        "ending": cluster.closing,
    }


def _job(job: JobRecord) -> dict[str, Any]:
    times = ("submitted", "started", "connected", "ended")
    return {
        **{
            name: getattr(job, name)
            for name in ("key", "user", "site", "profile", "image", "purpose", "group", "workers")
        },
        "handle": job.handle,
        "state": job.state.value,
        "agent": job.agent.value,
        "reason": job.reason,
        "cpus": job.resources.cpus,
        "memory_bytes": job.resources.memory_bytes,
        "gpus": job.resources.gpus,
        **{name: t.isoformat() if (t := getattr(job, name)) else None for name in times},
    }


def catalog_problems(text: str) -> list[str]:
    """Return all problems of a catalog, one line each; none if it is good."""
    try:
        parse_catalog(text)
    except CatalogError as error:
        return list(error.problems)
    return []
