"""YAML to plain values, with lines; what surprises people is a problem or plain text."""

import pytest

from offload_sites.document import (
    DEPTH_LIMIT,
    SIZE_LIMIT_BYTES,
    VALUE_LIMIT,
    Problem,
    parse_document,
    render_path,
)


def value_of(text):
    document = parse_document(text, "c.yaml")
    assert document.problems == []
    return document.value


def problems_of(text):
    return [str(problem) for problem in parse_document(text, "c.yaml").problems]


@pytest.mark.parametrize("text", ["no", "Yes", "on", "OFF", "y", "22:22", "1_000", "0x1F", "0o7"])
def test_what_only_yaml_1_1_takes_for_something_else_is_text(text):
    assert value_of(f"a: {text}") == {"a": text}


@pytest.mark.parametrize("text", ["2026-11-01", "2026-11-01T12:00:00Z", "=", "1.2.3", "١٢"])
def test_dates_versions_and_foreign_digits_are_text(text):
    assert value_of(f"a: {text}") == {"a": text}


def test_a_leading_zero_makes_no_octal_and_no_whole_number():
    assert isinstance(value_of("010"), float)


def test_a_number_with_more_digits_than_anything_here_has_is_no_whole_number():
    assert value_of("9" * 18) == int("9" * 18)
    assert value_of("9" * 19) == float("9" * 19)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("-3", -3),
        ("1e3", 1000.0),
        ("-.inf", float("-inf")),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!int 1", 1),
        ("!!float 2", 2.0),
    ],
)
def test_the_scalars_of_yaml_1_2_are_what_they_look_like(text, value):
    got = value_of(f"a: {text}")["a"]
    assert got == value
    assert type(got) is type(value)


def test_keys_are_always_text():
    assert value_of("{1: a, no: b, ~: c, 1.10: d}") == {"1": "a", "no": "b", "~": "c", "1.10": "d"}


def test_every_value_has_its_line_and_its_source_text():
    document = parse_document("# head\na:\n  b: 1e3\n  c:\n  - x\n\n  - y\n", "c.yaml")
    assert document.places["a", "b"].line == 3
    assert document.places["a", "b"].text == "1e3"
    assert document.places["a", "c", 1].line == 7
    path, place = document.find(("a", "c", 5, "d"))
    assert (path, place.line) == (("a", "c"), 4)


def test_a_key_that_stands_twice_is_a_problem_that_names_both_lines():
    assert problems_of("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 4\n") == [
        "c.yaml:6: the key 'a' stands here twice, first in line 1",
        "c.yaml:5: b: the key 'c' stands here twice, first in line 3",
    ]


def test_a_key_that_is_a_list_is_a_problem_and_the_rest_is_still_read():
    document = parse_document("? [a]\n: 1\nb: 2\n", "c.yaml")
    assert document.value == {"b": 2}
    assert document.problems == [
        Problem("c.yaml", 1, "", "expected a name before ':', got a list or mapping")
    ]


def test_an_alias_is_a_copy():
    assert value_of("a: &x {b: [1]}\nc: *x") == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_a_merge_key_adds_what_is_not_there_and_the_first_of_a_list_wins():
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\n"
    assert value_of(text)["c"] == {"x": 3, "y": 1, "z": 2}


def test_a_merge_key_also_brings_what_was_merged_there():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n"
    assert value_of(text)["c"] == {"z": 3, "y": 2, "x": 1}


def test_a_quoted_merge_key_is_an_ordinary_key():
    assert value_of("'<<': 1") == {"<<": 1}


def test_a_mapping_that_merges_itself_is_just_itself():
    assert value_of("&a\nx: 1\n<<: *a\n") == {"x": 1}


@pytest.mark.parametrize("text", ["<<: 3", "<<: [{a: 1}, 3]", "<<:"])
def test_only_mappings_can_be_merged(text):
    assert problems_of(text) == ["c.yaml:1: expected a mapping, or a list of them, after '<<:'"]


