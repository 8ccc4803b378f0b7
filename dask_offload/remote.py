"""A workforce that the offload service of a hub keeps: the supervisor's side of it.

The service has the sites, the relay's key and the ledger; here are the scheduler, the authority of
the cluster, and the notebook. A heartbeat a second tells the service which workers are there, and
brings back what the sites say. What the service cannot do without, it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Self

from dask_offload.direct import own_address
from dask_offload.patience import patiently
from dask_offload.runtime import ClusterFolder
from dask_offload.service_client import API, ClusterGoneError, ServiceClient
from dask_offload.tls import ClusterAuthority
from dask_offload.workforce import Crew, Plan
from offload_relay.protocol import HUB_NET
from offload_sites.errors import OffloadError
from offload_sites.fleet_json import fleet_from_json
from offload_sites.fleet_view import FleetSnapshot

__all__ = ["RemoteWorkforce"]

log = logging.getLogger("offload-supervisor")

_CLOSE_S = 40.0
_SOON_S = 0.1
_MOVING = 0.3
_MOST_BACKOFF_S = 5.0


class RemoteWorkforce:
    """Keeps workers through the service. Made by `create`.

    Parameters
    ----------
    client : ServiceClient
        Has the token of this cluster.
    created : mapping
        What the service answered when the cluster was made.
    options : mapping
        What `OffloadCluster` asked for.
    authority : ClusterAuthority
        Signs the workers' certificates.
    crew : Crew
        The supervisor.
    """

    def __init__(
        self,
        client: ServiceClient,
        created: Mapping[str, Any],
        options: Mapping[str, Any],
        authority: ClusterAuthority,
        crew: Crew,
    ) -> None:
        self._client = client
        self._path = f"/clusters/{created['id']}"
        self._beat_s = float(created["heartbeat_s"])
        self._credential_for = timedelta(seconds=float(created["credential_s"]))
        self._options = options
        self._authority = authority
        self._crew = crew
        self._scheduler = ""
        self._fleet = FleetSnapshot(0, (), "", (), {}, None)
        self._version = -1
        self._order = int(created["order"])
        self._carried = 0
        self._relay_trouble = ""
        self._service_trouble = ""
        self._crew_wanted = True
        self._retiring: dict[int, asyncio.Task[None]] = {}
        self._retired: list[int] = []
        self._wake = asyncio.Event()
        self._beaten = asyncio.Condition()
        self._beating: asyncio.Task[None] | None = None
        #: Why the service has ended this cluster; empty while it goes on.
        self.over = ""
        #: How many workers this cluster may want at present.
        self.most = int(created["most"])
        #: How many workers this cluster may keep while it has nothing to do.
        self.seed = int(created["seed"])
        self.plan = _plan(created)

    @classmethod
    async def create(
        cls,
        folder: ClusterFolder,
        options: Mapping[str, Any],
        authority: ClusterAuthority,
        crew: Crew,
    ) -> Self:
        """Have the service make a cluster.

        Raises
        ------
        OffloadError
            The service refuses it, or has not answered for a while.
        """
        url = str(options["service"]["url"])
        client = ServiceClient(url, os.environ.get("JUPYTERHUB_API_TOKEN", ""))
        try:
            created = await _create(client, folder.name, options)
        finally:
            client.close()
        return cls(ServiceClient(url, created["secret"]), created, options, authority, crew)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in [self._beating, *self._retiring.values()]:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._client.close()

    def begin(self, scheduler: str) -> None:
        """Note where workers find their scheduler, and start the heartbeat."""
        self._scheduler = scheduler
        self._beating = asyncio.create_task(self._beat())

    # --- what the supervisor asks ----------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._fleet.wanted

    @property
    def trouble(self) -> str:
        """Why the service, or the relay as the service sees it, cannot be reached."""
        return self._service_trouble or self._relay_trouble

    async def want(self, workers: int) -> None:
        """Set how many workers there should be. Raises OffloadError if that is not allowed."""
        self._take(await self._client.call("POST", f"{self._path}/scale", {"workers": workers}))

    async def step(self) -> None:
        """Nothing to wait for: the heartbeat has a task of its own."""

    def snapshot(self) -> FleetSnapshot:
        """Return jobs, failures and troubles as the service last told them."""
        return self._fleet

    async def bytes_carried(self, *, fresh: bool = False) -> int:
        """Return how many bytes the relay has carried; `fresh`: as of the next heartbeat."""
        if fresh:
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * self._beat_s), self._beaten:
                    await self._beaten.wait()
        return self._carried

    async def logs(self, job: str | None) -> dict[str, str]:
        """Return the ends of the logs of one job, or of all that have some, by key."""
        query = {"job": job} if job else {}
        found: dict[str, str] = await self._client.call(
            "GET", f"{self._path}/logs", query=query, timeout_s=60
        )
        return found

    async def retry(self) -> None:
        """Forget past failures, and start the refill again."""
        self._take(await self._client.call("POST", f"{self._path}/retry", {}))

    async def close(self, reason: str) -> list[str]:
        """End all jobs; return those that their sites have not confirmed as ended in time."""
        if self._beating is not None:
            self._beating.cancel()
        try:
            answer = await self._client.call("DELETE", self._path, timeout_s=_CLOSE_S)
        except ClusterGoneError:
            return []
        except OffloadError as error:
            # It ends the cluster by itself when it has not heard of us for a while.
            log.warning("%s: %s", reason, error)
            return [str(job.handle or job.key) for job in self._fleet.jobs if not job.ended]
        self._take(answer)
        return list(answer["left"])

    # --- heartbeat -------------------------------------------------------------------------------

    async def _beat(self) -> None:
        failures = 0
        while not self.over:
            began_s = time.monotonic()
            try:
                await self._beat_once()
                failures = 0
            except ClusterGoneError as error:
                self.over = error.message
            except OffloadError as error:
                failures += 1
                if not self._service_trouble:
                    log.warning("%s", error)
                self._service_trouble = error.message
            except Exception:  # the loop must survive; the traceback is logged
                failures += 1
                log.exception("a heartbeat failed")
            self._crew.poke()
            async with self._beaten:
                self._beaten.notify_all()
            await self._until_next(began_s, failures)

    async def _until_next(self, began_s: float, failures: int) -> None:
        if failures:
            await asyncio.sleep(min(_MOST_BACKOFF_S, 0.5 * 2**failures) * random.uniform(0.5, 1))  # noqa: S311
            return
        # While workers come or go their users are looking; else a second is soon enough.
        moving = len(self._crew.workers()) != self.wanted
        interval_s = self._beat_s * (_MOVING if moving else 1.0)
        left_s = interval_s - (time.monotonic() - began_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(_SOON_S, left_s)):
                await self._wake.wait()
        self._wake.clear()

    async def _beat_once(self) -> None:
        retired = list(self._retired)
        sent_crew = self._crew_wanted
        body = {
            "api": API,
            "jobs": self._table(),
            "seen": self._version,
            "order": self._order,
            "retired": retired,
            "adaptive": self._crew.bounds(),
            "crew": self._crew_file() if sent_crew else None,
        }
        answer = await self._client.call("POST", f"{self._path}/heartbeat", body)
        self._retired = [number for number in self._retired if number not in retired]
        if self._service_trouble:
            log.info("the offload service answers again")
        self._service_trouble = ""
        self._crew_wanted = bool(answer["crew"])
        if answer["ending"]:
            self.over = f"the cluster has been ended: {answer['ending']}"
        self._take(answer)
        self._obey(answer)
        if self._crew_wanted and not sent_crew:
            self._wake.set()

    def _table(self) -> dict[str, list[int]]:
        """Return for each job how many workers are there, their tasks, and the bytes they hold."""
        table: dict[str, list[int]] = {}
        for worker in self._crew.workers():
            row = table.setdefault(worker.job, [0, 0, 0])
            row[0] += 1
            row[1] += worker.processing
            row[2] += worker.held_bytes
        return table

    def _crew_file(self) -> dict[str, Any]:
        """Return what jobs need and only this side has: scheduler, certificate, Dask's settings."""
        credential = self._authority.issue("worker", self._credential_for)
        return {
            "scheduler": self._scheduler,
            "tls": {"ca": credential.ca, "cert": credential.cert, "key": credential.key},
            "settings": self._options["worker"],
        }

    def _take(self, answer: Mapping[str, Any]) -> None:
        """Keep what an answer says, unless a newer one has overtaken it."""
        if answer["version"] < self._version:
            return
        self._version = int(answer["version"])
        self.most = int(answer["most"])
        self.seed = int(answer["seed"])
        self._carried = int(answer["carried"])
        self._relay_trouble = str(answer["trouble"])
        if answer["fleet"] is not None:
            self._fleet = fleet_from_json(answer["fleet"])

    def _obey(self, answer: Mapping[str, Any]) -> None:
        for number, job, workers in answer["retire"]:
            if number not in self._retiring and number not in self._retired:
                self._retiring[number] = asyncio.create_task(self._retire(number, job, workers))
        order = answer["order"]
        if order is not None and int(order["number"]) > self._order:
            # Somebody has scaled this cluster from a page, or by the service's API.
            self._order = int(order["number"])
            bounds = order.get("adapt")
            self._crew.adapt((int(bounds[0]), int(bounds[1])) if bounds else None)

    async def _retire(self, number: int, job: str, workers: int) -> None:
        try:
            await self._crew.let_go(job, workers)
        finally:
            del self._retiring[number]
            self._retired.append(number)
            self._wake.set()


