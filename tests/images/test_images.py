"""What can be said of the images without building them: their locks and their Containerfiles."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
NAMES = sorted(path.parent.name for path in IMAGES.glob("*/Containerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name):
    """Return name to the releases (one, or one for each Python) that a lock pins."""
    found = {}
    lines = (IMAGES / name / "requirements.txt").read_text()
    for package, release in re.findall(r"^([\w.-]+)==([^\s;]+)", lines, re.MULTILINE):
        found.setdefault(package, set()).add(release)
    return found


def instructions(name):
    """Return the instructions of a Containerfile, continued lines joined."""
    text = (IMAGES / name / "Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


def test_there_are_the_four_images():
    assert NAMES == ["hub", "relay-service", "session", "worker"]


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_has_what_it_takes(name):
    files = {path.name for path in (IMAGES / name).iterdir() if path.is_file()}
    assert files == {
        "Containerfile",
        "README.md",
        "requirements.in",
        "requirements.txt",
        "smoke.py",
    }


@pytest.mark.parametrize("path", [*IMAGES.rglob("*.txt"), ROOT / "requirements/helm.txt"], ids=str)
def test_locks_have_a_hash_for_everything_and_name_no_index(path):
    text = path.read_text()
    pins = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert pins
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_holds_what_was_asked_for(name):
    wanted = (IMAGES / name / "requirements.in").read_text()
    names = re.findall(r"^([\w.-]+)", wanted, re.MULTILINE)
    assert names
    assert [one for one in names if one not in locked(name)] == []


def test_a_worker_has_the_releases_of_the_session():
    session = locked("session")
    assert {one: rel for one, rel in locked("worker").items() if session.get(one) != rel} == {}


@pytest.mark.parametrize(
    "package", ["jupyterhub", "sqlalchemy", "pyjwt", "websockets", "kubernetes-asyncio"]
)
def test_programs_that_speak_to_one_another_have_one_release(package):
    releases = [locked(name)[package] for name in NAMES if package in locked(name)]
    assert len(releases) > 1
    assert all(one == releases[0] for one in releases)


def test_the_build_has_the_release_of_what_travels_in_the_agent():
    text = (IMAGES / "build-requirements.in").read_text()
    assert set(PROJECT["build-system"]["requires"]) <= set(text.splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_a_containerfile_copies_only_what_there_is(name):
    sources = []
    for instruction, rest in instructions(name):
        if instruction == "COPY" and not rest.startswith("--from"):
            sources += shlex.split(rest)[:-1]
    assert sources
    assert [one for one in sources if not (ROOT / one).exists()] == []


@pytest.mark.parametrize("name", [one for one in NAMES if one != "worker"])
def test_an_image_with_our_wheel_copies_every_package_of_it(name):
    copied = {rest.split()[0] for instruction, rest in instructions(name) if instruction == "COPY"}
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_does_not_work_is_not_made_and_root_does_not_run_it(name):
    steps = instructions(name)
    assert any(one == "RUN" and "smoke.py" in rest for one, rest in steps)
    assert all(
        "--require-hashes" in rest
        for one, rest in steps
        if "requirements.txt" in rest and one == "RUN"
    )
    users = [rest for one, rest in steps if one == "USER"]
    assert users[-1].split(":")[0] == "1000"


def test_the_entry_point_is_a_command_of_the_project():
    [entry] = [rest for one, rest in instructions("relay-service") if one == "ENTRYPOINT"]
    assert re.fullmatch(r'\["/opt/offload/bin/(\w+)"\]', entry)[1] in PROJECT["project"]["scripts"]