@pytest.mark.parametrize(
    "text", ["&a [*a]", "&a {b: *a}", "a: &a\n- b: [*a]\n", "&a {b: {<<: *a}}"]
)
def test_an_alias_within_what_it_names_is_a_problem_and_not_endless(text):
    [problem] = problems_of(text)
    assert problem.endswith(f"nested more than {DEPTH_LIMIT} deep")


def test_a_few_lines_of_aliases_do_not_become_a_thousand_million_values():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    [problem] = problems_of("\n".join(lines))
    assert problem.endswith(f"more than {VALUE_LIMIT} values, aliases included")


def test_a_large_mapping_merged_many_times_is_merged_once():
    many = ", ".join(f"k{i}: 1" for i in range(2000))
    text = f"a: &a {{{many}}}\nb: {{<<: [{', '.join(['*a'] * 10_000)}]}}\n"
    assert len(value_of(text)["b"]) == 2000


@pytest.mark.parametrize("text", ["[" * 5000, "- " * 5000, "{a: " * 5000, "a: " + "[" * 31])
def test_deep_nesting_is_a_problem_and_not_a_recursion_error(text):
    [problem] = problems_of(text)
    assert problem == f"c.yaml:1: not valid YAML: nested more than {DEPTH_LIMIT} deep"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_a_file_without_content_is_never_taken_for_a_value(text):
    document = parse_document(text, "c.yaml")
    assert document.value is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: the file is empty"),
        ("a: 1\n\tb: 2", "2: not valid YAML: a tab stands where YAML allows only blanks"),
        ("a: b: c", "1: not valid YAML: a ':' too many; text with ': ' in it needs quotes"),
        ("a: 1\nb", "2: not valid YAML: a key without ':', or text that needs quotes"),
        ("a: [1", "1: not valid YAML: a list or mapping in brackets is not closed, or lacks a ','"),
        ("a: 'x", "1: not valid YAML: a quote is not closed"),
        ("a: 1\n---\nb: 2", "2: not valid YAML: a second document begins here; a catalog is one"),
        ("a: *x", "1: not valid YAML: an alias (*name) without its anchor (&name) above it"),
        ("a: @x", "1: not valid YAML: text that begins with this character needs quotes"),
        ("a: 1\nb: \x00", "2: the character U+0000 is not allowed in YAML"),
        ("a: \ud800", "1: the character U+D800 is not allowed in YAML"),
        (
            '"\\UFFFFFFFF"',
            "1: not valid YAML: an escape or directive with an impossible number in it",
        ),
        (
            "a: !!python/name:os.system ''",
            "1: a: the tag 'tag:yaml.org,2002:python/name:os.system' means nothing here",
        ),
        ("a: !!binary eA==", "1: a: the tag 'tag:yaml.org,2002:binary' means nothing here"),
        ("a: !!set {x}", "1: a: the tag 'tag:yaml.org,2002:set' means nothing here"),
        ("a: !!int x", "1: a: 'x' is not of the type that its tag says"),
        ("a: !!int ١٢", "1: a: '١٢' is not of the type that its tag says"),
        ("a: !!int '1\n\n  '", r"1: a: '1\n' is not of the type that its tag says"),
        ("a: !!bool no", "1: a: 'no' is not of the type that its tag says"),
    ],
)
def test_what_is_wrong_with_the_yaml_is_said_with_its_line_and_its_usual_cause(text, problem):
    [said] = problems_of(text)
    assert said == f"c.yaml:{problem}"


def test_a_text_above_the_size_limit_is_not_even_parsed():
    assert problems_of("[" * (SIZE_LIMIT_BYTES + 1)) == ["c.yaml:1: the file is larger than 1 MiB"]
    assert problems_of("#" + "ü" * (SIZE_LIMIT_BYTES // 2)) == [
        "c.yaml:1: the file is larger than 1 MiB"
    ]


def test_a_path_is_written_as_people_do_and_foreign_keys_are_quoted():
    assert render_path(("profiles", "a100x4", "images", 1)) == "profiles.a100x4.images[1]"
    assert render_path(("sites", "a b\n")) == r"sites['a b\n']"
    assert render_path(()) == ""
