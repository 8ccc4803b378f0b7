"""Every setting has a default and a description, and what a user has set stays."""

from pathlib import Path

import dask.config
import jsonschema
import pytest
import yaml
from dask.utils import parse_timedelta

import dask_offload
from dask_offload.config import load_defaults, seconds, setting

FOLDER = Path(dask_offload.__file__).parent
DEFAULTS = yaml.safe_load((FOLDER / "offload.yaml").read_text())
SCHEMA = yaml.safe_load((FOLDER / "offload-schema.yaml").read_text())


def settings(values, schema, path=()):
    """Yield the path of each setting, its default and its schema; None for what one side lacks."""
    properties = schema.get("properties")
    if properties is None:
        yield ".".join(path), values, schema
        return
    values = values if isinstance(values, dict) else {}
    for name in sorted({*values, *properties}):
        if name not in properties:
            yield ".".join((*path, name)), values[name], None
        elif name not in values:
            yield ".".join((*path, name)), None, None
        else:
            yield from settings(values[name], properties[name], (*path, name))


ALL = list(settings(DEFAULTS, SCHEMA))
DURATIONS = [
    "owner-grace",
    "queue-budget",
    "worker.register-timeout",
    "adaptive.interval",
    "adaptive.target-duration",
    "adaptive.scale-down-grace",
]


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """Take the configuration of whoever runs the tests away, and where it would be written."""
    monkeypatch.setattr(dask.config, "PATH", str(tmp_path))
    monkeypatch.setattr(dask.config, "defaults", [])
    before = dict(dask.config.config)
    dask.config.config.pop("offload", None)
    yield tmp_path
    dask.config.config.clear()
    dask.config.config.update(before)


@pytest.mark.parametrize(("name", "schema"), [(n, s) for n, _, s in ALL], ids=[n for n, *_ in ALL])
def test_each_setting_has_both_a_default_and_a_description(name, schema):
    assert schema is not None
    assert schema["description"].endswith(".")
    assert len(schema["description"]) > 20


def test_the_defaults_are_of_the_types_that_are_described():
    assert len(ALL) > 15
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA)


def without_close(schema):
    """Yield each object of settings in `schema` that takes unknown ones."""
    for name, part in schema.get("properties", {}).items():
        if "properties" in part and part.get("additionalProperties") is not False:
            yield name
        yield from without_close(part)


def test_a_misspelt_setting_is_found_by_the_schema():
    assert list(without_close(SCHEMA)) == []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"offload": {**DEFAULTS["offload"], "owner_grace": "1m"}}, SCHEMA)


def test_defaults_are_known_to_dask_once_they_are_loaded(clean):
    load_defaults()
    assert setting("version-check") == DEFAULTS["offload"]["version-check"]
    assert setting("relay.url") is None


def test_what_the_user_has_set_stays(clean):
    dask.config.set({"offload.owner-grace": "10 minutes", "offload.profile": "htc"})
    load_defaults()
    assert setting("profile") == "htc"
    assert seconds("owner-grace") == 600.0
    assert seconds("queue-budget") == 72 * 3600


def test_loading_the_defaults_twice_changes_nothing(clean):
    load_defaults()
    dask.config.set({"offload.image": "highrate"})
    load_defaults()
    assert setting("image") == "highrate"


def test_the_user_gets_a_file_to_edit_in_which_nothing_is_set(clean):
    load_defaults()
    text = (clean / "offload.yaml").read_text()
    assert "owner-grace" in text
    assert yaml.safe_load(text) is None


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_are_read_in_seconds(clean, name):
    load_defaults()
    assert seconds(name) == parse_timedelta(setting(name)) > 0


@pytest.mark.parametrize("value", [90, "90", "90s", "1.5 minutes"])
def test_a_duration_may_be_a_number_or_words(clean, value):
    load_defaults()
    with dask.config.set({"offload.owner-grace": value}):
        assert seconds("owner-grace") == 90.0
