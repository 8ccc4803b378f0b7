"""The Kubernetes API of one site, as plain JSON: the one module that owns the client.

Objects are dicts as the API speaks them. The client library is used for what it is good at, finding
and renewing credentials; its models would refuse an answer of a newer API server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException

from offload_sites.errors import (
    JobRejectedError,
    NotAuthorizedError,
    OffloadError,
    SiteUnavailableError,
)
from offload_sites.wording import shorten

__all__ = ["ApiError", "KubeApi", "Object"]

log = logging.getLogger(__name__)

#: A Kubernetes object, or a part of one, as JSON.
Object = Mapping[str, Any]
Objects = list[Any]  # `list` is also a method here

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_S = 20.0
_AT_ONCE = 8
_PAGE = 500
_PATCH = "application/merge-patch+json"
_GONE = 410
_CHUNK = 64 * 1024


class ApiError(Exception):
    """The API has answered, and the answer is no.

    Parameters
    ----------
    status : int
        HTTP status, 400 to 499.
    reason : str
        One word of Kubernetes, as `AlreadyExists`; empty if it gave none.
    said : str
        Its sentence.
    """

    def __init__(self, status: int, reason: str, said: str) -> None:
        super().__init__(f"{status} {reason}: {said}")
        self.status = status
        self.reason = reason
        self.said = said


class KubeApi:
    """Asks the API server; connects with the first call.

    Parameters
    ----------
    site : str
        Name of the site, for messages.
    context : str or None
        Context in the kubeconfig; None for the current one, or within a cluster the service account.
    namespace : str or None
        Namespace of all paths that begin with `~/`; None for that of the credentials.

    Notes
    -----
    Every method raises `ApiError` for an answer of 4xx, `NotAuthorizedError` for 401, and
    `SiteUnavailableError` where there was no answer, or one of 5xx or 429: then nothing is known.
    """

    def __init__(
        self, site: str, *, context: str | None = None, namespace: str | None = None
    ) -> None:
        self._site = site
        self._context = context
        self._namespace = namespace
        self._client: ApiClient | None = None
        self._connecting = asyncio.Lock()
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def namespace(self) -> str:
        """Return the namespace of the site's objects."""
        await self._connect()
        return self._namespace or "default"

    async def get(self, path: str, **query: str) -> Any:
        """Return one object."""
        return await self._ask("GET", path, query)

    async def list(self, path: str, **query: str) -> Objects:
        """Return all objects of a collection, page by page, as of one moment.

        Begins anew when a page has expired (410).
        """
        for _ in range(3):
            try:
                return await self._pages(path, query)
            except ApiError as error:
                if error.status != _GONE:
                    raise
                log.debug("site %s: the list of %s has expired; listing again", self._site, path)
        raise SiteUnavailableError(f"site {self._site!r} changes faster than it can be listed")

    async def create(self, path: str, body: Object) -> Any:
        """Create an object and return it as it is stored."""
        return await self._ask("POST", path, {}, body)

    async def patch(self, path: str, body: Object) -> Any:
        """Change an object by a JSON merge patch and return it."""
        return await self._ask("PATCH", path, {}, body, _PATCH)

    async def delete(self, path: str, *, uid: str = "", grace_s: int | None = None) -> None:
        """Ask for the end of an object; one that is not there, or another one by now, is passed over."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        body["propagationPolicy"] = "Background"
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self._ask("DELETE", path, {}, body)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def end_of(self, path: str, most_bytes: int, **query: str) -> bytes:
        """Return the end of an answer that is no JSON: a log, which may be of any length."""
        content: bytes = await self._ask("GET", path, query, most_bytes=most_bytes)
        return content[max(0, len(content) - most_bytes) :]

    def problem(self, error: ApiError, doing: str) -> OffloadError:
        """Return our error for an answer that the caller did not expect while `doing` something."""
        site, said = self._site, shorten(error.said, 300)
        if error.status == 403 and "exceeded quota" in error.said:
            return SiteUnavailableError(
                f"site {site!r} has no room left in its quota: {said}",
                "it will be tried again; end what you do not need",
            )
        if error.status == 403:
            return NotAuthorizedError(
                f"site {site!r} does not allow {doing}: {said}",
                "its administrator has to grant it (docs/howto/virtual-nodes.md lists the rights)",
            )
        if error.status in {400, 404, 422}:
            return JobRejectedError(f"site {site!r} refused {doing}: {said}")
        return SiteUnavailableError(f"site {site!r} answered {error.status} to {doing}: {said}")

    async def _pages(self, path: str, query: Mapping[str, str]) -> Objects:
        found: list[Any] = []
        more = ""
        while True:
            page = {**query, "limit": str(_PAGE), **({"continue": more} if more else {})}
            answer = await self._ask("GET", path, page)
            found += answer.get("items") or []
            more = (answer.get("metadata") or {}).get("continue") or ""
            if not more:
                return found

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None = None,
        content_type: str = "application/json",
        *,
        most_bytes: int | None = None,
    ) -> Any:
        try:
            async with self._places, asyncio.timeout(_TIMEOUT_S):
                client = await self._connect()
                response = await client.call_api(
                    self._full(path),
                    method,
                    query_params=list(query.items()),
                    header_params={
                        "Accept": "application/json" if most_bytes is None else "*/*",
                        "Content-Type": content_type,
                    },
                    body=body,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=_TIMEOUT_S,
                )
                async with response:
                    content = (
                        await response.read()
                        if most_bytes is None
                        else await _end(response, most_bytes)
                    )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.debug("site %s: %s %s: %r", self._site, method, path, error)
            raise SiteUnavailableError(
                f"the Kubernetes API of site {self._site!r} does not answer",
                "running jobs are not concerned; it is asked again",
            ) from error
        if 200 <= response.status < 300:
            return json.loads(content) if most_bytes is None else content
        raise self._refusal(response.status, content)

    def _full(self, path: str) -> str:
        if path.startswith("~/"):
            return f"/api/v1/namespaces/{self._namespace}/{path[2:]}"
        return path

    def _refusal(self, status: int, content: bytes) -> Exception:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        reason = str(answer.get("reason") or "")
        said = str(answer.get("message") or content[:300].decode(errors="replace"))
        if status == 401:
            return NotAuthorizedError(
                f"the Kubernetes API of site {self._site!r} does not know who we are",
                "its administrator has to renew the kubeconfig or service account",
            )
        if status == 429 or status >= 500:
            return SiteUnavailableError(
                f"the Kubernetes API of site {self._site!r} answers {status}",
                "running jobs are not concerned; it is asked again",
            )
        return ApiError(status, reason, said)

    async def _connect(self) -> ApiClient:
        async with self._connecting:
            if self._client is None:
                settings = Configuration()
                try:
                    namespace = await self._load(settings)
                except (ConfigException, OSError) as error:
                    raise NotAuthorizedError(
                        f"site {self._site!r}: there is no usable access to a Kubernetes API",
                        "set KUBECONFIG, and `context` of the site, or run within the cluster",
                    ) from error
                self._namespace = self._namespace or namespace or "default"
                self._client = ApiClient(settings)
            return self._client

    async def _load(self, settings: Configuration) -> str:
        """Fill in how to reach the API, and return the namespace that goes with it."""
        in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT.is_dir()
        if in_cluster and not self._context and not os.environ.get("KUBECONFIG"):
            config.load_incluster_config(client_configuration=settings)
            return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
        # By name: the library has looked at the variable when it was imported.
        file = os.environ.get("KUBECONFIG") or None
        await config.load_kube_config(
            config_file=file, context=self._context, client_configuration=settings
        )
        contexts, current = config.list_kube_config_contexts(file)
        used = next((one for one in contexts if one["name"] == self._context), current)
        return str((used.get("context") or {}).get("namespace") or "")


async def _end(response: Any, most_bytes: int) -> bytes:
    """Read a response, and keep its last `most_bytes` bytes, or a chunk if that is more."""
    kept = bytearray()
    keep = max(most_bytes, _CHUNK)
    async for chunk in response.content.iter_chunked(_CHUNK):
        kept += chunk
        if len(kept) > 2 * keep:
            del kept[:-keep]
    return bytes(kept[-keep:])
