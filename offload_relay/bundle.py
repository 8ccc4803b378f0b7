"""Make the agent: one zipapp with the agent, `websockets`, and what payloads import.

The archive is built from the installed package each time it is needed (a few milliseconds), so that
the agent at the site is always the one of this installation.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from offload_relay.agent.__main__ import PAYLOAD_FOLDER
from offload_relay.errors import RelayError

__all__ = ["build_agent", "write_agent"]

_MAIN = b"import sys\nfrom offload_relay.agent.__main__ import main\nsys.exit(main())\n"
# A fixed time makes two archives of the same sources equal byte for byte.
_TIME = (2020, 1, 1, 0, 0, 0)
_SHARED = (
    "__init__.py",
    "dialling.py",
    "errors.py",
    "heads.py",
    "listener.py",
    "parent.py",
    "protocol.py",
    "splice.py",
    "timeouts.py",
)


def build_agent(payload: Mapping[str, bytes] | None = None) -> bytes:
    """Return the agent as the bytes of a zipapp.

    Parameters
    ----------
    payload : mapping or None
        Path to content of modules that payloads run (`agent.pyz --payload MODULE`). They see these,
        `offload_relay.protocol`, `.errors` and `.parent`, and their image's packages, but not the agent's.

    Raises
    ------
    RelayError
        This installation lacks the bundled `websockets` (run from a source tree never installed).
    """
    package = importlib.resources.files("offload_relay")
    files = {"__main__.py": _MAIN}
    files |= {f"offload_relay/{name}": (package / name).read_bytes() for name in _SHARED}
    files |= {
        f"offload_relay/agent/{item.name}": item.read_bytes()
        for item in (package / "agent").iterdir()
        if item.name.endswith(".py")
    }
    files |= _websockets(package)
    for name in ("__init__.py", "errors.py", "heads.py", "parent.py", "protocol.py"):
        files[f"{PAYLOAD_FOLDER}/offload_relay/{name}"] = files[f"offload_relay/{name}"]
    files |= {f"{PAYLOAD_FOLDER}/{name}": content for name, content in (payload or {}).items()}
    return _archive(files)


def write_agent(folder: Path, payload: Mapping[str, bytes] | None = None) -> Path:
    """Write the agent into `folder` under a name made from its content, unless it is there."""
    content = build_agent(payload)
    path = folder / f"offload-agent-{hashlib.sha256(content).hexdigest()[:12]}.pyz"
    if not path.exists():
        # Under a name of its own: two programs may do this at the same time.
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as partial:
            partial.write(content)
        Path(partial.name).chmod(0o644)  # there are no secrets in it, and jobs may be others'
        Path(partial.name).rename(path)
    return path


def _websockets(package: Traversable) -> dict[str, bytes]:
    bundled = package / "agent" / "_websockets.zip"
    if not bundled.is_file():
        raise RelayError(
            "this installation of interlink-offload lacks the files of the agent",
            "install it with pip (also for a source tree: pip install -e .)",
        )
    with zipfile.ZipFile(io.BytesIO(bundled.read_bytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _TIME), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
