"""YAML text to plain values, with the line of each value and every problem of form at once.

Knows nothing of the catalog. Differs from ``yaml.safe_load`` where that surprises people: a key
twice is a problem and not the last one's win, ``no`` and ``22:22`` are text (as in YAML 1.2), and
a small file cannot grow into a large value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from offload_sites.wording import show

__all__ = ["Document", "Path", "Place", "Problem", "parse_document", "render_path"]

_Tell = Callable[[int, str, "Path"], None]

#: Keys and list positions that lead from the root to a value.
Path = tuple[str | int, ...]

#: As for a ConfigMap; a catalog of a hundred profiles is some 50 kB.
SIZE_LIMIT_BYTES = 1024**2
TOO_LARGE = f"larger than {SIZE_LIMIT_BYTES // 1024**2} MiB"
DEPTH_LIMIT = 30
#: Values after aliases are followed: nine lines of YAML can name a thousand million.
VALUE_LIMIT = 100_000

_TAG = "tag:yaml.org,2002:"
# The YAML 1.2 core schema. More digits than 18 are no count of anything here.
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})", list("-+0123456789")),
    ("merge", r"<<", ["<"]),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|nan)",
        list("-+.0123456789"),
    ),
)

# What PyYAML says, and what people have usually done.
_USUAL_CAUSES = (
    ("\\t", "a tab stands where YAML allows only blanks"),
    ("mapping values are not allowed", "a ':' too many; text with ': ' in it needs quotes"),
    ("expected <block end>", "this line is indented differently from the lines it belongs to"),
    ("could not find expected ':'", "a key without ':', or text that needs quotes"),
    ("expected ',' or", "a list or mapping in brackets is not closed, or lacks a ','"),
    ("while scanning a quoted scalar", "a quote is not closed"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("expected a single document", "a second document begins here; a catalog is one"),
    ("undefined alias", "an alias (*name) without its anchor (&name) above it"),
    ("duplicate anchor", "the same anchor (&name) twice"),
    ("cannot start any token", "text that begins with this character needs quotes"),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file.

    Parameters
    ----------
    name : str
        The file, without its folder.
    line : int
        Counted from 1.
    path : str
        Where in the catalog, as in ``profiles.gpu.walltime``; empty for the file as a whole.
    message : str
        What is expected there and what was got; one line.
    """

    name: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.name}:{self.line}: "
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


@dataclass(frozen=True)
class Place:
    """Where a value stands: its line, from 1, and its source text if it is a single value."""

    line: int
    text: str | None = None


@dataclass
class Document:
    """What was read.

    Parameters
    ----------
    value : object
        Dicts, lists, texts, numbers, booleans and None; incomplete if there are problems.
    places : mapping
        Path to place, for every value.
    problems : list of Problem
        What is wrong with the YAML itself.
    """

    value: object = None
    places: dict[Path, Place] = field(default_factory=lambda: {(): Place(1)})
    problems: list[Problem] = field(default_factory=list)

    def find(self, path: Path) -> tuple[Path, Place]:
        """Return the nearest place on the way from the root to `path` that the file has."""
        while path not in self.places:
            path = path[:-1]
        return path, self.places[path]


