"""The objects of jobs: valid for a real API server, and such as each plugin can read."""

import base64
import dataclasses
import re
from datetime import timedelta

import pytest

from offload_sites.errors import JobRejectedError
from offload_sites.interlink import manifest as virtual
from offload_sites.jobs import ImageRef, JobSpec, Resources
from offload_sites.kubernetes import manifest
from offload_sites.kubernetes.naming import is_job_name, job_name, label_value
from offload_sites.site_models import InterlinkSite, KubernetesSite, Node, Toleration
from tests.services.kubernetes import validating
from tests.services.kubernetes.api import RESOURCES, _default

IMAGE = ImageRef("base", cvmfs="/cvmfs/unpacked.example.org/base", docker="example.org/base:1")
SPEC = JobSpec(
    command=("python3", "offload-agent.pyz", "agent.json"),
    resources=Resources(4, 5 * 1024**3 + 1, 1),
    walltime=timedelta(hours=2),
    image=IMAGE,
    environment={"X": "1"},
    labels={"owner": "alice@example.org", "cluster": "alice-1", "profile": "a b"},
)
PLUGINS = ("slurm", "htcondor", "docker", "kubernetes")


def plain(**fields):
    return KubernetesSite(kind="kubernetes", title="t", max_walltime=timedelta(hours=24), **fields)


def hpc(**fields):
    given = {"node_name": "vk-hpc", "max_walltime": timedelta(hours=24), **fields}
    return InterlinkSite(kind="interlink", title="t", **given)


def job(spec=SPEC):
    return manifest.PodJob("site", "site-k-1", "k-1", spec, "u0")


def check(resource, value):
    """Raise if an API server would refuse it."""
    value = {**value, "metadata": dict(value["metadata"])}
    validating.check_schema(value, RESOURCES[resource].model)
    if resource == "pods":
        value["spec"] = dict(value["spec"])
    _default(RESOURCES[resource], value)
    validating.check_meta(value["metadata"], resource)
    if resource == "pods":
        validating.check_pod(value)
    if resource in ("secrets", "configmaps"):
        validating.check_data(value, resource)


def test_every_object_is_one_that_an_api_server_takes():
    site = plain(
        node_selector={"accelerator": "a100"},
        tolerations=[Toleration(key="gpu"), Toleration(key="x", value="y", effect="NoExecute")],
        image_pull_secrets=["registry"],
        labels={"kueue.x-k8s.io/queue-name": "analysis"},
    )
    check("pods", manifest.make_pod(job(), site))
    check("configmaps", manifest.make_record(job(), "#!/bin/sh\n"))
    check("secrets", manifest.make_secret(job(), {"agent.json": b"\x00", "odd näme": b""}))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_pod_for_a_virtual_node_is_one_that_an_api_server_takes(plugin):
    spec = dataclasses.replace(SPEC, resources=Resources(4, 5 * 1024**3, 0))
    site = hpc(plugin=plugin, scratch="/scratch", partition="p", account="a", flavour="f")
    check("pods", virtual.make_pod(job(spec), site))


@pytest.mark.parametrize(
    "make",
    [lambda: manifest.make_pod(job(), plain())]
    + [lambda plugin=plugin: virtual.make_pod(job(), hpc(plugin=plugin)) for plugin in PLUGINS],
)
def test_no_secret_and_nothing_to_be_expanded_is_in_a_pod(make):
    pod = make()
    (container,) = pod["spec"]["containers"]
    assert all(re.fullmatch(r"[\w./-]+", word) for word in container["command"])
    assert "args" not in container
    assert "env" not in container
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "u0"


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_pod_for_a_virtual_node_asks_for_whole_units_and_no_operating_system(plugin):
    pod = virtual.make_pod(job(), hpc(plugin=plugin))
    (container,) = pod["spec"]["containers"]
    asked = container["resources"]
    assert asked["limits"] == asked["requests"]
    assert asked["limits"] == {"cpu": "4", "memory": "5121Mi", "nvidia.com/gpu": "1"}
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "vk-hpc"}
    forever = [t for t in pod["spec"]["tolerations"] if t.get("effect") == "NoExecute"]
    assert {t["key"] for t in forever} == {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    }
    assert not any("tolerationSeconds" in t for t in pod["spec"]["tolerations"])
    assert "securityContext" not in pod["spec"]


def test_slurm_is_told_in_annotations_what_a_pod_cannot_say():
    site = hpc(
        partition="boost",
        account="inf26",
        flavour="gpu-nvidia",
        scratch="/scratch",
        container_options="--nv --containall",
        annotations={"slurm-job.vk.io/flags": "--qos=high", "x": "y"},
    )
    notes = virtual.make_pod(job(), site)["metadata"]["annotations"]
    flags = "--time=125 --partition=boost --account=inf26 --gres=gpu:1 --qos=high"
    assert notes["slurm-job.vk.io/flags"] == flags
    assert notes["slurm-job.vk.io/flavor"] == "gpu-nvidia"
    binds = "--bind /cvmfs:/cvmfs --bind /scratch:/offload/work"
    assert notes["slurm-job.vk.io/singularity-mounts"] == binds
    assert notes["slurm-job.vk.io/singularity-options"] == "--nv --containall"
    assert notes["x"] == "y"


