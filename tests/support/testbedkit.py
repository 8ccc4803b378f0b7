"""What `tests/services` brings up, for tests and by hand: scripts, and a folder with all that they make."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

# What tests change in the environment is no business of services that outlive them.
_ENVIRON = dict(os.environ)
SERVICES = Path(__file__).parents[1] / "services"


class Testbed:
    """One set of services, in a folder of its own; `settings` are variables for its scripts."""

    __test__ = False
    scripts = ""

    def __init__(self, state: Path, **settings: str) -> None:
        self.state = state
        self.settings = settings

    def run(self, program: str, *args: str, **environ: str) -> str:
        """Run one of the scripts; their output is shown if they fail."""
        return self._run(SERVICES / self.scripts / program, *args, **environ)

    def make_image(self, name: str, *packages: str) -> str:
        """Make an image with these packages, and return its path as jobs see it."""
        self._run(SERVICES / "make-image", name, *packages)
        return f"/cvmfs/unpacked.infn.it/{name}"

    def _run(self, program: Path, *args: str, **environ: str) -> str:
        env = {**_ENVIRON, **self.settings, "TESTBED_STATE": str(self.state), **environ}
        done = subprocess.run(
            [program, *args],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program.name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def up(self) -> None:
        self.run("up", str(self.state))

    def down(self, *, only: str = "", purge: bool = False) -> None:
        self.run("down", *(["--purge"] if purge else []), str(self.state), ONLY=only)

    def pid(self, name: str) -> int:
        """Return the process that was started as `name`."""
        return int((self.state / "run" / f"{name}.pid").read_text().split()[0])

    @property
    def env(self) -> dict[str, str]:
        """What `env` of the testbed exports."""
        script = f". {shlex.quote(str(self.state / 'env'))} && env -0"
        text = subprocess.check_output(["bash", "-c", script], env={"PATH": os.environ["PATH"]})
        return dict(line.split("=", 1) for line in text.decode().split("\0") if line)


def why_not(*programs: str) -> str:
    """Return why the services cannot be brought up here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    wanted = ("apt-get", "unshare", "nsenter", *programs)
    missing = [name for name in wanted if shutil.which(name) is None]
    return f"needs {', '.join(missing)}" if missing else ""
