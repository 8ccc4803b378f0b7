"""Catalog files to catalogs: every problem at once, each with its line. The only reader of them."""

from __future__ import annotations

import importlib.resources
import logging
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from offload_sites.catalog import BaseSite, Catalog, CatalogModel, Image, Profile
from offload_sites.document import (
    SIZE_LIMIT_BYTES,
    TOO_LARGE,
    Document,
    Path,
    Problem,
    parse_document,
    render_path,
)
from offload_sites.errors import CatalogError
from offload_sites.references import Parts, check_references
from offload_sites.registry import site_models
from offload_sites.wording import did_you_mean, join_names, show

__all__ = ["CatalogFile", "check_catalog", "default_catalog", "load_catalog", "parse_catalog"]

log = logging.getLogger(__name__)

# What pydantic says, as people say it.
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "string_unicode": "text of whole characters",
    "is_instance_of": "a mapping",
}


def parse_catalog(
    text: str, name: str = "catalog", *, kinds: Mapping[str, type[BaseSite]] | None = None
) -> Catalog:
    """Return the catalog that `text` describes.

    Parameters
    ----------
    text : str
        YAML.
    name : str
        What the problems call the file.
    kinds : mapping, optional
        Kind of site to its model; those that are installed if not given.

    Raises
    ------
    CatalogError
        With all problems, in the order of the file.
    """
    catalog, problems = _examine(text, name, site_models() if kinds is None else kinds)
    if catalog is None:
        raise CatalogError([str(problem) for problem in problems])
    return catalog


def load_catalog(path: FilePath) -> Catalog:
    """Return the catalog in a file. Raises CatalogError with all problems, also of reading it."""
    return parse_catalog(_read(path), path.name)


def check_catalog(path: FilePath) -> list[Problem]:
    """Return all problems of a catalog file, in the order of its lines; none if it is good."""
    try:
        text = _read(path)
    except CatalogError as error:
        return [Problem(path.name, 1, "", error.problems[0].removeprefix(f"{path.name}: "))]
    return _examine(text, path.name, site_models())[1]


def default_catalog() -> Catalog:
    """Return the catalog that needs no other machine: processes on this computer."""
    text = (
        importlib.resources.files(__package__).joinpath("default_catalog.yaml").read_text("utf-8")
    )
    return parse_catalog(text, "default_catalog.yaml")


class CatalogFile:
    """A catalog file that may be edited while it is in use; the last good content stays.

    Parameters
    ----------
    path : Path
        The file.
    last_good : str or None
        Good content from before this program was started, which stays until the file is good.

    Raises
    ------
    CatalogError
        There is no good content yet.
    """

    def __init__(self, path: FilePath, *, last_good: str | None = None) -> None:
        self._path = path
        #: What is wrong with the file as it is now; `catalog` is then the last good content.
        self.problems: list[str] = []
        try:
            self.text = _read(path)
            self.catalog = parse_catalog(self.text, path.name)
        except CatalogError as error:
            if last_good is None:
                raise
            self.catalog = parse_catalog(last_good, path.name)
            #: The last good content, as text.
            self.text = last_good
            self._note(error)

    def refresh(self) -> bool:
        """Read the file again; return whether `catalog` has changed. Never raises.

        Notes
        -----
        The content is compared, not the time of change: a ConfigMap is a chain of symbolic links
        whose times say nothing, and reading 50 kB takes no time.
        """
        try:
            text = _read(self._path)
            if text == self.text and not self.problems:
                return False
            catalog = parse_catalog(text, self._path.name)
        except CatalogError as error:
            self._note(error)
            return False
        if self.problems:
            log.info("%s is good again", self._path.name)
        changed = catalog != self.catalog
        self.text, self.catalog, self.problems = text, catalog, []
        return changed

    def _note(self, error: CatalogError) -> None:
        if error.problems != self.problems:
            log.warning(
                "%s has %d problem(s), the last good one stays: %s",
                self._path.name,
                len(error.problems),
                error.problems[0],
            )
        self.problems = error.problems


