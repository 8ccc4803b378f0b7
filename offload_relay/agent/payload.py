"""The program inside the job: start it, see it end, and leave nothing of it behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from offload_relay.errors import RelayError
from offload_relay.parent import end_with_parent
from offload_relay.protocol import Ended
from offload_relay.timeouts import timeout

__all__ = ["Payload", "become_subreaper"]

log = logging.getLogger("offload-agent")

_PR_SET_CHILD_SUBREAPER = 36
# A killed process of some gigabytes takes a second or so to go.
_KILL_S = 15.0
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Let orphans of the payload become our children, so that none escapes `Payload.end`."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Payload:
    """One program with all that it starts.

    Parameters
    ----------
    argv : list of str
        The program; must not hold secrets.
    environment : mapping
        Its variables, all of them.
    report : Path
        File in which it may leave why it ended: a JSON object with `reason` and `hint`.
    """

    def __init__(self, argv: list[str], environment: Mapping[str, str], report: Path) -> None:
        self._argv = argv
        self._environment = dict(environment)
        self._report = report
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it.

        Raises
        ------
        RelayError
            There is no such program in this image.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            raise RelayError(
                f"cannot start {self._argv[0]!r}: {error.strerror}",
                "choose an image that has it",
            ) from error

    async def wait(self) -> Ended:
        """Wait until the program itself has ended, and return why. Cancelling is safe."""
        assert self._process is not None  # noqa: S101  # started
        code = await self._process.wait()
        return self._last_words(code)

    def ask_to_finish(self) -> None:
        """Send SIGTERM to the program itself: it knows how to end what it has started."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and we do not know yet
                self._process.send_signal(signal.SIGTERM)

    async def end(self, grace_s: float) -> None:
        """End the whole process tree: SIGTERM, and after `grace_s` seconds SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self.ask_to_finish()
            try:
                async with timeout(grace_s):
                    await self._process.wait()
            except asyncio.TimeoutError:
                log.warning("the payload did not end within %.0f s of SIGTERM", grace_s)
        # Processes may start others while they are being killed: go on until none is left.
        pause_s, deadline_s = 0.02, time.monotonic() + _KILL_S
        rest: set[int] = set()
        while time.monotonic() < deadline_s:
            rest = _descendants(os.getpid())
            for pid in rest:
                _kill(pid)
            _reap(rest - {self._process.pid} if self._process is not None else rest)
            if not rest:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(0.5, 1.5 * pause_s)
        # It waits for a dead file server, or has become another user. The site sees to it when this
        # process ends; to stay for it would hold the node for nothing.
        log.error("these processes do not end: %s", sorted(rest))

    def _last_words(self, code: int) -> Ended:
        words = _read_report(self._report)
        reason = words.get("reason", "")
        if not reason and code < 0:
            reason = f"the payload was killed by signal {-code} ({_signal_name(-code)})"
        elif not reason:
            reason = f"the payload ended with exit code {code}"
        return Ended(code, reason[:2000], words.get("hint", "")[:2000])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _read_report(path: Path) -> dict[str, str]:
    try:
        value = json.loads(path.read_bytes()[:65536])
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}


def _descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return found


def _parent(entry: Path) -> int | None:
    try:
        stat = (entry / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name, in parentheses, may hold spaces and parentheses itself.
    return int(stat.rpartition(")")[2].split()[1])


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return


def _reap(pids: set[int]) -> None:
    """Collect children of ours that asyncio does not wait for: adopted orphans."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


def python_and_archive() -> dict[str, str]:
    """Return what `{python}` and `{agent}` stand for in an argv."""
    return {"{python}": sys.executable, "{agent}": str(Path(sys.argv[0]).resolve())}
