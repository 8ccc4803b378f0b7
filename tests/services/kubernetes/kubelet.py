"""A kubelet that runs the pods of one node as processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import re
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from offload_sites.kubernetes.client import ApiError
from tests.services.kubernetes.api import now
from tests.services.kubernetes.client import Client
from tests.services.kubernetes.process import PodProcess, data_of, write_volume


class Kubelet:
    """One node.

    Parameters
    ----------
    client : Client
        An administrator's access to the API.
    name : str
        Of the node.
    place : Path
        Folder for its pods.
    resources : mapping
        What it has, as `{"cpu": "8"}`.
    labels, taints
        Of the node.
    environment : mapping
        Variables that its runtime gives every container.

    Attributes
    ----------
    silent : bool
        Set it, and nothing is reported or obeyed any more: the node is cut off, its pods run on.
    pulls : dict
        Image to the waiting reason that a pull of it ends in, as `ErrImagePull`.
    """

    version = "v1.36.1"
    beat_s = 1.0

    def __init__(
        self,
        client: Client,
        name: str,
        place: Path,
        *,
        resources: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        taints: list[dict[str, str]] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.client = client
        self.name = name
        self.place = place
        self.silent = False
        self.pulls: dict[str, str] = {}
        self._resources = {"cpu": "8", "memory": "64Gi", "pods": "110", **(resources or {})}
        self._labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            **(labels or {}),
        }
        self._taints = taints or []
        self._environment = dict(environment or {})
        self.processes: dict[str, PodProcess] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._names: dict[str, str] = {}

    async def __aenter__(self) -> Kubelet:
        self.place.mkdir(parents=True, exist_ok=True)
        await self._serve()
        await self._register()
        self._follower = asyncio.create_task(self._follow())
        self._heart = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._follower.cancel()
        self._heart.cancel()
        for uid, task in self._tasks.items():
            if uid not in self.processes:
                task.cancel()  # or it would start one that nobody ends
        for process in self.processes.values():
            process.signal(10)
        await asyncio.gather(*(p.wait() for p in self.processes.values()))
        for task in self._tasks.values():
            task.cancel()
        tasks = (self._follower, self._heart, *self._tasks.values())
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()
        with contextlib.suppress(ApiError, aiohttp.ClientError):
            await self.client.ask("DELETE", f"/api/v1/nodes/{self.name}")

    def pod_in(self, place: Path) -> str:
        """Return the name of the pod whose folder this is; empty if it is none."""
        return self._names.get(place.name, "")

    # --- the node --------------------------------------------------------------------------------

    async def _register(self) -> None:
        node = {
            "metadata": {"name": self.name, "labels": self._labels},
            "spec": {"taints": self._taints} if self._taints else {},
        }
        try:
            await self.client.ask("POST", "/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:
                raise
        await self.report()

    async def report(self, ready: bool = True) -> None:
        """Tell how the node is."""
        status = {
            "capacity": self._resources,
            "allocatable": self._resources,
            "addresses": [
                {"type": "InternalIP", "address": "127.0.0.1"},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "conditions": self.conditions(ready),
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "processes://1",
                "kernelVersion": "",
                "kubeProxyVersion": "",
                "kubeletVersion": self.version,
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "",
                "systemUUID": "",
            },
        }
        await self.client.apply(f"/api/v1/nodes/{self.name}/status", {"status": status})

    async def _beat(self) -> None:
        """Report again and again: a node that is silent for long is given up by the control plane."""
        while True:
            await asyncio.sleep(self.beat_s)
            if self.silent:
                continue
            with contextlib.suppress(ApiError, aiohttp.ClientError, OSError):
                await self.report()
                for pod in self._pods.values():
                    if _ready_was_taken(pod):
                        await self.tell(pod, {"conditions": [_condition("Ready", True, "", "")]})

    def conditions(self, ready: bool) -> list[dict[str, str]]:
        return [node_condition("Ready", ready, "KubeletReady", "kubelet is posting ready status")]

    # --- pods ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for pods in self.client.follow(
            "/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}"
        ):
            while self.silent:
                await asyncio.sleep(0.05)
            here = {pod["metadata"]["uid"]: pod for pod in pods}
            for uid in self._tasks.keys() - here.keys():
                await self.vanished(uid)
            self._pods = here
            self._names |= {uid: pod["metadata"]["name"] for uid, pod in here.items()}
            for uid, pod in here.items():
                if uid not in self._tasks:
                    self._tasks[uid] = asyncio.create_task(self._guarded(pod))
                elif pod["metadata"].get("deletionTimestamp"):
                    self.asked_to_delete(pod)

    async def vanished(self, uid: str) -> None:
        """End what runs of a pod that is gone from the API."""
        process = self.processes.get(uid)
        if process is not None:
            process.signal(10)

    def asked_to_delete(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        key = f"delete-{uid}"
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._delete(pod))

    async def _delete(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        process = self.processes.get(uid)
        if process is not None:
            await process.end(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0))
        else:
            self._tasks[uid].cancel()  # it has not come so far, and shall not
        await self.finish_deletion(pod)

    async def finish_deletion(self, pod: dict[str, Any]) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self.persist("DELETE", _path(pod), body)

    async def persist(self, method: str, path: str, body: Any, kind: str = "") -> None:
        """Send until the API has it; a pod that is not there any more is passed over."""
        while True:
            while self.silent:
                await asyncio.sleep(0.05)
            try:
                await self.client.ask(method, path, body, kind=kind)
            except ApiError as error:
                if error.status in (404, 409):
                    return
                await asyncio.sleep(0.2)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.2)
            else:
                return

    async def tell(self, pod: dict[str, Any], status: dict[str, Any], **notes: str) -> None:
        patch: dict[str, Any] = {"status": status}
        if notes:
            patch["metadata"] = {"annotations": notes}
        await self.persist("PATCH", f"{_path(pod)}/status", patch, _STRATEGIC)

    async def _guarded(self, pod: dict[str, Any]) -> None:
        if (pod["status"].get("phase") or "Pending") != "Pending":
            return
        try:
            await self.run(pod)
        except _Stuck as stuck:
            waiting = {"waiting": {"reason": stuck.reason, "message": stuck.message}}
            await self.tell(
                pod, {"phase": "Pending", "containerStatuses": [container_status(pod, waiting)]}
            )

    async def run(self, pod: dict[str, Any]) -> None:
        """Run one pod from its binding to its end."""
        container = pod["spec"]["containers"][0]
        creating = {"waiting": {"reason": "ContainerCreating"}}
        started = {"phase": "Pending", "startTime": now(), "hostIP": "127.0.0.1"}
        await self.tell(pod, {**started, "containerStatuses": [container_status(pod, creating)]})
        if container["image"] in self.pulls:
            reason = self.pulls[container["image"]]
            raise _Stuck(reason, f"failed to pull image {container['image']!r}: not found")
        mounts = await self.mounts(pod, container)
        process = PodProcess(
            self.place / pod["metadata"]["uid"],
            _argv(container),
            {**self._environment, **_env(pod, container)},
            mounts,
        )
        self.processes[pod["metadata"]["uid"]] = process
        await process.start()
        begun = now()
        running = container_status(pod, {"running": {"startedAt": begun}}, ready=True)
        await self.tell(
            pod,
            {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "podIPs": [{"ip": "127.0.0.1"}],
                "conditions": [_condition("Ready", True, "", "")],
                "containerStatuses": [running],
            },
        )
        await self.event(pod, "Started", f"Started container {container['name']}", "Normal")
        code, why = await self._wait(pod, process)
        ended = {"exitCode": code, "startedAt": begun, "finishedAt": now()}
        ended["reason"] = "Completed" if code == 0 else "Error"
        if process.unstarted:
            ended.update(reason="StartError", message=process.unstarted)
        status = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "conditions": [_condition("Ready", False, "PodCompleted", "")],
            "containerStatuses": [container_status(pod, {"terminated": ended})],
        }
        await self.tell(pod, {**status, **why})

    async def _wait(self, pod: dict[str, Any], process: PodProcess) -> tuple[int, dict[str, Any]]:
        deadline = pod["spec"].get("activeDeadlineSeconds")
        try:
            async with asyncio.timeout(deadline):
                return await process.wait(), {}
        except TimeoutError:
            code = await process.end(pod["spec"]["terminationGracePeriodSeconds"])
            why = {
                "reason": "DeadlineExceeded",
                "message": "Pod was active on the node longer than the specified deadline",
            }
            return code or 137, {**why, "phase": "Failed"}

    async def mounts(self, pod: dict[str, Any], container: dict[str, Any]) -> dict[str, Path]:
        volumes = {one["name"]: one for one in pod["spec"].get("volumes") or []}
        place = self.place / pod["metadata"]["uid"] / "volumes"
        mounts = {}
        for mount in container.get("volumeMounts") or []:
            folder = await self._volume(pod, volumes[mount["name"]], place / mount["name"])
            mounts[mount["mountPath"]] = folder / mount.get("subPath", "")
        return mounts

    async def _volume(self, pod: dict[str, Any], volume: dict[str, Any], folder: Path) -> Path:
        space = pod["metadata"]["namespace"]
        for kind, plural, name in (
            ("secret", "secrets", "secretName"),
            ("configMap", "configmaps", "name"),
        ):
            if kind in volume:
                path = f"/api/v1/namespaces/{space}/{plural}/{volume[kind][name]}"
                value = await self._until_there(pod, path, volume["name"])
                write_volume(folder, data_of(value), volume[kind])
                return folder
        claim = volume.get("persistentVolumeClaim")
        if claim:
            folder = self.place / "claims" / space / claim["claimName"]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def _until_there(self, pod: dict[str, Any], path: str, volume: str) -> dict[str, Any]:
        told = False
        while True:
            try:
                return await self.client.ask("GET", path)
            except ApiError as error:
                if error.status == 404 and not told:
                    message = f'MountVolume.SetUp failed for volume "{volume}": {error.said}'
                    await self.event(pod, "FailedMount", message)
                    told = True
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.1)

    async def event(
        self, pod: dict[str, Any], reason: str, message: str, kind: str = "Warning"
    ) -> None:
        meta = pod["metadata"]
        body = {
            "metadata": {"generateName": f"{meta['name']}."},
            "involvedObject": {
                "kind": "Pod",
                "apiVersion": "v1",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        with contextlib.suppress(ApiError, aiohttp.ClientError):
            await self.client.ask("POST", f"/api/v1/namespaces/{meta['namespace']}/events", body)

    # --- logs ------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{space}/{pod}/{container}", self._logs)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=_self_signed()).start()
        self.port = self._runner.addresses[0][1]

    async def _logs(self, request: web.Request) -> web.Response:
        match = request.match_info
        for uid, pod in self._pods.items():
            meta = pod["metadata"]
            if (meta["namespace"], meta["name"]) == (match["space"], match["pod"]):
                process = self.processes.get(uid)
                if process is None or not process.log.exists():
                    waits = f'container "{match["container"]}" is waiting to start'
                    return web.Response(status=400, text=waits)
                lines = process.log.read_bytes().splitlines(keepends=True)
                tail = int(request.query.get("tailLines") or len(lines))
                return web.Response(body=b"".join(lines[-tail:] if tail else []))
        return web.Response(status=404, text="pod does not exist")


_STRATEGIC = "application/strategic-merge-patch+json"


class _Stuck(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


def _path(pod: dict[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _condition(kind: str, good: bool, reason: str, message: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": "True" if good else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": now(),
    }


def _ready_was_taken(pod: dict[str, Any]) -> bool:
    """Tell whether the control plane has declared a pod not ready, as its node was silent."""
    status = pod["status"]
    running = any(one.get("ready") for one in status.get("containerStatuses") or [])
    return running and any(
        one["type"] == "Ready" and one["status"] == "False" for one in status.get("conditions", [])
    )


def node_condition(kind: str, good: bool, reason: str, message: str) -> dict[str, str]:
    return {**_condition(kind, good, reason, message), "lastHeartbeatTime": now()}


def container_status(
    pod: dict[str, Any], state: dict[str, Any], *, ready: bool = False
) -> dict[str, Any]:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _env(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, str]:
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.podIP": "127.0.0.1",
    }
    env = {}
    for one in container.get("env") or []:
        source = (one.get("valueFrom") or {}).get("fieldRef")
        value = fields.get(source["fieldPath"], "") if source else one.get("value") or ""
        env[one["name"]] = _expand(value, env)
    return env


def _argv(container: dict[str, Any]) -> list[str]:
    """Return argv as a kubelet expands it: `$(NAME)` of known names, `$$` for a dollar."""
    env = {one["name"]: one.get("value") or "" for one in container.get("env") or []}
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return [_expand(word, env) for word in words]


def _expand(text: str, known: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", value, text)


def _self_signed() -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubelet")])
    moment = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(hours=1))
        .not_valid_after(moment + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        pem = serialization.Encoding.PEM
        private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.write(key.private_bytes(pem, *private) + certificate.public_bytes(pem))
        file.flush()
        context.load_cert_chain(file.name)
    return context
