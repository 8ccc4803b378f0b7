"""Workers whose Python or Dask cannot work with the notebook's are refused in a sentence."""

import json

import pytest

from dask_offload.worker import main, version_problem

NOTEBOOK = {"python": "3.11.7", "dask": "2026.8.0", "distributed": "2026.8.0"}


def image(**changes):
    return {**NOTEBOOK, **changes}


@pytest.mark.parametrize(
    "workers",
    [
        image(),
        image(python="3.11.2"),
        image(python="3.11.13"),
        image(distributed="2026.8.1", dask="2026.8.1"),
        image(distributed="2026.8.0+5.g1a2b3c", dask="2026.8.0+1"),
    ],
    ids=["same", "older patch", "newer patch", "patch of Dask", "built from sources"],
)
def test_equal_releases_and_other_patches_work_together(workers):
    assert version_problem(workers, NOTEBOOK) is None


@pytest.mark.parametrize("python", ["3.12.1", "3.10.14", "3.1.7", "4.11.7"])
def test_another_minor_release_of_python_is_refused(python):
    reason, hint = version_problem(image(python=python), NOTEBOOK)
    assert reason == (
        f"the image has Python {python}, the notebook 3.11.7: tasks cannot travel between them"
    )
    assert hint == (
        "choose an image with Python 3.11, or run the notebook in the image of the workers"
    )


@pytest.mark.parametrize("name", ["dask", "distributed"])
@pytest.mark.parametrize("version", ["2026.7.1", "2026.9.0", "2025.8.0"])
def test_another_release_of_dask_or_distributed_is_refused(name, version):
    reason, hint = version_problem(image(**{name: version}), NOTEBOOK)
    assert reason.startswith(f"the image has {name} {version}, the notebook 2026.8.0:")
    assert hint.startswith(f"choose an image with {name} 2026.8, or ")


def test_python_is_said_first_since_it_is_the_image_that_has_to_change():
    reason, _ = version_problem(image(python="3.12.1", distributed="2025.7.0"), NOTEBOOK)
    assert "Python 3.12.1" in reason


@pytest.mark.parametrize("name", ["python", "dask", "distributed"])
def test_what_the_image_lacks_is_said_as_none(name):
    workers = image()
    del workers[name]
    reason, _ = version_problem(workers, NOTEBOOK)
    assert " none, the notebook " in reason


@pytest.mark.parametrize("theirs", [{}, {"python": "3.11.7"}, {"python": "", "dask": ""}])
def test_what_the_notebook_does_not_tell_is_not_checked(theirs):
    assert version_problem(image(dask="1.0", distributed="1.0"), theirs) is None


def test_an_unfit_image_ends_the_job_with_the_sentence_for_the_user(tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    monkeypatch.setenv("OFFLOAD_REPORT", str(report))
    config = tmp_path / "worker.json"
    config.write_text(json.dumps({"versions": image(python="2.7.18")}))
    assert main([str(config)]) == 78
    said = json.loads(report.read_text())
    assert "the notebook 2.7.18: tasks cannot travel" in said["reason"]
    assert "choose an image with Python 2.7" in said["hint"]
