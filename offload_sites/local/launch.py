"""Turns the queue of the site directory in argv[1], in a process of its own.

Run as a script with `python -I -S`: no site-packages, nothing of the user's. It loads a handful of
modules of the standard library and the five beside it, in 25 ms; the packages' own `__init__` would
load the catalog and pydantic.
"""

import gc
import os
import sys
import types
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _stand_in_for_packages() -> None:
    for name, path in (("offload_sites", _HERE.parent), ("offload_sites.local", _HERE)):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


if __name__ == "__main__":
    _stand_in_for_packages()
    from offload_sites.local.jobqueue import run

    # Runners are forks of this process and share its memory as long as nobody writes to it.
    gc.disable()
    gc.freeze()
    run(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(0)  # nothing to take down, and hundreds of runners may end at once
