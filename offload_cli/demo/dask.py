"""`make demo-dask`: Dask workers without any hub, from nothing to a plot, on this computer."""

from __future__ import annotations

import argparse
import html
import subprocess
import sys
import time
from pathlib import Path

from offload_cli.demo.judge import judge

__all__ = ["main"]

_ROOT = Path(__file__).parents[2]
_OUTPUT = _ROOT / "demo-output"
_PICTURE_BYTES = 10_000
_WORKERS = 8

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>interlink-offload: dimuon demo</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#212529}}img{{max-width:100%}}pre{{background:#f3f4f5;padding:1rem;overflow-x:auto}}
@media(prefers-color-scheme:dark){{body{{background:#111;color:#eee}}pre{{background:#222}}
img{{background:#fff}}}}</style>
<h1>Two muons, eight workers, one relay</h1>
<p>The dimuon mass spectrum of CMS open data, computed by Dask workers that could only dial out.</p>
<img src="dimuon.png" alt="Histogram of the dimuon mass with the peak of the Z boson near 91 GeV">
<pre>{output}</pre></html>
"""


def main() -> int:
    """Run `examples/dimuon.py`, and with `--check` judge its result; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo-dask", description=__doc__)
    parser.add_argument("--check", action="store_true", help="judge the result")
    check = parser.parse_args().check
    _OUTPUT.mkdir(exist_ok=True)
    picture = _OUTPUT / "dimuon.png"
    picture.unlink(missing_ok=True)
    print(f"Starting a cluster of {_WORKERS} workers on this computer ...", flush=True)
    began_s = time.monotonic()
    ran = subprocess.run(
        [
            *(sys.executable, str(_ROOT / "examples" / "dimuon.py")),
            *("--workers", str(_WORKERS), "--output", str(picture)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(ran.stdout, end="")
    if ran.returncode != 0:
        print(f"demo: the analysis ended with exit code {ran.returncode}", file=sys.stderr)
        return 1
    page = _OUTPUT / "index.html"
    page.write_text(_PAGE.format(output=html.escape(ran.stdout)), encoding="utf-8")
    print(f"done in {time.monotonic() - began_s:.0f} s; open {page} in a browser")
    return _check(ran.stdout, picture) if check else 0


def _check(output: str, picture: Path) -> int:
    problems = judge(output, _WORKERS)
    if not picture.is_file() or picture.stat().st_size < _PICTURE_BYTES:
        problems.append(f"no picture at {picture}")
    for problem in problems:
        print(f"demo check: {problem}", file=sys.stderr)
    print("demo check: good" if not problems else f"demo check: {len(problems)} problem(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
