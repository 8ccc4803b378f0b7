"""The page of measurements holds what was measured last, and says what it is."""

import json

import pytest

from bench import htcondor_report, report
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


def test_the_comparison_on_a_pool_is_that_of_its_newest_results():
    page = (pages.DOCS / "performance.md").read_text("utf-8")
    newest = report.newest("htcondor")
    assert newest is not None
    assert htcondor_report.render(json.loads(newest.read_text("utf-8"))) in page


def test_results_name_no_computer():
    for path in report.RESULTS.glob("**/*.json"):
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


ONE = {"submitted_s": 4.0, "registered_s": 60.0, "registered": 200, "left": 0}


@pytest.mark.parametrize(
    ("ours", "verdicts"),
    [
        ({"submitted_s": 0.2, "registered_s": 20.0}, ["20", "20", "3", "3", "20", "0"]),
        ({"submitted_s": 1.0, "registered_s": 30.0}, ["4", "4", "2", "2", "30", "0"]),
        ({"registered_s": None, "registered": 150, "left": 2}, ["1", "1", "not all came"] * 2),
    ],
)
def test_on_a_pool_goals_are_reached_or_missed_against_both_ways_of_dask_jobqueue(ours, verdicts):
    found = {"patience_s": 240.0, "jobqueue": ONE, "jobqueue-25": ONE, "ours": {**ONE, **ours}}
    goals = list(htcondor_report.goals(found))
    assert len(goals) == 6
    assert {good for _, _, good in goals[:5]} == {ours.get("submitted_s") == 0.2}
    assert goals[5][2] is (ours.get("left", 0) == 0)
    if ours.get("registered_s"):
        assert [text.removeprefix("1/") for _, text, _ in goals] == verdicts


def test_who_never_had_all_workers_is_given_the_time_that_it_was_waited_for():
    never = {**ONE, "registered_s": None, "registered": 106}
    found = {"patience_s": 240.0, "jobqueue": never, "jobqueue-25": ONE}
    goals = list(htcondor_report.goals({**found, "ours": {**ONE, "registered_s": 24.0}}))
    assert goals[2][1:] == ("less than 1/10", True)
