"""What one part of a catalog says of another: names that exist, requests that fit."""

import pytest

from offload_sites.catalog import BUILTIN_SITES
from offload_sites.errors import CatalogError
from offload_sites.load import parse_catalog

GOOD = """\
sites:
  farm: {kind: htcondor-ce, title: Farm, collector: "ce.example.org:9619", max_walltime: 48h,
    node: {cpus: 32, memory: 64GiB}}
  gpu: {kind: interlink, title: GPU, node_name: vk, max_walltime: 24h,
    node: {cpus: 8, memory: 64GiB, gpus: 2}, images: {render: docker}}
  here: {kind: local, title: Here, max_walltime: 8h, cpus: 4}
images:
  unpacked: {title: Unpacked, cvmfs: /cvmfs/a.example.org/x}
  pulled: {title: Pulled, docker: registry.example.org/x}
  system: {title: System, python: /usr/bin/python3}
profiles:
  one:
    title: One
    sites: [farm]
    images: [unpacked]
    resources: {cpus: 4, memory: {per_cpu: 2GiB}}
    walltime: {default: 8h, max: 48h}
"""


def problems_of(*changes):
    """Return what is wrong with the good catalog after each (old, new) in `changes`."""
    text = GOOD
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    try:
        parse_catalog(text, "c.yaml", kinds=BUILTIN_SITES)
    except CatalogError as error:
        return error.problems
    return []


def test_a_catalog_whose_parts_fit_has_no_problem():
    assert problems_of() == []


def test_an_unknown_name_gets_those_that_are_known_and_a_guess():
    assert problems_of(("[farm]", "[farm, farn]"), ("[unpacked]", "[packed, zzz]")) == [
        "c.yaml:14: profiles.one.sites[1]: expected the name of a site of this catalog "
        "('farm', 'gpu', 'here'), got 'farn'; did you mean 'farm'?",
        "c.yaml:15: profiles.one.images[0]: expected the name of an image of this catalog "
        "('unpacked', 'pulled', 'system'), got 'packed'; did you mean 'unpacked'?",
        "c.yaml:15: profiles.one.images[1]: expected the name of an image of this catalog "
        "('unpacked', 'pulled', 'system'), got 'zzz'",
    ]


def test_an_unknown_name_is_found_in_a_profile_with_other_errors():
    said = problems_of(("[farm]", "[farn]"), ("[unpacked]", "[zzz]"), ("cpus: 4, m", "cpus: x, m"))
    assert [line.split(": ")[1] for line in said] == [
        "profiles.one.sites[0]",
        "profiles.one.images[0]",
        "profiles.one.resources.cpus",
    ]


def test_a_name_counts_as_known_when_its_own_entry_has_errors():
    [problem] = problems_of(("title: Farm", "title: ''"))
    assert problem == "c.yaml:2: sites.farm.title: expected some text, got ''"


def test_requests_are_checked_although_another_entry_has_errors():
    said = problems_of(("title: Pulled", "title: ''"), ("max: 48h", "max: 49h"))
    assert [line.split(": ")[1] for line in said] == [
        "images.pulled.title",
        "profiles.one.walltime.max",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            [("max: 48h", "max: 49h")],
            "17: profiles.one.walltime.max: expected at most what site 'farm' allows (48 h), "
            "got 49 h",
        ),
        (
            [("{default: 8h, max: 48h}", "{default: 50h}")],
            "17: profiles.one.walltime.default: expected at most what site 'farm' allows (48 h), "
            "got 50 h",
        ),
        (
            [("default: 8h, max: 48h", "default: 8h, max: 4h")],
            "17: profiles.one.walltime.default: expected at most the max (4 h), got 8 h",
        ),
        (
            [("cpus: 4, m", "cpus: {choices: [1, 33]}, m"), ("per_cpu: 2GiB", "per_cpu: 1GiB")],
            "16: profiles.one.resources.cpus: expected at most 32 cores, as site 'farm' has, got 33",
        ),
        (
            [("per_cpu: 2GiB", "per_cpu: 17GiB")],
            "16: profiles.one.resources.memory: expected at most 64 GiB, as a node of site 'farm' "
            "has, got 68 GiB for 4 cores",
        ),
        (
            [("2GiB}", "2GiB}, gpus: 1")],
            "16: profiles.one.resources.gpus: expected at most 0 GPUs, as a node of site 'farm' "
            "has, got 1",
        ),
        (
            [("[unpacked]", "[unpacked, pulled]")],
            "15: profiles.one.images[1]: site 'farm' runs images by cvmfs, which image 'pulled' "
            "does not have",
        ),
        (
            [("[farm]", "[gpu]"), ("[unpacked]", "[pulled, {pattern: .*}]"), ("48h}\n", "24h}\n")],
            "15: profiles.one.images[1]: site 'gpu' runs images by docker; a pattern is for images "
            "below /cvmfs/",
        ),
        (
            [
                ("[farm]", "[here]"),
                ("{default: 8h, max: 48h}", "8h"),
                ("/usr/bin/python3", "python3"),
                ("[unpacked]", "[system]"),
            ],
            "15: profiles.one.images[0]: site 'here' runs images by an absolute path as python, "
            "which image 'system' does not have",
        ),
        (
            [
                ("[farm]", "[here]"),
                ("{default: 8h, max: 48h}", "8h"),
                ("cpus: 4, mem", "cpus: 5, mem"),
                ("[unpacked]", "[system]"),
            ],
            "16: profiles.one.resources.cpus: expected at most 4 cores, as site 'here' has, got 5",
        ),
    ],
)
def test_what_no_site_of_a_profile_could_run_is_a_problem(changes, problem):
    assert problems_of(*changes) == [f"c.yaml:{problem}"]


def test_every_site_of_a_profile_has_to_take_it():
    said = problems_of(("[farm]", "[farm, gpu]"))
    assert [line.split(": ", 1)[1] for line in said] == [
        "profiles.one.images[0]: site 'gpu' runs images by docker, "
        "which image 'unpacked' does not have",
        "profiles.one.walltime.max: expected at most what site 'gpu' allows (24 h), got 48 h",
    ]
