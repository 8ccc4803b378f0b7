"""A container, as far as one can be had without root: a process tree that ends as a whole.

`python container.py SPEC.json` runs the argv of the spec in its folder with its environment, and only
that; writes what it prints to `log`, and when it has ended kills every process that it has started,
then exits with its code. SIGTERM is passed on; SIGUSR1 kills all at once.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def descendants(root):
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = set(), [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return found


def kill_all():
    while True:
        rest = descendants(os.getpid())
        if not rest:
            return
        for pid in rest:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def main():
    killed, asked = [], []
    child = None

    def forward(number, _frame):
        asked.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(number)

    def kill(_number, _frame):
        killed.append(True)
        if child is not None and child.poll() is None:
            child.kill()

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGUSR1, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    spec = json.loads(Path(sys.argv[1]).read_text())
    with Path(spec["log"]).open("ab") as log:
        try:
            child = subprocess.Popen(
                spec["argv"],
                cwd=spec["cwd"],
                env=spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            log.write(f"{error}\n".encode())
            Path(spec["unstarted"]).write_text(str(error))
            return 128
        if killed:
            child.kill()
        elif asked:  # before there was anybody to pass it on to
            child.send_signal(signal.SIGTERM)
        code = child.wait()
    kill_all()
    return 137 if killed else code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
