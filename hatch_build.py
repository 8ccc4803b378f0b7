"""Build hook: put the pure-Python files of `websockets` beside the agent, for its zipapp."""

from __future__ import annotations

import importlib.metadata
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Parts the agent never uses: other runtimes, the server's command line, compiled speedups.
_LEFT_OUT = ("legacy/", "sync/", "trio/", "cli.py", "__main__.py", "speedups")
# A fixed time makes two builds of the same sources equal byte for byte.
_TIME = (2020, 1, 1, 0, 0, 0)


class WebsocketsHook(BuildHookInterface[Any]):
    """Write `offload_relay/agent/_websockets.zip`; `build-system.requires` pins the release."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the archive before the wheel (or the editable install) is made."""
        distribution = importlib.metadata.distribution("websockets")
        target = Path(self.root, "offload_relay", "agent", "_websockets.zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(distribution.files or [], key=str):
                inner = file.as_posix().removeprefix("websockets/")
                is_source = file.parts[0] == "websockets" and file.suffix == ".py"
                is_license = file.name == "LICENSE"
                if is_license or (is_source and not inner.startswith(_LEFT_OUT)):
                    name = "websockets/LICENSE" if is_license else file.as_posix()
                    archive.writestr(
                        zipfile.ZipInfo(name, _TIME), file.read_binary(), zipfile.ZIP_DEFLATED
                    )
