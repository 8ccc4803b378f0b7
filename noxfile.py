"""What CI and developers run: `nox -s lint types unit contract integration docs`, or `make test`.

Sessions run in the environment that `make setup` has made; only `wheel` makes one of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

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
    *(
        f"offload_relay/{name}.py"
        for name in (
            "dialling",
            "errors",
            "heads",
            "listener",
            "parent",
            "protocol",
            "splice",
            "timeouts",
        )
    ),
    *(f"interlink_spawner/session_{name}.py" for name in ("image", "node", "payload")),
]
# The images, and the extras of pyproject.toml that each of them holds; none: nothing of this project.
IMAGES = {
    "hub": ["hub", "htcondor", "postgresql"],
    "relay-service": ["gateway", "service", "htcondor", "postgresql"],
    "session": ["dask"],
    "worker": [],
}
STRICT = {"PYTHONASYNCIODEBUG": "1"}


# Most of a test is waiting for processes to start and end; a file's tests stay together.
SIDE_BY_SIDE = (f"--numprocesses={min(max(3, os.cpu_count() or 1), 8)}", "--dist=loadfile")


def run_pytest(
    session: nox.Session, *args: str, python: str = "python", side_by_side: bool = False
) -> None:
    # Debug mode of asyncio finds coroutines that were never awaited and callbacks that block.
    command = (python, "-m", "pytest", *args, *session.posargs)
    env = {**os.environ, **STRICT}
    try:
        session.run(*command, *(SIDE_BY_SIDE if side_by_side else ()), env=env, external=True)
    except CommandFailed:
        if not os.environ.get("CI"):
            raise
        # Its machines are shared and noisy. Both outputs stay: a test that needs this is looked at.
        session.warn("CI gives what failed a second try")
        session.run(
            *command, "--last-failed", "--last-failed-no-failures=none", env=env, external=True
        )


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
    run_pytest(session, "tests/unit", side_by_side=True)


@nox.session
def contract(session: nox.Session) -> None:
    run_pytest(session, "tests/contract")


@nox.session
def integration(session: nox.Session) -> None:
    run_pytest(session, "--require=hub", "tests/integration", side_by_side=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Check that what the documentation promises is there: fields, commands, settings, samples."""
    run_pytest(session, "tests/docs")


@nox.session
def test(session: nox.Session) -> None:
    """Everything that an ordinary user can run, in one go."""
    chosen = ("-m", "not (netns or browser or htcondor or interlink)")
    required = ("--require=hub", "--require=kubernetes")
    run_pytest(session, *chosen, *required, "tests", side_by_side=True)


def environment(session: nox.Session, place: str, instead: str) -> str:
    """Return the Python of an environment with all that is locked, but for what `instead` names."""
    locked = ["requirements/dev.txt", instead]
    python, stamp = str(Path(place, "bin", "python").absolute()), Path(place, ".installed")
    if not stamp.exists() or any(
        stamp.stat().st_mtime < Path(path).stat().st_mtime for path in locked
    ):
        session.run(sys.executable, "-m", "venv", "--clear", place)
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
        for path in locked:
            session.run(*pip, "--require-hashes", "-r", path, external=True)
        session.run(*pip, "--editable", ".", external=True)
        stamp.touch()
    return python


@nox.session
def hub5(session: nox.Session) -> None:
    """Run the tests of the hub on the oldest JupyterHub that is supported.

    Everything else is as locked, so that one environment more is all that it takes.
    """
    python = environment(session, ".venv-hub5", "requirements/hub5.txt")
    run_pytest(session, "--require=hub", "-m", "hub", "tests", python=python, side_by_side=True)
    # The service signs users in with the hub's own class, which changes with it.
    run_pytest(session, "tests/integration/service/test_service_pages.py", python=python)


@nox.session
def kubespawner(session: nox.Session) -> None:
    """Run KubeSpawner's own tests on InterLinkSpawner; KUBESPAWNER_SOURCES is a checkout of them.

    They need an older pytest, which has an environment of its own.
    """
    sources = Path(os.environ.get("KUBESPAWNER_SOURCES", "nowhere")).absolute()
    if not (sources / "tests" / "test_spawner.py").is_file():
        session.error("KUBESPAWNER_SOURCES has to be a checkout of jupyterhub/kubespawner")
    python = environment(session, ".venv-kubespawner", "requirements/kubespawner.txt")
    suite = ("python", "-m", "tests.services.kubespawner", "--python", python, str(sources))
    session.run(*suite)


@nox.session
def netns(session: nox.Session) -> None:
    """Run the tests that cut a real network between agent and relay: needs root and `ip`."""
    run_pytest(session, "-m", "netns", "--require=netns", "tests/integration")


