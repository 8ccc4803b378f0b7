"""One process per cluster: owns its scheduler, its loopback relay, and its jobs.

Started by `OffloadCluster` as `python -m dask_offload.supervisor FOLDER`, detached. Notebooks attach
to its socket; it ends everything when it is told to, or when no notebook has been attached for the
grace time. It needs no Dask: what only Dask can do is asked of the scheduler's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dask_offload.adaptive import Adaptive, Bounds
from dask_offload.bundle import write_worker_agent
from dask_offload.children import Child
from dask_offload.owners import Owners
from dask_offload.recruit import WorkerJobs
from dask_offload.rpc import Caller, Handler, RpcClient, RpcServer
from dask_offload.runtime import ClusterFolder
from dask_offload.snapshot import Snapshot, WorkerInfo, make_snapshot
from dask_offload.tls import ClusterAuthority
from offload_relay.access import RelayAccess, SitePlace, site_label
from offload_relay.errors import RelayError
from offload_relay.lease import Lease, new_key, sign
from offload_relay.owner import Owner
from offload_relay.protocol import HUB_NET
from offload_sites.catalog import BaseSite, Catalog
from offload_sites.errors import OffloadError
from offload_sites.fleet import Fleet
from offload_sites.fleet_plan import FleetJob, Policy, Word, word_of
from offload_sites.jobs import AgentStatus, JobSpec, SecretFiles
from offload_sites.load import default_catalog, load_catalog
from offload_sites.registry import create_backend
from offload_sites.resolve import Choice, Resolved, resolve, workers_per_job

__all__ = ["main"]

log = logging.getLogger("offload-supervisor")

_LIFETIME = timedelta(days=30)
_TICK_S = 0.25
_QUIET_TICK_S = 1.0
_START_S = 60.0
_COUNTERS_S = 2.0


def main(argv: Sequence[str]) -> int:
    """Run the cluster described in `cluster.json` of the folder `argv[0]` until its end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    folder = ClusterFolder(Path(argv[0]))
    try:
        with folder.locked():
            asyncio.run(_supervise(folder))
    except (OffloadError, RelayError) as error:
        log.error("%s", error)  # noqa: TRY400  # a sentence for the user, no traceback
        folder.write("failed.json", {"message": error.message, "hint": error.hint})
        return 1
    except BaseException as error:
        log.exception("a fault in this program")
        message = f"the supervisor of {folder.name!r} failed ({type(error).__name__})"
        folder.write("failed.json", {"message": message, "hint": f"its log is {folder.path}"})
        raise
    folder.remove()
    return 0


async def _supervise(folder: ClusterFolder) -> None:
    async with contextlib.AsyncExitStack() as stack:
        supervisor = Supervisor(folder, folder.read("cluster.json"))
        await supervisor.start(stack)
        await supervisor.run()
        await supervisor.end()


