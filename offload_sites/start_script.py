"""What the shell scripts that start jobs at sites have in common. Pure."""

from __future__ import annotations

import importlib.resources

__all__ = ["EXIT_WALLTIME", "SUPERVISE", "read_script"]

#: Exit code of a script that has ended its command since the walltime was used up.
EXIT_WALLTIME = 75


def read_script(package: str, name: str) -> str:
    """Return the text of the script `name` that lies in `package`."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


#: The part that runs a command to its end; the script it stands in has a function `finish CODE`.
SUPERVISE = read_script(__package__, "supervise.sh")
