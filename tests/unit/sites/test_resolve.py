"""A user's choice against the catalog: only what is offered comes through."""
# ruff: noqa: PT017, RUF001  # any input is read or refused; digits of other scripts are input

import sys
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_sites.catalog import BUILTIN_SITES
from offload_sites.errors import InvalidOptionsError
from offload_sites.jobs import Resources
from offload_sites.load import default_catalog, parse_catalog
from offload_sites.resolve import Choice, Resolved, offered, one_worker, resolve, workers_per_job

TEXT = r"""
sites:
  farm: {kind: htcondor-ce, title: Farm, collector: "ce.example.org:9619", max_walltime: 48h,
    node: {cpus: 32, memory: 64GiB}}
  small: {kind: htcondor-ce, title: Small, collector: "ce2.example.org:9619", max_walltime: 12h}
images:
  base: {title: Base, cvmfs: /cvmfs/a.example.org/base}
  extra: {title: Extra, cvmfs: /cvmfs/a.example.org/extra, python: /opt/bin/python}
profiles:
  open:
    title: Open
    sites: [farm, small]
    images: [base, extra]
    resources: {cpus: {choices: [4, 1]}, memory: {per_cpu: 2GiB}}
    preload: [numpy]
    environment: {MODE: fast}
  free:
    title: Free
    sites: [farm]
    for: [session]
    images: [{pattern: '/cvmfs/a\.example\.org/[a-z./]+'}]
    resources: {cpus: 2, memory: 3GiB}
    walltime: {default: 2h, max: 4h}
  closed:
    title: Closed
    sites: [farm]
    images: [base]
    resources: {cpus: 1, memory: 1GiB}
    groups: [/gpu, /admins]
"""
CATALOG = parse_catalog(TEXT, kinds=BUILTIN_SITES)


def resolved(groups=(), purpose="session", **asked):
    return resolve(CATALOG, Choice(**asked), purpose=purpose, groups=groups)


def refusal(**asked):
    with pytest.raises(InvalidOptionsError) as error:
        resolved(**asked)
    return error.value


def test_who_says_nothing_gets_the_first_of_everything():
    got = resolved()
    assert (got.profile, got.title, got.sites) == ("open", "Open", ("farm", "small"))
    assert (got.image.name, got.image.cvmfs) == ("base", "/cvmfs/a.example.org/base")
    assert got.resources == Resources(4, 8 * 1024**3, 0)
    assert got.walltime == timedelta(hours=8)
    assert (got.preload, got.environment) == (("numpy",), {"MODE": "fast"})


@pytest.mark.parametrize(
    ("profile", "worker"),
    [
        (Resources(4, 8000, 0), Resources(4, 8000, 0)),
        (Resources(4, 8000, 1), Resources(4, 8000, 1)),
        (Resources(32, 8000, 4), Resources(8, 2000, 1)),
        (Resources(2, 8000, 4), Resources(1, 2000, 1)),
    ],
)
def test_a_worker_has_one_gpu_and_its_part_of_the_rest(profile, worker):
    assert one_worker(profile) == worker


def test_who_says_everything_gets_just_that():
    got = resolved(profile="open", image="extra", walltime="90m", cpus=1, site="small")
    assert got.sites == ("small",)
    assert (got.image.name, got.image.python) == ("extra", "/opt/bin/python")
    assert got.resources == Resources(1, 2 * 1024**3, 0)
    assert got.walltime == timedelta(minutes=90)


@pytest.mark.parametrize(
    ("groups", "purpose", "names"),
    [
        ((), "session", ["open", "free"]),
        ((), "workers", ["open"]),
        (["/gpu/sub", "gpu"], "session", ["open", "free"]),
        (["/other", "/gpu"], "workers", ["open", "closed"]),
        (None, "session", ["open", "free", "closed"]),
    ],
)
def test_a_profile_is_offered_for_its_purpose_to_members_of_any_of_its_groups(
    groups, purpose, names
):
    assert list(offered(CATALOG, purpose=purpose, groups=groups)) == names


