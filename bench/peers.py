"""Dask's own way, for comparison: a scheduler, and workers forked as our starter forks them.

`python -m bench.peers scheduler CONFIG`, `python -m bench.peers workers CONFIG`; CONFIG is a JSON file.
Both speak `tcp://` or `tls://` directly, with the same settings as workers behind the relay.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path

import dask.config
from distributed import Scheduler, Worker
from distributed.security import Security

__all__ = ["main"]


def main() -> None:
    """Run what the command line names."""
    role, path = sys.argv[1], Path(sys.argv[2])
    config = json.loads(path.read_text())
    dask.config.set(config["dask_config"])
    if role == "scheduler":
        asyncio.run(_schedule(config, path.with_name("scheduler-at.json")))
    else:
        _fork(config)


def _security(config: dict) -> Security | None:
    tls = config["tls"]
    if not tls:
        return None
    roles = {
        f"tls_{role}_{what}": tls[what]
        for role in ("scheduler", "worker")
        for what in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=tls["ca"], **roles)


async def _schedule(config: dict, told: Path) -> None:
    async with Scheduler(
        host="127.0.0.1",
        protocol=config["protocol"],
        port=0,
        security=_security(config),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    ) as scheduler:
        partial = told.with_suffix(".partial")
        partial.write_text(json.dumps({"address": scheduler.address}))
        partial.rename(told)
        await scheduler.finished()


def _fork(config: dict) -> None:
    gc.collect()
    gc.freeze()
    pids = []
    for number in range(config["workers"]):
        pid = os.fork()
        if pid == 0:
            asyncio.run(_work(config, number))
            os._exit(0)
        pids.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
    for pid in pids:
        os.waitpid(pid, 0)


async def _work(config: dict, number: int) -> None:
    worker = Worker(
        config["scheduler"],
        host="127.0.0.1",
        protocol=config["protocol"],
        security=_security(config),
        name=f"{config['name']}-{number}",
        nthreads=1,
        memory_limit=config["memory_bytes"],
        local_directory=os.environ.get("TMPDIR") or str(Path.cwd()),
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )
    await worker
    await worker.finished()


if __name__ == "__main__":
    main()
