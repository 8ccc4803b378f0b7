"""What `make demo CHECK=1` looks at: the notebook's result, who sees which profile, what a failure says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from offload_cli.demo.judge import judge
from offload_cli.demo.kernel import CellError
from offload_cli.demo.setting import USERS, DemoHub
from offload_cli.demo.visitor import StartFailed, Visitor

__all__ = ["check"]

_WORKERS = 4
_REASON = "this image has no jupyterhub-singleuser"


def check(hub: DemoHub, picture: Path, say: Callable[[str], None]) -> list[str]:
    """Be the users of the demo, and return all that is not as it should be.

    Parameters
    ----------
    hub : DemoHub
        Which has started.
    picture : Path
        Where the plot is put.
    say : callable
        Called with a line for whoever watches.
    """
    visitors = {user.name: Visitor(hub, user.name, hub.password(user)) for user in USERS[:2]}
    alice, grace = visitors["alice"], visitors["grace"]
    return [
        *_profiles(alice, grace, say),
        *_notebook(alice, picture, say),
        *_failure(grace, say),
    ]


def _profiles(alice: Visitor, grace: Visitor, say: Callable[[str], None]) -> list[str]:
    """Look whether only members of the group gpu are offered its profile, and get it."""
    problems = []
    for visitor, wanted in (alice, ["plain", "broken"]), (grace, ["plain", "gpu", "broken"]):
        offered = visitor.offered()
        say(f"{visitor.name} is offered the profiles {', '.join(offered)}")
        if offered != wanted:
            problems.append(f"{visitor.name} is offered {offered}, expected {wanted}")
    try:
        alice.start("gpu")
        problems.append("alice got a profile that is not for her")
    except StartFailed as error:
        say(f"alice asks for gpu all the same: {error}")
        if "gpu" not in str(error):
            problems.append(f"asked for a profile that is not for her, alice reads: {error}")
    return problems


def _notebook(alice: Visitor, picture: Path, say: Callable[[str], None]) -> list[str]:
    """Run the notebook in a session, and judge what it prints and plots."""
    alice.start("plain", lambda heading: say(f"alice reads: {heading}"))
    say("alice opens JupyterLab and runs dimuon.ipynb")
    text, pictures = "", []
    try:
        for cell in alice.run_notebook("dimuon.ipynb"):
            say(f"  cell {cell.number} of {cell.of} is done")
            text += cell.output.text
            pictures += cell.output.pictures
    except CellError as error:
        return [f"a cell of dimuon.ipynb has failed:\n{error}"]
    for line in re.findall(r"^\w.*  +[\d.,]+.*$", text, re.MULTILINE):
        say(f"  {line}")
    if not pictures:
        return [*judge(text, _WORKERS), "dimuon.ipynb has plotted nothing"]
    picture.write_bytes(pictures[-1])
    say(f"  plotted to {picture}")
    return judge(text, _WORKERS)


def _failure(grace: Visitor, say: Callable[[str], None]) -> list[str]:
    """Start what fails on purpose, and look whether the page says why."""
    try:
        grace.start("broken")
    except StartFailed as error:
        say(f"grace starts what fails on purpose: {error}")
        return [] if _REASON in str(error) else [f"the failure page does not say why: {error}"]
    return ["a server started in an image that has none"]
