"""A catalog file that is edited while it is in use: the last good content stays."""

import logging

import pytest

from offload_sites.errors import CatalogError
from offload_sites.load import CatalogFile

GOOD = """\
sites:
  here: {kind: local, title: Here, max_walltime: 8h}
images:
  system: {title: System, python: /usr/bin/python3}
profiles:
  small: {title: Small, sites: [here], images: [system], resources: {cpus: 1, memory: 1GiB}}
"""
EDITED = GOOD.replace("Here", "There")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "catalog.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.fixture
def file(path):
    return CatalogFile(path)


def test_without_any_good_content_there_is_no_catalog(path):
    path.write_text("sites: {}", encoding="utf-8")
    with pytest.raises(CatalogError):
        CatalogFile(path)
    path.unlink()
    with pytest.raises(CatalogError, match="cannot be read"):
        CatalogFile(path)


def test_a_good_edit_is_taken_once(path, file):
    assert not file.refresh()
    path.write_text(EDITED, encoding="utf-8")
    assert file.refresh()
    assert file.catalog.sites["here"].title == "There"
    assert not file.refresh()


def test_an_edit_of_a_comment_changes_nothing(path, file):
    path.write_text("# new\n" + GOOD, encoding="utf-8")
    assert not file.refresh()
    assert file.problems == []


BREAKS = {
    "a wrong value": lambda path: path.write_text(GOOD.replace("8h", "8"), encoding="utf-8"),
    "an empty file": lambda path: path.write_bytes(b""),
    "half a file": lambda path: path.write_text(GOOD[: len(GOOD) // 2], encoding="utf-8"),
    "bytes": lambda path: path.write_bytes(b"\xff\x00"),
    "no file": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_a_broken_edit_keeps_the_last_good_catalog_and_says_so_once(path, file, break_it, caplog):
    before = file.catalog
    break_it(path)
    with caplog.at_level(logging.INFO):
        assert not file.refresh()
        assert not file.refresh()
    assert file.catalog is before
    assert file.problems
    assert all(problem.startswith("catalog.yaml:") for problem in file.problems)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "the last good one stays: catalog.yaml:" in record.getMessage()


def test_another_mistake_is_said_again(path, file, caplog):
    for text in (GOOD.replace("8h", "8"), GOOD.replace("Small", "''")):
        path.write_text(text, encoding="utf-8")
        file.refresh()
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("text", "changed"), [(GOOD, False), (EDITED, True)])
def test_a_mended_file_is_taken_and_said(path, file, caplog, text, changed):
    path.write_text("", encoding="utf-8")
    file.refresh()
    path.write_text(text, encoding="utf-8")
    with caplog.at_level(logging.INFO):
        assert file.refresh() is changed
    assert file.problems == []
    assert caplog.records[-1].getMessage() == "catalog.yaml is good again"


def test_a_file_behind_symbolic_links_is_followed_as_in_a_config_map(tmp_path):
    for name, text in (("v1", GOOD), ("v2", EDITED)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalog.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "catalog.yaml").symlink_to("data/catalog.yaml")
    file = CatalogFile(tmp_path / "catalog.yaml")
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "data")
    assert file.refresh()
