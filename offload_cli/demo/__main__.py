"""Starts the demo and stays until Ctrl-C; with `--check`, uses it itself and judges what it sees."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from offload_cli.demo.check import check
from offload_cli.demo.programs import PROXY
from offload_cli.demo.setting import USERS, DemoHub

_ROOT = Path(__file__).parents[2]
_OUTPUT = _ROOT / "demo-output"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the demo; return the exit code: 0 good, 1 something was not as it should be."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--check", action="store_true", help="be the user, and judge the result")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="folder for what is kept")
    options = parser.parse_args()
    output: Path = options.output
    if not PROXY.exists():
        print("demo: the proxy of the hub is not installed: make setup", file=sys.stderr)
        return 1
    output.mkdir(exist_ok=True)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    # Not below the source tree: sockets have short paths, and it may be on a network file system.
    with tempfile.TemporaryDirectory(prefix="offload-demo-") as folder:
        place = Path(folder)
        # What a check leaves in users' folders is of no use to anybody.
        hub = DemoHub(place, homes=(place if options.check else output) / "home")
        return _checked(hub, output) if options.check else _visited(hub, output)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _visited(hub: DemoHub, output: Path) -> int:
    """Stay until somebody has seen enough."""
    try:
        _say("Starting JupyterHub, its proxy, relay and offload service ...")
        hub.start()
        print(_welcome(hub), flush=True)
        while not hub.programs.ended():
            time.sleep(0.5)
        return _failed(hub, output, f"{', '.join(hub.programs.ended())} has ended by itself")
    except KeyboardInterrupt:
        return 0
    except (RuntimeError, AssertionError) as error:
        return _failed(hub, output, str(error))
    finally:
        _close(hub)


def _checked(hub: DemoHub, output: Path) -> int:
    problems: list[str] = []
    picture = output / "dimuon.png"
    picture.unlink(missing_ok=True)
    try:
        _say("Starting JupyterHub, its proxy, relay and offload service ...")
        hub.start()
        problems += check(hub, picture, _say)
    except KeyboardInterrupt:
        problems.append("interrupted")
    except Exception as error:  # noqa: BLE001 - whatever it was: it is said, and all is stopped
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        if problems:
            _keep_logs(hub, output)
        _close(hub)
    problems += [f"had to be killed: {line}" for line in hub.killed.values()]
    for problem in problems:
        print(f"demo check: {problem}", file=sys.stderr)
    _say("demo check: good" if not problems else f"demo check: {len(problems)} problem(s)")
    return 1 if problems else 0


def _close(hub: DemoHub) -> None:
    """End everything, undisturbed: it takes some seconds."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _say("Stopping ...")
    hub.close()


def _failed(hub: DemoHub, output: Path, why: str) -> int:
    print(f"demo: {why}", file=sys.stderr)
    _keep_logs(hub, output)
    return 1


def _keep_logs(hub: DemoHub, output: Path) -> None:
    folder = output / "logs"
    folder.mkdir(exist_ok=True)
    for log in hub.place.glob("*.log"):
        shutil.copy(log, folder)
    print(f"demo: logs are in {folder}", file=sys.stderr)


def _welcome(hub: DemoHub) -> str:
    who = "\n".join(f"  {user.name:<8}{hub.password(user):<36}{user.told}" for user in USERS)
    return f"""
The hub is at  {hub.url}

  sign in as, with the password
{who}

1. Sign in as alice, choose "One core", press Start: a JupyterLab starts as a job of this computer.
2. Open dimuon.ipynb there and run it: its Dask workers are jobs as well.
3. Choose "Fails on purpose" to see what users read when something is wrong.

Users' files stay in {hub.homes}.
What users may choose is in {hub.catalog}: edit it, and reload the form.
Ctrl-C stops everything.
"""


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
