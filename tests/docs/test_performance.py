"""The page of measurements holds what was measured last, and says what it is."""

import json

import pytest

from bench import report
from tests.docs import pages

ROUND = {name: 2.0 for name, _ in [*report._TRANSPORT, *report._RELAY]}


def results(relay):
    kinds = {"tcp": [ROUND] * 3, "tls": [ROUND] * 3, "relay": [ROUND | values for values in relay]}
    return {"transport": {"50": kinds}}


def verdicts(relay):
    return {goal.partition(": ")[2]: good for goal, _, good in report.goals(results(relay))}


def test_the_tables_are_those_of_the_newest_results():
    page = (pages.DOCS / "performance.md").read_text("utf-8")
    newest = report.newest()
    assert newest is not None
    assert report.render(json.loads(newest.read_text("utf-8"))) in page


def test_results_name_no_computer():
    for path in report.RESULTS.glob("*.json"):
        found = json.loads(path.read_text("utf-8"))
        assert set(found["machine"]) == {"cpu", "cores", "memory_gib", "kernel", "load"}


@pytest.mark.parametrize(
    ("name", "goal", "good", "bad"),
    [
        ("paced_scheduler_cpu_ms_per_task", "scheduler CPU per task", 2.08, 2.14),
        ("paced_tasks_per_s", "tasks/s", 1.92, 1.86),
        ("gather_mib_per_s", "gather", 1.62, 1.58),
        ("relay_mb_per_worker", "relay ≤ 1 MB", 0.9, 1.1),
        ("idle_relay_percent_of_core", "idle relay", 3.9, 4.1),
    ],
)
def test_a_goal_is_reached_or_missed_by_the_median_of_the_rounds(name, goal, good, bad):
    base = {"relay_mb_per_worker": 0.1, "idle_relay_percent_of_core": 1.0}
    for value, reached in ((good, True), (bad, False)):
        rounds = [{**base, name: one} for one in (value, 100.0, 0.001)]
        found = verdicts(rounds)
        assert next(v for title, v in found.items() if title.startswith(goal)) is reached
        assert list(found.values()).count(False) == (not reached)
