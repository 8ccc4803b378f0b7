"""A PostgreSQL server of one's own, on a Unix socket in a folder, if its programs are here."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if they are not installed."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    beside = shutil.which("initdb")
    return Path(max(found)).parent if found else Path(beside).parent if beside else None


def lacking() -> str:
    """Return why there can be no server here; empty if there can."""
    if programs() is None:
        return "the programs of PostgreSQL are missing (Debian: postgresql)"
    if os.geteuid() == 0 and _other() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return ""


def _other() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a server with an empty database; give its URL."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        other = _other()
        assert other is not None
        os.chown(folder, other.pw_uid, other.pw_gid)
        account = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
    where = programs()
    assert where is not None

    def run(program: str, *argv: str) -> None:
        subprocess.run(
            [where / program, *argv], cwd=folder, check=True, capture_output=True, **account
        )

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "offload", "-A", "trust", "--no-sync", "-E", "UTF8")
        settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-o", settings, "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql://offload@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
