"""What it takes to submit workers at a local site, and what the submitter's event loop feels."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from offload_sites.jobs import JobSpec, JobState, Resources
from offload_sites.local import LocalBackend

__all__ = ["measure"]

_SECRET = b"x" * 4096


def measure(workers: int, per_job: int, *, repeat: int, say=print) -> list[dict[str, float]]:
    """Submit jobs for `workers` workers, `per_job` in each; return `repeat` rounds."""
    rounds = []
    for number in range(repeat):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            values = asyncio.run(_one(-(-workers // per_job), Path(folder)))
        rounds.append(values)
        say(
            f"{values['jobs']:.0f} jobs, round {number + 1}: submitted in {values['submit_s']:.2f} s, "
            f"loop held for {values['longest_stall_ms']:.0f} ms at most"
        )
    return rounds


async def _one(jobs: int, place: Path) -> dict[str, float]:
    archive = place / "input"
    archive.write_bytes(b"x" * 130_000)
    spec = JobSpec(("sleep", "600"), Resources(), timedelta(hours=1), inputs={"agent.pyz": archive})
    backend = LocalBackend("here", directory=place / "site", term_grace_s=1)
    before = os.times()
    began_s = time.perf_counter()
    watch = asyncio.create_task(_longest_stall_s())
    secrets = {f"bench-{number}": {"agent.json": _SECRET} for number in range(jobs)}
    handles = await backend.submit(spec, secrets)
    submitted_s = time.perf_counter()
    after = os.times()
    while True:
        seen = await backend.status(handles.values())
        if all(status.state is JobState.RUNNING for status in seen.values()):
            break
        await asyncio.sleep(0.02)
    running_s = time.perf_counter()
    watch.cancel()
    stall_s = (await asyncio.gather(watch, return_exceptions=True))[0]
    await backend.cancel(handles.values())
    while not all(s.state.ended for s in (await backend.status(handles.values())).values()):
        await asyncio.sleep(0.05)
    return {
        "jobs": jobs,
        "submit_s": submitted_s - began_s,
        "submitter_cpu_s": after.user + after.system - before.user - before.system,
        "starting_cpu_s": (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        ),
        "all_running_s": running_s - began_s,
        "longest_stall_ms": 1e3 * float(stall_s),
    }


async def _longest_stall_s() -> float:
    """Return the longest time that the event loop did not come round, once cancelled."""
    longest_s, last_s = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.001)
            now_s = time.perf_counter()
            longest_s, last_s = max(longest_s, now_s - last_s - 0.001), now_s
    except asyncio.CancelledError:
        return longest_s
