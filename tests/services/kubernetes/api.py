"""The API server: lists, watches, versions, patches, graceful deletion, admission, RBAC, faults.

Made after Kubernetes 1.36 for what this project and KubeSpawner use of it. Where it refuses something
it answers with the same codes and reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from tests.services.kubernetes import patching, validating
from tests.services.kubernetes.selecting import BadSelector, field_selector, label_selector
from tests.services.kubernetes.store import Expired, Key, Store

ADMIN = "admin-token-of-the-fake"


class Resource(NamedTuple):
    group: str
    plural: str
    kind: str
    model: str
    namespaced: bool = True


RESOURCES = {
    one.plural: one
    for one in (
        Resource("api/v1", "pods", "Pod", "V1Pod"),
        Resource("api/v1", "secrets", "Secret", "V1Secret"),
        Resource("api/v1", "configmaps", "ConfigMap", "V1ConfigMap"),
        Resource("api/v1", "events", "Event", "CoreV1Event"),
        Resource("api/v1", "services", "Service", "V1Service"),
        Resource("api/v1", "serviceaccounts", "ServiceAccount", "V1ServiceAccount"),
        Resource(
            "api/v1", "persistentvolumeclaims", "PersistentVolumeClaim", "V1PersistentVolumeClaim"
        ),
        Resource("api/v1", "nodes", "Node", "V1Node", namespaced=False),
        Resource("api/v1", "namespaces", "Namespace", "V1Namespace", namespaced=False),
        Resource("apis/batch/v1", "jobs", "Job", "V1Job"),
        Resource("apis/coordination.k8s.io/v1", "leases", "Lease", "V1Lease"),
    )
}


class Refusal(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def response(self) -> web.Response:
        return web.json_response(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": self.message,
                "reason": self.reason,
                "code": self.code,
            },
            status=self.code,
        )


class Call(NamedTuple):
    """One request that was answered: verb, resource (with its subresource), name."""

    verb: str
    resource: str
    name: str


class FakeApi:
    """The server.

    Attributes
    ----------
    store : Store
        All objects.
    calls : list of Call
        What was asked, by everybody.
    down : bool
        Set it, and every connection is broken off, as if nobody listened.
    faults : list of callable
        Each is called with a `Call`; a number that it returns is answered as the HTTP status, None
        lets the request through.
    roles : dict
        Bearer token to the rules (`apiGroups`, `resources`, `verbs`, `resourceNames`) it has, as in
        a Role; the token `ADMIN` may do everything.
    page : int or None
        Most items of one page of a list; None for what the client asks.
    open_to_all : bool
        Whether somebody without a token is an administrator: kubectl sends none without TLS.
    collects : bool
        Whether objects are removed whose owners are all gone.
    """

    def __init__(self, port: int = 0) -> None:
        self.store = Store()
        self.calls: list[Call] = []
        self.down = False
        self.faults: list[Callable[[Call], int | None]] = []
        self.roles: dict[str, list[Mapping[str, Any]]] = {}
        self.page: int | None = None
        self.collects = True
        self.open_to_all = False
        self.port = port
        self._watches: set[asyncio.Task[Any]] = set()

    # --- running ---------------------------------------------------------------------------------

    async def __aenter__(self) -> FakeApi:
        app = web.Application(client_max_size=8 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._collector = asyncio.create_task(self._collect())
        for name in ("default", "kube-system"):
            self.add("namespaces", {"metadata": {"name": name}})
        return self

    async def __aexit__(self, *_: object) -> None:
        self._collector.cancel()
        for watch in self._watches:
            watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._collector
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, namespace: str, token: str = ADMIN) -> str:
        """Return the text of a kubeconfig (JSON is YAML)."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                "users": [{"name": "me", "user": {"token": token}}],
                "contexts": [
                    {
                        "name": "fake",
                        "context": {"cluster": "fake", "user": "me", "namespace": namespace},
                    }
                ],
                "current-context": "fake",
            }
        )

    # --- by hand ---------------------------------------------------------------------------------

    def add(self, resource: str, value: dict[str, Any], namespace: str = "") -> dict[str, Any]:
        """Create an object without a request."""
        return self._create(RESOURCES[resource], namespace, copy.deepcopy(value))

    def objects(self, resource: str, namespace: str = "") -> list[dict[str, Any]]:
        return self.store.select(resource, namespace, lambda _: True)

    def get(self, resource: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        return next(
            (one for one in self.objects(resource, namespace) if one["metadata"]["name"] == name),
            None,
        )

    def edit(self, resource: str, name: str, patch: Mapping[str, Any], namespace: str = "") -> None:
        """Change an object by a merge patch, status included."""
        key = Key(resource, namespace, name)
        self.store.put(key, patching.merge_patch(self.store.objects[key], patch))

    def remove(self, resource: str, name: str, namespace: str = "") -> None:
        """Drop an object at once, as if by force."""
        self.store.drop(Key(resource, namespace, name))

    # --- requests --------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        try:
            return await self._route(request)
        except Refusal as refusal:
            return refusal.response()
        except validating.Invalid as invalid:
            text = "; ".join(invalid.problems)
            if invalid.strict:
                return Refusal(400, "BadRequest", f"strict decoding error: {text}").response()
            return Refusal(422, "Invalid", f"object is invalid: {text}").response()
        except BadSelector as error:
            return Refusal(400, "BadRequest", str(error)).response()

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/")
        if path == "version":
            return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.1"})
        if path in ("api", "apis") or any(path == one.group for one in RESOURCES.values()):
            return web.json_response(_discovery(path))
        resource, namespace, name, sub = self._parse(path)
        verb = _verb(request, name)
        call = Call(verb, f"{resource.plural}/{sub}" if sub else resource.plural, name)
        self._authorize(request, resource, call)
        self.calls.append(call)
        for fault in list(self.faults):
            status = fault(call)
            if status is not None:
                raise Refusal(
                    status, "InternalError" if status >= 500 else "", "a fault of the test"
                )
        if verb in ("get", "list", "watch"):
            return await self._read(request, resource, namespace, name, sub, verb)
        body = await request.read()
        # What of a write happens at once must not be interrupted by the client's going away.
        return web.json_response(
            self._write(request, resource, namespace, name, sub, verb, body),
            status=201 if verb == "create" else 200,
        )

    def _parse(self, path: str) -> tuple[Resource, str, str, str]:
        for resource in RESOURCES.values():
            if not path.startswith(resource.group + "/"):
                continue
            parts = path[len(resource.group) + 1 :].split("/")
            if resource.namespaced and parts[0] == "namespaces" and len(parts) > 2:
                if parts[2] == resource.plural:
                    rest = [*parts[3:], "", ""]
                    return resource, parts[1], rest[0], rest[1]
            elif parts[0] == resource.plural:
                rest = [*parts[1:], "", ""]
                return resource, "", rest[0], rest[1]
        raise Refusal(404, "NotFound", "the server could not find the requested resource")

    def _authorize(self, request: web.Request, resource: Resource, call: Call) -> None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == ADMIN or (self.open_to_all and not token):
            return
        if token not in self.roles:
            raise Refusal(401, "Unauthorized", "Unauthorized")
        group = "" if resource.group == "api/v1" else resource.group.split("/")[1]
        for rule in self.roles[token]:
            if (
                group in rule["apiGroups"]
                and call.resource in rule["resources"]
                and call.verb in rule["verbs"]
                and (not rule.get("resourceNames") or call.name in rule["resourceNames"])
            ):
                return
        raise Refusal(
            403,
            "Forbidden",
            f'{call.resource} "{call.name}" is forbidden: User "limited" cannot {call.verb} '
            f'resource "{call.resource}" in API group "{group}"',
        )

    # --- reading ---------------------------------------------------------------------------------

    async def _read(
        self,
        request: web.Request,
        resource: Resource,
        namespace: str,
        name: str,
        sub: str,
        verb: str,
    ) -> web.StreamResponse:
        if verb == "get" and sub == "log":
            return await self._log(request, self._one(resource, namespace, name))
        if verb == "get":
            return web.json_response(self._one(resource, namespace, name))
        by_label = label_selector(request.query.get("labelSelector", ""))
        by_field = field_selector(request.query.get("fieldSelector", ""), resource.plural)

        def holds(value: dict[str, Any]) -> bool:
            return by_label(value) and by_field(value)

        if verb == "watch":
            return await self._watch(request, resource, namespace, holds)
        return self._list(request, resource, namespace, holds)

    def _list(
        self,
        request: web.Request,
        resource: Resource,
        namespace: str,
        holds: Callable[[dict[str, Any]], bool],
    ) -> web.Response:
        items = self.store.select(resource.plural, namespace, holds)
        version, begin = self.store.version, 0
        if request.query.get("continue"):
            version, begin = map(int, request.query["continue"].split("-"))
            if version < self.store.oldest:
                raise Refusal(410, "Expired", "The provided continue parameter is too old")
        limit = int(request.query.get("limit") or 0)
        limit = min(filter(None, (limit, self.page)), default=0)
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and begin + limit < len(items):
            meta["continue"] = f"{version}-{begin + limit}"
            meta["remainingItemCount"] = len(items) - begin - limit
        chosen = items[begin : begin + limit] if limit else items[begin:]
        chosen = [
            {k: v for k, v in one.items() if k not in ("kind", "apiVersion")} for one in chosen
        ]
        return web.json_response(
            {
                "kind": f"{resource.kind}List",
                "apiVersion": _api_version(resource),
                "metadata": meta,
                "items": chosen,
            }
        )

    async def _watch(
        self,
        request: web.Request,
        resource: Resource,
        namespace: str,
        holds: Callable[[dict[str, Any]], bool],
    ) -> web.StreamResponse:
        given = request.query.get("resourceVersion", "")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            seconds = float(request.query.get("timeoutSeconds") or 3600)
            async with asyncio.timeout(seconds):
                await self._stream(response, resource, namespace, holds, given)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._watches.discard(task)
        return response

    async def _stream(
        self,
        response: web.StreamResponse,
        resource: Resource,
        namespace: str,
        holds: Callable[[dict[str, Any]], bool],
        given: str,
    ) -> None:
        async def tell(kind: str, value: Any) -> None:
            await response.write(json.dumps({"type": kind, "object": value}).encode() + b"\n")

        version = int(given or 0)
        if given in ("", "0"):
            version = self.store.version
            for value in self.store.select(resource.plural, namespace, holds):
                await tell("ADDED", value)
        while not self.down:
            try:
                changes = self.store.since(version)
            except Expired:
                gone = {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "Expired",
                    "code": 410,
                    "message": f"too old resource version: {version}",
                }
                await tell("ERROR", gone)
                return
            for change in changes:
                version = change.version
                if change.key.resource != resource.plural:
                    continue
                if namespace not in ("", change.key.namespace):
                    continue
                now = change.kind != "DELETED" and holds(change.object)
                before = change.before is not None and holds(change.before)
                if now or before:
                    kind = "ADDED" if not before else "MODIFIED" if now else "DELETED"
                    await tell(kind, change.object)
            await self.store.changed(max(version, self.store.version))

    async def _log(self, request: web.Request, pod: dict[str, Any]) -> web.Response:
        """Fetch the log from the node, as an API server does."""
        node_name = pod["spec"].get("nodeName")
        if not node_name:
            return web.Response(text="")
        node = self._one(RESOURCES["nodes"], "", node_name)
        state = node.get("status") or {}
        try:
            port = state["daemonEndpoints"]["kubeletEndpoint"]["Port"]
            host = next(a["address"] for a in state["addresses"] if a["type"] == "InternalIP")
        except (KeyError, StopIteration) as error:
            raise Refusal(500, "InternalError", "the node has no kubelet endpoint") from error
        meta = pod["metadata"]
        container = request.query.get("container") or pod["spec"]["containers"][0]["name"]
        url = f"https://{host}:{port}/containerLogs/{meta['namespace']}/{meta['name']}/{container}"
        query = {k: v for k, v in request.query.items() if k != "container"}
        try:
            async with aiohttp.ClientSession() as session:
                answer = await session.get(url, params=query, ssl=False)
                return web.Response(status=answer.status, body=await answer.read())
        except aiohttp.ClientError as error:
            message = f"Get {url}: dial tcp {host}:{port}: connect: connection refused"
            raise Refusal(500, "InternalError", message) from error

    # --- writing ---------------------------------------------------------------------------------

    def _write(
        self,
        request: web.Request,
        resource: Resource,
        namespace: str,
        name: str,
        sub: str,
        verb: str,
        body: bytes,
    ) -> Any:
        if "protobuf" in request.content_type:
            raise Refusal(415, "UnsupportedMediaType", "only JSON is understood here")
        value = json.loads(body) if body else {}
        if verb == "create" and sub == "binding":
            return self._bind(namespace, name, value)
        if verb == "create":
            return self._create(resource, namespace, value)
        if verb == "delete":
            return self._delete(resource, namespace, name, {**value, **_delete_query(request)})
        if verb == "deletecollection":
            holds = label_selector(request.query.get("labelSelector", ""))
            for one in self.store.select(resource.plural, namespace, holds):
                self._delete(resource, namespace, one["metadata"]["name"], value)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        old = self._one(resource, namespace, name)
        if verb == "patch":
            value = _patched(old, value, request.content_type)
        return self._update(resource, namespace, name, old, value, sub)

    def _create(self, resource: Resource, namespace: str, value: dict[str, Any]) -> dict[str, Any]:
        validating.check_schema(value, resource.model)
        if resource.namespaced:
            spaces = {one["metadata"]["name"]: one for one in self.objects("namespaces")}
            if namespace not in spaces:
                raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
            if spaces[namespace]["metadata"].get("deletionTimestamp"):
                raise Refusal(403, "Forbidden", f"namespace {namespace} is being terminated")
        meta = value.setdefault("metadata", {})
        if meta.get("generateName") and not meta.get("name"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        if resource.namespaced and meta.setdefault("namespace", namespace) != namespace:
            raise Refusal(400, "BadRequest", "the namespace of the object does not match")
        key = Key(resource.plural, namespace if resource.namespaced else "", meta.get("name") or "")
        if key in self.store.objects:
            message = f'{resource.plural} "{key.name}" already exists'
            raise Refusal(409, "AlreadyExists", message)
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=now())
        value.update(apiVersion=_api_version(resource), kind=resource.kind)
        _default(resource, value)
        self._check(resource, value)
        return self.store.put(key, value)

    def _check(self, resource: Resource, value: dict[str, Any]) -> None:
        validating.check_schema(value, resource.model)
        validating.check_meta(value["metadata"], resource.plural)
        if resource.plural == "pods":
            validating.check_pod(value)
        if resource.plural in ("secrets", "configmaps"):
            validating.check_data(value, resource.plural)

    def _update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        old: dict[str, Any],
        value: dict[str, Any],
        sub: str,
    ) -> dict[str, Any]:
        validating.check_schema(value, resource.model)
        meta, before = value["metadata"], old["metadata"]
        if meta.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            what = f'Operation cannot be fulfilled on {resource.plural} "{name}"'
            message = f"{what}: the object has been modified"
            raise Refusal(409, "Conflict", message)
        if meta.get("uid", before["uid"]) != before["uid"]:
            raise Refusal(
                409, "Conflict", f"Precondition failed: UID in precondition: {meta['uid']}"
            )
        for field in ("uid", "creationTimestamp", "deletionTimestamp", "name", "namespace"):
            if field in before:
                meta[field] = before[field]
        if sub == "status":
            value["spec"] = old.get("spec")
            meta["ownerReferences"] = before.get("ownerReferences")
            value = {k: v for k, v in value.items() if v is not None}
            value["metadata"] = {k: v for k, v in meta.items() if v is not None}
        elif "status" in old:
            value["status"] = old["status"]
        if resource.plural == "pods" and sub != "status":
            _check_immutable(old["spec"], value["spec"])
        if old.get("immutable") and value.get("data") != old.get("data"):
            raise Refusal(
                422, "Invalid", "data: Forbidden: field is immutable when `immutable` is set"
            )
        self._check(resource, value)
        key = Key(resource.plural, namespace if resource.namespaced else "", name)
        over = before.get("deletionTimestamp") and not before.get("deletionGracePeriodSeconds")
        if over and not value["metadata"].get("finalizers"):
            return self.store.drop(key)
        return self.store.put(key, value)

    def _bind(self, namespace: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
        pod = copy.deepcopy(self._one(RESOURCES["pods"], namespace, name))
        if pod["spec"].get("nodeName"):
            raise Refusal(409, "Conflict", f'pod "{name}" is already assigned to a node')
        pod["spec"]["nodeName"] = value["target"]["name"]
        conditions = [
            one for one in pod["status"].get("conditions", []) if one["type"] != "PodScheduled"
        ]
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()})
        pod["status"]["conditions"] = conditions
        self.store.put(Key("pods", namespace, name), pod)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _delete(
        self, resource: Resource, namespace: str, name: str, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        value = copy.deepcopy(self._one(resource, namespace, name))
        meta = value["metadata"]
        wanted = options.get("preconditions") or {}
        if wanted.get("uid") not in (None, meta["uid"]):
            message = (
                f"the UID in the precondition ({wanted['uid']}) does not match the UID in record"
            )
            raise Refusal(409, "Conflict", f"Precondition failed: {message}")
        key = Key(resource.plural, namespace if resource.namespaced else "", name)
        grace = _grace(resource, value, options)
        if resource.plural == "namespaces":
            self._empty(name)
        elif grace or meta.get("finalizers"):
            if "deletionTimestamp" not in meta or grace < meta["deletionGracePeriodSeconds"]:
                meta["deletionTimestamp"] = now(grace)
                meta["deletionGracePeriodSeconds"] = grace
                return self.store.put(key, value)
            return value
        return self.store.drop(key)

    def _empty(self, namespace: str) -> None:
        for key in [key for key in self.store.objects if key.namespace == namespace]:
            self.store.drop(key)

    def _one(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        key = Key(resource.plural, namespace if resource.namespaced else "", name)
        if key not in self.store.objects:
            raise Refusal(404, "NotFound", f'{resource.plural} "{name}" not found')
        return self.store.objects[key]

    async def _collect(self) -> None:
        """Remove what nobody owns any more, a moment after its owner has gone."""
        version = 0
        while True:
            await self.store.changed(version)
            version = self.store.version
            for key in list(self.store.owned_by_nobody()) if self.collects else []:
                if key in self.store.objects:
                    self._delete(RESOURCES[key.resource], key.namespace, key.name, {})


def now(later_s: int = 0) -> str:
    moment = datetime.fromtimestamp(datetime.now(UTC).timestamp() + later_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _discovery(path: str) -> dict[str, Any]:
    """Return what kubectl asks first: which groups and kinds there are."""
    if path == "api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "apis":
        names = sorted({_api_version(one) for one in RESOURCES.values()} - {"v1"})
        versions = [{"groupVersion": name, "version": name.split("/")[1]} for name in names]
        groups = [
            {"name": one["groupVersion"].split("/")[0], "versions": [one], "preferredVersion": one}
            for one in versions
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {"name": one.plural, "kind": one.kind, "namespaced": one.namespaced, "verbs": verbs}
        for one in RESOURCES.values()
        if one.group == path
    ]
    version = path.removeprefix("apis/").removeprefix("api/")
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}


def _api_version(resource: Resource) -> str:
    return resource.group.removeprefix("apis/").removeprefix("api/")


def _verb(request: web.Request, name: str) -> str:
    if request.method == "GET":
        if request.query.get("watch") in ("1", "true", "True"):
            return "watch"
        return "get" if name else "list"
    if request.method == "DELETE":
        return "delete" if name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}[request.method]


def _delete_query(request: web.Request) -> dict[str, Any]:
    if "gracePeriodSeconds" in request.query:
        return {"gracePeriodSeconds": int(request.query["gracePeriodSeconds"])}
    return {}


def _patched(old: dict[str, Any], patch: Any, content_type: str) -> dict[str, Any]:
    kinds = {
        "application/merge-patch+json": patching.merge_patch,
        "application/strategic-merge-patch+json": patching.strategic_patch,
        "application/json-patch+json": patching.json_patch,
    }
    if content_type not in kinds:
        raise Refusal(415, "UnsupportedMediaType", f"the body has the type {content_type}")
    return kinds[content_type](old, patch)


def _grace(resource: Resource, value: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Return how long a pod may take to end; other objects go at once."""
    if resource.plural != "pods" or not value["spec"].get("nodeName"):
        return 0
    if (value.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = options.get("gracePeriodSeconds")
    return int(asked if asked is not None else value["spec"]["terminationGracePeriodSeconds"])


def _check_immutable(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    free = {"activeDeadlineSeconds", "tolerations", "containers", "initContainers"}

    def fixed(spec: Mapping[str, Any]) -> Any:
        images = [
            {k: v for k, v in one.items() if k != "image"} for one in spec.get("containers", [])
        ]
        return {k: v for k, v in spec.items() if k not in free}, images

    if fixed(old) != fixed(new):
        message = "spec: Forbidden: pod updates may not change fields other than `image`, …"
        raise Refusal(422, "Invalid", message)


def _default(resource: Resource, value: dict[str, Any]) -> None:
    if resource.plural == "namespaces":
        value["status"] = {"phase": "Active"}
    if resource.plural == "secrets":
        value.setdefault("type", "Opaque")
        for key, text in (value.pop("stringData", None) or {}).items():
            import base64

            encoded = base64.b64encode(text.encode()).decode()
            value.setdefault("data", {})[key] = encoded
    if resource.plural == "persistentvolumeclaims":
        value["status"] = {"phase": "Bound"}
    if resource.plural == "pods":
        _default_pod(value)


def _default_pod(pod: dict[str, Any]) -> None:
    """Fill in what the schema's defaults and the usual admission plugins fill in."""
    spec = pod["spec"]
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("securityContext", {})
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    for volume in spec.get("volumes") or []:
        for kind in ("secret", "configMap", "projected"):
            if volume.get(kind) is not None:
                volume[kind].setdefault("defaultMode", 0o644)
    for container in spec.get("containers") or []:
        container.setdefault("imagePullPolicy", "IfNotPresent")
        _default_resources(container)
    if spec.get("automountServiceAccountToken") is not False:
        _mount_token(spec)
    # The plugin DefaultTolerationSeconds.
    tolerations = spec.setdefault("tolerations", [])
    for what in ("not-ready", "unreachable"):
        key = f"node.kubernetes.io/{what}"
        if not any(
            one.get("key") in (key, None, "") and one.get("effect") in ("NoExecute", None, "")
            for one in tolerations
        ):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )
    pod["status"] = {"phase": "Pending", "qosClass": "Burstable"}


def _default_resources(container: dict[str, Any]) -> None:
    amounts = container.get("resources") or {}
    for kind in ("limits", "requests"):
        for name, amount in (amounts.get(kind) or {}).items():
            amounts[kind][name] = str(amount)
    for name, amount in (amounts.get("limits") or {}).items():
        amounts.setdefault("requests", {}).setdefault(name, amount)


def _mount_token(spec: dict[str, Any]) -> None:
    name = f"kube-api-access-{uuid.uuid4().hex[:5]}"
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    volume = {"name": name, "projected": {"defaultMode": 0o644, "sources": [token]}}
    spec["volumes"] = [*(spec.get("volumes") or []), volume]
    mount = {
        "name": name,
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    for container in spec["containers"]:
        container["volumeMounts"] = [*(container.get("volumeMounts") or []), mount]