def test_a_profile_of_another_group_looks_as_if_it_did_not_exist():
    error = refusal(profile="closed")
    assert error.message == "there is no profile 'closed'"
    assert "closed" not in error.hint
    assert resolved(profile="closed", groups=["/admins"]).profile == "closed"


def test_a_profile_for_sessions_cannot_be_used_for_workers():
    assert refusal(profile="free", purpose="workers").message == "there is no profile 'free'"


def test_a_slip_of_the_pen_gets_a_guess_and_what_there_is():
    error = refusal(profile="oopen")
    assert error.message == "there is no profile 'oopen'; did you mean 'open'?"
    assert error.hint == "there is 'open', 'free'"
    assert refusal(image="bse").message.endswith("did you mean 'base'?")
    assert refusal(site="smaal").message.endswith("did you mean 'small'?")


@pytest.mark.parametrize("path", ["/cvmfs/a.example.org/x", "/cvmfs/a.example.org/x/y.sif"])
def test_an_image_may_be_a_path_that_matches_the_pattern_as_a_whole(path):
    image = resolved(profile="free", image=path).image
    assert (image.name, image.cvmfs) == (path, path)


@pytest.mark.parametrize(
    "path",
    [
        "/cvmfs/a.example.org/../b",
        "/cvmfs/a.example.org/x/..",
        "/cvmfs/a.example.org/./x",
        "/cvmfs/a.example.org//x",
        "//cvmfs/a.example.org/x",
        "/cvmfs/a.example.org/x/",
        "/cvmfs/a.example.org/x\n",
        "/cvmfs/a.example.org/x\n/etc",
        "/cvmfs/a.example.org/x\0",
        "/cvmfs/a.example.org/X",
        "/cvmfs/aXexample.org/x",
        "/etc//cvmfs/a.example.org/x",
        "/cvmfs/a.example.org/" + "x" * 1000,
    ],
)
def test_a_path_that_would_change_or_does_not_match_as_a_whole_is_refused(path):
    error = refusal(profile="free", image=path)
    assert error.message.startswith("profile 'free' does not allow the image ")
    assert str(error).isprintable()
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    "more", ["x y", "x;id", "$(id)", "`id`", "x'", 'x"', "x|y", "x&", "x\\y", "é"]
)
def test_a_path_that_a_shell_would_take_for_more_is_refused_whatever_the_pattern_allows(more):
    """Not every site quotes it, and `.+` is what patterns end with."""
    catalog = parse_catalog(TEXT.replace("[a-z./]+", ".+"), kinds=BUILTIN_SITES)
    choice = Choice(profile="free", image="/cvmfs/a.example.org/x:v1.4@sha256:0f")
    assert resolve(catalog, choice, purpose="session", groups=()).image.cvmfs == choice.image
    with pytest.raises(InvalidOptionsError, match="does not allow the image"):
        bad = Choice(profile="free", image=f"/cvmfs/a.example.org/{more}")
        resolve(catalog, bad, purpose="session", groups=())


def test_a_path_is_no_image_where_the_profile_has_no_pattern():
    error = refusal(profile="open", image="/cvmfs/a.example.org/base")
    assert error.message == "profile 'open' has no image '/cvmfs/a.example.org/base'"


def test_a_name_of_another_profile_is_no_image_of_this_one():
    assert refusal(profile="free", image="base").hint == "there is 'a path below /cvmfs/'"


def test_a_profile_with_patterns_alone_has_no_image_to_fall_back_to():
    assert refusal(profile="free").message == "profile 'free' needs the path of an image"


@pytest.mark.parametrize(
    "cpus", [True, 0, -1, 2, 4.0, "4", [4], {}, pytest.param(10**5000, id="huge"), float("nan")]
)
def test_a_number_of_cores_that_is_not_offered_is_refused(cpus):
    error = refusal(profile="open", cpus=cpus)
    assert error.message.startswith("profile 'open' does not offer ")
    assert error.hint == "it offers 4, 1"


