"""What CI and developers run: `nox -s lint types unit contract integration docs`, or `make test`.

Sessions run in the environment that `make setup` has made; only `wheel` makes one of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

# The programs beside this Python, whether or not the environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "test"]

PACKAGES = [
    "offload_sites",
    "offload_relay",
    "offload_service",
    "interlink_spawner",
    "dask_offload",
    "offload_cli",
]
# What must run on Python 3.9 in any image.
AGENT = [
    "offload_relay/agent",
    *(f"offload_relay/{name}.py" for name in ("errors", "listener", "protocol", "splice")),
    "interlink_spawner/session_payload.py",
]
STRICT = {"PYTHONASYNCIODEBUG": "1"}


def run_pytest(session: nox.Session, *args: str) -> None:
    # Debug mode of asyncio finds coroutines that were never awaited and callbacks that block.
    session.run("python", "-m", "pytest", *args, *session.posargs, env={**os.environ, **STRICT})


@nox.session
def lint(session: nox.Session) -> None:
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("lint-imports")
    session.run("vermin", "--quiet", "--no-tips", "--target=3.9-", *AGENT)


@nox.session
def types(session: nox.Session) -> None:
    session.run("mypy", *(arg for name in PACKAGES for arg in ("-p", name)))


@nox.session
def unit(session: nox.Session) -> None:
    run_pytest(session, "tests/unit")


@nox.session
def contract(session: nox.Session) -> None:
    run_pytest(session, "tests/contract")


@nox.session
def integration(session: nox.Session) -> None:
    run_pytest(session, "tests/integration")


@nox.session
def docs(session: nox.Session) -> None:
    """Check that what the documentation promises is there: fields, commands, settings, samples."""
    run_pytest(session, "tests/docs")


@nox.session
def test(session: nox.Session) -> None:
    """Everything that an ordinary user can run, in one go."""
    run_pytest(session, "-m", "not (netns or browser or htcondor)", "tests")


@nox.session
def netns(session: nox.Session) -> None:
    """Run the tests that cut a real network between agent and relay: needs root and `ip`."""
    run_pytest(session, "-m", "netns", "--require=netns", "tests/integration")


@nox.session
def browser(session: nox.Session) -> None:
    """Run the tests in a real browser: needs Debian's chromium."""
    run_pytest(session, "-m", "browser", "--require=browser", "tests/e2e")


@nox.session
def htcondor(session: nox.Session) -> None:
    """Run the tests on a real HTCondor pool behind a CE, which they bring up: needs root."""
    run_pytest(session, "-m", "htcondor", "--require=htcondor", "tests/contract", "tests/e2e")


@nox.session
def kubernetes(session: nox.Session) -> None:
    """Run the tests on the Kubernetes API of KUBECONFIG, or on a fake one without it."""
    run_pytest(session, "-m", "kubernetes", "--require=kubernetes", "tests")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it alone, and run tests with the sources out of reach."""
    dist = Path(session.create_tmp(), "dist")
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(dist), ".")
    [built] = dist.glob("*.whl")
    place = dist.parent / "venv"
    session.run("python", "-m", "venv", "--clear", str(place))
    python = str(place / "bin" / "python")
    locked = ["--require-hashes", "-r", "requirements/dev.txt"]
    session.run(python, "-m", "pip", "install", "--quiet", *locked, external=True)
    session.run(python, "-m", "pip", "install", "--quiet", "--no-deps", str(built), external=True)
    # Only the tests are copied: what they import has to come from the wheel.
    room = dist.parent / "room"
    shutil.rmtree(room, ignore_errors=True)
    shutil.copytree("tests", room / "tests")
    shutil.copytree("examples", room / "examples")
    shutil.copy("pyproject.toml", room)
    session.chdir(str(room))
    wanted = ["tests/unit", "tests/integration/dask/test_cluster.py"]
    session.run(python, "-P", "-m", "pytest", "-q", *wanted, *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Resolve anew; `--upgrade` in the arguments takes newer releases."""
    place = Path(session.create_tmp(), "uv")
    session.run(sys.executable, "-m", "venv", str(place))
    session.run(str(place / "bin" / "pip"), "install", "--quiet", "uv", external=True)
    session.run(
        str(place / "bin" / "uv"),
        *("pip", "compile", "pyproject.toml", "--all-extras", "--group", "dev"),
        *("--universal", "--python-version", "3.11", "--generate-hashes"),
        *("--no-emit-index-url", "--no-header", "--quiet", "-o", "requirements/dev.txt"),
        *session.posargs,
        external=True,
    )
