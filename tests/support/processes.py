"""Find the processes that a test has left behind."""

import os
from pathlib import Path

from tests.support.waiting import eventually_sync


def processes_below(place):
    """Return the living processes with `place` in their arguments or environment, by number."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                arguments = (process / "cmdline").read_bytes()
                known = arguments + (process / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(place) in known:
                found[int(process.name)] = arguments.replace(b"\0", b" ").decode(errors="replace")
    return found


def assert_no_process_below(place, within_s=20):
    """Wait until no process has `place` in its arguments or environment."""

    def none():
        left = processes_below(place)
        assert not left, f"still there: {left}"
        return True

    eventually_sync(none, within_s=within_s)
