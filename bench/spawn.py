"""What a session through the relay costs its user, and what a site that hangs costs the hub.

Two hubs with the same settings, one after the other in each round: one starts servers as plain local
processes and reaches them directly, the other by InterLinkSpawner at a `local` site, through agent,
relay and gateway. The server is the same program in both.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.processes import until

__all__ = ["KINDS", "MOODS", "measure", "measure_stall"]

KINDS = ("plain", "relay")
#: What the site of `measure_stall` does while sessions wait there: nothing special, or never answer.
MOODS = ("queue", "hang")

_READY_S = 120.0
_PLAIN = """
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.template_paths = []
c.JupyterHub.extra_handlers = []
c.Spawner.args = ["--allow-root"] if os.getuid() == 0 else []
c.SimpleLocalProcessSpawner.home_dir_template = str(place / "homes" / "{username}")
"""

# How late the event loop comes round, written every tenth of a second for whoever wants to know.
_WATCH = """
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}

import asyncio, json, time

async def _watch_loop():
    worst, last, told = [], time.perf_counter(), 0.0
    while True:
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        worst.append((time.time(), now - last - 0.001))
        last = now
        if now - told > 0.1:
            told = now
            late = [[at, late_s] for at, late_s in worst if late_s > 0.002]
            with (place / "late").open("a") as file:
                file.write("".join(json.dumps(one) + chr(10) for one in late))
            worst.clear()

_watch_loop_task = asyncio.get_event_loop().create_task(_watch_loop())
"""


def measure(*, repeat: int, say=print) -> dict[str, list[dict[str, float]]]:
    """Start one server on each hub in each of `repeat` rounds; return the rounds by kind.

    `ready_s` is from the request until the hub says ready, `stop_s` the stop. Where there is a
    Chromium, `launcher_s` is from a click on a link until the launcher of JupyterLab is there.
    """
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        hubs = {
            kind: stack.enter_context(_hub(_PLAIN if kind == "plain" else "")) for kind in KINDS
        }
        browser = stack.enter_context(_browser())
        for hub in hubs.values():  # what is only slow the first time: caches of files, of bytecode
            _one(hub, "warm", None)
        for number in range(repeat):
            for kind, hub in hubs.items():
                values = _one(hub, f"user{number}", browser)
                found[kind].append(values)
                short = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
                say(f"spawn, round {number + 1}, {kind}: {short}")
    return dict(found)


def _one(hub: Any, user: str, browser: Any) -> dict[str, float]:
    hub.add_user(user)
    began_s = time.perf_counter()
    hub.spawn(user)
    until(lambda: hub.server(user).get("ready"), _READY_S)
    values = {"ready_s": time.perf_counter() - began_s}
    began_s = time.perf_counter()
    hub.stop(user)
    values["stop_s"] = time.perf_counter() - began_s
    if browser is not None:
        values["launcher_s"] = _launcher_s(hub, f"{user}-sees", browser)
    return values


def _launcher_s(hub: Any, user: str, browser: Any) -> float:
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{hub.url}/hub/login?next=/hub/token")
        page.fill("#username_input", user)
        page.fill("#password_input", "secret")
        page.click("#login_submit")
        page.wait_for_url("**/hub/token")
        began_s = time.perf_counter()
        page.goto(f"{hub.url}/hub/spawn?profile=plain", wait_until="commit")
        page.wait_for_selector(".jp-Launcher", timeout=1000 * _READY_S)
        return time.perf_counter() - began_s
    finally:
        context.close()
        hub.stop(user)


@contextlib.contextmanager
def _hub(more: str) -> Iterator[Any]:
    # Only here: it needs what `make setup` installs beside the Python packages.
    from tests.support.hubkit import HubKit

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        hub = HubKit(Path(folder))
        hub.config_more = f"import os\n{more}"
        hub.write_catalog()
        catalog = hub.place / "catalog.yaml"
        one_slot = catalog.read_text().replace("title: Moody\n", "title: Moody\n    max_jobs: 1\n")
        catalog.write_text(one_slot)
        try:
            hub.start()
            yield hub
        finally:
            hub.close()


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    """Give a headless browser; None where there is none."""
    # As above.
    from tests.support.browserkit import chromium, installed

    path = installed()
    with chromium(path) if path else contextlib.nullcontext() as browser:
        yield browser


def measure_stall(*, sessions: int, window_s: float, say=print) -> dict[str, dict[str, float]]:
    """Let `sessions` sessions wait at a site and return how late the hub's event loop comes round.

    Parameters
    ----------
    sessions : int
        How many users wait at the same time.
    window_s : float
        For how long the loop is watched, in seconds, once all of them wait.
    """
    found = {}
    with _hub(_WATCH) as hub:
        for number in range(sessions + 1):  # the first one takes the only slot, and never starts
            hub.add_user(f"user{number}")
            hub.spawn(f"user{number}", profile="moody", image="slow")
        for mood in MOODS:
            hub.mood(mood)
            found[mood] = _watch(hub, window_s)
            hub.mood()
            say(
                f"{sessions} sessions wait, the site is in the mood {mood!r}: loop late by "
                f"{found[mood]['worst_ms']:.0f} ms at most, API answers within "
                f"{found[mood]['answer_p99_ms']:.0f} ms"
            )
    return found


def _watch(hub: Any, window_s: float) -> dict[str, float]:
    """Return the worst delay of the loop within a window, and how long the hub's API takes."""
    began, answers = time.time(), []
    while time.time() < began + window_s:
        asked_s = time.perf_counter()
        hub.api("GET", "")
        answers.append(time.perf_counter() - asked_s)
        time.sleep(0.05)
    lines = (hub.place / "late").read_text().splitlines()
    late = [late_s for at, late_s in map(json.loads, lines) if at > began]
    return {
        "worst_ms": 1e3 * max(late, default=0.0),
        "late_50ms": float(sum(late_s > 0.05 for late_s in late)),
        "answer_ms": 1e3 * statistics.median(answers),
        "answer_p99_ms": 1e3 * sorted(answers)[int(0.99 * (len(answers) - 1))],
        "cores": float(os.cpu_count() or 1),
    }
