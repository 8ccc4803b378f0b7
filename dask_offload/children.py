"""Processes that belong to a supervisor: they end with it, and their logs lie in its folder."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from offload_relay.parent import end_with_parent
from offload_sites.errors import OffloadError

__all__ = ["Child"]


class Child:
    """One Python module run as a process.

    Parameters
    ----------
    module : str
        As for `python -m`.
    argv : sequence of str
        Its arguments; never secrets.
    log : Path
        Where its output goes, after what is there.
    keep : sequence of socket
        Sockets that it inherits, under the same numbers.
    """

    def __init__(
        self,
        module: str,
        argv: Sequence[str],
        log: Path,
        *,
        keep: Sequence[socket.socket] = (),
    ) -> None:
        self._argv = [sys.executable, "-m", module, *argv]
        self._log = log
        self._keep = keep
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """True from `start` until it has ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, also again after it has ended."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[kept.fileno() for kept in self._keep],
                # A Ctrl-C in the terminal of the notebook is not meant for it.
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    async def ready(self, file: Path, timeout_s: float) -> None:
        """Wait until it has written `file`.

        Raises
        ------
        OffloadError
            It ended, or did not write it within `timeout_s` seconds; quotes the end of its log.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not file.exists():
                    if not self.running:
                        raise OffloadError(f"{self._name()} ended at once: {self.last_line()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise OffloadError(
                f"{self._name()} did not start within {timeout_s:.0f} s: {self.last_line()}",
                "this computer may be overloaded; try again",
                transient=True,
            ) from None

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self, grace_s: float = 5.0) -> None:
        """End it: SIGTERM, and after `grace_s` seconds SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def last_line(self) -> str:
        """Return the last line of its log that says something."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return "no output"

    def _name(self) -> str:
        return f"the process {self._argv[2]}"
