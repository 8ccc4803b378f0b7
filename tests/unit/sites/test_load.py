"""Catalog files: what loads, and what people read when one does not."""
# ruff: noqa: PT017, RUF001  # any input is read or refused; digits of other scripts are input

import copy
import logging
import os
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from offload_sites.catalog import BUILTIN_SITES, Catalog
from offload_sites.document import SIZE_LIMIT_BYTES
from offload_sites.errors import CatalogError
from offload_sites.load import check_catalog, default_catalog, load_catalog, parse_catalog

TWO_CENTRES = r"""
sites:
  naples:
    kind: htcondor-ce
    title: RAC Naples
    collector: ce.example.org:9619
    credential: {issuer: iam, audience: "ce.example.org:9619", scope: compute.create
      compute.read compute.modify compute.cancel}
    node: {cpus: 96, memory: 502GiB}
    max_walltime: 48h
    images: {render: cvmfs, bind: [/cvmfs]}
  leonardo:
    kind: interlink
    title: Leonardo (A100)
    node_name: vk-leonardo
    max_walltime: 24h
images:
  highrate:
    title: AlmaLinux 9, high-rate analysis
    cvmfs: /cvmfs/unpacked.infn.it/registry/highrate:v1.4
    docker: registry.example.org/highrate:v1.4
profiles:
  a100x4:
    title: 4 × A100
    sites: [leonardo]             # several: first healthy one with the shortest expected wait
    for: [session, workers]
    images: [highrate]
    resources: {cpus: 32, memory: 240GiB, gpus: 4}
    walltime: {default: 8h, max: 24h}
    groups: [/gpu]                # IAM groups; nobody else sees or can start it
  custom:
    title: HTC cores
    sites: [naples]
    images: [highrate, {pattern: '/cvmfs/unpacked\.infn\.it/.+'}]
    resources: {cpus: {choices: [1, 4, 8]}, memory: {per_cpu: 4GiB}}
"""

GOOD = """\
sites:
  here:
    kind: local
    title: Here
    max_walltime: 8h
images:
  system:
    title: System
    python: /usr/bin/python3
profiles:
  small:
    title: Small
    sites: [here]
    images: [system]
    resources: {cpus: 1, memory: 1GiB}
"""


def problems_of(text):
    with pytest.raises(CatalogError) as error:
        parse_catalog(text, "c.yaml", kinds=BUILTIN_SITES)
    return error.value.problems


def changed(old, new):
    """Return the good catalog with one piece of it replaced."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_catalog_of_two_centres_loads_with_its_units_and_short_forms():
    catalog = parse_catalog(TWO_CENTRES)
    assert catalog.sites["naples"].node.memory == 502 * 1024**3
    assert catalog.sites["naples"].image_form == "cvmfs"
    assert catalog.sites["leonardo"].max_walltime.total_seconds() == 24 * 3600
    assert catalog.profiles["a100x4"].resources.cpus.choices == [32]
    assert catalog.profiles["a100x4"].groups == ["/gpu"]
    assert catalog.profiles["custom"].resources.memory.bytes_for(4) == 16 * 1024**3
    assert [choice.name for choice in catalog.profiles["custom"].images] == ["highrate", None]
    assert catalog.profiles["custom"].purposes == ["session", "workers"]


def test_the_built_in_catalog_is_good_and_needs_no_other_machine():
    assert {site.kind for site in default_catalog().sites.values()} == {"local"}


def test_a_short_form_means_the_same_as_the_long_one():
    long = changed("[system]", "[{name: system}]")
    long = long.replace("{cpus: 1, memory: 1GiB}", "{cpus: {choices: [1]}, memory: {total: 1GiB}}")
    assert parse_catalog(long) == parse_catalog(GOOD)


def test_all_problems_come_at_once_each_with_line_path_expectation_and_what_was_got():
    text = """\