def test_slurm_is_not_asked_for_more_time_than_the_site_allows():
    notes = virtual.make_pod(job(), hpc(max_walltime=timedelta(hours=2)))["metadata"]["annotations"]
    assert "--time=120" in notes["slurm-job.vk.io/flags"]


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        ({}, "/cvmfs/unpacked.example.org/base"),
        ({"images": {"render": "docker"}}, "docker://example.org/base:1"),
        ({"plugin": "htcondor"}, "/cvmfs/unpacked.example.org/base"),
        ({"plugin": "docker"}, "example.org/base:1"),
        ({"plugin": "kubernetes"}, "example.org/base:1"),
    ],
)
def test_each_plugin_gets_the_form_of_an_image_that_it_takes(fields, image):
    site = InterlinkSite.model_validate(
        {"kind": "interlink", "title": "t", "max_walltime": "2h", "node_name": "vk", **fields}
    )
    assert virtual.make_pod(job(), site)["spec"]["containers"][0]["image"] == image


@pytest.mark.parametrize(
    ("site", "changes", "words"),
    [
        (hpc(), {"image": None}, "without an image"),
        (hpc(), {"image": ImageRef("x", docker="y")}, "'cvmfs' form"),
        (hpc(node=Node(cpus=2, memory="64GiB")), {}, "4 CPUs, and a node has 2"),
        (hpc(max_walltime=timedelta(hours=1)), {}, "2 h, and a job may run for 1 h"),
        (hpc(plugin="htcondor"), {}, "no GPUs"),
        (hpc(plugin="htcondor"), {"resources": Resources()}, "60 minutes"),
        (
            hpc(plugin="htcondor"),
            {
                "resources": Resources(),
                "walltime": timedelta(minutes=30),
                "image": ImageRef("x", cvmfs="/cvmfs/ghost"),
            },
            "contains 'host'",
        ),
        # Plugins write it into a script that runs outside of the container.
        (hpc(), {"image": ImageRef("x", cvmfs="/cvmfs/x; id")}, "does not quote"),
        (hpc(), {"image": ImageRef("x", cvmfs="/cvmfs/$(id)")}, "does not quote"),
    ],
)
def test_what_a_virtual_node_cannot_do_is_said_before_it_is_sent(site, changes, words):
    with pytest.raises(JobRejectedError, match=re.escape(words)):
        virtual.check_spec("hpc", site, dataclasses.replace(SPEC, **changes))


def test_an_image_without_a_registry_reference_is_refused_by_a_cluster():
    spec = dataclasses.replace(SPEC, image=ImageRef("x", cvmfs="/cvmfs/x"))
    with pytest.raises(JobRejectedError, match="'x'"):
        manifest.check_spec("cluster", plain(), spec)


def test_files_that_do_not_fit_a_secret_are_refused(tmp_path):
    (tmp_path / "big").write_bytes(bytes(1024**2))
    spec = dataclasses.replace(SPEC, inputs={"big": tmp_path / "big"})
    with pytest.raises(JobRejectedError, match="1 MiB"):
        manifest.check_files("cluster", spec, {})


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\nb"])
def test_a_file_without_a_plain_name_is_refused(name):
    with pytest.raises(JobRejectedError, match="plain name"):
        manifest.check_files("cluster", SPEC, {name: b""})


def test_files_are_private_where_the_plugin_keeps_them():
    def mode(plugin):
        volumes = virtual.make_pod(job(), hpc(plugin=plugin))["spec"]["volumes"]
        return next(one["secret"]["defaultMode"] for one in volumes if "secret" in one)

    assert [mode(plugin) for plugin in PLUGINS] == [0o600, 0o600, 0o600, 0o444]


def test_a_secret_holds_what_was_given():
    data = manifest.make_secret(job(), {"b": b"2", "a": b"1"})["data"]
    assert {name: base64.b64decode(text) for name, text in data.items()} == {
        "check": b"plain",
        "file-0": b"1",
        "file-1": b"2",
    }


def test_names_are_short_and_different_for_different_keys():
    long = "k" * 63
    names = {job_name("site", key) for key in ("k-1", long, long[:-1] + "x")}
    assert len(names) == 3
    assert all(is_job_name(name) for name in names)
    assert job_name("site", "k-1") == "site-k-1"
    assert not any(map(is_job_name, ["", "../..", "A", "a b", "a" * 64, "-a"]))


@pytest.mark.parametrize("text", ["alice@example.org", "a b", "-", "", "x" * 100, "è.", "a\nb"])
def test_a_label_value_is_one_whatever_it_is_made_of(text):
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", label_value(text))
    assert len(label_value(text)) <= 63


@pytest.mark.parametrize(("plugin", "grace_s"), [("slurm", 1), ("docker", 1), ("kubernetes", None)])
def test_a_deleted_pod_stands_no_longer_than_its_plugin_has_use_for(plugin, grace_s):
    pod = virtual.make_pod(job(), hpc(plugin=plugin))
    assert pod["spec"].get("terminationGracePeriodSeconds") == grace_s
