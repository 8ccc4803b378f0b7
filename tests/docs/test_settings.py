"""The page of settings has each one with its default, each variable, and nothing that is not."""

import json
import re
from pathlib import Path

import pytest
import yaml

import dask_offload
from tests.docs import pages

FOLDER = Path(dask_offload.__file__).parent
SCHEMA = yaml.safe_load((FOLDER / "offload-schema.yaml").read_text("utf-8"))
DEFAULTS = yaml.safe_load((FOLDER / "offload.yaml").read_text("utf-8"))
TEXT = (pages.DOCS / "reference" / "configuration.md").read_text("utf-8")
VARIABLE = re.compile(r"\b(OFFLOAD_[A-Z0-9_]*[A-Z0-9])\b")


def leaves(schema, values, path=()):
    """Yield name and default of each setting."""
    properties = schema.get("properties")
    if properties is None:
        yield ".".join(path), values
        return
    for name, part in properties.items():
        yield from leaves(part, values[name], (*path, name))


SETTINGS = dict(leaves(SCHEMA, DEFAULTS))
ROWS = {row[0].strip("`"): row for row in pages.rows(TEXT) if row[0].startswith("`offload.")}


def test_each_setting_is_described_and_each_one_described_is_there():
    assert set(ROWS) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_default_is_the_one_that_is_told(name):
    told = ROWS[name][1]
    if told == "see below":
        assert any(yaml.safe_load(b) == nested(name) for b in pages.blocks(TEXT, "yaml"))
    else:
        assert yaml.safe_load(told.strip("`")) == SETTINGS[name]


def nested(name):
    value = SETTINGS[name]
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def test_every_setting_that_a_page_names_is_there():
    named = set()
    for path in pages.all_pages():
        named |= set(re.findall(r"`(offload\.[a-z][a-z.-]*[a-z])", path.read_text("utf-8")))
    prefixes = {".".join(name.split(".")[:n]) for name in SETTINGS for n in (2, 3, 4)}
    assert named - {"offload.adaptive", "offload.reach"} - {"offload.yaml"} <= prefixes


def test_every_sample_of_settings_names_those_that_are_there():
    for path in pages.all_pages():
        for block in pages.blocks(path.read_text("utf-8"), "yaml"):
            value = yaml.safe_load(block)
            if isinstance(value, dict) and set(value) == {"offload"}:
                assert list(unknown(value, SCHEMA)) == [], path


def unknown(value, schema, path=""):
    properties = schema.get("properties")
    if properties is None or not isinstance(value, dict):
        return
    for name, inner in value.items():
        if name not in properties:
            yield f"{path}{name}"
        else:
            yield from unknown(inner, properties[name], f"{path}{name}.")


def test_each_variable_is_described_and_each_one_described_is_there():
    in_sources = set()
    for text in pages.sources().values():
        in_sources |= {name for sentence in quoted(text) for name in VARIABLE.findall(sentence)}
    of_tests = {"OFFLOAD_TEST_TIME_FACTOR", "OFFLOAD_SCREENSHOTS"}
    told = {
        name
        for page in sorted((pages.DOCS / "reference").glob("*.md"))
        for row in pages.rows(page.read_text("utf-8"))
        for cell in pages.code(row[0])
        for name in VARIABLE.findall(cell)
        if cell == name
    }
    assert told == in_sources | of_tests


def quoted(text):
    return re.findall(r"""["']([^"'\n]*)["']""", text)


def test_every_variable_that_a_page_names_is_described():
    named = set()
    for path in pages.all_pages():
        found = re.findall(r"(?<![A-Z_])OFFLOAD_[A-Z_]*[A-Z]\b", path.read_text("utf-8"))
        named |= set(found)
    assert [name for name in sorted(named) if f"`{name}`" not in all_references()] == []


def all_references():
    return "\n".join(p.read_text("utf-8") for p in (pages.DOCS / "reference").glob("*.md"))


def test_the_settings_of_dask_that_are_shown_for_workers_exist_in_dask():
    import dask.config
    import distributed

    assert distributed.__version__
    for name in json.loads(json.dumps(SETTINGS["offload.worker.config"])):
        assert dask.config.get(name, default="absent") != "absent", name
