"""How a job starts inside its container: a shell script, and the files beside it. Pure.

What a virtual node makes of a pod is not what a kubelet makes of it: arguments are joined by blanks
or quoted, `$(NAME)` is expanded or not, variables lose their quotes, Secrets arrive encoded twice.
So a pod's command is always the same three plain words, and all that varies lies in a script and in
files, which every way of running a container carries unchanged.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping

from offload_sites.start_script import SUPERVISE

__all__ = [
    "COMMAND",
    "EXIT_NO_FILES",
    "EXIT_NO_ROOM",
    "FILES",
    "RUN",
    "SCRIPT",
    "WORK",
    "pack_files",
    "render_script",
]

#: Where the script, the files and (if there is one) a scratch volume appear in the container.
RUN, FILES, WORK = "/offload/run", "/offload/files", "/offload/work"
SCRIPT = "start.sh"
#: argv of every container.
COMMAND = ("/bin/sh", f"{RUN}/{SCRIPT}")

# sysexits.h, as the agent uses it.
EXIT_NO_FILES, EXIT_NO_ROOM = 66, 73

# A file that tells whether the others are as they should be, or still in base64 (the HTCondor plugin
# of interLink writes Secrets as the API sends them; facts of its handles.py, 6f5ee3e).
_CHECK, _PLAIN = "check", "plain"

_TEMPLATE = """\
#!/bin/sh
# Starts job {key}. Made by interlink-offload.
umask 077
work=
finish() {{
  [ -z "$work" ] || {{ cd / && rm -rf "$work"; }}
  exit "$1"
}}

{supervise}
root=${{0%/run/start.sh}}
place=${{TMPDIR:-/tmp}}
[ -d "$root/work" ] && place=$root/work
work=$(mktemp -d "$place/offload-XXXXXX") && cd "$work" || exit {no_room}
export TMPDIR="$work"

decode=cat
[ "$(cat "$root/files/check")" = plain ] || decode='base64 -d'
fetch() {{
  $decode < "$root/files/$1" > "./$2" && chmod 600 "./$2" && return
  echo "offload: the file $2 of this job did not arrive" >&2
  exit {no_files}
}}
{fetches}
set -- {command}
run {walltime_s} {grace_s} "$@"
[ $code -eq {done} ] && code={done_taken}
[ $code -eq 0 ] && code={done}
finish "$code"
"""


def pack_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return `files` under names that a Secret can have, with one more by which they are checked."""
    return {_CHECK: _PLAIN.encode()} | {
        f"file-{number}": files[name] for number, name in enumerate(sorted(files))
    }


def render_script(
    key: str,
    command: Iterable[str],
    environment: Mapping[str, str],
    files: Iterable[str],
    *,
    walltime_s: float,
    grace_s: int = 10,
    done: int = 0,
) -> str:
    """Return the script that runs one job.

    Parameters
    ----------
    key : str
        Key of the job, for people who read it.
    command : iterable of str
        argv, run in a working directory of its own.
    environment : mapping
        Variables to add.
    files : iterable of str
        Names of the files that `pack_files` has packed; they appear there with mode 0600.
    walltime_s : float
        Seconds after which the command is ended; the script's exit code is
        `start_script.EXIT_WALLTIME` then.
    grace_s : int
        Seconds between the SIGTERM and the SIGKILL with which it is ended.
    done : int
        Exit code for a command that ended with 0. Not 0 where a site says 0 of killed jobs; a
        command that ends with `done` itself gets `done + 1`.
    """
    argv = shlex.join(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    )
    fetches = [
        f"fetch file-{number} {shlex.quote(name)}" for number, name in enumerate(sorted(files))
    ]
    return _TEMPLATE.format(
        key=re.sub(r"[^\w.-]", "?", key),
        supervise=SUPERVISE,
        no_room=EXIT_NO_ROOM,
        no_files=EXIT_NO_FILES,
        fetches="".join(line + "\n" for line in fetches),
        command=argv,
        grace_s=grace_s,
        walltime_s=max(1, round(walltime_s)),
        done=done,
        done_taken=done + 1 if done else 0,
    )