class Supervisor:
    """One cluster.

    Parameters
    ----------
    folder : ClusterFolder
        Its files.
    options : mapping
        What `OffloadCluster` asked for (`cluster.json`).
    """

    def __init__(self, folder: ClusterFolder, options: Mapping[str, Any]) -> None:
        self._folder = folder
        self._options = options
        self._id = str(options["id"])
        self._catalog = _catalog(options)
        self._choice = resolve(
            self._catalog,
            Choice(**options["choice"]),
            purpose="workers",
            groups=None,  # who loads a catalog could as well edit it
        )
        self._authority = ClusterAuthority(self._id)
        self._owners = Owners(float(options["owner_grace_s"]))
        self._closing = asyncio.Event()
        self._closed: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._poked = asyncio.Event()
        self._counted = asyncio.Event()
        self._changed = asyncio.Condition()
        self._adaptive: Adaptive | None = None
        self._adapted_s = 0.0
        self._workers: list[WorkerInfo] = []
        self._carried: dict[str, int] = {}
        self._over = ""
        self._scheduler_at: dict[str, Any] = {}
        policies = {name: _policy(self._catalog, self._choice, name) for name in self._choice.sites}
        self._per_job = policies[self._choice.sites[0]].workers_per_job
        self._policies = policies
        self._snapshot = Snapshot(
            name=folder.name,
            version=0,
            wanted=0,
            title=self._choice.title,
            image=self._choice.image.title or self._choice.image.name,
            gpus_per_worker=self._choice.resources.gpus,
            workers_per_job=self._per_job,
        )

    # --- start ---------------------------------------------------------------------------------

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything but workers.

        Raises
        ------
        OffloadError
            Something needed could not be started; what was started is ended by `stack`.
        """
        self._relay_child, self._access = _relay(self._folder, self._options["relay"])
        if self._relay_child is not None:
            _check_reach(self._catalog, self._choice)
        lease = Lease(
            role="owner",
            user=str(self._options["user"]),
            domain=self._id,
            expires=datetime.now(UTC) + _LIFETIME,
            dial=(f"*.{self._id}",),
        )
        self._token = sign(lease, self._access.key)
        self._scheduler = Child(
            "dask_offload.scheduler",
            [str(self._folder.path)],
            self._folder.path / "scheduler.log",
        )
        self._write_scheduler_config()
        stack.push_async_callback(self._scheduler.stop)
        await self._scheduler.start()
        if self._relay_child is not None:
            stack.push_async_callback(self._relay_child.stop)
            await self._relay_child.start()
        self._owner = await stack.enter_async_context(
            Owner(self._access.url, self._token, self._agents_changed, tls=_tls(self._access))
        )
        backends = {
            name: await stack.enter_async_context(create_backend(name, self._catalog.sites[name]))
            for name in self._choice.sites
        }
        await self._scheduler.ready(self._folder.path / "scheduler-at.json", _START_S)
        self._scheduler_at = self._folder.read("scheduler-at.json")
        self._desk = await RpcClient.connect(self._folder.scheduler_socket)
        stack.push_async_callback(self._desk.close)
        self._jobs = self._worker_jobs()
        self._fleet = Fleet(self._id, backends, self, self._policies)
        await stack.enter_async_context(
            RpcServer(self._folder.supervisor_socket, self._handlers(), self._owners.left)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._closing.set)
        log.info("cluster %s is ready: scheduler %s", self._id, self._scheduler_at["address"])

    def _agents_changed(self) -> None:
        self._poked.set()
        self._counted.set()

    def _write_scheduler_config(self) -> None:
        credential = self._authority.issue("scheduler", _LIFETIME)
        self._folder.write(
            "scheduler.json",
            {
                "bind": "127.0.0.1" if self._relay_child else _own_address(self._access.dial),
                "reach": {"scope": HUB_NET, "dial": self._access.dial, "token": self._token},
                "tls": {"ca": credential.ca, "cert": credential.cert, "key": credential.key},
                "dashboard_address": self._options["dashboard_address"],
                "dask_config": self._options["dask_config"],
            },
        )

    def _worker_jobs(self) -> WorkerJobs:
        choice, options = self._choice, self._options
        return WorkerJobs(
            cluster=self._id,
            user=str(options["user"]),
            scheduler=str(self._scheduler_at["address"]),
            relay=self._access,
            authority=self._authority,
            agent=write_worker_agent(self._folder.path),
            image=choice.image,
            unit=choice.resources,
            walltime=choice.walltime,
            queue_budget=timedelta(seconds=float(options["queue_budget_s"])),
            unreachable=timedelta(seconds=float(options["relay_grace_s"])),
            places={name: _place(name, self._catalog.sites[name]) for name in choice.sites},
            settings={
                "versions": options["versions"],
                "version_check": options["version_check"],
                "preload": [*choice.preload, *options["preload"]],
                "dask_config": options["dask_config"],
                "worker_config": options["worker_config"],
                "register_timeout_s": options["register_timeout_s"],
            },
            environment=choice.environment,
            labels={
                "owner": str(options["user"]),
                "cluster": self._folder.name,
                "profile": choice.profile,
            },
        )

    # --- loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the cluster as it is wanted, until its end is asked for or its owners stay away."""
        async with asyncio.TaskGroup() as group:
            watchers = []
            if self._relay_child is not None:
                watchers.append(group.create_task(self._keep_relay(self._relay_child)))
            while not self._closing.is_set():
                await self._tick()
                if self._owners.away():
                    log.warning("no notebook has been attached for a while: ending the cluster")
                    break
                await self._pause()
            for watcher in watchers:
                watcher.cancel()

    async def _pause(self) -> None:
        moving = self._snapshot.count("working") != self._snapshot.wanted
        self._poked.clear()
        closing = asyncio.create_task(self._closing.wait())
        poked = asyncio.create_task(self._poked.wait())
        await asyncio.wait(
            {closing, poked},
            timeout=_TICK_S if moving else _QUIET_TICK_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        closing.cancel()
        poked.cancel()

    async def _tick(self) -> None:
        await self._ask_scheduler()
        agents = {key: AgentStatus.from_entry(entry) for key, entry in self._owner.agents.items()}
        if not self._over:
            await self._fleet.step(agents)
        self._count_bytes()
        await self._publish()

    def _count_bytes(self) -> None:
        for key, entry in self._owner.agents.items():
            self._carried[key] = int(entry.get("bytes_in", 0)) + int(entry.get("bytes_out", 0))

    async def _ask_scheduler(self) -> None:
        try:
            async with asyncio.timeout(10):
                self._workers = [WorkerInfo(*row) for row in await self._desk.call("workers")]
                await self._adapt_now()
        except TimeoutError:
            log.warning("the scheduler is busy: it has not answered for 10 s")
        except ConnectionError:
            if not self._over and not self._closing.is_set():
                await self._scheduler_lost()

    async def _scheduler_lost(self) -> None:
        await self._scheduler.wait()
        self._over = f"the scheduler has ended: {self._scheduler.last_line()}"
        log.error("%s", self._over)
        self._workers = []
        await self._owner.gone([], "its scheduler has ended")
        await self._fleet.close()

    async def _adapt_now(self) -> None:
        if self._adaptive is None:
            return
        now_s = time.monotonic()
        if now_s - self._adapted_s < float(self._options["adaptive"]["interval_s"]):
            return
        self._adapted_s = now_s
        answer = await self._desk.call("target", duration_s=self._adaptive.bounds.target_duration_s)
        wanted = self._adaptive.wanted(answer["target"], self._fleet.wanted, now_s)
        if wanted != self._fleet.wanted:
            log.info("adaptive: %d -> %d workers", self._fleet.wanted, wanted)
            self._fleet.wanted = wanted

    async def _publish(self) -> None:
        base = replace(
            self._snapshot,
            adaptive=(self._adaptive.bounds.minimum, self._adaptive.bounds.maximum)
            if self._adaptive
            else None,
            bytes_through_relay=sum(self._carried.values()),
        )
        titles = {name: self._catalog.sites[name].title or name for name in self._choice.sites}
        new = make_snapshot(
            base, self._fleet.snapshot(), self._workers, titles, trouble=self._owner.trouble
        )
        new = replace(new, stopped=self._over or new.stopped)
        if new != self._snapshot:
            self._snapshot = replace(new, version=self._snapshot.version + 1)
            async with self._changed:
                self._changed.notify_all()

    async def _keep_relay(self, relay: Child) -> None:
        """Start the relay again whenever it ends: its port stays, and agents come back to it."""
        while True:
            await relay.wait()
            if self._closing.is_set():
                return
            log.warning("the relay has ended (%s); starting it again", relay.last_line())
            await relay.start()
            await asyncio.sleep(_TICK_S)

    # --- what the fleet asks ---------------------------------------------------------------------

    def prepare(
        self, site: str, workers: int, keys: Sequence[str]
    ) -> tuple[JobSpec, Mapping[str, SecretFiles]]:
        """Return the spec of jobs with `workers` workers each at `site`, and each job's secrets."""
        return self._jobs.prepare(site, workers, keys)

    async def retire(self, job: FleetJob, workers: int) -> None:
        """Let the `workers` workers of `job` that hold least hand it over and end."""
        here = [worker for worker in self._workers if worker.job == job.key]
        here.sort(key=lambda worker: (worker.processing, worker.held_bytes))
        names = [worker.name for worker in here[:workers]]
        if names:
            with contextlib.suppress(ConnectionError):
                gone = set(await self._desk.call("retire", names=names))
                # What was counted before must not be counted again, or one more would have to go.
                self._workers = [worker for worker in self._workers if worker.name not in gone]

    def registered(self, job: FleetJob) -> int:
        """Return how many workers of `job` the scheduler has."""
        return sum(worker.job == job.key for worker in self._workers)

    def idle_first(self) -> Sequence[str]:
        """Return keys of working jobs, those with the least work and data first."""
        load: dict[str, tuple[int, int]] = {}
        for worker in self._workers:
            tasks, held = load.get(worker.job, (0, 0))
            load[worker.job] = (tasks + worker.processing, held + worker.held_bytes)
        return sorted(load, key=lambda key: load[key])

    # --- what notebooks ask ----------------------------------------------------------------------

    def _handlers(self) -> dict[str, Handler]:
        return {
            "attach": self._attach,
            "scale": self._scale,
            "adapt": self._adapt,
            "changes": self._changes,
            "carried": self._bytes_carried,
            "logs": self._logs,
            "events": self._events,
            "retry": self._retry,
            "close": self._close,
        }

    async def _attach(self, caller: Caller, pid: int) -> dict[str, Any]:
        """Note that a notebook is there, and tell it how to reach the scheduler."""
        self._owners.came(caller, pid)
        credential = self._authority.issue("client", _LIFETIME)
        return {
            "id": self._id,
            "name": self._folder.name,
            "scheduler": self._scheduler_at["address"],
            "dashboard_port": self._scheduler_at["dashboard_port"],
            "tls": {"ca": credential.ca, "cert": credential.cert, "key": credential.key},
            "reach": {"scope": HUB_NET, "dial": self._access.dial, "token": self._token},
            "snapshot": self._snapshot.to_json(),
        }

    async def _scale(self, _: Caller, workers: int) -> dict[str, Any]:
        self._check_open()
        self._adaptive = None
        self._fleet.wanted = workers
        return await self._changed_by_hand()

    async def _adapt(self, _: Caller, minimum: int, maximum: int, **times: float) -> dict[str, Any]:
        self._check_open()
        settings = self._options["adaptive"]
        self._adaptive = Adaptive(
            Bounds(
                minimum,
                maximum,
                float(times.get("target_duration_s") or settings["target_duration_s"]),
                float(times.get("grace_s") or settings["grace_s"]),
            ),
            self._per_job,
        )
        self._adapted_s = 0.0
        self._fleet.wanted = self._adaptive.bounded(self._fleet.wanted)
        return await self._changed_by_hand()

    async def _changes(self, _: Caller, since: int, timeout_s: float) -> dict[str, Any]:
        """Return the snapshot as soon as it is newer than `since`, at the latest in `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._snapshot.version > since)
        return self._snapshot.to_json()

    async def _bytes_carried(self, _: Caller) -> int:
        """Return how many bytes the relay has carried, counted at most a second or so ago."""
        self._counted.clear()
        with contextlib.suppress(TimeoutError):
            # The relay tells when something has changed; if nothing has, the old count is right.
            async with asyncio.timeout(_COUNTERS_S):
                await self._counted.wait()
        self._count_bytes()
        return sum(self._carried.values())

    async def _logs(self, _: Caller, job: str | None) -> dict[str, str]:
        """Return the ends of the logs of one job, or of all that have some, by key."""
        found: dict[str, str] = {}
        for one in self._fleet.jobs:
            if one.handle is None or job not in (None, one.key, str(one.handle)):
                continue
            try:
                logs = await self._fleet.logs(one)
            except OffloadError as error:
                found[one.key] = f"({error.message})"
            else:
                found[one.key] = "\n".join(text for text in (logs.stdout, logs.stderr) if text)
        if job is not None and not found:
            raise OffloadError(
                f"no job of this cluster is called {job!r}", "its jobs are listed by cluster.jobs()"
            )
        return found

    async def _events(self, _: Caller) -> dict[str, str]:
        """Return the ends of the logs of the supervisor, the scheduler and the relay."""
        return {
            path.stem: path.read_text(errors="replace")[-65536:]
            for path in sorted(self._folder.path.glob("*.log"))
        }

    async def _retry(self, _: Caller) -> dict[str, Any]:
        self._check_open()
        self._fleet.retry()
        return await self._changed_by_hand()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise OffloadError(
                f"the cluster {self._folder.name!r} has ended",
                "start a new one with OffloadCluster()",
            )

    async def _changed_by_hand(self) -> dict[str, Any]:
        """Return the snapshot after a change: who has asked must not see the state before it."""
        await self._publish()
        self._poked.set()
        return self._snapshot.to_json()

    async def _close(self, _: Caller) -> list[str]:
        """End the cluster; return the jobs that their sites have not confirmed as ended."""
        self._closing.set()
        return await asyncio.shield(self._closed)

    # --- end -----------------------------------------------------------------------------------

    async def end(self) -> None:
        """End the workers, then the jobs, then the rest."""
        log.info("ending")
        with contextlib.suppress(ConnectionError, TimeoutError):
            # Workers that are told to close end by themselves: the fastest way, and the cleanest.
            async with asyncio.timeout(5):
                await self._desk.call("close")
        await self._owner.gone([], "its cluster has ended")
        left = await self._fleet.close()
        for job in left:
            log.error("job %s (%s) may still be there: %s", job.handle, job.key, word_of(job).value)
        await self._publish()
        self._closed.set_result(
            [str(job.handle or job.key) for job in left if word_of(job) is not Word.ENDED]
        )
        # Let the answer to `close` go out.
        await asyncio.sleep(_TICK_S)


def _catalog(options: Mapping[str, Any]) -> Catalog:
    path = options.get("catalog")
    return load_catalog(Path(path)) if path else default_catalog()


def _policy(catalog: Catalog, choice: Resolved, site: str) -> Policy:
    return Policy(workers_per_job=workers_per_job(catalog.sites[site], choice.resources))


def _place(name: str, site: BaseSite) -> SitePlace:
    shared = site.network == "site"
    bind = "127.0.0.1" if site.kind == "local" or not shared else "auto"
    return SitePlace(site_label(name), shared, bind)


def _relay(
    folder: ClusterFolder, given: Mapping[str, Any] | None
) -> tuple[Child | None, RelayAccess]:
    """Return the relay to use: the given one, or a child on loopback with sockets of ours."""
    if given:
        return None, _given_relay(given)
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


def _given_relay(given: Mapping[str, Any]) -> RelayAccess:
    try:
        key = Path(given["key_file"]).read_bytes()
        ca = Path(given["ca_file"]).read_text(encoding="utf-8") if given.get("ca_file") else ""
    except OSError as error:
        raise OffloadError(
            f"cannot read {error.filename}, which the setting offload.relay names: {error.strerror}",
            "the key file holds what leases for the relay are signed with",
        ) from error
    return RelayAccess(str(given["url"]), str(given["dial"]), key, ca)


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


def _own_address(dial: str) -> str:
    """Return the address of this computer that connections to the relay leave from."""
    host, _, port = dial.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


def _tls(access: RelayAccess) -> Any:
    import ssl

    if not access.url.startswith("wss://"):
        return None
    return ssl.create_default_context(cadata=access.ca or None)


if __name__ == "__main__":
    # The prompt that started us may go away: its hang-up is not ours.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    sys.exit(main(sys.argv[1:]))
