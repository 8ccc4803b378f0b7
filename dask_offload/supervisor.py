"""One process per cluster: owns its scheduler, and what keeps its workers coming.

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
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dask_offload.adaptive import Adaptive, Bounds
from dask_offload.children import Child
from dask_offload.direct import DirectWorkforce
from dask_offload.owners import Owners
from dask_offload.patience import patiently
from dask_offload.remote import RemoteWorkforce
from dask_offload.rpc import Caller, Handler, RpcClient, RpcServer
from dask_offload.runtime import ClusterFolder, has_ended
from dask_offload.snapshot import Snapshot, WorkerInfo, make_snapshot
from dask_offload.tls import LIFETIME, ClusterAuthority
from dask_offload.workforce import Workforce
from offload_relay.errors import RelayError
from offload_sites.errors import OffloadError

__all__ = ["main"]

log = logging.getLogger("offload-supervisor")

_TICK_S = 0.25
_QUIET_TICK_S = 1.0
_START_S = 60.0


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
        self._authority = ClusterAuthority(str(options["id"]))
        self._owners: Owners
        self._closing = asyncio.Event()
        self._closed: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._poked = asyncio.Event()
        self._changed = asyncio.Condition()
        self._adaptive: Adaptive | None = None
        self._adapted_s = 0.0
        self._workers: list[WorkerInfo] = []
        self._over = ""
        self._scheduler_at: dict[str, Any] = {}
        self._workforce: Workforce

    # --- start ---------------------------------------------------------------------------------

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start everything but workers.

        Raises
        ------
        OffloadError
            Something needed could not be started; what was started is ended by `stack`.
        """
        self._workforce = await self._choose_workforce()
        plan = self._workforce.plan
        self._snapshot = Snapshot(
            name=self._folder.name,
            version=0,
            wanted=0,
            title=plan.title,
            image=plan.image,
            gpus_per_worker=plan.gpus_per_worker,
            workers_per_job=plan.workers_per_job,
        )
        self._scheduler = Child(
            "dask_offload.scheduler",
            [str(self._folder.path)],
            self._folder.path / "scheduler.log",
        )
        self._write_scheduler_config()
        stack.push_async_callback(self._scheduler.stop)
        await self._scheduler.start()
        await stack.enter_async_context(self._workforce)
        await self._scheduler.ready(self._folder.path / "scheduler-at.json", _START_S)
        self._scheduler_at = self._folder.read("scheduler-at.json")
        self._desk = await RpcClient.connect(self._folder.scheduler_socket)
        stack.push_async_callback(self._desk.close)
        self._workforce.begin(str(self._scheduler_at["address"]))
        # Only from now on can a notebook attach.
        self._owners = Owners(float(self._options["owner_grace_s"]))
        await stack.enter_async_context(
            RpcServer(self._folder.supervisor_socket, self._handlers(), self._owners.left)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._closing.set)
        log.info("cluster %s is ready: scheduler %s", plan.id, self._scheduler_at["address"])

    async def _choose_workforce(self) -> Workforce:
        if self._options.get("service"):
            return await RemoteWorkforce.create(self._folder, self._options, self._authority, self)
        return DirectWorkforce(self._folder, self._options, self._authority, self)

    def _write_scheduler_config(self) -> None:
        credential = self._authority.issue("scheduler", LIFETIME)
        plan = self._workforce.plan
        self._folder.write(
            "scheduler.json",
            {
                "bind": plan.bind,
                "reach": dict(plan.reach),
                "tls": {"ca": credential.ca, "cert": credential.cert, "key": credential.key},
                "dashboard_address": self._options["dashboard_address"],
                "dask_config": self._options["worker"]["dask_config"],
            },
        )

    # --- loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the cluster as it is wanted, until its end is asked for or its owners stay away."""
        while not self._closing.is_set():
            await self._tick()
            if self._owners.away():
                log.warning("no notebook has been attached for a while: ending the cluster")
                self._closing.set()
            else:
                await self._pause()

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
        if not self._over and self._workforce.over:
            await self._end_early(self._workforce.over)
        if not self._over:
            await self._workforce.step()
        await self._publish()

    async def _ask_scheduler(self) -> None:
        try:
            async with asyncio.timeout(10):
                self._workers = [WorkerInfo(*row) for row in await self._desk.call("workers")]
                await self._adapt_now()
        except TimeoutError:
            log.warning("the scheduler is busy: it has not answered for 10 s")
        except OffloadError as error:
            # It has failed at this one question, of which its own log says more, and goes on.
            log.warning("the scheduler cannot say how it is: %s", error)
        except ConnectionError:
            if not self._over and not self._closing.is_set():
                await self._scheduler.wait()
                await self._end_early(f"the scheduler has ended: {self._scheduler.last_line()}")

    async def _end_early(self, reason: str) -> None:
        """End all jobs, and stay for as long as a notebook is attached that can be told why."""
        self._over = reason
        log.error("%s", self._over)
        self._workers = []
        # First: whoever sees a result fail looks here for the reason.
        await self._publish()
        await self._end_workers()
        await self._workforce.close(reason)

    async def _end_workers(self) -> None:
        """End workers and scheduler: whoever waits for a result must not wait for ever."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            # Workers that are told to close end by themselves: the fastest way, and the cleanest.
            async with asyncio.timeout(5):
                await self._desk.call("close")

    async def _adapt_now(self) -> None:
        if self._adaptive is None:
            return
        now_s = time.monotonic()
        if now_s - self._adapted_s < float(self._options["adaptive"]["interval_s"]):
            return
        self._adapted_s = now_s
        answer = await self._desk.call("target", duration_s=self._adaptive.bounds.target_duration_s)
        now = self._workforce.wanted
        self._adaptive.seed = self._workforce.seed
        wanted = self._adaptive.wanted(answer["target"], now, now_s)
        wanted = min(wanted, max(now, self._workforce.most))
        if wanted != now:
            log.info("adaptive: %d -> %d workers", now, wanted)
            try:
                await self._workforce.want(wanted)
            except OffloadError as error:
                log.warning("adaptive: %s", error)

    async def _publish(self) -> None:
        base = replace(
            self._snapshot,
            adaptive=self.bounds(),
            bytes_through_relay=await self._workforce.bytes_carried(),
        )
        new = make_snapshot(
            base,
            self._workforce.snapshot(),
            self._workers,
            self._workforce.plan.sites,
            trouble=self._workforce.trouble,
        )
        new = replace(new, stopped=self._over or new.stopped)
        if new != self._snapshot:
            self._snapshot = replace(new, version=self._snapshot.version + 1)
            async with self._changed:
                self._changed.notify_all()

    # --- what the workforce asks -----------------------------------------------------------------

    def workers(self) -> Sequence[WorkerInfo]:
        """Return the workers that the scheduler had a moment ago."""
        return self._workers

    async def let_go(self, job: str, workers: int) -> None:
        """Let the `workers` workers of `job` that hold least hand it over and end."""
        here = [worker for worker in self._workers if worker.job == job]
        here.sort(key=lambda worker: (worker.processing, worker.held_bytes))
        names = [worker.name for worker in here[:workers]]
        if names:
            with contextlib.suppress(ConnectionError):
                gone = set(await self._desk.call("retire", names=names))
                # What was counted before must not be counted again, or one more would have to go.
                self._workers = [worker for worker in self._workers if worker.name not in gone]

    def poke(self) -> None:
        """Take note that an agent, or what the service says, has changed."""
        self._poked.set()

    def bounds(self) -> tuple[int, int] | None:
        """Return the bounds of adaptive scaling; None if the number of workers is fixed."""
        adaptive = self._adaptive
        return (adaptive.bounds.minimum, adaptive.bounds.maximum) if adaptive else None

    def adapt(self, bounds: tuple[int, int] | None) -> None:
        """Move within `bounds` from now on, or (None) stay at what is wanted."""
        self._adaptive = self._bounded(*bounds, {}) if bounds else None
        self._adapted_s = 0.0

    def _bounded(self, minimum: int, maximum: int, times: Mapping[str, float]) -> Adaptive:
        settings = self._options["adaptive"]
        bounds = Bounds(
            minimum,
            maximum,
            float(times.get("target_duration_s", settings["target_duration_s"])),
            float(times.get("grace_s", settings["grace_s"])),
        )
        return Adaptive(bounds, self._workforce.plan.workers_per_job, self._workforce.seed)

    # --- what notebooks ask ----------------------------------------------------------------------

    def _handlers(self) -> dict[str, Handler]:
        return {
            "attach": self._attach,
            "scale": self._scale,
            "adapt": self._adapt,
            "changes": self._changes,
            "carried": self._carried,
            "logs": self._logs,
            "events": self._events,
            "retry": self._retry,
            "close": self._close,
        }

    async def _attach(self, caller: Caller, pid: int) -> dict[str, Any]:
        """Note that a notebook is there, and tell it how to reach the scheduler."""
        self._check_open()
        self._owners.came(caller, pid)
        credential = self._authority.issue("client", LIFETIME)
        return {
            "id": self._workforce.plan.id,
            "name": self._folder.name,
            "scheduler": self._scheduler_at["address"],
            "dashboard_port": self._scheduler_at["dashboard_port"],
            "tls": {"ca": credential.ca, "cert": credential.cert, "key": credential.key},
            # A notebook listens on nothing.
            "reach": {**self._workforce.plan.reach, "register": False},
            "snapshot": self._snapshot.to_json(),
        }

    async def _scale(self, _: Caller, workers: int) -> dict[str, Any]:
        await self._want(workers)
        self._adaptive = None
        return await self._changed_by_hand()

    async def _adapt(self, _: Caller, minimum: int, maximum: int, **times: float) -> dict[str, Any]:
        self._check_open()
        adaptive = self._bounded(minimum, maximum, times)
        await self._want(adaptive.bounded(self._workforce.wanted))
        self._adaptive, self._adapted_s = adaptive, 0.0
        return await self._changed_by_hand()

    async def _changes(self, _: Caller, since: int, timeout_s: float) -> dict[str, Any]:
        """Return the snapshot as soon as it is newer than `since`, at the latest in `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._snapshot.version > since)
        return self._snapshot.to_json()

    async def _carried(self, _: Caller) -> int:
        """Return how many bytes the relay has carried, as newly as the workforce can tell."""
        return await self._workforce.bytes_carried(fresh=True)

    async def _logs(self, _: Caller, job: str | None) -> dict[str, str]:
        """Return the ends of the logs of one job, or of all that have some, by key."""
        return await self._workforce.logs(job)

    async def _events(self, _: Caller) -> dict[str, str]:
        """Return the ends of the logs of the supervisor, the scheduler and the relay."""
        return {
            path.stem: path.read_text(errors="replace")[-65536:]
            for path in sorted(self._folder.path.glob("*.log"))
        }

    async def _retry(self, _: Caller) -> dict[str, Any]:
        async def ask() -> None:
            self._check_open()
            await self._workforce.retry()

        await patiently(ask)
        return await self._changed_by_hand()

    async def _want(self, workers: int) -> None:
        async def ask() -> None:
            self._check_open()
            await self._workforce.want(workers)

        await patiently(ask)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise has_ended(self._folder.name)

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
        await self._end_workers()
        left = await self._workforce.close("its cluster has ended")
        await self._publish()
        self._closed.set_result(left)
        # Let the answer to `close` go out.
        await asyncio.sleep(_TICK_S)


if __name__ == "__main__":
    # The prompt that started us may go away: its hang-up is not ours.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    sys.exit(main(sys.argv[1:]))
