"""Every link leads somewhere, every page can be found, and what pages name is there."""

import ast
import re

import pytest

from tests.docs import pages

ALL = pages.all_pages()
LINKS = [
    pytest.param(path, target, id=f"{pages.page_id(path)}:{target}")
    for path in ALL
    for target in pages.links(path.read_text("utf-8"))
]
SHORT = re.compile(r"`([\w./-]+\.(?:py|md|yaml|toml|json|txt))`")


def test_pages_and_links_are_found_at_all():
    assert {"README.md", "docs/architecture.md"} <= {pages.page_id(path) for path in ALL}
    assert len(LINKS) > 50


@pytest.mark.parametrize(("path", "target"), LINKS)
def test_every_link_leads_to_a_file_and_a_heading_in_it(path, target):
    name, _, anchor = target.partition("#")
    file = (path.parent / name).resolve() if name else path
    assert file.is_relative_to(pages.ROOT)
    assert file.exists()
    if anchor and file.suffix == ".md":
        assert anchor in pages.anchors(file)


def test_every_page_below_docs_is_in_its_table_of_contents():
    index = pages.DOCS / "README.md"
    listed = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in pages.links(index.read_text("utf-8"))
    }
    assert [pages.page_id(p) for p in pages.DOCS.rglob("*.md") if p not in {*listed, index}] == []


def test_decisions_are_numbered_and_have_their_three_parts():
    decisions = sorted((pages.DOCS / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert len(set(numbers)) == len(numbers)
    for path in decisions:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Context", "Choice", "Consequences"], path.name


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_is_named_is_there(name):
    text = pages.without_code((pages.ROOT / name).read_text("utf-8"))
    paths = [path for path in SHORT.findall(text) if "/" in path and not path.startswith("/")]
    made = {"bench/results"}
    assert [p for p in paths if not (pages.ROOT / p).exists() and p not in made] == []


def test_every_target_of_make_that_is_named_is_there():
    makefile = (pages.ROOT / "Makefile").read_text("utf-8")
    known = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    known |= set(re.findall(r"^TIERS := (.+)$", makefile, re.MULTILINE)[0].split())
    named = set()
    for path in ALL:
        text = path.read_text("utf-8")
        named |= set(re.findall(r"`make ([a-z-]+)", text))
        for block in pages.blocks(text, "sh"):
            named |= set(re.findall(r"^make (?:[A-Z]+=\S+ )?([a-z-]+)", block, re.MULTILINE))
    assert named <= known
    assert {"demo", "test"} <= named


PYTHON = [
    pytest.param(block, id=f"{pages.page_id(path)}-{number}")
    for path in ALL
    for number, block in enumerate(pages.blocks(path.read_text("utf-8"), "python"), start=1)
]


@pytest.mark.parametrize("block", PYTHON)
def test_every_python_sample_is_python_and_imports_what_there_is(block):
    import importlib

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in pages.PACKAGES:
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_the_messages_that_are_explained_are_those_that_are_said():
    text = (pages.DOCS / "howto" / "no-workers.md").read_text("utf-8")
    table = pages.sections(text, 2)["What messages mean"]
    messages = [message for row in pages.rows(table) for message in pages.code(row[0])]
    assert len(messages) > 12
    unknown = []
    for message in messages:
        parts = [part.strip() for part in re.split("…", message) if len(part.strip()) > 3]
        order = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
        if not any(order.search(sentence) for sentence in pages.sentences()):
            unknown.append(message)
    assert unknown == []
