"""One job from start to end: reach the relay, run the payload, end for the first good reason."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from offload_relay.agent.config import AgentConfig
from offload_relay.agent.dial import LoopbackPort
from offload_relay.agent.link import Link
from offload_relay.agent.payload import Payload, become_subreaper, python_and_archive
from offload_relay.agent.walltime import Phase, Walltime
from offload_relay.errors import RelayError
from offload_relay.protocol import EXIT_WALLTIME, Ended

__all__ = ["EXIT_REFUSED", "EXIT_UNREACHABLE", "run"]

log = logging.getLogger("offload-agent")

# sysexits.h, so that a site's record of the exit code alone tells what happened.
EXIT_UNREACHABLE = 69
EXIT_SOFTWARE = 70
EXIT_REFUSED = 77
EXIT_NO_PAYLOAD = 78

_TERM_GRACE_S = 8.0
_GONE_GRACE_S = 5.0
_LAST_WORDS_S = 3.0
_CHECK_S = 1.0


class _Job:
    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._started_s = time.monotonic()
        self._ends_at = int(time.time() + config.walltime_s)
        self._walltime = Walltime(config.walltime_s, config.drain_s)
        self._drains_at = time.time() + self._walltime.drain_at_s
        self._verdict: asyncio.Future[Ended] = asyncio.get_event_loop().create_future()
        self._grace_s = _TERM_GRACE_S
        self._draining = False
        times = {"ends_at": self._ends_at, "drain_after_s": self._walltime.drain_at_s}
        self._link = Link(config, {**_info(), **times}, self._gone)
        self._port = LoopbackPort(self._link)
        self._payload: Payload | None = None

    async def run(self) -> Ended:
        loop = asyncio.get_event_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminated, number)
        await self._port.start()
        work = asyncio.ensure_future(self._work())
        tasks = [work, *map(asyncio.ensure_future, (self._link.run(), self._watch()))]
        for task in tasks:
            task.add_done_callback(self._failed)
        try:
            words = await self._verdict
            log.info("ending: %s", words.reason)
            work.cancel()
            if self._payload is not None:
                await self._payload.end(self._grace_s)
            await self._link.last_words(words, _LAST_WORDS_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._port.stop()
        return words

    async def _work(self) -> None:
        """Start the payload once the relay wants it: a job that is not needed starts nothing."""
        await self._link.connected()
        config = self._config
        payload = Payload(_argv(config.payload), self._environment(), _report_file())
        self._payload = payload  # before it starts: who ends the job meanwhile has to end it too
        try:
            await payload.start()
        except RelayError as error:
            self._end(Ended(EXIT_NO_PAYLOAD, error.message, error.hint))
            return
        log.info("payload started")
        words = await payload.wait()
        if self._draining:
            words = dataclasses.replace(words, reason="its walltime was used up")
        self._end(words)

    async def _watch(self) -> None:
        """End the job when its walltime is over, or when the relay stays away."""
        while True:
            elapsed_s = self._elapsed_s()
            phase = self._walltime.phase(elapsed_s)
            if phase is Phase.DRAIN and not self._draining and self._payload is not None:
                log.info("the walltime is nearly over: asking the payload to finish")
                self._draining = True
                self._payload.ask_to_finish()
            if phase is Phase.OVER:
                self._grace_s = 0.1
                self._end(Ended(EXIT_WALLTIME, "its walltime was used up"))
            since_s = self._link.unreachable_since_s
            if since_s is not None and time.monotonic() - since_s > self._config.unreachable_s:
                self._end(self._unreachable())
            await asyncio.sleep(min(_CHECK_S, self._walltime.next_s(elapsed_s) or _CHECK_S))

    def _unreachable(self) -> Ended:
        refused = self._link.trouble.startswith("the relay refuses")
        return Ended(
            EXIT_REFUSED if refused else EXIT_UNREACHABLE,
            f"no connection to the relay for {self._config.unreachable_s:.0f} s: "
            f"{self._link.trouble or 'no answer'}",
            "ask whether this site may connect to the relay",
        )

    def _gone(self, reason: str) -> None:
        self._grace_s = _GONE_GRACE_S
        self._end(Ended(0, f"nobody needs this job any more: {reason}"))

    def _terminated(self, number: int) -> None:
        self._end(Ended(128 + number, f"the site ended this job (signal {number})"))

    def _failed(self, task: asyncio.Future[None]) -> None:
        """End the job for a fault of our own: it must not hold a node with nothing in it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a fault in this program", exc_info=error)
            name = type(error).__name__
            self._end(
                Ended(EXIT_SOFTWARE, f"the agent itself has failed ({name})", "read the job's log")
            )

    def _end(self, words: Ended) -> None:
        if not self._verdict.done():
            self._verdict.set_result(words)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self._config.environment,
            "OFFLOAD_JOB": self._config.job,
            "OFFLOAD_NET": self._config.net,
            "OFFLOAD_DIAL": self._port.address,
            "OFFLOAD_DIAL_TOKEN": self._port.secret,
            "OFFLOAD_REPORT": str(_report_file()),
            "OFFLOAD_ENDS_AT": str(self._ends_at),
            "OFFLOAD_DRAINS_AT": f"{self._drains_at:.0f}",
        }


def _report_file() -> Path:
    return Path.cwd() / "offload-report.json"


def _argv(payload: list[str]) -> list[str]:
    known = python_and_archive()
    return [known.get(word, word) for word in payload]


def _info() -> dict[str, Any]:
    """Return what the owner is told of this image before the payload has started."""
    wanted = ("distributed", "jupyterhub", "jupyterlab")
    has = [name for name in wanted if importlib.util.find_spec(name)]
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "has": has,
        "versions": {name: _version(name) for name in has},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


async def run(config: AgentConfig) -> int:
    """Run one job to its end and return the exit code for the site."""
    become_subreaper()
    words = await _Job(config).run()
    hint = f" ({words.hint})" if words.hint else ""
    log.info("ended: %s%s", words.reason, hint)
    return words.exit_code if words.exit_code >= 0 else 128 - words.exit_code