def _read(path: FilePath) -> str:
    try:
        with open(path, "rb", opener=_open) as file:  # Path.open takes no opener
            os.set_blocking(file.fileno(), True)
            content = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise CatalogError([f"{path.name}: cannot be read: {error.strerror}"]) from error
    if len(content) > SIZE_LIMIT_BYTES:  # before it is decoded: it may be cut within a character
        raise CatalogError([f"{path.name}: the file is {TOO_LARGE}"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CatalogError([f"{path.name}: line {line} is not text in UTF-8"]) from error


def _open(path: str, flags: int) -> int:
    # A named pipe that nobody writes to is empty, and not waited for; `<(…)` of a shell is read.
    return os.open(path, flags | os.O_NONBLOCK)


def _examine(
    text: str, name: str, kinds: Mapping[str, type[BaseSite]]
) -> tuple[Catalog | None, list[Problem]]:
    document = parse_document(text, name)
    found = _Found(document, name)
    if document.problems and document.value is None:
        return None, document.problems  # nothing more can be said of what could not be read
    context = {"site_models": kinds}
    try:
        catalog = Catalog.model_validate(document.value, context=context)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_context=True):
            found.add_error(details, kinds)
        parts = _parts(document.value, context)
    else:
        parts = Parts.of(catalog)
    for path, message in check_references(parts):
        found.add(path, message)
    problems = found.in_order()
    return (None, problems) if problems else (catalog, [])


def _parts(value: object, context: dict[str, Any]) -> Parts:
    """Return the entries that are sound by themselves, of a catalog that as a whole is not."""

    def entries(section: str) -> Iterator[tuple[str, object]]:
        part = value.get(section) if isinstance(value, dict) else None
        yield from part.items() if isinstance(part, dict) else ()

    def one(model: type[CatalogModel], entry: object) -> Any:
        try:
            return model.model_validate(entry, context=context)
        except ValidationError:
            return None

    def site(entry: object) -> Any:
        kind = entry.get("kind") if isinstance(entry, dict) else None
        model = context["site_models"].get(kind) if isinstance(kind, str) else None
        return one(model, entry) if model else None

    def named(entry: object) -> tuple[list[object], list[object]]:
        parts = entry if isinstance(entry, dict) else {}
        sites, images = parts.get("sites"), parts.get("images")
        return (
            sites if isinstance(sites, list) else [],
            images if isinstance(images, list) else [],
        )

    return Parts(
        {name: site(entry) for name, entry in entries("sites")},
        {name: one(Image, entry) for name, entry in entries("images")},
        {name: one(Profile, entry) for name, entry in entries("profiles")},
        {name: named(entry) for name, entry in entries("profiles")},
    )


@dataclass
class _Found:
    """Collects problems, and puts each at its line."""

    document: Document
    name: str

    def add(self, path: Path, message: str) -> None:
        # A short form has no place of its own for the parts that it stands for.
        at, place = self.document.find(path)
        self.document.problems.append(Problem(self.name, place.line, render_path(at), message))

    def add_error(self, error: ErrorDetails, kinds: Mapping[str, type[BaseSite]]) -> None:
        loc = error["loc"]
        # So pydantic marks what is said of a key itself; a key may also be called this.
        is_key = loc[-1:] == ("[key]",) and loc not in self.document.places
        if is_key:
            loc = loc[:-1]
        kind = error["type"]
        if kind == "extra_forbidden":
            known = _known_keys(loc[:-1], self.document.value, kinds)
            guess = did_you_mean(str(loc[-1]), known)
            said = (
                f"is not known here{guess}"
                if guess
                else f"is not known here; known: {_list(known)}"
            )
            self.add(loc, f"the key {show(loc[-1])} {said}")
        elif kind == "missing":
            self.add(loc[:-1], f"{show(loc[-1])} is missing")
        else:
            got = show(loc[-1]) if is_key else self._got(loc, error["input"])
            expected, mark, guess = _expectation(error).partition("; did you mean")
            self.add(loc, f"{expected}, got {got}{mark}{guess}")

    def in_order(self) -> list[Problem]:
        """Return the problems by line, each once."""
        return sorted(dict.fromkeys(self.document.problems), key=lambda problem: problem.line)

    def _got(self, loc: Path, value: object) -> str:
        place = self.document.places.get(loc)
        if place is None or place.text is None or isinstance(value, str):
            return show(value)
        # As it stands in the file: `1e3` and not 1000.0, an empty value as nothing.
        text = place.text[:60]
        return (text if text.isprintable() else show(text)) or "nothing"


def _list(names: Iterator[str] | list[str]) -> str:
    return join_names(names, 20)


def _expectation(error: ErrorDetails) -> str:
    """Return "expected …" for an error of pydantic."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "expectation":
        return error["msg"]
    if kind == "literal_error":
        return f"expected {context['expected']}"
    if kind in ("greater_than_equal", "less_than_equal"):
        bound, limit = ("least", "ge") if "ge" in context else ("most", "le")
        return f"expected at {bound} {context[limit]}"
    if kind == "too_short":
        return f"expected at least {context['min_length']} of them"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}"
    return f"expected something else ({error['msg']})"


def _known_keys(loc: Path, value: object, kinds: Mapping[str, type[BaseSite]]) -> list[str]:
    """Return the keys of the model at `loc`, which has just refused one."""
    model: type[BaseModel] = Catalog
    steps = list(loc)
    while steps:
        step = steps.pop(0)
        value = _item(value, step)
        field = next(
            (f for name, f in model.model_fields.items() if step in (f.alias or name, name)), None
        )
        if field is None:
            return []
        if typing.get_origin(field.annotation) in (dict, list) and steps:
            value = _item(value, steps.pop(0))
        inner = _model_in(field.annotation)
        if inner is BaseSite:
            kind = _item(value, "kind")
            inner = kinds.get(kind) if isinstance(kind, str) else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _item(value: object, step: str | int) -> object:
    if isinstance(value, dict) and step in value:
        return value[step]
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the one model in a type such as `list[Annotated[ImageChoice, …]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None
