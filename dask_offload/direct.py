"""A workforce without a hub: the sites of a catalog, a relay that is given or started on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from dask_offload.bundle import write_worker_agent
from dask_offload.children import Child
from dask_offload.recruit import WorkerJobs, site_place
from dask_offload.relay_option import relay_access
from dask_offload.runtime import ClusterFolder, cluster_folders
from dask_offload.tls import LIFETIME, ClusterAuthority
from dask_offload.workforce import Crew, Plan
from offload_relay.access import RelayAccess
from offload_relay.lease import Lease, new_key, sign
from offload_relay.owner import Owner
from offload_relay.protocol import HUB_NET
from offload_sites.catalog import Catalog
from offload_sites.errors import OffloadError
from offload_sites.fleet import Fleet
from offload_sites.fleet_plan import FleetJob, Policy, Word, word_of
from offload_sites.fleet_view import FleetSnapshot
from offload_sites.jobs import AgentStatus, JobSpec, SecretFiles
from offload_sites.load import default_catalog, load_catalog
from offload_sites.registry import create_backend
from offload_sites.resolve import Choice, Resolved, resolve, workers_per_job
from offload_sites.seed import seed_share

__all__ = ["DirectWorkforce", "own_address"]

log = logging.getLogger("offload-supervisor")

_RESTART_S = 0.25
_COUNTERS_S = 2.0
_MOST = 100_000
_SEED_FILE = "seed.json"


class DirectWorkforce:
    """Talks to sites and relay itself.

    Parameters
    ----------
    folder : ClusterFolder
        Files of the cluster.
    options : mapping
        What `OffloadCluster` asked for (`cluster.json`).
    authority : ClusterAuthority
        Signs the workers' certificates.
    crew : Crew
        The supervisor.

    Raises
    ------
    OffloadError
        What is asked for does not exist, or cannot be reached from its site.
    """

    def __init__(
        self,
        folder: ClusterFolder,
        options: Mapping[str, Any],
        authority: ClusterAuthority,
        crew: Crew,
    ) -> None:
        self._folder = folder
        self._options = options
        self._authority = authority
        self._crew = crew
        self._id = str(options["id"])
        self._catalog = _catalog(options)
        self._choice = resolve(
            self._catalog,
            Choice(**options["choice"]),
            purpose="workers",
            groups=None,  # who loads a catalog could as well edit it
        )
        self._policies = {n: _policy(self._catalog, self._choice, n) for n in self._choice.sites}
        self._child, self._access = _relay(folder, options["relay"])
        if self._child is not None:
            _check_reach(self._catalog, self._choice)
        self._token = self._owner_lease()
        self._counted = asyncio.Event()
        self._carried: dict[str, int] = {}
        self._claims_seed = False
        self._stack = contextlib.AsyncExitStack()
        self._jobs: WorkerJobs | None = None
        self.plan = self._plan()

    def _owner_lease(self) -> str:
        lease = Lease(
            role="owner",
            user=str(self._options["user"]),
            domain=self._id,
            expires=datetime.now(UTC) + LIFETIME,
            dial=(f"*.{self._id}",),
        )
        return sign(lease, self._access.key)

    def _plan(self) -> Plan:
        choice = self._choice
        return Plan(
            id=self._id,
            title=choice.title,
            image=choice.image.title or choice.image.name,
            sites={name: self._catalog.sites[name].title for name in choice.sites},
            workers_per_job=self._policies[choice.sites[0]].workers_per_job,
            gpus_per_worker=choice.resources.gpus,
            bind="127.0.0.1" if self._child else own_address(self._access.dial),
            reach={"scope": HUB_NET, "dial": self._access.dial, "token": self._token},
        )

    # --- start and end ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with self._stack as stack:
            if self._child is not None:
                stack.push_async_callback(self._child.stop)
                await self._child.start()
                keeper = asyncio.create_task(self._keep_relay(self._child))
                stack.push_async_callback(_cancelled, keeper)
            self._owner = await stack.enter_async_context(
                Owner(self._access.url, self._owner_lease, self._changed, tls=_tls(self._access))
            )
            backends = {
                name: await stack.enter_async_context(
                    create_backend(name, self._catalog.sites[name])
                )
                for name in self._choice.sites
            }
            self._fleet = Fleet(self._id, backends, self, self._policies, changed=self._crew.poke)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _keep_relay(self, relay: Child) -> None:
        """Start the relay again whenever it ends: its port stays, and agents come back to it."""
        while True:
            await relay.wait()
            log.warning("the relay has ended (%s); starting it again", relay.last_line())
            await relay.start()
            await asyncio.sleep(_RESTART_S)

    def _changed(self) -> None:
        self._counted.set()
        self._crew.poke()

    def begin(self, scheduler: str) -> None:
        """Note where workers find their scheduler."""
        choice, options = self._choice, self._options
        self._jobs = WorkerJobs(
            domain=self._id,
            user=str(options["user"]),
            scheduler=scheduler,
            relay=self._access,
            credential=functools.partial(self._authority.issue, "worker"),
            agent=write_worker_agent(self._folder.path),
            image=choice.image,
            unit=choice.resources,
            walltime=choice.walltime,
            queue_budget=timedelta(seconds=float(options["queue_budget_s"])),
            unreachable=timedelta(seconds=float(options["relay_grace_s"])),
            places={
                name: site_place(name, site.kind, site.network)
                for name in choice.sites
                if (site := self._catalog.sites[name])
            },
            settings={
                **options["worker"],
                "preload": [*choice.preload, *options["worker"]["preload"]],
            },
            environment=choice.environment,
            labels={
                "owner": str(options["user"]),
                "cluster": self._folder.name,
                "profile": choice.profile,
            },
        )

    # --- what the supervisor asks ----------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self._fleet.wanted

    @property
    def most(self) -> int:
        """As many as a person can have meant: nobody else is asked."""
        return _MOST

    @property
    def seed(self) -> int:
        """Return this cluster's share of what its site keeps, among this user's clusters here."""
        seed = self._catalog.sites[self._choice.sites[0]].seed
        if not seed:
            return 0
        place = self._seed_claim()["of"]
        claims = [one.read(_SEED_FILE) for one in cluster_folders() if one.alive]
        others = {str(claim["id"]) for claim in claims if claim.get("of") == place}
        return seed_share(seed, {"": {self._id, *others}}, "", self._id)

    def _seed_claim(self) -> dict[str, object]:
        return {"id": self._id, "of": [self._options.get("catalog"), self._choice.sites[0]]}

    def _claim_seed(self) -> None:
        """Let this user's other clusters know whether this one takes a share of the seed."""
        claims = self._crew.bounds() is not None
        if claims == self._claims_seed:
            return
        self._claims_seed = claims
        if claims:
            self._folder.write(_SEED_FILE, self._seed_claim())
        else:
            (self._folder.path / _SEED_FILE).unlink(missing_ok=True)

    @property
    def trouble(self) -> str:
        """Why the relay cannot be reached; empty if it can."""
        return self._owner.trouble

    @property
    def over(self) -> str:
        """Nothing: it ends only when it is told to."""
        return ""

    async def want(self, workers: int) -> None:
        """Set how many workers there should be."""
        self._fleet.wanted = workers

    async def step(self) -> None:
        """See what there is, and do what brings it nearer to what is wanted."""
        self._claim_seed()
        agents = {key: AgentStatus.from_entry(entry) for key, entry in self._owner.agents.items()}
        await self._fleet.step(agents, heard=not self._owner.trouble)
        self._owner.forget_others({job.key for job in self._fleet.jobs})

    def snapshot(self) -> FleetSnapshot:
        """Return jobs, failures and troubles."""
        return self._fleet.snapshot()

    async def bytes_carried(self, *, fresh: bool = False) -> int:
        """Return how many bytes the relay has carried; `fresh`: counted at most a second ago."""
        if fresh:
            self._counted.clear()
            with contextlib.suppress(TimeoutError):
                # The relay tells when something has changed; if nothing has, the count is right.
                async with asyncio.timeout(_COUNTERS_S):
                    await self._counted.wait()
        for key, entry in self._owner.agents.items():
            self._carried[key] = int(entry.get("bytes_in", 0)) + int(entry.get("bytes_out", 0))
        return sum(self._carried.values())

    async def logs(self, job: str | None) -> dict[str, str]:
        """Return the ends of the logs of one job, or of all that have some, by key."""
        return await self._fleet.all_logs(job)

    async def retry(self) -> None:
        """Forget past failures, and start the refill again."""
        self._fleet.retry()

    async def close(self, reason: str) -> list[str]:
        """End all jobs; return those that their sites have not confirmed as ended in time."""
        await self._owner.gone([], reason)
        left = await self._fleet.close()
        for job in left:
            log.error("job %s (%s) may still be there: %s", job.handle, job.key, word_of(job).value)
        return [str(job.handle or job.key) for job in left if word_of(job) is not Word.ENDED]

    # --- what the fleet asks ---------------------------------------------------------------------

    def prepare(
        self, site: str, workers: int, keys: Sequence[str]
    ) -> tuple[JobSpec, Mapping[str, SecretFiles]]:
        """Return the spec of jobs with `workers` workers each at `site`, and each job's secrets."""
        assert self._jobs is not None  # noqa: S101  # `begin` comes before the first step
        return self._jobs.prepare(site, workers, keys)

    async def retire(self, job: FleetJob, workers: int) -> None:
        """Let the `workers` workers of `job` that hold least hand it over and end."""
        await self._crew.let_go(job.key, workers)

    def registered(self, job: FleetJob) -> int:
        """Return how many workers of `job` the scheduler has."""
        return sum(worker.job == job.key for worker in self._crew.workers())

    async def dismiss(self, keys: Sequence[str]) -> None:
        """Tell the agents of these jobs that nobody needs them any more."""
        await self._owner.gone(list(keys), "its job is no longer wanted")

    def idle_first(self) -> Sequence[str]:
        """Return keys of working jobs, those with the least work and data first."""
        load: dict[str, tuple[int, int]] = {}
        for worker in self._crew.workers():
            tasks, held = load.get(worker.job, (0, 0))
            load[worker.job] = (tasks + worker.processing, held + worker.held_bytes)
        return sorted(load, key=lambda key: load[key])


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _catalog(options: Mapping[str, Any]) -> Catalog:
    path = options.get("catalog")
    return load_catalog(Path(path)) if path else default_catalog()


