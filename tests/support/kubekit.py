"""A namespace of a Kubernetes API for one test: of the fake one, or of the cluster in KUBECONFIG.

The nodes are the test's own in both cases, and run pods as processes of this machine. What only the
fake can do (`kit.fake`) is for tests that say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from offload_sites.kubernetes.client import ApiError
from tests.services.kubernetes.api import FakeApi
from tests.services.kubernetes.client import Client
from tests.services.kubernetes.jobs import run_jobs
from tests.services.kubernetes.kubelet import Kubelet
from tests.services.kubernetes.lifecycle import watch_nodes
from tests.services.kubernetes.scheduler import schedule
from tests.support.waiting import eventually

#: What every node of a test is tainted with, so that nobody else's pods come there.
TAINT = "offload.test/node"


class KubeKit:
    """Everything of Kubernetes that one test needs.

    Attributes
    ----------
    kubeconfig : Path
        How programs under test reach the API, in the namespace of this test.
    fake : FakeApi or None
        The server; None if it is a real one.
    node : str
        Name of the node.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.fake: FakeApi | None = None
        self.namespace = f"offload-test-{uuid.uuid4().hex[:8]}"
        self.node = f"node-{uuid.uuid4().hex[:8]}"
        self.kubeconfig = place / "kubeconfig"
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        given = os.environ.get("KUBECONFIG")
        if given:
            await self._use_cluster(given)
        else:
            self.fake = await self._stack.enter_async_context(FakeApi())
            self.kubeconfig.write_text(self.fake.kubeconfig(self.namespace))
        self.client = await self._stack.enter_async_context(Client(str(self.kubeconfig)))
        await self.client.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self._stack.push_async_callback(self._remove, f"/api/v1/namespaces/{self.namespace}")
        if self.fake:
            self._run(schedule)
        else:
            # Made by a controller; until then no pod is admitted.
            await eventually(self._has_account)

    async def _has_account(self) -> bool:
        return bool(await self._items("serviceaccounts"))

    def with_jobs(self) -> None:
        """See to it that jobs (batch/v1) get their pods."""
        if self.fake:
            self._run(run_jobs)

    def with_node_control(self) -> None:
        """See to it that silent nodes are noticed, and pods of nodes that are gone are removed."""
        if self.fake:
            self._run(watch_nodes)

    async def volume_for(self, claim: str) -> None:
        """See to it that a claim of this name and of no storage class gets its volume.

        The fake binds every claim; a cluster may have nothing that makes volumes.
        """
        if self.fake:
            return
        name = f"{self.namespace}-{claim}"
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": self.namespace, "name": claim},
            "hostPath": {"path": "/offload-test"},  # the nodes of tests have folders of their own
        }
        volumes = "/api/v1/persistentvolumes"
        await self.client.ask("POST", volumes, {"metadata": {"name": name}, "spec": spec})
        self._stack.push_async_callback(self._remove, f"{volumes}/{name}")

    def _run(self, controller: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(controller(self.client))
        self._stack.push_async_callback(_cancel, task)

    async def _use_cluster(self, given: str) -> None:
        import yaml

        text = yaml.safe_load(Path(given).read_text())
        for context in text["contexts"]:
            context["context"]["namespace"] = self.namespace
        self.kubeconfig.write_text(yaml.safe_dump(text))

    async def _remove(self, path: str) -> None:
        with contextlib.suppress(ApiError, OSError):
            await self.client.ask("DELETE", path)

    async def kubelet(
        self, make: Callable[..., Kubelet] = Kubelet, *, name: str = "", **options: Any
    ) -> Kubelet:
        """Start a node; `make` says of what kind, and `name` is given to all but one."""
        options.setdefault("taints", [{"key": TAINT, "value": "yes", "effect": "NoSchedule"}])
        place = self.place / (name or "node")
        node = make(self.client, name or self.node, place, **options)
        return await self._stack.enter_async_context(node)

    async def pods(self) -> list[dict[str, Any]]:
        return await self._items("pods")

    async def secrets(self) -> list[dict[str, Any]]:
        return await self._items("secrets")

    async def _items(self, plural: str) -> list[dict[str, Any]]:
        answer = await self.client.ask("GET", f"/api/v1/namespaces/{self.namespace}/{plural}")
        return answer["items"]

    async def until_pods(self, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
        async def reached() -> bool:
            return holds(await self.pods())

        await eventually(reached)

    async def close(self) -> None:
        await self._stack.aclose()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class InThread:
    """An event loop in a thread, for services that a blocking test uses."""

    def __enter__(self) -> InThread:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function within the loop."""
        self._loop.call_soon_threadsafe(function, *args)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


PYTHON = sys.executable
