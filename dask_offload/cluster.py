"""`OffloadCluster`: Dask workers as jobs at other places, under Dask's own cluster interface."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import dask
import dask.config
import distributed
from distributed.core import Status, rpc
from distributed.deploy.cluster import Cluster
from distributed.security import Security
from distributed.utils import Log, Logs, format_dashboard_link

from dask_offload import open_clusters
from dask_offload.attach import security_of
from dask_offload.bounds import (
    AdaptiveBounds,
    adaptive_bounds,
    seconds_in,
    seconds_of,
    text,
    whole,
)
from dask_offload.config import load_defaults, setting
from dask_offload.progress import Progress, check_hope
from dask_offload.request import make_request
from dask_offload.rpc import RpcClient
from dask_offload.runtime import ClusterFolder, cluster_folders, has_ended
from dask_offload.show import render_html, render_text
from dask_offload.snapshot import JobRow, Snapshot
from dask_offload.supervisor_process import SupervisorProcess
from offload_sites.errors import OffloadError

__all__ = ["AdaptiveBounds", "OffloadCluster"]

log = logging.getLogger(__name__)

load_defaults()

_CLOSE_S = 45.0
_LONG_POLL_S = 30.0
_SHOWN_S = 1.0
# What Dask says if nobody has set anything else (distributed.yaml).
_DASHBOARD_LINK = "{scheme}://{host}:{port}/status"


class OffloadCluster(Cluster):
    """Dask workers in jobs at the sites of a catalog.

    The scheduler runs in a process of its own beside the notebook; workers dial out to a relay, so
    that nothing at a site has to be reachable. Ends with the notebook, unless told otherwise.

    Parameters
    ----------
    n_workers : int
        Workers to start with.
    profile, image : str, optional
        Names from the catalog; the first ones if not given.
    walltime : str or timedelta, optional
        How long each job may run, such as `"8h"`; the profile's default if not given.
    cpus : int, optional
        CPUs of each worker, which are its threads, where the profile leaves a choice.
    site : str, optional
        One of the profile's sites; the first that takes jobs if not given.
    name : str, optional
        By which `from_name` finds it.
    catalog : str or Path, optional
        File with sites, images and profiles. Without one, workers are processes on this computer.
    relay : mapping, optional
        `url`, `dial`, `key_file` (and `ca_file`) of a running relay. Without one, a relay is started
        on loopback, which only sites on this computer can reach.
    preload : sequence of str
        Modules that each job imports once, before its workers are forked.
    asynchronous : bool
        True inside a running event loop: then use `async with` or `await`.
    quiet : bool
        Print nothing.

    Raises
    ------
    OffloadError
        Something asked for does not exist, is not allowed, or could not be started. The message
        says what, and what to do.

    Examples
    --------
    >>> from dask_offload import OffloadCluster
    >>> with OffloadCluster(n_workers=8) as cluster:        # doctest: +SKIP
    ...     client = cluster.get_client()
    ...     cluster.wait_for_workers(8)
    ...     client.submit(sum, [1, 2]).result()
    3

    Notes
    -----
    Settings that are not given come from Dask's configuration, `offload.*`.
    """

    def __init__(
        self,
        n_workers: int = 0,
        *,
        profile: str | None = None,
        image: str | None = None,
        walltime: str | timedelta | None = None,
        cpus: int | None = None,
        site: str | None = None,
        name: str | None = None,
        catalog: str | Path | None = None,
        relay: dict[str, str] | None = None,
        preload: Sequence[str] = (),
        asynchronous: bool = False,
        loop: Any = None,
        quiet: bool = False,
        shutdown_on_close: bool = True,
        _attach_to: ClusterFolder | None = None,
    ) -> None:
        self._n_workers = whole("n_workers", n_workers)
        self._request = make_request(
            profile=profile,
            image=image,
            walltime=walltime,
            cpus=cpus,
            site=site,
            catalog=catalog,
            relay=relay,
            preload=preload,
        )
        self._process = SupervisorProcess(_attach_to)
        self._shutdown_on_close = shutdown_on_close
        self._starting: asyncio.Future[None] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._supervisor: RpcClient | None = None
        self._dashboard_port: int | None = None
        self._snapshot = Snapshot(name or "", 0, 0, "", "")
        self._kept: set[asyncio.Future[None]] = set()
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._drawn: Any = None
        self.security: Security | None = None
        self._wanted_name = text("name", name or setting("name"))
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=self._wanted_name)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                self._loop_runner.stop()  # or each try would leave a thread behind
                raise

    # --- life ------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        async def started() -> Self:
            if self.status == Status.created:
                await self._start()
            return self

        return started().__await__()

    async def _start(self) -> None:
        if self._starting is not None:
            await asyncio.shield(self._starting)
            return
        self._starting = asyncio.get_running_loop().create_future()
        try:
            await self._start_once()
        except BaseException as error:
            self.status = Status.closed  # or Dask warns that nobody has closed it
            self._process.give_up()
            if self._supervisor is not None:
                await self._supervisor.close()
            await self._loop_stopped()
            self._starting.set_exception(error)
            self._starting.exception()  # retrieved here; others that wait get it as well
            raise
        self._starting.set_result(None)

    async def _start_once(self) -> None:
        if not self._process.started:
            await asyncio.to_thread(self._process.start, self._wanted_name, self._request)
        self._supervisor = await self._process.reach(quiet=self.quiet)
        hello = await self._supervisor.call("attach", pid=os.getpid())
        self.security = security_of(hello)
        self._dashboard_port = hello["dashboard_port"]
        self._take(hello["snapshot"])
        self.name = hello["name"]
        self.scheduler_comm = rpc(
            hello["scheduler"], connection_args=self.security.get_connection_args("client")
        )
        await self._reach_scheduler()
        open_clusters.add(self)
        self._follower = asyncio.create_task(self._follow())
        if self._n_workers:
            await self._scale(self._n_workers)

    async def _reach_scheduler(self) -> None:
        """Connect to the scheduler, which ends with its cluster: in good time or before we were here."""
        assert self._supervisor is not None  # noqa: S101  # started
        try:
            await super()._start()
        except OSError as error:
            self._take(await self._supervisor.call("changes", since=-1, timeout_s=0))
            if not self._snapshot.stopped:
                raise
            raise has_ended(self.name, self._snapshot.stopped) from error

    async def _follow(self) -> None:
        """Keep the snapshot fresh until the supervisor has gone."""
        assert self._supervisor is not None  # noqa: S101  # started
        try:
            while True:
                value = await self._supervisor.call(
                    "changes", since=self._snapshot.version, timeout_s=_LONG_POLL_S
                )
                self._take(value)
        except ConnectionError:
            if self.status == Status.running:
                self._log(f"{self.name}: the cluster has ended; start a new OffloadCluster()")

    def _take(self, value: dict[str, Any]) -> None:
        snapshot = Snapshot.from_json(value)
        if snapshot.version < self._snapshot.version:
            return  # two answers have overtaken one another
        self._snapshot = snapshot
        for listener in list(self._listeners):
            listener(snapshot)

    async def _close(self) -> None:
        if self.status in (Status.closed, Status.failed):
            return
        if self.status == Status.created:
            self.status = Status.closed
            return
        open_clusters.discard(self)
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        await super()._close()
        if self._supervisor is None:
            return
        if self._shutdown_on_close:
            await self._shut_down(self._supervisor)
        await self._supervisor.close()
        self._process.let_go()

    async def _shut_down(self, supervisor: RpcClient) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                left = await supervisor.call("close")
                await self._process.wait()
        except (ConnectionError, TimeoutError):
            log.warning("%s: its supervisor has not confirmed that all jobs have ended", self.name)
            return
        if left:
            log.warning(
                "%s: %d jobs are not confirmed as ended (%s); `offload jobs orphans` lists them",
                self.name,
                len(left),
                ", ".join(left[:5]),
            )

    async def _loop_stopped(self) -> None:
        if self.scheduler_comm is not None:
            await self.scheduler_comm.close_rpc()

    # --- scaling ---------------------------------------------------------------------------------

    def scale(self, n: int) -> Any:
        """Ask for `n` workers in all. Returns at once; `wait_for_workers` waits for them.

        What is queued is canceled first; working ones hand over their results before they end.
        """
        number = whole("n", n)
        if self.asynchronous:
            # dask-labextension calls it in an event loop and does not await what it returns.
            return self._keep(asyncio.ensure_future(self._scale(number)))
        return self.sync(self._scale, number)

    async def _scale(self, n: int) -> None:
        self._take(await self._call("scale", workers=n))

    def adapt(self, minimum: int = 0, maximum: int | None = None, **times: Any) -> AdaptiveBounds:
        """Let the number of workers follow the load, between `minimum` and `maximum`.

        Parameters
        ----------
        minimum, maximum : int
            Workers.
        target_duration, grace : str, optional
            How long the tasks at hand should take; how long fewer workers must have been enough
            before any are let go. Defaults from `offload.adaptive`.

        Notes
        -----
        Decided next to the scheduler: it goes on while the notebook is busy. Queued jobs count as
        coming; whole jobs come and go.
        """
        bounds, seconds = adaptive_bounds(minimum, maximum), seconds_of(times)
        if self.asynchronous:
            # Dask's interface wants the bounds at once, also inside an event loop.
            self._keep(asyncio.ensure_future(self._adapt(bounds, seconds)))
        else:
            self.sync(self._adapt, bounds, seconds)
        return bounds

    async def _adapt(self, to: AdaptiveBounds, seconds: dict[str, float]) -> None:
        self._take(await self._call("adapt", minimum=to.minimum, maximum=to.maximum, **seconds))

    def _keep(self, task: asyncio.Future[None]) -> asyncio.Future[None]:
        # The event loop itself holds tasks by weak references only.
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    def retry(self) -> Any:
        """Submit again after jobs have failed too often; what failed is forgotten."""
        return self.sync(self._retry)

    async def _retry(self) -> None:
        self._take(await self._call("retry"))

    async def _call(self, method: str, **params: Any) -> Any:
        if self._supervisor is None:
            raise OffloadError("the cluster has not been started", "await it, or use async with")
        try:
            return await self._supervisor.call(method, **params)
        except ConnectionError as error:
            raise has_ended(self.name) from error

    async def _wait_for_workers(self, n_workers: int = 0, timeout: Any = None) -> None:
        """Wait, showing progress; raises OffloadError as soon as waiting has become pointless."""
        within_s = math.inf if timeout is None else seconds_in("timeout", timeout)
        deadline_s = time.monotonic() + within_s
        moved = asyncio.Event()
        progress = Progress(n_workers, quiet=self.quiet)

        # Shown from here alone: what a listener prints would stand below the notebook's first cell.
        def listen(_: Snapshot) -> None:
            moved.set()

        self._listeners.append(listen)
        try:
            while self.status != Status.running or self._registered() < n_workers:
                self._check_hope(n_workers)
                progress.show(self._snapshot)
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise distributed.TimeoutError(
                        f"{self._registered()} of {n_workers} workers came within "
                        f"{within_s:g} s: {self!r}"
                    )
                moved.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, 0.2)):
                        await moved.wait()
            await self._shown(n_workers, moved)
        finally:
            self._listeners.remove(listen)
            progress.done(self._snapshot, self._registered())

    async def _shown(self, n_workers: int, moved: asyncio.Event) -> None:
        """Wait a moment for the snapshot: what is printed next should show all that are there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHOWN_S):
                while self._snapshot.count("working") < n_workers:
                    moved.clear()
                    await moved.wait()

    def _registered(self) -> int:
        return len(self.scheduler_info["workers"])

    def _check_hope(self, n_workers: int) -> None:
        if self._supervisor is None or self._supervisor.closed:
            raise has_ended(self.name)
        check_hope(self._snapshot, self._registered(), n_workers)

    # --- what it is doing --------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The whole state, as fresh as the supervisor has sent it."""
        return self._snapshot

    def jobs(self) -> list[JobRow]:
        """Return all jobs with their states and reasons."""
        return list(self._snapshot.jobs)

    def bytes_through_relay(self) -> Any:
        """Return how many bytes the relay has carried for this cluster, both ways together.

        The relay counts once in a second or so; in a hub the number comes by way of the service,
        and may be a few seconds old.
        """
        return self.sync(self._call, "carried")

    def logs(self, job: str | None = None) -> Any:
        """Return what one job (its key or its id at the site) has printed, or all jobs, by key."""
        return self.sync(self._logs, job)

    async def _logs(self, job: str | None) -> Logs:
        found = await self._call("logs", job=job)
        return Logs({key: Log(text) for key, text in found.items()})

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: Any = True
    ) -> Logs:
        logs = await super()._get_logs(cluster=False, scheduler=scheduler, workers=workers)
        if cluster:
            events = await self._call("events")
            lines = [line for _, line in self._cluster_manager_logs]
            logs["Cluster"] = Log("\n".join([events.get("supervisor", ""), *lines]))
        return logs

    @property
    def workers(self) -> dict[str, str]:
        """Names of all workers, those to come included, with the state of their jobs."""
        return {
            f"{job.key}-{number}": job.word
            for job in self._snapshot.jobs
            if job.word in ("submitted", "queued", "held", "starting", "working", "lost")
            for number in range(job.workers)
        }

    @property
    def dashboard_link(self) -> str:
        """Link to Dask's dashboard; empty if there is none."""
        if self._dashboard_port is None:
            return ""
        prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
        usual = dask.config.get("distributed.dashboard.link") == _DASHBOARD_LINK
        if prefix and usual and importlib.util.find_spec("jupyter_server_proxy"):
            # A browser does not reach the address of a session, but the proxy inside it does.
            return f"{prefix}proxy/{self._dashboard_port}/status"
        return str(format_dashboard_link("127.0.0.1", self._dashboard_port))

    def __repr__(self) -> str:
        if self.status == Status.created:
            return f"{type(self).__name__}(not started)"
        text = render_text(self._snapshot, type(self).__name__)
        return text if self.status == Status.running else f"<{self.status.name} {text}>"

    def _repr_html_(self, cluster_status: Any = None) -> str:
        return render_html(self._snapshot, self.dashboard_link)

    def _widget(self) -> Any:
        from dask_offload.widget import make_widget

        if self._drawn is None:
            self._drawn = make_widget(self)
        return self._drawn

    # --- by name -----------------------------------------------------------------------------------

    @classmethod
    def from_name(cls, name: str, *, shutdown_on_close: bool = False, **kwargs: Any) -> Self:
        """Attach to a running cluster of this user, for example after a kernel restart.

        Parameters
        ----------
        name : str
            As the cluster was called, or as `OffloadCluster.names()` lists it.
        shutdown_on_close : bool
            Whether closing this object ends the cluster.

        Raises
        ------
        OffloadError
            No cluster of this name is running.
        """
        folder = next((f for f in cluster_folders() if f.name == name and f.alive), None)
        if folder is None:
            running = cls.names()
            raise OffloadError(
                f"no cluster called {name!r} is running",
                f"running: {', '.join(running)}" if running else "no cluster is running",
            )
        return cls(_attach_to=folder, name=name, shutdown_on_close=shutdown_on_close, **kwargs)

    @staticmethod
    def names() -> list[str]:
        """Return the names of this user's running clusters on this computer."""
        return [folder.name for folder in cluster_folders() if folder.alive]