def _policy(catalog: Catalog, choice: Resolved, site: str) -> Policy:
    return Policy(
        workers_per_job=workers_per_job(catalog.sites[site], choice.resources),
        patience=choice.patience,
    )


def _relay(
    folder: ClusterFolder, given: Mapping[str, Any] | None
) -> tuple[Child | None, RelayAccess]:
    """Return the relay to use: the given one, or a child on loopback with sockets of ours."""
    if given:
        return None, relay_access(given)
    key = folder.path / "relay.key"
    key.touch(mode=0o600)
    key.write_bytes(new_key())
    public, dial = _listener(), _listener()
    argv = ["relay", "--public", f"fd:{public.fileno()}", "--dial", f"fd:{dial.fileno()}"]
    child = Child(
        "offload_cli",
        [*argv, "--key-file", str(key)],
        folder.path / "relay.log",
        keep=(public, dial),
    )
    access = RelayAccess(
        url=f"ws://127.0.0.1:{public.getsockname()[1]}",
        dial=f"127.0.0.1:{dial.getsockname()[1]}",
        key=key.read_bytes(),
    )
    return child, access


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.set_inheritable(True)
    return listener


def _check_reach(catalog: Catalog, choice: Resolved) -> None:
    """Say at once, not after an hour in a queue, that a site cannot reach a relay on loopback."""
    for name in choice.sites:
        if catalog.sites[name].kind != "local":
            raise OffloadError(
                f"site {name!r} cannot reach a relay on the loopback address of this computer",
                "set offload.relay (url, dial, key-file) to a relay that the site can dial",
            )


def own_address(dial: str) -> str:
    """Return the address of this computer that connections to the relay leave from."""
    host, _, port = dial.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise OffloadError(
            f"the dial port of the relay, {dial}, cannot be reached from here: {error.strerror}",
            "ask whoever runs the relay for its address in this network",
        ) from error


def _tls(access: RelayAccess) -> ssl.SSLContext | None:
    if not access.url.startswith("wss://"):
        return None
    return ssl.create_default_context(cadata=access.ca or None)
