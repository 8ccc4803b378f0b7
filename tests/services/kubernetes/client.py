"""What kubelets and the scheduler of the tests need of an API client: JSON, and watches that last."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from offload_sites.kubernetes.client import ApiError


class Client:
    """An administrator of the cluster in a kubeconfig."""

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self._client: ApiClient | None = None

    async def __aenter__(self) -> Client:
        settings = Configuration()
        await config.load_kube_config(config_file=self._kubeconfig, client_configuration=settings)
        self._client = ApiClient(settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._client is not None
        await self._client.close()

    async def ask(
        self, method: str, path: str, body: Any = None, *, kind: str = "", **query: str
    ) -> Any:
        """Return the answer; raise `ApiError` for a refusal, aiohttp's errors if there is none."""
        response = await self._open(method, path, body, kind, query)
        async with response:
            content = await response.read()
        answer = json.loads(content) if content.startswith(b"{") else {"message": content.decode()}
        if response.status >= 300:
            said = str(answer.get("message"))
            raise ApiError(response.status, str(answer.get("reason") or ""), said)
        return answer

    async def apply(self, path: str, patch: Any) -> Any:
        """Change an object by a strategic merge patch."""
        kind = "application/strategic-merge-patch+json"
        return await self.ask("PATCH", path, patch, kind=kind)

    async def follow(self, path: str, **query: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield all objects, again and again: at once, after each change, and after each trouble."""
        while True:
            try:
                listed = await self.ask("GET", path, **query)
                held = {one["metadata"]["uid"]: one for one in listed["items"]}
                yield list(held.values())
                version = listed["metadata"]["resourceVersion"]
                async for event in self._watch(path, version, query):
                    uid = event["object"].get("metadata", {}).get("uid")
                    if event["type"] == "ERROR":
                        break
                    if event["type"] == "DELETED":
                        held.pop(uid, None)
                    else:
                        held[uid] = event["object"]
                    yield list(held.values())
            except (aiohttp.ClientError, OSError, TimeoutError, ApiError):
                await asyncio.sleep(0.2)

    async def _watch(
        self, path: str, version: str, query: dict[str, str]
    ) -> AsyncIterator[dict[str, Any]]:
        response = await self._open(
            "GET",
            path,
            None,
            "",
            {**query, "watch": "true", "resourceVersion": version, "timeoutSeconds": "300"},
        )
        async with contextlib.aclosing(_lines(response)) as lines:
            async for line in lines:
                yield json.loads(line)

    async def _open(
        self, method: str, path: str, body: Any, kind: str, query: dict[str, str]
    ) -> aiohttp.ClientResponse:
        assert self._client is not None
        return await self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={
                "Accept": "application/json",
                "Content-Type": kind or "application/json",
            },
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=600,
        )


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async with response:
        async for chunk in response.content.iter_any():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield line
