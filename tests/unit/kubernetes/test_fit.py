"""Pods of others for the sites of a catalog: what is changed, and that each change is explained."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from offload_sites.errors import InvalidOptionsError
from offload_sites.interlink.examine import findings
from offload_sites.interlink.fit import fit_virtual_pod
from offload_sites.kubernetes.fit import fit_plain_pod, open_document, site_of_namespace
from offload_sites.site_models import InterlinkSite, KubernetesSite, Node, Toleration

SNAKEMAKE = Path(__file__).parents[2] / "data" / "snakemake-job.yaml"
IMAGES = {"registry.example.org/highrate:v1.4": "/cvmfs/unpacked.example.org/highrate:v1.4"}


def hpc(**fields):
    given = {"node_name": "vk-hpc", "max_walltime": timedelta(hours=24), **fields}
    return InterlinkSite(kind="interlink", title="t", **given)


def fit(spec, site=None, meta=None):
    container = {"name": "c", "image": "example.org/c:1", "command": ["run"]}
    spec = {"containers": [container], **spec}
    return fit_virtual_pod(meta or {}, spec, site or hpc(), IMAGES)


def fit_container(fields, site=None):
    fitted = fit({"containers": [{"name": "c", "image": "example.org/c:1", **fields}]}, site)
    return fitted.spec["containers"][0], fitted.notes


def places(notes):
    return {change.where for change in notes.changes}


def test_it_goes_to_the_virtual_node_and_stays_there_while_its_site_is_away():
    seconds = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 60}
    fitted = fit(
        {
            "nodeSelector": {"kubernetes.io/os": "linux", "disk": "ssd"},
            "affinity": {"nodeAffinity": {}, "x": 1},
            "nodeName": "worker-1",
            "tolerations": [seconds, {"key": "mine", "operator": "Exists"}],
        }
    )
    assert fitted.spec["nodeSelector"] == {"kubernetes.io/hostname": "vk-hpc"}
    assert "affinity" not in fitted.spec
    assert "nodeName" not in fitted.spec
    keys = {one["key"] for one in fitted.spec["tolerations"]}
    assert {"mine", "virtual-node.interlink/no-schedule"} < keys
    assert not any("tolerationSeconds" in one for one in fitted.spec["tolerations"])
    assert {"spec.nodeSelector[kubernetes.io/os]", "spec.affinity"} < places(fitted.notes)


def test_volumes_that_the_node_cannot_serve_go_with_their_mounts():
    volumes = [
        {"name": "claim", "persistentVolumeClaim": {"claimName": "home"}},
        {"name": "host", "hostPath": {"path": "/data"}},
        {"name": "cvmfs", "hostPath": {"path": "/cvmfs"}},
        {"name": "token", "projected": {"sources": []}},
        {"name": "settings", "configMap": {"name": "s"}},
        {"name": "keys", "secret": {"secretName": "k"}},
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in volumes]
    container = {"name": "c", "image": "example.org/c:1", "volumeMounts": mounts}
    fitted = fit({"volumes": volumes, "containers": [container]})
    left = ["settings", "keys", "scratch"]
    assert [one["name"] for one in fitted.spec["volumes"]] == left
    assert [one["name"] for one in fitted.spec["containers"][0]["volumeMounts"]] == left
    told = [str(change) for change in fitted.notes.changes]
    assert any("spec.volumes[claim]: removed (persistentVolumeClaim)" in text for text in told)
    assert any("removed /claim" in text for text in told)


@pytest.mark.parametrize(
    ("given", "amounts"),
    [
        ({}, {"cpu": "1", "memory": "2048Mi"}),
        ({"requests": {"cpu": "3800m", "memory": "3000M"}}, {"cpu": "4", "memory": "2862Mi"}),
        ({"limits": {"cpu": 2, "memory": "1.5Gi"}}, {"cpu": "2", "memory": "1536Mi"}),
        (
            {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}, "limits": {"nvidia.com/gpu": 2}},
            {"cpu": "1", "memory": "2048Mi", "nvidia.com/gpu": "2"},
        ),
    ],
)
def test_resources_become_whole_and_equal(given, amounts):
    container, _ = fit_container({"resources": given})
    assert container["resources"] == {"requests": amounts, "limits": amounts}


def test_what_slurm_has_to_be_told_is_joined_with_what_the_pod_says_already():
    meta = {"annotations": {"slurm-job.vk.io/flags": "--exclusive", "mine": "x"}}
    spec = {"activeDeadlineSeconds": 3600}
    gpus = {"limits": {"nvidia.com/gpu": "2"}}
    spec["containers"] = [{"name": "c", "image": "i", "command": ["run"], "resources": gpus}]
    fitted = fit(spec, hpc(partition="gpu"), meta)
    flags = "--time=65 --partition=gpu --gres=gpu:2 --exclusive"
    assert fitted.meta["annotations"]["slurm-job.vk.io/flags"] == flags
    assert fitted.meta["annotations"]["mine"] == "x"
    assert "activeDeadlineSeconds" not in fitted.spec


def test_variables_in_words_are_filled_in_where_that_can_be_done():
    container, notes = fit_container(
        {
            "command": ["run", "--name", "$(NAME)", "$$HOME", "$(date)"],
            "env": [{"name": "NAME", "value": "w-1"}],
        }
    )
    assert container["command"] == ["run", "--name", "w-1", "$HOME", "$(date)"]
    assert not notes.problems
    field = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    _, notes = fit_container({"command": ["run", "$(POD)"], "env": [field]})
    assert "known only when the pod runs" in notes.problems[0].why


@pytest.mark.parametrize(
    ("image", "fields", "becomes"),
    [
        ("example.org/c:1", {}, "docker://example.org/c:1"),
        ("registry.example.org/highrate:v1.4", {}, IMAGES["registry.example.org/highrate:v1.4"]),
        ("/cvmfs/x", {}, "/cvmfs/x"),
        ("docker://x", {}, "docker://x"),
        ("registry.example.org/highrate:v1.4", {"images": {"render": "docker"}}, None),
        ("example.org/c:1", {"plugin": "kubernetes"}, "example.org/c:1"),
    ],
)
def test_images_are_named_as_the_site_takes_them(image, fields, becomes):
    site = InterlinkSite.model_validate(
        {"kind": "interlink", "title": "t", "max_walltime": "2h", "node_name": "vk", **fields}
    )
    container, _ = fit_container({"image": image, "command": ["x"]}, site)
    assert container["image"] == (becomes or f"docker://{image}")


@pytest.mark.parametrize(
    ("site", "spec", "words"),
    [
        (hpc(plugin="docker"), {"command": ["sh", "-c", "a b"]}, "joins words by blanks"),
        (hpc(plugin="htcondor"), {"command": ["x"]}, "60 minutes"),
        (hpc(plugin="kubernetes"), {"image": "/cvmfs/x"}, "pulls images from a registry"),
        (hpc(), {"workingDir": "/w"}, "without a command of its own"),
        (hpc(node=Node(cpus=1, memory="64GiB")), {"resources": {"limits": {"cpu": "2"}}}, "2 CPUs"),
    ],
)
def test_what_cannot_be_mended_is_a_problem(site, spec, words):
    _, notes = fit_container(spec, site)
    assert any(words in problem.why for problem in notes.problems), notes.problems


def test_a_pod_that_is_fit_already_is_left_alone():
    fitted = fit({"activeDeadlineSeconds": 3600})
    again = fit_virtual_pod(
        fitted.meta, {**fitted.spec, "activeDeadlineSeconds": 3600}, hpc(), IMAGES
    )
    assert again.spec == fitted.spec
    assert places(again.notes) <= {
        "spec.activeDeadlineSeconds",
        "metadata.annotations[slurm-job.vk.io/flags]",
    }


def test_a_job_of_snakemake_is_made_fit():
    document = open_document(yaml.safe_load(SNAKEMAKE.read_text("utf-8")))
    fitted = fit_virtual_pod(document.meta, document.spec, hpc(), IMAGES)
    assert not fitted.notes.problems
    whole = document.filled(fitted, "flows")
    (container,) = whole["spec"]["template"]["spec"]["containers"]
    assert whole["metadata"]["namespace"] == "flows"
    assert container["image"] == IMAGES["registry.example.org/highrate:v1.4"]
    assert container["command"][:4] == ["/bin/sh", "-c", 'cd "$0" && exec "$@"', "/workdir"]
    assert container["command"][4:6] == ["/bin/sh", "-c"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "2862Mi"}


def test_on_ordinary_nodes_a_pod_only_gets_what_leads_it_there():
    site = KubernetesSite(
        kind="kubernetes",
        title="t",
        max_walltime=timedelta(hours=1),
        node_selector={"accelerator": "a100"},
        tolerations=[Toleration(key="gpu")],
        labels={"queue": "q"},
    )
    claim = {"name": "home", "persistentVolumeClaim": {"claimName": "home"}}
    spec = {"containers": [{"name": "c", "image": "i"}], "volumes": [claim]}
    fitted = fit_plain_pod({}, spec, site)
    assert fitted.spec["volumes"] == [claim]
    assert fitted.spec["nodeSelector"] == {"accelerator": "a100"}
    assert len(fitted.notes.changes) == 3


@pytest.mark.parametrize("value", [None, [], "x", {}, {"kind": "Deployment"}, {"kind": "Pod"}])
def test_a_document_without_a_pod_is_refused_in_a_sentence(value):
    with pytest.raises(InvalidOptionsError):
        open_document(value)


def test_a_namespace_can_name_a_site():
    labels = {"interlink-offload/site": "hpc"}
    assert site_of_namespace({"metadata": {"labels": labels}}) == "hpc"
    assert site_of_namespace({"metadata": {}}) == ""


def node(version, **labels):
    labels = {"virtual-node.interlink/type": "virtual-kubelet", **labels}
    return {"metadata": {"labels": labels}, "status": {"nodeInfo": {"kubeletVersion": version}}}


def test_the_doctor_says_which_interlink_it_is_and_what_does_not_go_together():
    assert "interLink 0.6.2" in findings(hpc(), node("0.6.2"))[0].what
    bad = [one for one in findings(hpc(plugin="htcondor"), node("0.6.2")) if one.good is False]
    assert "201" in bad[0].what
    assert all(one.good for one in findings(hpc(plugin="htcondor"), node("0.4.0")))
    gpus = hpc(node=Node(cpus=8, memory="64GiB", gpus=4))
    assert "has no nvidia.com/gpu" in findings(gpus, node("0.6.2"))[1].what
    assert findings(hpc(), {"metadata": {}})[0].good is False