async def _create(
    client: ServiceClient, name: str, options: Mapping[str, Any]
) -> Mapping[str, Any]:
    body = {
        "api": API,
        "release": version("interlink-offload"),
        "name": name,
        "choice": options["choice"],
        "session": options["service"]["session"],
        "queue_budget_s": options["queue_budget_s"],
        "relay_grace_s": options["relay_grace_s"],
    }
    created: Mapping[str, Any] = await patiently(lambda: client.call("POST", "/clusters", body))
    return created


def _plan(created: Mapping[str, Any]) -> Plan:
    return Plan(
        id=str(created["id"]),
        title=str(created["title"]),
        image=str(created["image"]),
        sites=dict(created["sites"]),
        workers_per_job=int(created["workers_per_job"]),
        gpus_per_worker=int(created["gpus_per_worker"]),
        **_place(created["reach"]),
    )


def _place(reach: Mapping[str, str]) -> dict[str, Any]:
    """Return where the scheduler listens and how it dials: from the hub's side, or from a site."""
    net, dial = os.environ.get("OFFLOAD_NET"), os.environ.get("OFFLOAD_DIAL")
    if net and dial:
        # This session is a job itself: its agent is the way out, and the way in.
        token = os.environ.get("OFFLOAD_DIAL_TOKEN", "")
        inside = {"scope": net, "dial": dial, "token": token, "register": True}
        return {"bind": "127.0.0.1", "reach": inside}
    outside = {"scope": HUB_NET, "dial": reach["dial"], "token": reach["token"]}
    return {"bind": own_address(reach["dial"]), "reach": outside}