sites:
  naples:
    kind: htcondor-ce
    title: Naples
    collektor: ce.example.org:9619
    max_walltime: 48 hours
  here:
    kind: locl
    title: Here
    max_walltime: 8h
images:
  highrate:
    title: ''
    cvmfs: /opt/highrate
profiles:
  custom:
    title: Cores
    sites: [napels]
    images: [highrte]
    resources: {cpus: four, memory: 4, gpus: -1}
    for: [sessions]
"""
    assert problems_of(text) == [
        "c.yaml:2: sites.naples: 'collector' is missing",
        "c.yaml:5: sites.naples.collektor: the key 'collektor' is not known here; "
        "did you mean 'collector'?",
        "c.yaml:6: sites.naples.max_walltime: expected a duration such as '24h' "
        "(units: s, m, h, d), got '48 hours'",
        "c.yaml:8: sites.here.kind: expected a kind of site ('local', 'kubernetes', 'interlink', "
        "'htcondor-ce'), got 'locl'; did you mean 'local'?",
        "c.yaml:13: images.highrate.title: expected some text, got ''",
        "c.yaml:14: images.highrate.cvmfs: expected a path below /cvmfs/, got '/opt/highrate'",
        "c.yaml:18: profiles.custom.sites[0]: expected the name of a site of this catalog "
        "('naples', 'here'), got 'napels'; did you mean 'naples'?",
        "c.yaml:19: profiles.custom.images[0]: expected the name of an image of this catalog "
        "('highrate'), got 'highrte'; did you mean 'highrate'?",
        "c.yaml:20: profiles.custom.resources.cpus: expected a number of cores, or "
        "{choices: [1, 4, 8]}, got 'four'",
        "c.yaml:20: profiles.custom.resources.memory: expected a memory size such as '240GiB', or "
        "{per_cpu: 4GiB}, got 4",
        "c.yaml:20: profiles.custom.resources.gpus: expected at least 0, got -1",
        "c.yaml:21: profiles.custom.for[0]: expected 'session' or 'workers', got 'sessions'",
    ]


def test_a_key_that_stands_twice_does_not_hide_other_problems():
    text = changed("title: Here\n", "title: Here\n    title: There\n    cpus: 0\n")
    assert problems_of(text) == [
        "c.yaml:5: sites.here: the key 'title' stands here twice, first in line 4",
        "c.yaml:6: sites.here.cpus: expected at least 1, got 0",
    ]


def test_an_unknown_key_that_resembles_nothing_gets_the_list_of_what_is_known():
    [problem] = problems_of(changed("memory: 1GiB", "memory: 1GiB, zzz: 1"))
    assert problem.endswith("'zzz' is not known here; known: 'cpus', 'memory', 'gpus'")


def test_a_key_may_be_called_what_pydantic_calls_a_key():
    [problem] = problems_of('"[key]": 1\n' + GOOD)
    assert problem == (
        "c.yaml:1: ['[key]']: the key '[key]' is not known here; "
        "known: 'sites', 'images', 'profiles'"
    )
    assert problems_of(GOOD + '    environment: {"[key]": x}\n') == [
        "c.yaml:16: profiles.small.environment['[key]']: "
        "expected a name of letters, digits and '_', got '[key]'"
    ]


@pytest.mark.parametrize("name", ["Here", "a_b", "-a", "a-", "a" * 41, "è", "a b", "''"])
def test_a_name_that_cannot_be_a_label_is_refused_at_its_line(name):
    [problem, *_] = problems_of(changed("  here:", f"  {name}:"))
    said = "expected a name of 1-40 lower-case letters, digits and inner hyphens, got"
    assert problem.startswith("c.yaml:2: sites")
    assert said in problem


@pytest.mark.parametrize(
    ("written", "got"),
    [
        ("no", "'no'"),
        ("22:22", "'22:22'"),
        ("0o7", "'0o7'"),
        ("2026-11-01", "'2026-11-01'"),
        ("1e3", "1e3"),
        ("1.0", "1.0"),
        ("yes", "'yes'"),
        ("true", "true"),
        ("'1'", "'1'"),
        ("١", "'١'"),
    ],
)
def test_what_is_no_number_of_cores_is_shown_as_it_stands_in_the_file(written, got):
    [problem] = problems_of(changed("title: Here", f"title: Here\n    cpus: {written}"))
    assert problem == f"c.yaml:5: sites.here.cpus: expected a whole number, got {got}"


@pytest.mark.parametrize("written", ["22:22", "8", "1e3", "８h", "0h", "no", "2026-11-01", "[8h]"])
def test_a_walltime_without_unit_is_refused(written):
    [problem] = problems_of(changed("max_walltime: 8h", f"max_walltime: {written}"))
    assert problem.startswith("c.yaml:5: sites.here.max_walltime: expected a duration such as")


@pytest.mark.parametrize("written", ["/home", "/{user}/{user}", "/home/{name}", "/home/{user}/{0}"])
def test_a_home_folder_has_the_user_in_it_once_and_nothing_else_to_fill_in(written):
    [problem] = problems_of(changed("title: Here", f'title: Here\n    home: "{written}"'))
    assert problem.startswith(
        "c.yaml:5: sites.here.home: expected an absolute path with {user} in it"
    )


@pytest.mark.parametrize("title", ["no", "22:22", "0o7", "2026-11-01"])
def test_what_yaml_1_1_would_convert_stays_text_where_text_is_expected(title):
    assert parse_catalog(changed("title: Here", f"title: {title}")).sites["here"].title == title


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[system]", "[system, system]", "14: profiles.small.images: expected each entry once"),
        (
            "[here]",
            "[]",
            "13: profiles.small.sites: expected at least 1 of them, got an empty list",
        ),
        ("[here]", "here", "13: profiles.small.sites: expected a list, got 'here'"),
        ("[system]", "[[system]]", "14: profiles.small.images[0]: expected the name of an image"),
        ("[system]", "[{}]", "14: profiles.small.images[0]: expected the name of an image, or {"),
        (
            "[system]",
            "[{pattern: '('}]",
            "14: profiles.small.images[0].pattern: expected a regular",
        ),
        (
            "cpus: 1",
            "cpus: {choices: [1, 1]}",
            "15: profiles.small.resources.cpus.choices: expected",
        ),
        ("cpus: 1", "cpus: 0", "15: profiles.small.resources.cpus: expected at least 1, got 0"),
        ("1GiB", "{total: 1GiB, per_cpu: 1GiB}", "15: profiles.small.resources.memory: expected a"),
        ("1GiB", "0GiB", "15: profiles.small.resources.memory: expected a memory size such as"),
        ("kind: local", "kind: [local]", "3: sites.here.kind: expected a kind of site ("),
        ("kind: local", "knd: local", "2: sites.here: "),
        ("title: System", r'title: "a\nb"', "8: images.system.title: expected one line of text,"),
        ("title: System", r'title: "\ud800"', "8: images.system.title: expected one line of text,"),
        ("title: System", r'title: "\e[31m"', "8: images.system.title: expected one line of text,"),
        ("/usr/bin/python3", "bin/python3", "9: images.system.python: expected an absolute path,"),
        (
            "python: /usr",
            "cvmfs: /cvmfs/../usr",
            "9: images.system.cvmfs: expected a path below /c",
        ),
        (
            "python: /usr",
            "docker: docker://a /",
            "9: images.system.docker: expected an image refer",
        ),
    ],
)
def test_each_sort_of_wrong_value_gets_its_own_sentence(old, new, problem):
    said = problems_of(changed(old, new))
    assert any(line.startswith(f"c.yaml:{problem}") for line in said), said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "c.yaml:1: the file is empty"),
        ("- a\n", "c.yaml:1: expected a mapping, got a list"),
        ("text", "c.yaml:1: expected a mapping, got 'text'"),
        ("~", "c.yaml:1: expected a mapping, got ~"),
    ],
)
def test_a_file_that_is_no_mapping_has_one_problem(text, problem):
    assert problems_of(text) == [problem]


def test_a_section_that_is_missing_or_empty_is_said():
    assert problems_of("sites: {}\nimages:\n") == [
        "c.yaml:1: sites: expected at least 1 of them, got an empty mapping",
        "c.yaml:1: 'profiles' is missing",
        "c.yaml:2: images: expected a mapping, got nothing",
    ]


def test_what_a_merge_key_brings_is_checked_at_the_line_where_it_stands():
    text = GOOD.replace("  small:", "  small: &small").replace("memory: 1GiB", "memory: 1GB, x: 1")
    text += "  large:\n    <<: *small\n    title: Large\n"
    assert [line.split(": ")[:2] for line in problems_of(text)] == [
        ["c.yaml:15", "profiles.small.resources.x"],
        ["c.yaml:15", "profiles.large.resources.x"],
    ]
    catalog = parse_catalog(text.replace(", x: 1", ""))
    assert catalog.profiles["large"].title == "Large"
    assert catalog.profiles["large"].resources == catalog.profiles["small"].resources


def test_a_number_of_a_thousand_digits_is_a_problem_and_no_overflow():
    digits = "9" * 1000
    for cpus in (digits, f"!!int {digits}", f"{{choices: [!!int '{digits}']}}"):
        said = problems_of(
            changed("cpus: 1, memory: 1GiB", f"cpus: {cpus}, memory: {{per_cpu: 1GiB}}")
        )
        assert all(len(line) < 300 for line in said)


def test_a_problem_stays_one_line_whatever_stands_in_the_file():
    text = changed("title: Here", 'title: Here\n    cpus: !!null "a\n\n      b"')
    text = text.replace("[here]", f"['{'x' * 5000}']").replace("cpus: 1,", "cpus: x,")
    said = problems_of(text)
    assert any("cpus" in line for line in said)
    assert all(line.isprintable() and len(line) < 300 for line in said)


def test_a_file_with_a_byte_order_mark_loads(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_catalog(path) == parse_catalog(GOOD)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb: \xe9\xe8\n", "c.yaml:1: line 2 is not text in UTF-8"),
        (b"\xff\xfea\x00", "c.yaml:1: line 1 is not text in UTF-8"),
        (b"", "c.yaml:1: the file is empty"),
        (b"\xef\xbb\xbf", "c.yaml:1: the file is empty"),
        (b"#" * (SIZE_LIMIT_BYTES + 1), "c.yaml:1: the file is larger than 1 MiB"),
        # The limit is within a character.
        (b"##" + b"\xc3\xa9" * SIZE_LIMIT_BYTES, "c.yaml:1: the file is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_yaml_text_has_one_problem(tmp_path, content, problem):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert [str(problem) for problem in check_catalog(path)] == [problem]
    with pytest.raises(CatalogError):
        load_catalog(path)


def test_a_file_of_exactly_the_size_limit_is_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + "#" * (SIZE_LIMIT_BYTES - len(GOOD)), encoding="utf-8")
    assert check_catalog(path) == []


def test_a_pipe_is_read_and_one_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.yaml")
    [problem] = check_catalog(tmp_path / "c.yaml")
    assert problem.message == "the file is empty"
    reading, writing = os.pipe()  # as in `offload catalog check <(…)`
    with os.fdopen(writing, "w", encoding="utf-8") as file:
        later = threading.Timer(0.1, lambda: (file.write(GOOD), file.close()))
        later.start()
        assert load_catalog(Path("/dev/fd", str(reading))) == parse_catalog(GOOD)
        later.join()
    os.close(reading)


def test_a_list_of_very_many_names_is_checked_at_once():
    names = ", ".join(f"g{number}" for number in range(90_000))
    catalog = parse_catalog(GOOD + f"    groups: [{names}]\n")
    assert len(catalog.profiles["small"].groups) == 90_000
    [problem] = problems_of(GOOD + "    groups: [a, b, a]\n")
    assert "expected each entry once" in problem


def test_a_file_that_cannot_be_read_is_a_problem_with_its_name_and_no_folder(tmp_path):
    path = tmp_path / "no: file"
    [problem] = check_catalog(path)
    assert str(problem) == "no: file:1: cannot be read: No such file or directory"
    with pytest.raises(CatalogError) as error:
        load_catalog(path)
    assert error.value.problems == ["no: file: cannot be read: No such file or directory"]
    [problem] = check_catalog(tmp_path)
    assert problem.message == "cannot be read: Is a directory"


# --- Whatever stands in a file: a catalog or problems ------------------------------------------


def examined(text):
    """Check that `text` gives a catalog or problems of one line each."""
    try:
        catalog = parse_catalog(text, "c.yaml", kinds=BUILTIN_SITES)
    except CatalogError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.startswith("c.yaml:")
            assert len(problem.splitlines()) == 1
            assert problem.isprintable()
            assert len(problem) < 1000
    else:
        assert isinstance(catalog, Catalog)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.dates(),
    st.sampled_from(
        ["here", "system", "8h", "1GiB", "local", "interlink", "[key]", "<<", "\ud800"]
    ),
)
keys = st.one_of(
    st.sampled_from(
        [
            "sites",
            "images",
            "profiles",
            "kind",
            "title",
            "walltime",
            "resources",
            "cpus",
            "for",
            "here",
            "small",
            "system",
            "node",
            "memory",
            "environment",
            "[key]",
            "<<",
            "python",
        ]
    ),
    scalars,
)
structures = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def dumped(value):
    text = yaml.safe_dump(value, allow_unicode=True)
    return text if isinstance(text, str) else str(text)


@quick
@given(st.text(max_size=300))
@example("a: &a [*a, *a]")
@example("&a {sites: *a, images: *a, profiles: *a}")
@example("%YAML 1.1\n%TAG ! tag:x,2000:\n--- !a\n")
@example("sites: {a: {<<: {kind: local}}}")
@example('? "\\ud800"\n: "\\ud800"')
def test_any_text_is_a_catalog_or_has_problems(text):
    examined(text)


@quick
@given(st.text(alphabet="-:{}[]&*!|>'\"%@`#,? \n\tab<0~", max_size=80))
def test_any_heap_of_yaml_signs_is_a_catalog_or_has_problems(text):
    examined(text)


@quick
@given(structures)
def test_any_structure_is_a_catalog_or_has_problems(value):
    examined(dumped(value))


def places(value, path=()):
    """Yield the path of each value in a structure."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def inside(value, path):
    """Return what stands at `path`, or None if an earlier change has taken it away."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


SOUND = yaml.safe_load(TWO_CENTRES)
PLACES = [path for path in places(SOUND) if path]


@quick
@given(st.lists(st.tuples(st.sampled_from(PLACES), keys, structures), min_size=1, max_size=4))
def test_any_change_of_a_good_catalog_is_a_catalog_or_has_problems(changes):
    value = copy.deepcopy(SOUND)
    for path, key, new in changes:
        parent = inside(value, path[:-1])
        if isinstance(parent, dict):
            parent[path[-1]] = new
            parent[key] = new
        elif isinstance(parent, list):
            parent.append(new)
    examined(dumped(value))


@quick
@given(st.integers(0, len(TWO_CENTRES)), st.integers(0, 40), st.text(max_size=10))
def test_any_cut_of_a_good_file_is_a_catalog_or_has_problems(start, length, new):
    examined(TWO_CENTRES[:start] + new + TWO_CENTRES[start + length :])


def test_loading_says_nothing_in_the_log(caplog):
    with caplog.at_level(logging.DEBUG):
        parse_catalog(TWO_CENTRES, kinds=BUILTIN_SITES)
    assert not caplog.records
