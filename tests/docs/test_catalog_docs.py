"""The reference of the catalog is that of the models, and every sample in it loads."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from offload_sites.catalog import BUILTIN_SITES, catalog_schema
from offload_sites.document import parse_document
from offload_sites.load import load_catalog, parse_catalog

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = sorted((ROOT / "examples" / "catalogs").glob("*.yaml"))
SCHEMA = json.loads((DOCS / "reference" / "catalog.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def load_renderer():
    spec = importlib.util.spec_from_file_location("render_reference", DOCS / "render_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RENDERER = load_renderer()
PAGE = (DOCS / "reference" / "catalog.md").read_text("utf-8")


def catalogs_in(text):
    """Return the YAML blocks of a Markdown text that are whole catalogs."""
    blocks = re.findall(r"^```ya?ml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in blocks if re.search(r"^sites:", block, re.MULTILINE)]


SAMPLES = [
    pytest.param(block, id=f"{path.relative_to(DOCS)}-{number}")
    for path in sorted(DOCS.rglob("*.md"))
    for number, block in enumerate(catalogs_in(path.read_text("utf-8")), start=1)
]


def test_there_is_an_example_of_each_kind_of_site():
    assert [path.stem for path in EXAMPLES] == sorted(BUILTIN_SITES)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads_and_shows_its_kind_of_site(path):
    catalog = load_catalog(path)
    assert {site.kind for site in catalog.sites.values()} == {path.stem}
    used = {choice.name for profile in catalog.profiles.values() for choice in profile.images}
    assert set(catalog.images) <= used


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_accepts_every_example(path):
    VALIDATOR.validate(parse_document(path.read_text("utf-8"), path.name).value)


@pytest.mark.parametrize("block", SAMPLES)
def test_every_sample_in_the_documentation_loads_and_fits_the_schema(block):
    assert parse_catalog(block, kinds=BUILTIN_SITES)
    VALIDATOR.validate(parse_document(block, "sample").value)


def test_the_reference_has_a_complete_sample():
    assert catalogs_in(PAGE)


def test_the_schema_file_is_up_to_date():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert catalog_schema() == SCHEMA


def test_the_generated_files_are_up_to_date():
    stale = [
        path.name
        for path, content in RENDERER.render_files().items()
        if path.read_text("utf-8") != content
    ]
    assert stale == [], "run python docs/render_reference.py"


def test_the_script_says_that_nothing_is_out_of_date():
    done = subprocess.run(
        [sys.executable, DOCS / "render_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("model", RENDERER.all_models(), ids=lambda model: model.__name__)
def test_every_field_of_every_model_is_in_the_reference(model):
    _, _, rest = PAGE.partition(f"\n### {RENDERER.title_of(model)}\n")
    section = rest.partition("\n### ")[0]
    for name, field in model.model_fields.items():
        assert f"\n| `{field.alias or name}` | " in section


def test_the_reference_has_every_kind_of_site():
    assert set(BUILTIN_SITES.values()) < set(RENDERER.all_models())


def test_every_link_within_the_reference_leads_somewhere():
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DOCS / "reference" / target).exists()


BAD = {
    "an unknown key": lambda value: value["sites"]["workstation"].update(colour="red"),
    "an unknown section": lambda value: value.update(users={}),
    "a missing field": lambda value: value["sites"]["workstation"].pop("max_walltime"),
    "a missing section": lambda value: value.pop("images"),
    "an unknown kind": lambda value: value["sites"]["workstation"].update(kind="farm"),
    "an empty list": lambda value: value["profiles"]["small"].update(sites=[]),
    "a number for a duration": lambda value: value["profiles"]["small"].update(walltime=8),
    "text for a number": lambda value: value["sites"]["workstation"].update(cpus="48"),
    "a name that is no name": lambda value: value["images"].update({"A b": {"title": "A"}}),
    "a purpose that is none": lambda value: value["profiles"]["small"].update({"for": ["fun"]}),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_the_schema_refuses_what_the_loader_refuses(spoil):
    value = yaml.safe_load((ROOT / "examples/catalogs/local.yaml").read_text("utf-8"))
    assert VALIDATOR.is_valid(value)
    spoil(value)
    assert not VALIDATOR.is_valid(value)
