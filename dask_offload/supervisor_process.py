"""The supervisor as its notebook sees it: a process that is started, reached, and let go."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from dask_offload.progress import progress_stream
from dask_offload.request import cluster_id
from dask_offload.rpc import RpcClient
from dask_offload.runtime import ClusterFolder, has_ended
from offload_sites.errors import OffloadError

__all__ = ["SupervisorProcess"]

_START_S = 90.0
_SAID_S = 2.0
_END_S = 20.0

# Supervisors that go on without us; Python warns of a Popen that nobody keeps while it runs.
_detached: list[subprocess.Popen[bytes]] = []


class SupervisorProcess:
    """One supervisor.

    Parameters
    ----------
    folder : ClusterFolder or None
        Of a cluster that somebody else has started; None for one that is still to be started.
    """

    def __init__(self, folder: ClusterFolder | None = None) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False

    @property
    def started(self) -> bool:
        """True once there is a cluster to be reached."""
        return self._folder is not None

    def start(self, name: str | None, request: Mapping[str, Any]) -> None:
        """Start it; it outlives a kernel that is killed, and then ends by itself.

        Raises
        ------
        OffloadError
            There can be no cluster of this name.
        """
        # Those that have ended since are no longer kept, nor are they zombies.
        _detached[:] = [process for process in _detached if process.poll() is None]
        folder = ClusterFolder.create(name)
        try:
            folder.write("cluster.json", {**request, "id": cluster_id(folder.name)})
            with (folder.path / "supervisor.log").open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "dask_offload.supervisor", str(folder.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            folder.remove()
            raise OffloadError(
                f"cannot start a cluster in {folder.path}: {error.strerror}",
                "look for space on that disk, or set OFFLOAD_RUNTIME_DIR to a folder on another",
            ) from error
        except BaseException:
            folder.remove()
            raise
        self._folder = folder
        if self._given_up:  # meanwhile, by another thread
            self._end(self._process, folder)

    async def reach(self, *, quiet: bool) -> RpcClient:
        """Return a client of it, as soon as it answers.

        Raises
        ------
        OffloadError
            It has ended, with the reason, or did not start in time.
        """
        assert self._folder is not None  # noqa: S101  # started
        began_s = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                return await RpcClient.connect(self._folder.supervisor_socket)
            self._check(self._folder, time.monotonic() - began_s)
            if not quiet and time.monotonic() - began_s > _SAID_S:
                quiet = True
                print(f"{self._folder.name}: starting the scheduler", file=progress_stream())
            await asyncio.sleep(0.02)

    def _check(self, folder: ClusterFolder, waited_s: float) -> None:
        if self._process is None and not (folder.path.is_dir() and folder.alive):
            raise has_ended(folder.name)
        if self._process is not None and self._process.poll() is not None:
            raise _why_ended(folder)
        if waited_s > _START_S:
            raise OffloadError(
                f"the cluster {folder.name!r} did not start within {_START_S:.0f} s",
                f"read {folder.path}/supervisor.log",
                transient=True,
            )

    async def wait(self) -> None:
        """Wait until it has ended, if it is ours. Raises TimeoutError."""
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, _END_S)
            except subprocess.TimeoutExpired as error:
                raise TimeoutError from error

    def give_up(self) -> None:
        """End one of ours that was not reached, or whose caller has lost patience. Returns at once.

        One that is just being started in another thread is ended there.
        """
        self._given_up = True
        if self._process is not None and self._folder is not None:
            self._end(self._process, self._folder)

    @staticmethod
    def _end(process: subprocess.Popen[bytes], folder: ClusterFolder) -> None:
        process.terminate()
        threading.Thread(target=_clear_away, args=(process, folder), daemon=True).start()

    def let_go(self) -> None:
        """Let it go on without us."""
        if self._process is not None and self._process.poll() is None:
            _detached.append(self._process)


def _clear_away(process: subprocess.Popen[bytes], folder: ClusterFolder) -> None:
    """Wait until a supervisor has ended, and give its name free if it could not do so itself."""
    mine = folder.read("cluster.json")
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(_END_S) == -signal.SIGTERM:  # before it listened to signals
            folder.remove_if(mine)


def _why_ended(folder: ClusterFolder) -> OffloadError:
    failed = folder.read("failed.json")
    text = (folder.path / "supervisor.log").read_text(errors="replace")
    folder.remove()
    if failed:
        return OffloadError(failed["message"], failed["hint"])
    lines = text.strip().splitlines()
    if not lines:
        return OffloadError(
            f"the supervisor of {folder.name!r} ended at once, and could write nothing to {folder.path}",
            "look for space on that disk, or set OFFLOAD_RUNTIME_DIR to a folder on another",
        )
    return OffloadError(f"the supervisor of {folder.name!r} ended at once: {lines[-1]}")
