"""The Markdown pages of the repository, taken apart: for the tests beside this file."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGES = (
    "offload_sites",
    "offload_relay",
    "offload_service",
    "interlink_spawner",
    "dask_offload",
    "offload_cli",
)

_SKIPPED = {"node_modules", "demo-output", "artefacts", "dist", "build"}
_FENCE = re.compile(r"^(```|~~~)(\w*).*?\n(.*?)^\1", re.DOTALL | re.MULTILINE)


def all_pages():
    """Return every Markdown file of the repository."""
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(part.startswith(".") or part in _SKIPPED for part in _inner(path).parts)
    )


def _inner(path):
    return path.relative_to(ROOT)


def page_id(path):
    """Return a short name of a page, for the ids of tests."""
    return str(_inner(path))


def without_code(text):
    """Return `text` without its blocks of code."""
    return _FENCE.sub("", text)


def blocks(text, *languages):
    """Return the blocks of code in these languages."""
    return [code for _, language, code in _FENCE.findall(text) if language in languages]


def links(text):
    """Return the targets of all links and pictures that lead to other places of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(text))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(path):
    """Return what links may name on a page: its headings, as forges make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", without_code(path.read_text("utf-8")), re.MULTILINE)
    return {anchor(heading) for heading in headings}


def anchor(heading):
    """Return the anchor of a heading: lower case, no punctuation, hyphens for blanks."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def sections(text, level):
    """Return heading to text of the sections of one level."""
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text):
    """Return the rows of all tables in `text`, each as the list of its cells."""
    lines = re.findall(r"^\|(.+)\|\s*$", without_code(text), re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [row for row in cells if not all(re.fullmatch(r":?-*:?", cell) for cell in row)]


def code(cell):
    """Return all that stands in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def sources():
    """Return the text of every Python file of the packages, by its path in the repository."""
    return {
        str(path.relative_to(ROOT)): path.read_text("utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@functools.cache
def sentences():
    """Return all texts in the sources, with `…` where a value is put in."""
    found = []
    for text in sources().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                )
    return found
