"""Write what the reference of the catalog takes from the models: the schema, tables, problems.

``python docs/render_reference.py`` writes; with ``--check`` it only says what is out of date, and
ends with exit status 1 if something is. What stands between the markers in `catalog.md` is
generated; all else there is written by hand.
"""  # noqa: INP001

from __future__ import annotations

import argparse
import json
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from offload_sites import fields
from offload_sites.catalog import BUILTIN_SITES, Catalog, catalog_schema
from offload_sites.errors import CatalogError
from offload_sites.load import parse_catalog

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
EXAMPLE = HERE.parent / "examples" / "catalogs" / "htcondor-ce.yaml"

#: What the types of single fields are called, where the bare type says too little.
TYPE_NAMES = (
    (fields.Duration, "duration"),
    (fields.Memory, "memory size"),
    (fields.Name, "name"),
    (fields.AbsolutePath, "absolute path"),
    (fields.CvmfsPath, "path below `/cvmfs/`"),
    (fields.DockerReference, "image reference"),
    (fields.Interpreter, "absolute path, command, or `current`"),
    (fields.Pattern, "regular expression"),
    (fields.Host, "host name"),
    (fields.HostPort, "host:port"),
    (fields.SubmitCommand, "submit command"),
    (fields.Module, "module name"),
    (fields.Variable, "variable name"),
    (str, "text"),
    (int, "whole number"),
    (bool, "`true` or `false`"),
)

#: Mistakes in the example of an HTCondor-CE, to show what is said of them.
MISTAKES = (
    ("collector:", "collektor:"),
    ("max_walltime: 48h", "max_walltime: 48 hours"),
    ("sites: [centre]\n    for", "sites: [center]\n    for"),
    ("memory: 32GiB", "memory: 32"),
)


def render_schema() -> str:
    """Return the JSON Schema of the kinds that this project defines, as `offload` prints it."""
    return json.dumps(catalog_schema(), indent=1) + "\n"


def render_problems() -> str:
    """Return the mistakes, and what is said of them."""
    text = EXAMPLE.read_text("utf-8")
    for right, wrong in MISTAKES:
        if right not in text:
            raise ValueError(f"{EXAMPLE.name} no longer has {right!r}")
        text = text.replace(right, wrong)
    try:
        parse_catalog(text, "catalog.yaml", kinds=BUILTIN_SITES)
    except CatalogError as error:
        return "\n".join(["```text", *error.problems, "```"])
    raise ValueError("the mistakes are none")


def all_models() -> list[type[BaseModel]]:
    """Return every model of a catalog, each before those that it consists of."""
    found: list[type[BaseModel]] = []
    waiting: list[type[BaseModel]] = [Catalog]
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found.append(model)
            waiting.extend(part for hint in _hints(model).values() for part in _models_in(hint))
    return found


def render_fields() -> str:
    """Return one section for each model, with a table of its fields."""
    return "\n\n".join(_section(model) for model in all_models())


def title_of(model: type[BaseModel]) -> str:
    """Return the heading of a model's section."""
    for kind, site in BUILTIN_SITES.items():
        if site is model:
            return f"Site of kind {kind}"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__).capitalize()


def _section(model: type[BaseModel]) -> str:
    hints = _hints(model)
    rows = [
        f"| `{field.alias or name}` | {_type_text(hints[name])} | {_default_text(field)} "
        f"| {_meaning(model, name, field)} |"
        for name, field in model.model_fields.items()
    ]
    head = ["| field | type | default | meaning |", "|---|---|---|---|"]
    doc = (model.__doc__ or "").partition("\n\n")[0]
    return "\n".join([f"### {title_of(model)}", "", " ".join(doc.split()), "", *head, *rows])


def _hints(model: type[BaseModel]) -> dict[str, Any]:
    hints = typing.get_type_hints(model, include_extras=True)
    return {name: hints[name] for name in model.model_fields}


def _input_type(hint: Any) -> Any:
    """Return what a file may hold for an annotated type, where that differs from the type."""
    for note in getattr(hint, "__metadata__", ()):
        given = getattr(note, "json_schema_input_type", None)
        if typing.get_args(given):
            return given
    return typing.get_args(hint)[0]


def _models_in(hint: Any) -> list[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    inner = [_input_type(hint)] if typing.get_origin(hint) is Annotated else typing.get_args(hint)
    return [model for part in inner for model in _models_in(part)]


def _type_text(hint: Any) -> str:
    for known, name in TYPE_NAMES:
        if hint == known:
            return name
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _type_text(_input_type(hint))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return ", or ".join(_type_text(part) for part in arguments if part is not type(None))
    if origin is list:
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        return f"mapping of {_type_text(arguments[0])} to {_type_text(arguments[1])}"
    title = title_of(hint)
    return f"[{title}](#{title.lower().replace(' ', '-')})"


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if isinstance(field.json_schema_extra, dict):
        value = field.json_schema_extra.get("default", value)
    if value is None:
        return "not given"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`"
    return f"`{value}`" if value != "" else "empty"


def _meaning(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    text = field.description
    for base in model.__mro__:  # a kind of site narrows a field and says no more of it
        parts = getattr(base, "model_fields", {})
        if name in parts and parts[name].description not in (None, "As for every site."):
            text = parts[name].description
            break
    if not text:
        raise ValueError(f"{model.__name__}.{name} has no description")
    return text.replace("|", "\\|")


def render_page(page: str) -> str:
    """Return `catalog.md` with what stands between its markers made anew."""
    for part, render in (("problems", render_problems), ("fields", render_fields)):
        begin, end = f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"catalog.md lacks the markers of {part!r}")
        page = f"{before}{begin}{render()}\n{end}{after}"
    return page


def render_files() -> dict[Path, str]:
    """Return what the generated files should hold."""
    page = REFERENCE / "catalog.md"
    return {
        REFERENCE / "catalog.schema.json": render_schema(),
        page: render_page(page.read_text("utf-8")),
    }


def main() -> int:
    """Write the files, or say which are out of date; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    check = parser.parse_args().check
    status = 0
    for path, content in render_files().items():
        if path.exists() and path.read_text("utf-8") == content:
            continue
        if check:
            print(f"{path.name} is out of date: run python docs/render_reference.py")
            status = 1
        else:
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.name}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