def test_true_is_not_one_core():
    assert resolved(profile="open", cpus=1).resources.cpus == 1
    assert "true" in refusal(profile="open", cpus=True).message


@pytest.mark.parametrize("field", ["profile", "image", "site", "walltime"])
@pytest.mark.parametrize("value", [True, 1, 1.5, [], ["open"], {}, {"a": 1}, b"open", "", "a\nb"])
def test_a_value_of_another_type_is_a_sentence_and_not_a_crash(field, value):
    assert str(refusal(**{field: value})).isprintable()


def test_the_walltime_is_limited_by_the_strictest_of_the_sites_in_question():
    error = refusal(profile="open", walltime="13h")
    assert error.message == "a walltime of 13 h is not possible with profile 'open'"
    assert error.hint == "ask for more than zero and at most 12 h"
    assert resolved(profile="open", walltime="13h", site="farm").walltime == timedelta(hours=13)
    assert resolved(profile="open", walltime="12h").walltime == timedelta(hours=12)


def test_the_walltime_is_limited_by_the_profile():
    image = "/cvmfs/a.example.org/x"
    assert resolved(profile="free", image=image).walltime == timedelta(hours=2)
    assert "at most 4 h" in refusal(profile="free", image=image, walltime="241m").hint


@pytest.mark.parametrize("walltime", [timedelta(0), timedelta(hours=-1), "0s"])
def test_a_walltime_of_nothing_is_refused(walltime):
    assert "more than zero" in refusal(walltime=walltime).hint


@pytest.mark.parametrize("walltime", ["8", "22:22", "forever", "９h"])
def test_a_walltime_without_unit_is_refused_with_the_units(walltime):
    assert refusal(walltime=walltime).message.startswith("walltime: expected a duration such as")


def test_a_user_for_whom_there_is_no_profile_is_sent_to_the_administrator():
    catalog = CATALOG.model_copy(update={"profiles": {"closed": CATALOG.profiles["closed"]}})
    with pytest.raises(InvalidOptionsError, match="there is no profile for this here"):
        resolve(catalog, Choice(), purpose="session", groups=[])


def test_the_running_python_is_its_path():
    got = resolve(default_catalog(), Choice(), purpose="workers", groups=None)
    assert got.image.python == sys.executable


@pytest.mark.parametrize(
    ("worker", "count"),
    [
        (Resources(1, 1024**3), 32),
        (Resources(4, 1024**3), 8),
        (Resources(5, 1024**3), 6),
        (Resources(1, 10 * 1024**3), 6),
        (Resources(64, 1024**3), 1),
        (Resources(1, 1024**3, gpus=1), 1),
    ],
)
def test_as_many_workers_share_a_job_as_fit_a_node_and_at_least_one(worker, count):
    assert workers_per_job(CATALOG.sites["farm"], worker) == count


def test_without_a_node_every_worker_is_a_job_of_its_own():
    assert workers_per_job(CATALOG.sites["small"], Resources(1, 1024**3)) == 1


def test_a_local_site_with_fewer_cores_than_its_node_counts_its_own():
    site = default_catalog().sites["local"].model_copy(update={"cpus": 6})
    assert workers_per_job(site, Resources(2, 1024**3)) == 3


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.lists(st.text())
)


@given(anything, anything, anything, anything, anything)
def test_any_choice_is_resolved_within_the_offer_or_refused(profile, image, walltime, cpus, site):
    choice = Choice(profile, image, walltime, cpus, site)
    try:
        got = resolve(CATALOG, choice, purpose="session", groups=[])
    except InvalidOptionsError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(got, Resolved)
        assert got.profile in ("open", "free")
        assert timedelta(0) < got.walltime <= timedelta(hours=48)
