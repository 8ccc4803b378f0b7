"""The scheduler of a cluster, in a process of its own: a busy notebook cannot stall it.

Started by the supervisor as `python -m dask_offload.scheduler FOLDER`; ends with it. Beside Dask's
own port it listens on `scheduler.sock` for what the supervisor asks.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.config
from distributed import Scheduler
from distributed.security import Security

from dask_offload.comm import Reach, set_reach
from dask_offload.rpc import Caller, Handler, RpcServer
from dask_offload.runtime import ClusterFolder
from offload_relay.parent import end_with_parent

__all__ = ["main"]

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the scheduler described in `scheduler.json` of the folder `argv[0]` until told to end."""
    end_with_parent()
    folder = ClusterFolder(Path(argv[0]))
    asyncio.run(_serve(folder, folder.read("scheduler.json")))
    return 0


async def _serve(folder: ClusterFolder, config: dict[str, Any]) -> None:
    dask.config.update(dask.config.config, config["dask_config"])
    reach = config["reach"]
    set_reach(Reach(**reach))
    tls = config["tls"]
    scheduler = Scheduler(
        host=f"{config['bind']}.{reach['scope']}",
        protocol="relay",
        port=0,
        security=Security(
            require_encryption=True,
            tls_ca_file=tls["ca"],
            tls_scheduler_cert=tls["cert"],
            tls_scheduler_key=tls["key"],
        ),
        # Without an address of its own it would listen for HTTP on the name of its net.
        dashboard_address=config["dashboard_address"] or "127.0.0.1:0",
        dashboard=config["dashboard_address"] is not None,
    )
    desk = _Desk(scheduler)
    # Without a dashboard it still serves HTTP, for /health and the like.
    page = scheduler.services.get("dashboard") if config["dashboard_address"] else None
    async with scheduler, RpcServer(folder.scheduler_socket, desk.handlers):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, desk.closing.set)
        folder.write(
            "scheduler-at.json",
            {
                "address": scheduler.address,
                "id": scheduler.id,
                "dashboard_port": getattr(page, "port", None),
            },
        )
        closed = asyncio.create_task(scheduler.finished())
        asked = asyncio.create_task(desk.closing.wait())
        await asyncio.wait({closed, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        closed.cancel()


class _Desk:
    """What the supervisor may ask."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.closing = asyncio.Event()
        self.handlers: dict[str, Handler] = {
            "workers": self.workers,
            "retire": self.retire,
            "target": self.target,
            "close": self.close,
        }

    async def workers(self, _: Caller) -> list[list[Any]]:
        """Return name, threads, memory limit, bytes held and tasks under way of each worker."""
        return [
            [ws.name, ws.nthreads, ws.memory_limit or 0, ws.nbytes, len(ws.processing)]
            for ws in self._scheduler.workers.values()
        ]

    async def retire(self, _: Caller, names: list[str]) -> list[str]:
        """Let these workers hand over what they hold, and close them; return those it found."""
        retired = await self._scheduler.retire_workers(
            names=names, remove=True, close_workers=True, stimulus_id="offload-retire"
        )
        return [str(info.get("name", "")) for info in retired.values()]

    async def target(self, _: Caller, duration_s: float) -> dict[str, int]:
        """Return how many workers the tasks at hand keep busy for `duration_s` seconds."""
        return {
            "target": int(self._scheduler.adaptive_target(target_duration=duration_s)),
            "tasks": len(self._scheduler.tasks),
        }

    async def close(self, _: Caller) -> None:
        """End the scheduler; its workers are told to close."""
        self.closing.set()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    sys.exit(main(sys.argv[1:]))
