"""The starter: the payload of a job that runs Dask workers.

It imports `distributed` and the user's stack once, then forks one process per worker, before any
thread or event loop exists; children share the memory of what was imported. It starts workers again
that crashed or lost their scheduler, as Dask's nanny does, at a tenth of a nanny's cost.

Travels in the agent's archive: `distributed` and the standard library only. Run by the agent as
`agent.pyz --payload dask_offload.worker worker.json`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from dask_offload.gpus import TooFewError, share_out
from dask_offload.slots import Exit, Slot, verdict
from offload_relay.parent import end_with_parent

__all__ = ["main", "spare_s", "version_problem"]

log = logging.getLogger("offload-starter")

_EX_CONFIG = 78
_TICK_S = 0.5
# As distributed.worker.memory.terminate, which only a nanny obeys.
_TERMINATE = 0.95
# What handing over takes at most, as long as there is time.
_HAND_OVER_S = 30.0

# Messages of `Worker.close` after which the same worker is wanted again, from distributed 2025.7 to
# 2026.8: `client.restart()` and a worker that missed heartbeats end in the first of them.
_REASONS = {
    "scheduler-remove-worker": Exit.RESTART,
    "worker-heartbeat-missing": Exit.RESTART,
    "worker-handle-scheduler-connection-broken": Exit.DISCONNECTED,
    "worker-heartbeat-error": Exit.DISCONNECTED,
}


class _Unfit(Exception):  # noqa: N818  # never leaves this module
    """The image cannot run these workers: a reason and a hint."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


def main(argv: list[str]) -> int:
    """Run the workers described in the file `argv[0]` until none is left; return the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    config = json.loads(Path(argv[0]).read_bytes())
    try:
        _check_image(config)
        config["shares"] = _share_gpus(config)
        _preload(config)
    except _Unfit as unfit:
        log.error("%s (%s)", unfit.reason, unfit.hint)  # noqa: TRY400  # a sentence, no traceback
        _report(unfit.reason, unfit.hint)
        return _EX_CONFIG
    return _Starter(config).run()


def _report(reason: str, hint: str) -> None:
    """Leave why this payload ended where the agent looks for it."""
    path = os.environ.get("OFFLOAD_REPORT")
    if path and reason:
        Path(path).write_text(json.dumps({"reason": reason, "hint": hint}), encoding="utf-8")


# --- is this image fit? --------------------------------------------------------------------------


def version_problem(ours: dict[str, str], theirs: dict[str, str]) -> tuple[str, str] | None:
    """Return reason and hint if workers with versions `ours` cannot serve a client with `theirs`.

    Notes
    -----
    Functions travel as bytecode: another minor release of Python crashes the worker (seen as a
    SIGSEGV, 3.12 against 3.11). The messages of distributed change between releases, but not
    between patches of one.
    """
    for name, parts in (("python", 2), ("distributed", 2), ("dask", 2)):
        mine, other = ours.get(name, ""), theirs.get(name, "")
        if other and mine.split(".")[:parts] != other.split(".")[:parts]:
            title = "Python" if name == "python" else name
            return (
                f"the image has {title} {mine or 'none'}, the notebook {other}: "
                "tasks cannot travel between them",
                f"choose an image with {title} {'.'.join(other.split('.')[:parts])}, "
                "or run the notebook in the image of the workers",
            )
    return None


def _check_image(config: dict[str, Any]) -> None:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise _Unfit(
            f"ModuleNotFoundError: {error}", "choose an image with distributed in it"
        ) from error
    ours = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "dask": dask.__version__,
        "distributed": distributed.__version__,
    }
    problem = version_problem(ours, config.get("versions", {}))
    if problem and config.get("version_check", "strict") == "strict":
        raise _Unfit(*problem)
    if problem:
        log.warning("%s", problem[0])


def _share_gpus(config: dict[str, Any]) -> list[dict[str, str]]:
    each = int(config.get("gpus") or 0)
    # Without a driver there is nothing to count, and it is for the task to find out.
    nodes = len(list(Path("/dev").glob("nvidia[0-9]*"))) or None
    try:
        shares = share_out(os.environ, int(config["workers"]), each, nodes)
    except TooFewError as error:
        raise _Unfit(
            str(error), "the site has not given it what it asked for: ask its administrator"
        ) from error
    return [dict(share) for share in shares]


def _preload(config: dict[str, Any]) -> None:
    import dask
    import distributed.comm.registry

    from dask_offload.comm import Reach, RelayBackend, set_reach

    dask.config.update(dask.config.config, config["dask_config"])
    dask.config.set(config["worker_config"])
    # The image need not know us: no entry point there names this comm.
    distributed.comm.registry.backends["relay"] = RelayBackend()
    set_reach(
        Reach(
            scope=config["scope"],
            dial=os.environ["OFFLOAD_DIAL"],
            token=os.environ.pop("OFFLOAD_DIAL_TOKEN"),
            register=True,
        )
    )
    importlib.import_module("distributed.worker")
    for name in config.get("preload", []):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise _Unfit(
                f"the image lacks a module that is to be preloaded: {error}",
                f"choose another image, or leave {name!r} out of preload",
            ) from error


# --- the parent ----------------------------------------------------------------------------------


class _Starter:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._slots = [Slot(number) for number in range(int(config["workers"]))]
        self._running: dict[int, Slot] = {}
        self._draining = False
        self._killed: dict[int, str] = {}
        self._page = os.sysconf("SC_PAGE_SIZE")

    def run(self) -> int:
        watched = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        if threading.active_count() != 1:
            log.warning("a preloaded module has started threads: forked workers may hang")
        # What is alive now is shared by all workers; the collector would touch, and so copy, it.
        gc.collect()
        gc.freeze()
        while True:
            self._start_due()
            result = verdict(self._slots)
            if result is not None:
                code, reason, hint = result
                _report(reason, hint)
                return code
            caught = signal.sigtimedwait(watched, _TICK_S)
            if caught is not None and caught.si_signo != signal.SIGCHLD:
                self._drain()
            self._reap()
            self._check_memory()

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for slot in self._slots:
            if slot.due_s is not None and slot.due_s <= now_s and not slot.over:
                slot.started(now_s)
                pid = os.fork()
                if pid == 0:
                    _child(self._config, slot.number)
                self._running[pid] = slot

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self._running.pop(pid, None)
            if slot is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            slot.ended(code, time.monotonic(), self._killed.pop(pid, ""))
            if self._draining:
                slot.over = slot.over or "released"
                slot.due_s = None
            if code != Exit.RELEASED:
                log.warning("worker %d %s", slot.number, slot.words)

    def _drain(self) -> None:
        """Let the workers hand over what they hold; nobody is started again."""
        log.info("asked to finish: %d workers hand over their results", len(self._running))
        self._draining = True
        for slot in self._slots:
            if slot.due_s is not None:
                slot.due_s, slot.over = None, "released"
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)

    def _check_memory(self) -> None:
        limit = int(self._config["memory_bytes"])
        for pid, slot in self._running.items():
            try:
                resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * self._page
            except (OSError, IndexError):
                continue
            if limit and resident > _TERMINATE * limit and pid not in self._killed:
                why = (
                    f"was ended at {resident / 2**30:.1f} GiB, "
                    f"{_TERMINATE:.0%} of its memory limit of {limit / 2**30:.1f} GiB"
                )
                self._killed[pid] = why
                os.kill(pid, signal.SIGKILL)
                log.warning("worker %d %s", slot.number, why)


# --- the children --------------------------------------------------------------------------------


def _child(config: dict[str, Any], number: int) -> NoReturn:
    code = 1
    try:
        end_with_parent()
        # The signals of the parent's loop; the event loop of the worker has its own handlers.
        for number_ in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number_, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ.update(config["shares"][number])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
        _seed()
        code = int(asyncio.run(_work(config, number)))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        log.exception("worker %d failed", number)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: what the parent has registered to run at its exit is the parent's.
        os._exit(code)


def _seed() -> None:
    """Start the generators of random numbers that all forked workers would share the state of."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


