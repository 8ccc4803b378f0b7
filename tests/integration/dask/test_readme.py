"""What the README has people type first does what it says."""

import subprocess
import sys

from tests.docs import pages
from tests.support.clusterkit import TIMEOUT_S


def test_the_notebook_of_the_readme_runs_as_it_stands(clusters):
    blocks = pages.blocks((pages.ROOT / "README.md").read_text("utf-8"), "python")
    program = clusters.place / "readme.py"
    program.write_text("\n".join(blocks))
    ran = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        cwd=clusters.place,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "332833500\n"
    assert "Traceback" not in ran.stderr
