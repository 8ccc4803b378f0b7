"""Pods as processes of this machine: folders for their volumes, and one container each."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHIM = Path(__file__).with_name("container.py")


class PodProcess:
    """One container of one pod.

    Parameters
    ----------
    place : Path
        Folder of this pod; a path of the container is below `place/root`.
    argv : list of str
        Its command; a part of it that is a path of a mount becomes the path below `place`.
    env : mapping
        Its variables.
    mounts : mapping
        Path in the container to the folder that appears there.
    """

    def __init__(
        self, place: Path, argv: list[str], env: Mapping[str, str], mounts: Mapping[str, Path]
    ) -> None:
        self.place = place
        self.log = place / "log"
        self._root = place / "root"
        self._argv = [self._inside(word, mounts) for word in argv]
        self._env = dict(env)
        self._mounts = mounts
        self._process: asyncio.subprocess.Process | None = None
        self._started = asyncio.Event()
        self._early: int | None = None

    async def start(self) -> None:
        for path, folder in self._mounts.items():
            target = self._root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(folder)
        home = self.place / "home"
        for folder in (home, self.place / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        env = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "HOME": str(home),
            "TMPDIR": str(self.place / "tmp"),
            "LANG": "C.UTF-8",
            **self._env,
        }
        spec = {
            "argv": self._argv,
            "cwd": str(home),
            "env": env,
            "log": str(self.log),
            "unstarted": str(self.place / "unstarted"),
        }
        path = self.place / "container.json"
        path.write_text(json.dumps(spec))
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", str(_SHIM), str(path)),
                start_new_session=True,
                # Until it can pass signals on, they wait.
                preexec_fn=_block_signals,
            )
        finally:
            self._started.set()
        if self._early is not None:
            self.signal(self._early)

    async def wait(self) -> int:
        """Return its exit code once it has ended; it may be started later."""
        await self._started.wait()
        assert self._process is not None
        return await self._process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal, which it gets as it starts if it has not."""
        if self._process is None:
            self._early = number
        elif self._process.returncode is None:
            self._process.send_signal(number)

    async def end(self, grace_s: float) -> int:
        """End it as a runtime does: SIGTERM, and after `grace_s` seconds SIGKILL to all of it."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.signal(signal.SIGUSR1)
            return await self.wait()

    @property
    def unstarted(self) -> str:
        """Why the command could not be started; empty if it was."""
        path = self.place / "unstarted"
        return path.read_text() if path.exists() else ""

    def _inside(self, word: str, mounts: Mapping[str, Path]) -> str:
        if any(word == path or word.startswith(path + "/") for path in mounts):
            return str(self._root / word.lstrip("/"))
        return word


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})


def write_volume(folder: Path, data: Mapping[str, bytes], volume: Mapping[str, Any]) -> None:
    """Write the files of a Secret or ConfigMap volume with their modes."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {one["key"]: one for one in volume.get("items") or []} or {key: {} for key in data}
    for key, item in wanted.items():
        path = folder / item.get("path", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[key])
        path.chmod(item.get("mode", volume.get("defaultMode", 0o644)))


def data_of(value: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the content of a Secret or ConfigMap."""
    if value["kind"] == "Secret":
        return {k: base64.b64decode(v) for k, v in (value.get("data") or {}).items()}
    binary = {k: base64.b64decode(v) for k, v in (value.get("binaryData") or {}).items()}
    return {**{k: v.encode() for k, v in (value.get("data") or {}).items()}, **binary}


def forget(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
