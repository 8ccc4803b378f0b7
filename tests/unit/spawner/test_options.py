"""What may be asked for: known options of one type each, whatever was sent."""
# ruff: noqa: PT017  # any input is taken or refused

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlink_spawner.options import (
    FREE_IMAGE,
    parse_options,
    parse_query,
    read_form,
    resolve_session,
    walltime_choices,
)
from offload_sites.errors import InvalidOptionsError
from offload_sites.load import parse_catalog
from offload_sites.resolve import Choice

CATALOG = parse_catalog("""
sites:
  farm:
    kind: htcondor-ce
    title: Farm
    collector: ce.example.org:9619
    max_walltime: 48h
images:
  lab: {title: Lab, cvmfs: /cvmfs/example.org/lab}
profiles:
  plain:
    title: Plain
    sites: [farm]
    images: [lab, {pattern: '/cvmfs/example\\.org/.+'}]
    resources: {cpus: {choices: [1, 4]}, memory: {per_cpu: 2GiB}}
    walltime: {default: 8h, max: 24h}
    queue_budget: 6h
  gpu:
    title: GPU
    sites: [farm]
    images: [lab]
    resources: {cpus: 8, memory: 60GiB, gpus: 1}
    groups: [/gpu]
  workers:
    title: Workers
    for: [workers]
    sites: [farm]
    images: [lab]
    resources: {cpus: 1, memory: 2GiB}
""")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.dictionaries(
    st.sampled_from(["profile", "image", "cpus", "walltime", "site", "node_selector"]), JSON
)


def ask(options, groups=()):
    return resolve_session(CATALOG, options, groups=groups)


def test_nothing_asked_for_is_the_first_profile_with_its_defaults():
    resolved = ask(None)
    assert (resolved.profile, resolved.walltime) == ("plain", timedelta(hours=8))
    assert resolved.queue_budget == timedelta(hours=6)


def test_all_options_are_taken():
    resolved = ask(
        {"profile": "plain", "image": "lab", "cpus": 4, "walltime": "2h", "site": "farm"}
    )
    assert (resolved.resources.cpus, resolved.walltime) == (4, timedelta(hours=2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "expected options as an object, got an empty list"),
        ("plain", "expected options as an object, got 'plain'"),
        ({"prfile": "plain"}, "there is no option 'prfile'; did you mean 'profile'?"),
        ({"node_selector": {}}, "there is no option 'node_selector'"),
        ({"kubespawner_override": {}}, "there is no option"),
        ({"image--unlisted-choice": "other:latest"}, "there is no option"),
        ({"profile": ["plain"]}, "profile: expected text, got a list"),
        ({"cpus": "4"}, "cpus: expected a whole number, got '4'"),
        ({"cpus": True}, "cpus: expected a whole number, got true"),
        ({"cpus": 4.0}, "cpus: expected a whole number, got 4.0"),
        ({"cpus": 3}, "does not offer 3 CPUs"),
        ({"walltime": "25h"}, "a walltime of 25 h is not possible"),
        ({"walltime": 3600}, "walltime: expected text, got 3600"),
        ({"profile": "plane"}, "there is no profile 'plane'; did you mean 'plain'?"),
        ({"profile": "gpu"}, "there is no profile 'gpu'"),
        ({"profile": "workers"}, "there is no profile 'workers'"),
        ({"site": "moon"}, "there is no site for profile 'plain' called 'moon'"),
        ({"image": "/cvmfs/example.org/../../etc"}, "does not allow the image"),
        ({"image": "/cvmfs/elsewhere.org/lab"}, "does not allow the image"),
        ({"image": "docker://evil"}, "has no image"),
    ],
)
def test_what_is_not_offered_is_refused_with_a_sentence(options, sentence):
    with pytest.raises(InvalidOptionsError, match=r".") as caught:
        ask(options)
    assert sentence in caught.value.message
    assert caught.value.hint or ":" in caught.value.message


def test_a_profile_of_a_group_is_for_its_members():
    assert ask({"profile": "gpu"}, groups={"/gpu"}).resources.gpus == 1


@given(JSON | NEARLY)
def test_any_json_is_resolved_or_refused(value):
    try:
        resolved = ask(json.loads(json.dumps(value)))
    except InvalidOptionsError as error:
        assert error.message
        assert len(str(error)) < 1000
    else:
        assert resolved.profile == "plain"


def test_a_form_gives_the_settings_of_its_profile_and_no_others():
    form = {
        "profile": ["plain"],
        "plain.image": ["lab"],
        "plain.cpus": ["4"],
        "plain.walltime": ["2h"],
        "plain.site": [""],
        "gpu.cpus": ["8"],
        "_xsrf": ["x"],
    }
    assert read_form(form) == {"profile": "plain", "image": "lab", "cpus": 4, "walltime": "2h"}


def test_a_form_with_a_path_gives_the_path_as_the_image():
    form = {
        "profile": ["plain"],
        "plain.image": [FREE_IMAGE],
        "plain.image_path": [" /cvmfs/example.org/mine "],
    }
    assert read_form(form)["image"] == "/cvmfs/example.org/mine"


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({}, "no profile was chosen"),
        ({"profile": []}, "no profile was chosen"),
        ({"profile": [b"plain"]}, "no profile was chosen"),
        ({"profile": ["plain"], "plain.cpus": ["four"]}, "cpus: expected a whole number"),
        ({"profile": ["plain"], "plain.cpus": ["٤"]}, "cpus: expected a whole number"),
        ({"profile": ["plain"], "plain.cpus": ["9" * 5000]}, "cpus: expected a whole number"),
        ({"profile": ["plain"], "plain.image": ["/"]}, "image: no path was given"),
    ],
)
def test_an_incomplete_form_is_refused_with_the_field(form, sentence):
    with pytest.raises(InvalidOptionsError, match=sentence):
        read_form(form)


def test_a_link_gives_plain_names():
    assert parse_query({"profile": ["plain"], "cpus": ["4"]}) == {"profile": "plain", "cpus": 4}
    with pytest.raises(InvalidOptionsError, match="there is no option 'image_path'"):
        parse_query({"image_path": ["/cvmfs/x"]})


def test_null_counts_as_not_given():
    assert parse_options({"profile": "plain", "cpus": None}) == Choice(profile="plain")


def test_walltimes_on_offer_hold_the_usual_the_default_and_the_most():
    hours = [time.total_seconds() / 3600 for time in walltime_choices(_h(6), _h(36))]
    assert hours == [1, 4, 6, 8, 24, 36]
    assert walltime_choices(_h(0.5), _h(0.5)) == [_h(0.5)]


def _h(hours):
    return timedelta(hours=hours)
