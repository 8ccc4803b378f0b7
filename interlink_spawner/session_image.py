"""What a session needs of the image it runs in, and what it brings along for JupyterLab.

Travels in the agent's archive: standard library, Python 3.9.
"""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import shutil
import sys
from pathlib import Path
from typing import Any

from interlink_spawner.session_node import UnfitError

__all__ = ["LAB_FILES", "check_lab", "find_server", "write_lab_extension", "write_lab_settings"]

_LAB_NAME = "offload-walltime"
#: Files of the extension for JupyterLab, below `labextension/` of this package.
LAB_FILES = ("package.json", "static/remoteEntry.js")


def find_server(command: list[str]) -> list[str]:
    """Return argv of the server in this image.

    Scripts of an image that was unpacked elsewhere may name an interpreter that is not there: the
    one beside our interpreter is run by our interpreter.

    Raises
    ------
    UnfitError
        The image does not have it.
    """
    name, *rest = command
    ours = importlib.util.find_spec("jupyterhub") is not None
    beside = Path(sys.executable).parent / name
    if ours and beside.is_file():
        return [sys.executable, str(beside), *rest]
    found = shutil.which(name)
    if found is not None:
        return [found, *rest]
    if ours and name == "jupyterhub-singleuser":
        return [sys.executable, "-m", "jupyterhub.singleuser", *rest]
    raise UnfitError(
        f"this image has no {name}",
        "choose an image with jupyterhub and jupyterlab in it, "
        "or ask whoever makes this one to add them",
    )


def check_lab(default_url: str) -> None:
    """Refuse an image that has the server but not the JupyterLab that it is to show.

    Parameters
    ----------
    default_url : str
        Where the server sends its users first; empty for its own choice, which is JupyterLab.

    Raises
    ------
    UnfitError
        There is no JupyterLab, and it is asked for.
    """
    if importlib.util.find_spec("jupyterhub") is None:
        return  # the server belongs to another interpreter, which we do not know
    wanted = (default_url or "/lab").startswith("/lab")
    if wanted and importlib.util.find_spec("jupyterlab") is None:
        raise UnfitError(
            "this image has no JupyterLab",
            "choose an image with jupyterlab in it, or ask whoever makes this one to add it",
        )


def write_lab_settings(folder: Path) -> None:
    """Write defaults for a home that is new each time, so that `JUPYTER_CONFIG_PATH` finds them.

    JupyterLab asks a new user whether it may look for news: once in a life, not in each session.
    """
    place = folder / "labconfig"
    place.mkdir()
    settings = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}
    file = place / "default_setting_overrides.json"
    file.write_text(json.dumps(settings), encoding="utf-8")


def write_lab_extension(folder: Path, session: dict[str, Any]) -> None:
    """Write the extension that shows the walltime, so that `JUPYTER_PATH` with `folder` finds it.

    Parameters
    ----------
    folder : Path
        A new folder of this job.
    session : dict
        What the extension reads: `site`, `started_at`, `ends_at`, `home`.
    """
    place = folder / "labextensions" / _LAB_NAME
    for name in LAB_FILES:
        content = pkgutil.get_data("interlink_spawner", f"labextension/{name}")
        assert content is not None  # noqa: S101  # travels with this module
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (place / "static" / "session.json").write_text(json.dumps(session), encoding="utf-8")
