"""What the tests rely on in an API server, asked of the fake one or of that of KUBECONFIG.

A test that a real server fails shows that the fake is wrong.
"""

import asyncio

import pytest

from offload_sites.kubernetes.client import ApiError
from tests.support.kubekit import KubeKit
from tests.support.waiting import eventually

pytestmark = pytest.mark.kubernetes

JSON, MERGE = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


@pytest.fixture
async def kit(tmp_path):
    kit = KubeKit(tmp_path / "kube")
    await kit.start()
    kit.base = f"/api/v1/namespaces/{kit.namespace}"
    yield kit
    await kit.close()


async def refused(kit, *args, **options):
    with pytest.raises(ApiError) as error:
        await kit.client.ask(*args, **options)
    return error.value


async def config(kit, name, **more):
    body = {"metadata": {"name": name, **more.pop("metadata", {})}, **more}
    return await kit.client.ask("POST", f"{kit.base}/configmaps", body)


def pod(name, **spec):
    container = {"name": "c", "image": "example.org/c:1", "command": ["true"]}
    # No node has this label: the pod stays as it is.
    rest = {"containers": [container], "nodeSelector": {"offload.test/no-such-node": "1"}, **spec}
    return {"metadata": {"name": name}, "spec": rest}


async def test_a_name_is_taken_once_and_versions_move_on(kit):
    first = await config(kit, "a", data={"x": "1"})
    again = await refused(kit, "POST", f"{kit.base}/configmaps", {"metadata": {"name": "a"}})
    assert (again.status, again.reason) == (409, "AlreadyExists")
    changed = await kit.client.ask(
        "PATCH", f"{kit.base}/configmaps/a", {"data": {"x": None, "y": "2"}}, kind=MERGE
    )
    assert changed["data"] == {"y": "2"}
    assert changed["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    stale = await refused(kit, "PUT", f"{kit.base}/configmaps/a", first)
    assert (stale.status, stale.reason) == (409, "Conflict")


async def test_what_is_not_there_is_not_found(kit):
    assert (await refused(kit, "GET", f"{kit.base}/configmaps/none")).status == 404
    assert (await refused(kit, "DELETE", f"{kit.base}/pods/none")).status == 404
    other = "/api/v1/namespaces/offload-no-such-namespace/configmaps"
    assert (await refused(kit, "POST", other, {"metadata": {"name": "a"}})).status == 404


async def test_lists_are_selected_by_labels_and_fields_and_come_in_pages(kit):
    for number in range(5):
        labels = {"parity": "even" if number % 2 == 0 else "odd", "n": str(number)}
        await config(kit, f"c{number}", metadata={"labels": labels})

    async def names(**query):
        found = await kit.client.ask("GET", f"{kit.base}/configmaps", **query)
        return {one["metadata"]["name"] for one in found["items"]} - {"kube-root-ca.crt"}

    assert await names(labelSelector="parity=even") == {"c0", "c2", "c4"}
    assert await names(labelSelector="parity!=even,n") == {"c1", "c3"}
    assert await names(labelSelector="n in (1, 2),parity notin (odd)") == {"c2"}
    assert await names(fieldSelector="metadata.name=c3") == {"c3"}
    page = await kit.client.ask("GET", f"{kit.base}/configmaps", limit="2", labelSelector="n")
    more = page["metadata"]["continue"]
    rest = await kit.client.ask(
        "GET", f"{kit.base}/configmaps", limit="9", labelSelector="n", **{"continue": more}
    )
    assert (len(page["items"]), len(rest["items"])) == (2, 3)
    bad = await refused(kit, "GET", f"{kit.base}/configmaps", fieldSelector="data.x=1")
    assert bad.status == 400


async def test_a_watch_tells_what_comes_changes_and_goes(kit):
    await config(kit, "old")
    seen = []

    async def follow():
        async for objects in kit.client.follow(f"{kit.base}/configmaps"):
            names = {one["metadata"]["name"] for one in objects}
            seen.append(names - {"kube-root-ca.crt"})

    task = asyncio.create_task(follow())
    await eventually(lambda: {"old"} in seen)
    await config(kit, "new")
    await eventually(lambda: seen[-1] == {"old", "new"})
    await kit.client.ask("DELETE", f"{kit.base}/configmaps/old")
    await eventually(lambda: seen[-1] == {"new"})
    task.cancel()
    await asyncio.wait([task])


async def test_a_pod_without_a_node_goes_at_once_and_a_uid_can_be_asked_for(kit):
    made = await kit.client.ask("POST", f"{kit.base}/pods", pod("p"))
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    assert (await refused(kit, "DELETE", f"{kit.base}/pods/p", wrong)).status == 409
    right = {"preconditions": {"uid": made["metadata"]["uid"]}}
    await kit.client.ask("DELETE", f"{kit.base}/pods/p", right)
    assert (await refused(kit, "GET", f"{kit.base}/pods/p")).status == 404


async def test_a_finalizer_keeps_what_was_deleted_until_it_is_taken_away(kit):
    await config(kit, "kept", metadata={"finalizers": ["offload.test/kept"]})
    await kit.client.ask("DELETE", f"{kit.base}/configmaps/kept")
    kept = await kit.client.ask("GET", f"{kit.base}/configmaps/kept")
    assert kept["metadata"]["deletionTimestamp"]
    patch = {"metadata": {"finalizers": None}}
    await kit.client.ask("PATCH", f"{kit.base}/configmaps/kept", patch, kind=MERGE)
    assert (await refused(kit, "GET", f"{kit.base}/configmaps/kept")).status == 404


async def test_what_nobody_owns_any_more_goes_with_its_owner(kit):
    if kit.fake is None:
        pytest.skip("not every API server has a garbage collector beside it")
    owner = await config(kit, "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner"}
    reference["uid"] = owner["metadata"]["uid"]
    await config(kit, "owned", metadata={"ownerReferences": [reference]})
    await kit.client.ask("DELETE", f"{kit.base}/configmaps/owner")

    async def gone():
        found = await kit.client.ask("GET", f"{kit.base}/configmaps")
        return "owned" not in {one["metadata"]["name"] for one in found["items"]}

    await eventually(gone)


async def test_a_strategic_patch_merges_lists_by_their_keys_and_a_json_patch_edits_them(kit):
    await kit.client.ask("POST", f"{kit.base}/pods", pod("p"))
    path = f"{kit.base}/pods/p/status"
    for kind, status in (("A", "True"), ("B", "True"), ("A", "False")):
        patch = {"status": {"conditions": [{"type": kind, "status": status}]}}
        changed = await kit.client.ask("PATCH", path, patch, kind=STRATEGIC)
    found = {one["type"]: one["status"] for one in changed["status"]["conditions"]}
    assert {"A": "False", "B": "True"}.items() <= found.items()
    label = [{"op": "add", "path": "/metadata/labels", "value": {"x": "y"}}]
    changed = await kit.client.ask("PATCH", f"{kit.base}/pods/p", label, kind=JSON)
    assert changed["metadata"]["labels"] == {"x": "y"}


async def test_a_pod_gets_the_defaults_of_admission(kit):
    body = pod("p", automountServiceAccountToken=False)
    made = await kit.client.ask("POST", f"{kit.base}/pods", body)
    assert made["status"]["phase"] == "Pending"
    assert made["spec"]["terminationGracePeriodSeconds"] == 30
    taints = {one["key"]: one.get("tolerationSeconds") for one in made["spec"]["tolerations"]}
    assert taints["node.kubernetes.io/unreachable"] == 300


@pytest.mark.parametrize(
    "spec",
    [
        {"restartPolicy": "Sometimes"},
        {"containers": []},
        {"volumes": [{"name": "Bad_Name", "emptyDir": {}}]},
        {
            "containers": [
                {"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}
            ]
        },
        {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "a lot"}}}]},
        {
            "containers": [
                {
                    "name": "c",
                    "image": "i",
                    "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
                }
            ]
        },
        {"tolerations": [{"key": "x", "operator": "Exists", "value": "y"}]},
        {"activeDeadlineSeconds": "soon"},
    ],
)
async def test_a_pod_that_is_not_valid_is_refused(kit, spec):
    error = await refused(kit, "POST", f"{kit.base}/pods", pod("p", **spec))
    assert error.status in (400, 422)


async def test_an_unknown_field_is_refused_where_that_is_asked_for(kit):
    body = pod("p", restartPolice="Never")
    error = await refused(kit, "POST", f"{kit.base}/pods", body, fieldValidation="Strict")
    assert error.status == 400
    assert "restartPolice" in error.said


@pytest.mark.filterwarnings("ignore:Sending a large body")
async def test_a_secret_holds_a_mebibyte_of_base64(kit):
    path = f"{kit.base}/secrets"
    bad = {"metadata": {"name": "s"}, "data": {"x": "no base64!"}}
    assert (await refused(kit, "POST", path, bad)).status in (400, 422)
    large = {"metadata": {"name": "s"}, "data": {"x": "QUFB" * (2**20 // 3 + 1)}}
    assert (await refused(kit, "POST", path, large)).status in (413, 422)