def render_path(path: Path) -> str:
    """Write a path as people do: ``profiles.gpu.images[1]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[\w/-]{1,40}", step):
            text += f".{step}" if text else step
        else:
            text += f"[{show(step)}]"
    return text


def parse_document(text: str, name: str) -> Document:
    """Read `text`; what is wrong with it is in the document's problems, never an exception.

    Parameters
    ----------
    text : str
        One YAML document.
    name : str
        What the problems call the file.
    """
    document = Document()

    def problem(line: int, message: str, path: Path = ()) -> None:
        document.problems.append(Problem(name, line, render_path(path), message))

    if len(text.encode("utf-8", "surrogatepass")) > SIZE_LIMIT_BYTES:
        problem(1, f"the file is {TOO_LARGE}")
        return document
    try:
        root = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem(line, f"the character U+{error.character:04X} is not allowed in YAML")
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem(mark.line + 1 if mark else 1, _sentence(error))
        return document
    except (ValueError, OverflowError):
        # From PyYAML itself, for numbers in escapes and directives, as in "\UFFFFFFFF".
        problem(1, "not valid YAML: an escape or directive with an impossible number in it")
        return document
    if root is None:
        problem(1, "the file is empty")
        return document
    builder = _Builder(document, problem)
    document.value = builder.build(root, (), root.start_mark.line + 1)
    return document


def _sentence(error: yaml.MarkedYAMLError) -> str:
    said = f"{error.context or ''} {error.problem or ''}"
    for words, cause in _USUAL_CAUSES:
        if words in said:
            return f"not valid YAML: {cause}"
    return f"not valid YAML: {' '.join((error.problem or 'unknown problem').split())}"


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the resolvers of YAML 1.2, and an end to depth."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML keeps them on the class
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # PyYAML calls itself for each level: without this a line of '[' ends in a RecursionError.
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            mark = self.get_mark()
            raise yaml.composer.ComposerError(
                problem=f"nested more than {DEPTH_LIMIT} deep", problem_mark=mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_FORMS = {name: re.compile(rf"(?:{pattern})\Z", re.ASCII) for name, pattern, _ in _RESOLVERS}
for _name, _, _firsts in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _name, _FORMS[_name], _firsts)


class _Builder:
    """Makes plain values of YAML nodes, and notes where each came from."""

    def __init__(self, document: Document, tell: _Tell) -> None:
        self._document = document
        self._tell = tell
        self._count = 0

    def build(self, node: yaml.Node, path: Path, line: int) -> object:
        """Return the value of `node`, which stands at `path`; `line` is that of its key."""
        self._count += 1
        if self._count == VALUE_LIMIT:
            self._tell(line, f"more than {VALUE_LIMIT} values, aliases included", path)
        # An alias inside of what it names would lead here for ever.
        if self._count >= VALUE_LIMIT:
            return None
        if len(path) > DEPTH_LIMIT:
            self._tell(line, f"nested more than {DEPTH_LIMIT} deep", path[:3])
            self._count = VALUE_LIMIT
            return None
        if isinstance(node, yaml.ScalarNode):
            self._document.places[path] = Place(line, node.value)
            return self._scalar(node, path, line)
        self._document.places[path] = Place(line)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [
                self.build(item, (*path, index), item.start_mark.line + 1)
                for index, item in enumerate(node.value)
            ]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        self._tell(line, f"the tag {show(node.tag)} means nothing here", path)
        return None

    def _scalar(self, node: yaml.ScalarNode, path: Path, line: int) -> object:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind in ("str", "merge"):
            return str(text)
        if kind not in _FORMS:
            self._tell(line, f"the tag {show(node.tag)} means nothing here", path)
        elif not _FORMS[kind].match(text):  # a tag that is written out, as in `!!int x`
            self._tell(line, f"{show(text)} is not of the type that its tag says", path)
        elif kind == "bool":
            return text.lower() == "true"
        elif kind == "int":
            return int(text)
        elif kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        pairs: dict[str, tuple[yaml.Node, int]] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._tell(line, "expected a name before ':', got a list or mapping", path)
            elif key_node.tag == _TAG + "merge":
                merged.append(value_node)
            elif key_node.value in pairs:
                first = pairs[key_node.value][1]
                said = f"the key {show(key_node.value)} stands here twice, first in line {first}"
                self._tell(line, said, path)
            else:
                pairs[key_node.value] = (value_node, line)
        done = {id(node)}
        for source in merged:
            self._merge(source, pairs, path, node.start_mark.line + 1, done)
        return {key: self.build(value, (*path, key), line) for key, (value, line) in pairs.items()}

    def _merge(
        self,
        source: yaml.Node,
        pairs: dict[str, tuple[yaml.Node, int]],
        path: Path,
        line: int,
        done: set[int],
    ) -> None:
        """Add to `pairs` what `<<: *source` brings, below what is there already."""
        sources = source.value if isinstance(source, yaml.SequenceNode) else [source]
        for mapping in sources:
            if not isinstance(mapping, yaml.MappingNode):
                self._tell(line, "expected a mapping, or a list of them, after '<<:'", path)
                continue
            if id(mapping) in done:  # also: a mapping that merges itself
                continue
            done.add(id(mapping))
            further = []
            for key_node, value_node in mapping.value:
                if key_node.tag == _TAG + "merge":
                    further.append(value_node)
                elif isinstance(key_node, yaml.ScalarNode):
                    pairs.setdefault(key_node.value, (value_node, key_node.start_mark.line + 1))
            for value_node in further:
                self._merge(value_node, pairs, path, line, done)
