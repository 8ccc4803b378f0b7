"""Turns the results of `bench.htcondor` into its section of `docs/performance.md`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["goals", "render"]

_ROWS = (
    ("jobs", "jobs"),
    ("submitted_s", "from `scale` until all are submitted, s"),
    ("first_s", "until the first worker is registered, s"),
    ("registered_s", "until all workers are registered, s"),
    ("registered", "workers registered in the end"),
    ("processes", "processes of the user where they submit"),
    ("memory_mib", "their memory, MiB"),
    ("shadows", "`condor_shadow` processes, on the schedd's host"),
    ("shadows_mib", "their memory, MiB"),
    ("close_s", "`close` returns after, s"),
    ("left_at_close", "jobs still there at that moment"),
    ("closed_s", "from `close` until all jobs are gone, s"),
    ("left", "jobs left a minute after `close`"),
)
_TITLES = {
    "ours": "`OffloadCluster`",
    "jobqueue": "`HTCondorCluster`, a worker per job",
    "jobqueue-25": "`HTCondorCluster`, `processes=25`",
}


def render(results: dict[str, Any]) -> str:
    """Return the tables, the goals, and what is shown of held jobs."""
    return "\n".join([*_head(results), *_table(results), *_goals(results), *_held(results)])


def _head(results: dict[str, Any]) -> Iterator[str]:
    machine, versions = results["machine"], results["versions"]
    yield (
        f"Measured on {results['when'][:10]}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; load {machine['load']} before the run. HTCondor "
        f"{results['htcondor']}, dask-jobqueue {results['dask_jobqueue']}, distributed "
        f"{versions['distributed']}, Python {versions['python']}. {results['workers']} workers of one "
        "core, in turn on one pool; who had not got them all was given up after "
        f"{results['patience_s']:.0f} s."
    )
    if results["workers"] < 100:
        yield from (
            "",
            "**This was a short run, to see that everything works. Take no numbers from it.**",
        )


def _table(results: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"| | {' | '.join(_TITLES.values())} |", "|---|--:|--:|--:|")
    for name, title in _ROWS:
        yield f"| {title} | {' | '.join(_cell(results[one].get(name)) for one in _TITLES)} |"


def _goals(results: dict[str, Any]) -> Iterator[str]:
    yield from ("", "| goal | measured | |", "|---|--:|---|")
    for goal, measured, good in goals(results):
        yield f"| {goal} | {measured} | {'reached' if good else '**missed**'} |"


def goals(results: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield what was to be reached, what was measured, and whether it was reached."""
    ours = results["ours"]
    for name in ("jobqueue", "jobqueue-25"):
        theirs, title = results[name], _TITLES[name]
        times = theirs["submitted_s"] / ours["submitted_s"]
        yield f"submitted in ≤ 1/20 of the time of {title}", f"1/{times:.3g}", times >= 20
    for name in ("jobqueue", "jobqueue-25"):
        theirs, title = results[name], _TITLES[name]
        goal = f"all registered in ≤ 1/3 of the time of {title}"
        if ours["registered_s"] is None:
            yield goal, "not all came", False
        else:
            # Who never got them all needed longer than that.
            least_s = theirs["registered_s"] or results["patience_s"]
            times = least_s / ours["registered_s"]
            more = "" if theirs["registered_s"] else "less than "
            yield goal, f"{more}1/{times:.3g}", times >= 3
    registered_s = ours["registered_s"]
    yield (
        "all registered within 25 s",
        _cell(registered_s),
        registered_s is not None and registered_s <= 25,
    )
    yield "nothing is left after `close`", _cell(ours["left"]), ours["left"] == 0


def _held(results: dict[str, Any]) -> Iterator[str]:
    when = f" ({results['held_when'][:10]})" if "held_when" in results else ""
    yield from ("", f"With {results['held']} jobs that the site has put on hold, they show{when}:")
    for one in ("ours", "jobqueue"):
        yield from ("", f"{_TITLES[one]}:", "", "```text", results[one]["shown"].rstrip(), "```")


def _cell(value: float | None) -> str:
    if value is None:
        return "not reached"
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"
