"""A virtual kubelet as interLink's behaves, and a batch system behind it; faults included.

After interLink 0.6.2 and its Slurm plugin. Times are a hundredth of the real ones and can be set.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from offload_sites.kubernetes.client import ApiError
from tests.services.kubernetes.api import now
from tests.services.kubernetes.client import Client
from tests.services.kubernetes.kubelet import Kubelet, container_status, node_condition
from tests.services.kubernetes.process import PodProcess, data_of, write_volume

TAINT = {"key": "virtual-node.interlink/no-schedule", "value": "true", "effect": "NoSchedule"}


class PluginError(Exception):
    """What the plugin answers in place of 200."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


@dataclass
class RemoteJob:
    """One batch job. `code` is what the batch system says of its end; a kill may well be a 0."""

    number: int
    uid: str
    process: PodProcess
    limit_s: float
    state: str = "PD"
    begun: str = ""
    ended: str = ""
    code: int = 0
    message: str = ""
    task: asyncio.Task[None] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Plugin:
    """A batch system with its plugin: takes pods, runs each first container as a process.

    Attributes
    ----------
    slots : int
        Jobs that run at once.
    down : bool
        Set it, and every request fails.
    create_error : PluginError or None
        What the next creations answer.
    loses_secrets : bool
        Set it, and files of pods do not arrive (SHARED_FS not set).
    """

    def __init__(self, place: Path, *, slots: int = 6) -> None:
        self.place = place
        self.slots = slots
        self.down = False
        self.create_error: PluginError | None = None
        self.loses_secrets = False
        self.jobs: dict[str, RemoteJob] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(4711)
        self._ending: list[asyncio.Task[None]] = []

    # --- what interLink asks ---------------------------------------------------------------------

    def check(self) -> None:
        if self.down:
            raise PluginError(500, "dial tcp 127.0.0.1:4000: connect: connection refused")

    def create(self, pod: dict[str, Any], data: dict[str, dict[str, bytes]]) -> int:
        self.check()
        if self.create_error:
            raise self.create_error
        uid = pod["metadata"]["uid"]
        container = pod["spec"]["containers"][0]
        place = self.place / uid
        mounts = {} if self.loses_secrets else self._mounts(pod, container, data, place)
        # Neither expanded nor split: as it stands.
        argv = [*(container.get("command") or []), *(container.get("args") or [])]
        env = {one["name"]: one.get("value") or "" for one in container.get("env") or []}
        job = RemoteJob(
            next(self._numbers), uid, PodProcess(place, argv, env, mounts), _time_limit_s(pod)
        )
        self.jobs[uid] = job
        self.pods[uid] = pod
        job.task = asyncio.create_task(self._run(job))
        return job.number

    def status(self, uid: str) -> dict[str, Any]:
        """Return the state of the container; raise if the batch system does not know the job."""
        self.check()
        job = self.jobs.get(uid)
        if job is None:
            raise PluginError(500, f"no JID for pod {uid}")
        if job.state == "PD":
            return {"waiting": {}}
        if job.state == "R":
            return {"running": {"startedAt": job.begun}}
        ended: dict[str, Any] = {"exitCode": job.code, "startedAt": job.begun or job.ended}
        ended |= {"finishedAt": job.ended, "message": job.message}
        return {"terminated": ended}

    def delete(self, uid: str) -> None:
        self.check()
        job = self.jobs.pop(uid, None)
        if job is not None:
            self._kill(job)

    # --- what happens at the site -----------------------------------------------------------------

    def scancel(self, uid: str) -> None:
        """Kill a job behind everybody's back: its record says exit code 0."""
        job = self.jobs[uid]
        job.code, job.message = 0, ""
        self._kill(job)

    def orphans(self) -> list[RemoteJob]:
        """Return jobs that run and whose pods nobody knows any more."""
        return [job for job in self.jobs.values() if job.state == "R"]

    async def close(self) -> None:
        for job in self.jobs.values():
            self._kill(job)
        tasks = [job.task for job in self.jobs.values() if job.task]
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)

    def _kill(self, job: RemoteJob) -> None:
        job.stop.set()
        if job.task and not job.task.done():
            self._ending = [*(t for t in self._ending if not t.done()), job.task]

    async def _run(self, job: RemoteJob) -> None:
        await self._slot(job)
        if job.stop.is_set():
            job.state, job.ended = "CA", now()
            return
        job.state, job.begun = "R", now()
        await job.process.start()
        ends = asyncio.create_task(job.process.wait())
        stop = asyncio.create_task(job.stop.wait())
        done, _ = await asyncio.wait(
            {ends, stop}, timeout=job.limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        stop.cancel()
        if ends in done:
            job.code = ends.result()
        else:
            if stop not in done:
                job.message = "SLURM job reached its time limit and was terminated"
            job.process.signal(signal.SIGUSR1)
            await ends
        job.state, job.ended = "CD", now()

    async def _slot(self, job: RemoteJob) -> None:
        def free() -> bool:
            ahead = [j for j in self.jobs.values() if j.state == "PD" and j.number < job.number]
            running = [j for j in self.jobs.values() if j.state == "R"]
            return not ahead and len(running) < self.slots

        while not free() and not job.stop.is_set():
            await asyncio.sleep(0.02)

    def _mounts(
        self,
        pod: dict[str, Any],
        container: dict[str, Any],
        data: dict[str, dict[str, bytes]],
        place: Path,
    ) -> dict[str, Path]:
        volumes = {one["name"]: one for one in pod["spec"].get("volumes") or []}
        mounts = {}
        for mount in container.get("volumeMounts") or []:
            volume = volumes[mount["name"]]
            source = volume.get("secret") or volume.get("configMap")
            if source is None and "emptyDir" not in volume:
                return {}  # all of them are lost, silently
            folder = place / "volumes" / mount["name"]
            write_volume(folder, data.get(mount["name"], {}), source or {})
            mounts[mount["mountPath"]] = folder
        return mounts


def _time_limit_s(pod: dict[str, Any]) -> float:
    flags = (pod["metadata"].get("annotations") or {}).get("slurm-job.vk.io/flags", "")
    match = re.search(r"--time=(\d+)(?:\s|$)", flags)
    return 60.0 * int(match[1]) if match else 86400.0


class VirtualKubelet(Kubelet):
    """A virtual node.

    Attributes
    ----------
    plugin : Plugin
        The batch system behind it.
    poll_s, ping_s : float
        How often it looks at its pods, one after another, and at its plugin.
    """

    version = "0.6.2"

    def __init__(self, client: Client, name: str, place: Path, **options: Any) -> None:
        self.poll_s = options.pop("poll_s", 0.05)
        self.ping_s = options.pop("ping_s", 0.2)
        self.plugin = Plugin(place / "site", slots=options.pop("slots", 6))
        self.pinged = ""
        options["taints"] = [TAINT]
        options["labels"] = {
            "virtual-node.interlink/type": "virtual-kubelet",
            "kubernetes.io/os": "virtual-kubelet",
            "kubernetes.io/role": "agent",
        }
        super().__init__(client, name, place, **options)
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> VirtualKubelet:
        await super().__aenter__()
        self._loops = [
            asyncio.create_task(self._ping()),
            asyncio.create_task(self._poll()),
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self.silent = False
        await self.plugin.close()
        await super().__aexit__(*exc_info)
        # What was on its way to the plugin while it closed.
        await self.plugin.close()

    async def killed(self) -> None:
        """End as by kill -9: nothing is reported any more, batch jobs go on."""
        self.silent = True
        for loop in self._loops:
            loop.cancel()

    # --- the node --------------------------------------------------------------------------------

    async def _ping(self) -> None:
        while True:
            try:
                self.plugin.check()
                self.pinged = "ok"
            except PluginError:
                self.pinged = ""
            if not self.silent:
                with contextlib.suppress(ApiError, aiohttp.ClientError, OSError):
                    note = {"interlink.virtual-kubelet.io/ping-response": self.pinged}
                    meta = {"metadata": {"annotations": note}}
                    await self.client.apply(f"/api/v1/nodes/{self.name}", meta)
                    await self.report(bool(self.pinged))
            await asyncio.sleep(self.ping_s)

    async def _beat(self) -> None:
        """Do nothing: pings are its heartbeat."""

    def conditions(self, ready: bool) -> list[dict[str, str]]:
        connected = bool(self.pinged)
        reason = "InterlinkPingSuccessful" if connected else "InterlinkPingFailed"
        return [
            node_condition("Ready", connected, "KubeletPending", "kubelet is pending."),
            node_condition("InterlinkConnectivity", connected, reason, ""),
        ]

    # --- pods ------------------------------------------------------------------------------------

    async def run(self, pod: dict[str, Any]) -> None:
        waiting = {"waiting": {"reason": "Remote pod submitted"}}
        await self.tell(
            pod,
            {
                "phase": "Pending",
                "podIP": "127.0.0.1",
                "hostIP": "127.0.0.1",
                "startTime": now(),
                "containerStatuses": [container_status(pod, waiting)],
            },
        )
        try:
            number = self.plugin.create(pod, await self._data(pod))
        except PluginError as error:
            message = f"call error. Error: unexpected status code: {error.status}, {error.body}"
            failed = {"exitCode": 1, "reason": "ProviderFailed", "message": message}
            failed |= {"startedAt": now(), "finishedAt": now()}
            state = container_status(pod, {"terminated": failed})
            status = {"phase": "Failed", "reason": "ProviderFailed", "message": message}
            await self.tell(pod, {**status, "containerStatuses": [state]})
            return
        await self.tell(pod, {"phase": "Pending"}, JobID=str(number))

    async def _data(self, pod: dict[str, Any]) -> dict[str, dict[str, bytes]]:
        found = {}
        for volume in pod["spec"].get("volumes") or []:
            for kind, plural, name in (
                ("secret", "secrets", "secretName"),
                ("configMap", "configmaps", "name"),
            ):
                if kind in volume:
                    space = pod["metadata"]["namespace"]
                    path = f"/api/v1/namespaces/{space}/{plural}/{volume[kind][name]}"
                    found[volume["name"]] = data_of(
                        await self._until_there(pod, path, volume["name"])
                    )
        return found

    async def _poll(self) -> None:
        """Ask for one pod after another, as the real one does: its news may be old."""
        while True:
            for uid, pod in list(self._pods.items()):
                await asyncio.sleep(self.poll_s)
                if not self.silent and uid in self._pods:
                    await self._refresh(uid, pod)
            await asyncio.sleep(self.poll_s)

    async def _refresh(self, uid: str, pod: dict[str, Any]) -> None:
        phase = self._pods[uid]["status"].get("phase")
        if phase in ("Succeeded", "Failed") or uid not in self.plugin.pods:
            return
        try:
            state = self.plugin.status(uid)
        except PluginError:
            return  # only logged: the phase stays as it is
        ended = state.get("terminated")
        if ended is None:
            phase = "Running" if "running" in state else "Pending"
            conditions = [{"type": "Ready", "status": "True"}] if phase == "Running" else []
            status = {"phase": phase, "conditions": conditions}
        else:
            reason = "Completed" if ended["exitCode"] == 0 else f"Error: {ended['exitCode']}"
            ended["reason"] = reason
            phase = "Succeeded" if ended["exitCode"] == 0 else "Failed"
            status = {"phase": phase, "reason": reason}
        ready = "running" in state
        await self.tell(
            pod, {**status, "containerStatuses": [container_status(pod, state, ready=ready)]}
        )

    async def vanished(self, uid: str) -> None:
        self._forget(uid)

    async def _delete(self, pod: dict[str, Any]) -> None:
        # Once, and whatever the answer: the pod is forgotten at once.
        self._forget(pod["metadata"]["uid"])
        await self.finish_deletion(pod)

    def _forget(self, uid: str) -> None:
        with contextlib.suppress(PluginError):
            self.plugin.delete(uid)

    def folder_of(self, uid: str) -> Path:
        return self.plugin.place / uid

    async def _logs(self, request: Any) -> Any:
        for uid, pod in self._pods.items():
            meta = pod["metadata"]
            match = request.match_info
            if (meta["namespace"], meta["name"]) == (match["space"], match["pod"]):
                job = self.plugin.jobs.get(uid)
                if job is not None and job.begun:
                    self.processes[uid] = job.process
        return await super()._logs(request)
