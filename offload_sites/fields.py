"""The base of all catalog models, and the types of single fields.

Each type has the sentence that a wrong value gets: it raises `expectation("expected …")`; the
loader adds what was got, as it stands in the file.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from offload_sites.units import (
    EXPECTED_DURATION,
    EXPECTED_MEMORY,
    parse_duration,
    parse_memory,
)

__all__ = [
    "AbsolutePath",
    "CatalogModel",
    "CvmfsPath",
    "DockerReference",
    "Duration",
    "HomePath",
    "Host",
    "HostPort",
    "Interpreter",
    "Line",
    "Memory",
    "Module",
    "Name",
    "Pattern",
    "SubmitCommand",
    "Value",
    "Variable",
    "Word",
    "distinct",
    "expectation",
    "shorthand",
]

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST_PORT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", re.ASCII)
_SUBMIT_COMMAND = re.compile(r"(?:My\.|MY\.|\+)?[A-Za-z_]\w*", re.ASCII)
_DOCKER = re.compile(
    r"[A-Za-z0-9][\w.-]*(?::\d+(?=/))?(?:/[\w.-]+)*(?::[\w.-]+)?(?:@\w+:\w+)?", re.A
)
_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_][\w.,@:+-]*", re.ASCII)
_NOT_IN_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, surrogate, line and paragraph end
_PATTERN_LIMIT = 500


def expectation(text: str) -> PydanticCustomError:
    """Return the error of a value that is not what `text` ("expected …") says."""
    return PydanticCustomError("expectation", "{text}", {"text": text})


def shorthand(
    kind: type, expand: Callable[[Any], object], schema: object, expected: str
) -> BeforeValidator:
    """Let a bare value stand for a mapping.

    Parameters
    ----------
    kind : type
        Type of the bare value.
    expand : callable
        The mapping that a bare value stands for.
    schema : type
        Type of both forms together, for the JSON Schema.
    expected : str
        The sentence for anything else.
    """

    def validate(value: object) -> object:
        if isinstance(value, dict | CatalogModel):
            return value
        if isinstance(value, bool) or not isinstance(value, kind):
            raise expectation(expected)
        return expand(value)

    return BeforeValidator(validate, json_schema_input_type=schema)


def _check_duration(value: object) -> timedelta:
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValueError:
            raise expectation(EXPECTED_DURATION) from None
    if not isinstance(value, timedelta):
        raise expectation(EXPECTED_DURATION)
    if value <= timedelta(0):
        raise expectation(f"{EXPECTED_DURATION}, longer than zero")
    return value


def _write_duration(value: timedelta) -> str:
    total = int(value.total_seconds())
    for unit, seconds in (("h", 3600), ("m", 60)):
        if total % seconds == 0:
            return f"{total // seconds}{unit}"
    return f"{total}s"


def _check_memory(value: object) -> int:
    if not isinstance(value, str):  # a bare number has no unit
        raise expectation(EXPECTED_MEMORY)
    try:
        size_bytes = parse_memory(value)
    except ValueError:
        raise expectation(EXPECTED_MEMORY) from None
    if size_bytes < 1:
        raise expectation(f"{EXPECTED_MEMORY}, above zero")
    return size_bytes


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def validate(text: str) -> str:
        if not pattern.fullmatch(text):
            raise expectation(expected)
        return text

    return AfterValidator(validate)


def _check_value(text: str) -> str:
    if any(unicodedata.category(char) in _NOT_IN_A_LINE for char in text):
        raise expectation("expected one line of text, without control characters")
    return text


def _check_line(text: str) -> str:
    if not text.strip():
        raise expectation("expected some text")
    return _check_value(text)


def _check_docker(text: str) -> str:
    if not _DOCKER.fullmatch(text):
        raise expectation("expected an image reference such as registry.example.org/name:tag")
    return text


def _check_python(text: str) -> str:
    if text.startswith("/"):
        return _check_absolute(text)
    if not _COMMAND.fullmatch(text):
        raise expectation("expected an absolute path, a command such as python3, or 'current'")
    return text


def _check_absolute(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise expectation("expected an absolute path")
    return posixpath.normpath("/" + text.lstrip("/"))


def _check_home(text: str) -> str:
    path = _check_absolute(text)
    if path.count("{user}") != 1 or set("{}") & set(path.replace("{user}", "")):
        raise expectation("expected an absolute path with {user} in it, as in /home/{user}")
    return path


def _check_cvmfs(text: str) -> str:
    path = _check_absolute(text)
    if not path.startswith("/cvmfs/") or ".." in text.split("/"):
        raise expectation("expected a path below /cvmfs/")
    return path


def _check_pattern(text: str) -> str:
    if len(text) > _PATTERN_LIMIT:
        raise expectation(f"expected a regular expression of at most {_PATTERN_LIMIT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the re module, on syntax that may change one day
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        why = error.msg if isinstance(error, re.error) else "a number in it is too large"
        raise expectation(f"expected a regular expression ({why})") from error
    return text


def _check_port(text: str) -> str:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 65536:
        raise expectation("expected host:port, for example ce1.example.org:9619")
    return text


def distinct(values: list[Any]) -> list[Any]:
    """Refuse a list that names something twice."""
    if len(set(values)) < len(values):
        raise expectation("expected each entry once")
    return values


#: A duration above zero, written with units.
Duration = Annotated[
    timedelta,
    PlainValidator(_check_duration),
    PlainSerializer(_write_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["24h", "90m"]}),
]
#: A memory size in bytes, above zero, written with a unit.
Memory = Annotated[
    int,
    PlainValidator(_check_memory),
    WithJsonSchema({"type": "string", "examples": ["4GiB", "512MiB"]}),
]
#: What sites, images and profiles are called: becomes a label, a form field and part of a URL.
Name = Annotated[
    str,
    _matching(_NAME, "expected a name of 1-40 lower-case letters, digits and inner hyphens"),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"}),
]
#: One line of text; `Line` is not empty.
Value = Annotated[str, AfterValidator(_check_value)]
Line = Annotated[str, AfterValidator(_check_line)]
#: A word that goes into a line of options as it is.
Word = Annotated[str, _matching(_WORD, "expected one word of letters, digits and '_.,@:+-'")]
AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]
HomePath = Annotated[str, AfterValidator(_check_home)]
CvmfsPath = Annotated[str, AfterValidator(_check_cvmfs)]
DockerReference = Annotated[str, AfterValidator(_check_docker)]
Interpreter = Annotated[str, AfterValidator(_check_python)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
HostPort = Annotated[str, AfterValidator(_check_port)]
Host = Annotated[str, _matching(_HOST, "expected the name of a host, as in unpacked.example.org")]
SubmitCommand = Annotated[
    str,
    _matching(_SUBMIT_COMMAND, "expected a submit command or My.Attribute, as in accounting_group"),
]
Module = Annotated[str, _matching(_MODULE, "expected the name of a Python module, as in 'a.b'")]
Variable = Annotated[str, _matching(_VARIABLE, "expected a name of letters, digits and '_'")]


class CatalogModel(BaseModel):
    """What all models here share: no unknown key, no conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
