"""Where a cluster keeps its files, and how others of the same user find it by name.

::

    $XDG_RUNTIME_DIR/interlink-offload/        or  $TMPDIR/interlink-offload-<uid>/      mode 0700
        alice-1/
            cluster.json     what was asked for            supervisor.sock  calls from notebooks
            lock             held while it is alive        scheduler.sock   calls to the scheduler
            failed.json      why it could not start        *.log
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offload_relay.access import slug
from offload_sites.errors import OffloadError

__all__ = [
    "ClusterFolder",
    "absolute",
    "cluster_folders",
    "has_ended",
    "runtime_root",
    "user_name",
]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_ENV = "OFFLOAD_RUNTIME_DIR"
_YOUNG_S = 60.0
_PROBE_S = 2.0


def user_name() -> str:
    """Return the name of this user: of the hub, or of this computer, or a number without a name."""
    of_hub = os.environ.get("JUPYTERHUB_USER")
    if of_hub:  # in a hub's images everybody is called the same
        return of_hub
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"u{os.getuid()}"


def absolute(what: str, path: str) -> Path:
    """Return the whole path of a file: whoever reads it may work in another folder.

    Raises
    ------
    OffloadError
        It begins with the home folder of somebody who has none here.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise OffloadError(
            f"{what} is {path!r}, and there is no such home folder on this computer",
            "write the whole path",
        ) from error


def runtime_root() -> Path:
    """Return the folder of all clusters of this user, made if it is not there.

    Raises
    ------
    OffloadError
        Somebody else has made it, or others may enter it.
    """
    root = _place()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.lstat()
    except OSError as error:
        raise _cannot_make(root, error) from error
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OffloadError(
            f"the folder {root} belongs to, or is open to, another user",
            f"set {_ENV} to a folder that only you may enter",
        )
    return root


def _place() -> Path:
    set_by_user = os.environ.get(_ENV)
    if set_by_user:
        return Path(set_by_user).absolute()  # supervisors work in another folder
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "interlink-offload")
    try:
        return Path(tempfile.gettempdir(), f"interlink-offload-{os.getuid()}")
    except OSError as error:
        raise OffloadError(
            "there is no folder for temporary files that can be written",
            f"set {_ENV} to a folder on a local disk, or TMPDIR",
        ) from error


def has_ended(name: str, why: str = "") -> OffloadError:
    """Return the error for who asks something of a cluster that is over."""
    because = f": {why}" if why else ""
    return OffloadError(
        f"the cluster {name!r} has ended{because}", "start a new one with OffloadCluster()"
    )


def _cannot_make(folder: Path, error: OSError) -> OffloadError:
    return OffloadError(
        f"cannot make the folder {folder} for the files of clusters: {error.strerror}",
        f"set {_ENV} to a folder on a local disk that has space left",
    )


@contextlib.contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Keep others from making clusters below `root`; where there are no locks, hope for the best."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file, too
    finally:
        os.close(fd)


class ClusterFolder:
    """The folder of one cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.supervisor_socket = path / "supervisor.sock"
        self.scheduler_socket = path / "scheduler.sock"

    @classmethod
    def create(cls, name: str | None) -> ClusterFolder:
        """Return the new folder of a cluster called `name`, or by the first free name.

        Raises
        ------
        OffloadError
            The name is not a label, or a living cluster has it.
        """
        root = runtime_root()
        if name is None:
            base = slug(user_name(), 24)
            numbers = (f"{base}-{number}" for number in range(1, 10_000))
            with _alone_in(root):
                return next(folder for n in numbers if (folder := cls._try(root / n)) is not None)
        if not _NAME.fullmatch(name):
            raise OffloadError(
                f"a cluster cannot be called {name!r}",
                "use up to 31 lower-case letters, digits and hyphens, a letter first",
            )
        with _alone_in(root):
            folder = cls._try(root / name)
        if folder is None:
            raise OffloadError(
                f"a cluster called {name!r} is running",
                f"attach to it with OffloadCluster.from_name({name!r}), or choose another name",
            )
        return folder

    @classmethod
    def _try(cls, path: Path) -> ClusterFolder | None:
        folder = cls(path)
        if folder.alive:
            return None
        folder.remove()
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            return None
        except OSError as error:
            raise _cannot_make(path, error) from error
        # A socket's path may have 107 bytes; said here rather than by bind().
        if len(os.fsencode(folder.supervisor_socket)) > 100:
            folder.remove()
            raise OffloadError(
                f"the path {path} is too long for a socket", f"set {_ENV} to a shorter one"
            )
        return folder

    @property
    def alive(self) -> bool:
        """True while its supervisor runs, or is being started."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            return self._young()
        except BlockingIOError:
            return True
        return False

    def _young(self) -> bool:
        """Made, and its supervisor has not come so far: as good as alive for a little while."""
        try:
            return time.time() - self.path.stat().st_mtime < _YOUNG_S
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that says that the supervisor is alive. Raises OSError if it is held."""
        deadline_s = time.monotonic() + _PROBE_S
        with (self.path / "lock").open("wb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Whoever asks `alive` holds it for an instant.
                    if time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.01)
            yield

    def read(self, name: str) -> dict[str, Any]:
        """Return the JSON file `name`; empty if it is not there (yet)."""
        try:
            value = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def write(self, name: str, value: object) -> Path:
        """Write `value` as the JSON file `name`, whole or not at all, for this user's eyes only."""
        partial = self.path / f".{name}.partial"
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(value), encoding="utf-8")
        return partial.rename(self.path / name)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_if(self, options: Mapping[str, Any]) -> None:
        """Remove the folder, unless another cluster has the name by now; `options` made this one."""
        with _alone_in(self.path.parent):
            if options and self.read("cluster.json") == options:
                self.remove()


def cluster_folders() -> list[ClusterFolder]:
    """Return the folders of all clusters of this user, dead ones included."""
    return [ClusterFolder(path) for path in sorted(runtime_root().iterdir()) if path.is_dir()]