@nox.session
def postgresql(session: nox.Session) -> None:
    """Run the tests of the ledger on a real PostgreSQL server: needs its programs."""
    run_pytest(session, "-m", "postgresql", "--require=postgresql", "tests/integration")


@nox.session
def browser(session: nox.Session) -> None:
    """Run the tests in a real browser; as root installs Debian's chromium if there is none."""
    session.run("tests/services/browser/install", external=True)
    run_pytest(session, "-m", "browser", "--require=browser", "tests/e2e")


@nox.session
def htcondor(session: nox.Session) -> None:
    """Run the tests on a real HTCondor pool behind a CE, which they bring up: needs root."""
    run_pytest(session, "-m", "htcondor", "--require=htcondor", "--durations=15", "tests/e2e")


@nox.session
def interlink(session: nox.Session) -> None:
    """Run the tests on a real Kubernetes, interLink and Slurm, which they build and bring up."""
    run_pytest(session, "-m", "interlink", "--require=interlink", "--durations=15", "tests/e2e")


@nox.session
def kubernetes(session: nox.Session) -> None:
    """Run the tests on the Kubernetes API of KUBECONFIG, or on a fake one without it."""
    run_pytest(session, "-m", "kubernetes", "--require=kubernetes", "tests", side_by_side=True)


@nox.session
def helm(session: nox.Session) -> None:
    """Render the chart of helm-values/, and with Z2JH_CHART=<folder> that of the hub, and look.

    The Helm SDK has an environment of its own: 250 MB that nothing else needs.
    """
    place = Path(".venv-helm")
    locked = "requirements/helm.txt"
    stamp = place / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < Path(locked).stat().st_mtime:
        session.run(sys.executable, "-m", "venv", "--clear", str(place))
        pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet"]
        session.run(*pip, "--require-hashes", "-r", locked, external=True)
        stamp.touch()
    run_pytest(session, "--require=helm", "tests/helm")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it alone, and run tests with the sources out of reach."""
    dist = Path(session.create_tmp(), "dist").resolve()
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
    # Not in nox's own folder for temporary files: the paths of sockets have to be short.
    env = {"TMPDIR": tempfile.gettempdir()}
    session.run(
        *(python, "-P", "-m", "pytest", "-q", *wanted, *session.posargs), env=env, external=True
    )


@nox.session
def bench(session: nox.Session) -> None:
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def images(session: nox.Session) -> None:
    """Run the smoke test of every image, in an environment made from what the image would hold.

    `podman build -f images/NAME/Containerfile .` runs the same test, with the same packages, inside
    the image; that needs a container engine and a registry, and this does not.
    """
    for name in session.posargs or IMAGES:
        place = Path(session.create_tmp(), name)
        session.run(sys.executable, "-m", "venv", "--clear", str(place))
        python = str(place / "bin/python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        locked = f"images/{name}/requirements.txt"
        session.run(*pip, "--require-hashes", "-r", locked, external=True)
        if IMAGES[name]:
            session.run(*pip, "--no-deps", ".", external=True)
        session.run(python, f"images/{name}/smoke.py", external=True)


@nox.session
def lock(session: nox.Session) -> None:
    """Resolve anew; `--upgrade` in the arguments takes newer releases."""
    place = Path(session.create_tmp(), "uv")
    session.run(sys.executable, "-m", "venv", str(place))
    session.run(str(place / "bin" / "pip"), "install", "--quiet", "uv", external=True)

    def resolve(locked: str, *args: str) -> None:
        session.run(
            *(str(place / "bin/uv"), "pip", "compile", *args, "--quiet", "-o", locked),
            *("--universal", "--python-version", "3.11", "--generate-hashes"),
            *("--no-emit-index-url", "--no-header", *session.posargs),
            external=True,
        )

    resolve("requirements/dev.txt", "pyproject.toml", "--all-extras", "--group", "dev")
    resolve("requirements/helm.txt", "requirements/helm.in")
    resolve("requirements/kubespawner.txt", "requirements/kubespawner.in")
    resolve("images/build-requirements.txt", "images/build-requirements.in")
    for name, extras in IMAGES.items():
        given = ["pyproject.toml", *(f"--extra={one}" for one in extras)] if extras else []
        # What runs beside a session has the session's releases: functions travel between them.
        fit = ["-c", "images/session/requirements.txt"] if name == "worker" else []
        folder = f"images/{name}"
        resolve(f"{folder}/requirements.txt", *given, f"{folder}/requirements.in", *fit)
