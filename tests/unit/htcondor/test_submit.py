"""From a JobSpec to a submit description and a start script."""

from dataclasses import replace
from datetime import timedelta

import pytest

from offload_sites.errors import JobRejectedError
from offload_sites.htcondor.submit import make_submission, render_image
from offload_sites.jobs import ImageRef, JobSpec, Resources
from offload_sites.site_models import HTCondorCESite

GIB = 1024**3
PATH = "/cvmfs/unpacked.example.org/analysis:v1"
IMAGE = ImageRef("analysis", cvmfs=PATH, docker="registry.example.org/analysis:v1")


def site(**changes):
    fields = {
        "kind": "htcondor-ce",
        "title": "Centre",
        "collector": "ce.example.org:9619",
        "node": {"cpus": 96, "memory": "502GiB", "gpus": 2},
        "max_walltime": "48h",
        "disk": "4GiB",
        "images": {"bind": ["/cvmfs", "/data set"]},
    }
    return HTCondorCESite.model_validate(fields | changes)


SPEC = JobSpec(
    command=("python3", "agent.pyz", "agent.json"),
    resources=Resources(8, 16 * GIB + 1),
    walltime=timedelta(hours=8),
    image=IMAGE,
    labels={"owner": "alice", "cluster": 'my "cluster"\n$(x)', "profile": "cores"},
)
JOBS = {"c7-1": {"agent.json": b"hush"}, "c7-2": {"agent.json": b"hush too"}}


def described(spec=SPEC, **changes):
    return make_submission("centre", site(**changes), spec, JOBS).description


def script(spec=SPEC, **changes):
    return make_submission("centre", site(**changes), spec, JOBS).start


def test_a_job_asks_for_what_its_spec_says_in_the_words_of_a_ce_and_of_a_pool():
    told = described()
    assert (told["request_cpus"], told["My.xcount"]) == ("8", "8")
    assert told["request_memory"] == told["My.maxMemory"] == str(16 * 1024 + 1)  # MiB, rounded up
    assert told["request_disk"] == str(4 * 1024**2)  # KiB
    assert told["My.maxWallTime"] == "485"  # minutes; a little more than the job's own
    assert "request_gpus" not in told
    assert told["universe"] == "vanilla"


def test_the_site_is_never_asked_for_more_walltime_than_it_has():
    assert described(replace(SPEC, walltime=timedelta(hours=48)))["My.maxWallTime"] == "2880"


def test_gpus_are_asked_for_and_reach_the_container():
    spec = replace(SPEC, resources=Resources(8, GIB, 2))
    assert described(spec)["request_gpus"] == "2"
    assert "--nv " in script(spec)
    assert "CUDA_VISIBLE_DEVICES" in script(spec)
    assert "--nv" not in script()
    assert "CUDA_VISIBLE_DEVICES" not in script()


def test_no_secret_is_in_what_others_can_read():
    submission = make_submission("centre", site(), SPEC, JOBS)
    assert "hush" not in submission.start
    assert "hush" not in str(submission.description)


def test_labels_cannot_break_out_of_their_attribute():
    told = described()
    assert told["My.OffloadOwner"] == '"alice"'
    assert told["My.OffloadCluster"] == '"my _cluster____x_"'
    assert told["batch_name"] == "my _cluster____x_"


def test_the_administrator_adds_lines_to_the_description():
    told = described(submit={"accounting_group": "group_hep", "My.WantFastQueue": "true"})
    assert told["accounting_group"] == "group_hep"
    assert told["My.WantFastQueue"] == "true"


def test_a_waiting_job_that_nobody_wants_is_removed_by_the_site_but_not_its_copy_in_the_pool():
    rule = described(replace(SPEC, max_wait=timedelta(hours=3)))["periodic_remove"]
    assert "time() - QDate > 10800" in rule
    assert rule.startswith("RoutedFromJobId =?= undefined && (")


def test_the_start_script_quotes_whatever_users_write():
    spec = replace(
        SPEC,
        command=("sh", "-c", "echo 'a b' $HOME; exit 3"),
        environment={"GREETING": "it's $(rm -rf /)"},
    )
    assert """set -- sh -c 'echo '"'"'a b'"'"' $HOME; exit 3'""" in script(spec)
    assert """put GREETING 'it'"'"'s $(rm -rf /)'""" in script(spec)
    assert "@" not in script(spec).replace('"$@"', "").replace("@...@", "")


def test_the_container_sees_the_folders_of_the_catalog_and_nothing_else():
    text = script()
    assert "--containall" in text
    assert "--bind /cvmfs --bind '/data set' \"$image\"" in text
    assert "[ -e '/data set' ] || fail 72 'this node has no ''/data set'" in text
    assert f"image={PATH}" in text


def test_without_an_image_the_command_runs_on_the_bare_node():
    assert "image=''" in script(replace(SPEC, image=None))


def test_in_the_container_universe_htcondor_starts_the_container():
    told = described(container="universe")
    assert (told["universe"], told["container_image"]) == ("container", PATH)
    assert "image=''" in script(container="universe")
    images = {"render": "docker"}
    assert described(container="universe", images=images)["container_image"] == (
        "docker://registry.example.org/analysis:v1"
    )


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (ImageRef("x", cvmfs="/cvmfs/unpacked.example.org/../etc"), "no plain path"),
        (ImageRef("x", cvmfs="/cvmfs//unpacked.example.org/a"), "no plain path"),
        (ImageRef("x", cvmfs="/etc/passwd"), "no plain path"),
        (ImageRef("x"), "no plain path"),
        (ImageRef("x", cvmfs="/cvmfs/unpacked.example.org/a\nb"), "not printable"),
        (ImageRef("x", cvmfs="/cvmfs/evil.example.org/a"), "on the repository 'evil.example.org'"),
    ],
)
def test_an_image_from_elsewhere_is_refused(image, says):
    one = site(images={"repositories": ["unpacked.example.org"]})
    with pytest.raises(JobRejectedError, match=says):
        render_image("centre", one, image)


def test_an_image_of_a_registry_needs_to_be_in_one():
    with pytest.raises(JobRejectedError, match="is in no registry"):
        render_image("centre", site(images={"render": "docker"}), ImageRef("x", cvmfs=PATH))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resources": Resources(97, GIB)}, "97 CPUs, and a node of the site has 96"),
        ({"resources": Resources(1, 600 * GIB)}, "600 GiB of memory"),
        ({"resources": Resources(1, GIB, 3)}, "3 GPUs, and a node of the site has 2"),
        ({"walltime": timedelta(hours=49)}, "walltime of 2 days, 1:00:00"),
        ({"environment": {"NOT-A-NAME": "x"}}, "not the name of an environment variable"),
        ({"environment": {"NUL": "a\0b"}}, "NUL character"),
    ],
)
def test_what_could_never_run_is_refused_with_value_and_limit(changes, says):
    with pytest.raises(JobRejectedError, match=says):
        make_submission("centre", site(), replace(SPEC, **changes), JOBS)


@pytest.mark.parametrize("name", ["../x", "a b", "", "out", "tmp", "offload-start", "a,b", "-rf"])
def test_a_file_that_could_not_be_named_so_is_refused(name):
    with pytest.raises(JobRejectedError, match="cannot be the name of a file"):
        make_submission("centre", site(), SPEC, {"c7-1": {name: b""}})


def test_an_input_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(JobRejectedError, match="'data' is not a file on this machine"):
        make_submission("centre", site(), replace(SPEC, inputs={"data": tmp_path / "no"}), JOBS)