async def _work(config: dict[str, Any], number: int) -> Exit:
    from distributed import Worker
    from distributed.security import Security

    class OffloadWorker(Worker):
        """A worker that remembers why it was closed: the first reason is the cause."""

        close_reason = ""

        async def close(self, *args: Any, reason: str = "worker-close", **kwargs: Any) -> Any:
            self.close_reason = self.close_reason or reason
            return await super().close(*args, reason=reason, **kwargs)

    tls = config["tls"]
    security = Security(
        require_encryption=True,
        tls_ca_file=tls["ca"],
        tls_worker_cert=tls["cert"],
        tls_worker_key=tls["key"],
    )
    worker = OffloadWorker(
        config["scheduler"],
        host=f"{_bind(config)}.{os.environ['OFFLOAD_NET']}",
        protocol="relay",
        security=security,
        name=f"{config['name']}-{number}",
        nthreads=int(config["nthreads"]),
        memory_limit=int(config["memory_bytes"]),
        resources=config.get("resources") or None,
        local_directory=os.environ.get("TMPDIR") or str(Path.cwd()),
        death_timeout=float(config.get("register_timeout_s", 300)),
        # Without an address of its own it would listen for HTTP on the name of its net.
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )
    loop = asyncio.get_running_loop()
    leaving: list[asyncio.Task[Any]] = []

    def leave() -> None:
        # Told twice, it is in a hurry.
        after_s = 0.0 if leaving else spare_s(time.time(), os.environ)
        leaving.append(loop.create_task(_leave(worker, after_s)))

    try:
        await worker
        loop.add_signal_handler(signal.SIGTERM, leave)
        await worker.finished()
    except TimeoutError:
        return Exit.UNREGISTERED
    return _REASONS.get(worker.close_reason, Exit.RELEASED)


async def _leave(worker: Any, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await worker.close_gracefully(restart=False, reason="offload-walltime")


def spare_s(now_s: float, environ: Mapping[str, str]) -> float:
    """Return for how many seconds a worker that is told to finish goes on.

    Near the end of the walltime (`environ` holds the times of the agent) it does so for as long as it
    can afford: jobs that have started together end together, and what replaces them, and takes their
    results, has to come first. Then the supervisor lets them go. In all other cases it is 0.
    """
    ends_s = float(environ.get("OFFLOAD_ENDS_AT", 0))
    drains_s = float(environ.get("OFFLOAD_DRAINS_AT", "inf"))
    if now_s < drains_s - 1:
        return 0.0
    left_s = max(0.0, ends_s - now_s)
    return left_s - min(_HAND_OVER_S, left_s / 2)


def _bind(config: dict[str, Any]) -> str:
    """Return the address to listen on: of this node, if workers of other jobs may dial it."""
    bind = str(config.get("bind") or "127.0.0.1")
    if bind != "auto":
        return bind
    from distributed.utils import get_ip

    return str(get_ip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
