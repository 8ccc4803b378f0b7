"""A controller of jobs (batch/v1): one pod for each, and its end. A real cluster has its own."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from offload_sites.kubernetes.client import ApiError
from tests.services.kubernetes.client import Client


async def run_jobs(client: Client) -> None:
    """Make the pods of jobs, and note how they end, for ever."""
    while True:
        try:
            pods = (await client.ask("GET", "/api/v1/pods"))["items"]
            owned = {_owner(pod): pod for pod in pods}
            for job in (await client.ask("GET", "/apis/batch/v1/jobs"))["items"]:
                await _reconcile(client, job, owned.get(job["metadata"]["uid"]))
        except (ApiError, aiohttp.ClientError, OSError):
            pass  # changed or gone meanwhile, or the API is away: the next turn sees
        await asyncio.sleep(0.2)


def _owner(pod: dict[str, Any]) -> str:
    owners = pod["metadata"].get("ownerReferences") or [{}]
    return owners[0].get("uid", "")


async def _reconcile(client: Client, job: dict[str, Any], pod: dict[str, Any] | None) -> None:
    meta = job["metadata"]
    space = meta["namespace"]
    if pod is None and not job.get("status"):
        template = job["spec"]["template"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
        made = {**template.get("metadata", {}), "name": f"{meta['name']}-0"}
        body = {"metadata": {**made, "ownerReferences": [owner]}, "spec": template["spec"]}
        await client.ask("POST", f"/api/v1/namespaces/{space}/pods", body)
    phase = pod["status"].get("phase") if pod else None
    if phase in ("Succeeded", "Failed"):
        status = {"succeeded": 1} if phase == "Succeeded" else {"failed": 1}
        if job.get("status") != status:
            path = f"/apis/batch/v1/namespaces/{space}/jobs/{meta['name']}/status"
            await client.ask("PATCH", path, {"status": status}, kind="application/merge-patch+json")
