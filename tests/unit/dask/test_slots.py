"""A worker that ended is started again, unless it was let go or crashes all the time."""

import signal

import pytest

from dask_offload.slots import Exit, Slot, verdict

CRASH = -signal.SIGKILL


def lived(slot, code, *, start_s, life_s=60.0, why=""):
    """Let the worker of `slot` run for `life_s` seconds and end with `code`; return the delay."""
    slot.started(start_s)
    slot.ended(code, start_s + life_s, why)
    return None if slot.due_s is None else slot.due_s - (start_s + life_s)


def crashed(slot, times, *, every_s=30.0):
    return [lived(slot, CRASH, start_s=n * every_s, life_s=5.0) for n in range(times)]


def over(code, number=0):
    slot = Slot(number)
    lived(slot, code, start_s=0.0)
    return slot


def given_up(number=0, why=""):
    slot = Slot(number)
    for n in range(6):
        lived(slot, CRASH, start_s=n * 30.0, why=why)
    return slot


def test_a_worker_is_to_be_started_at_once():
    assert Slot(0).due_s == 0.0


def test_a_running_worker_is_not_started_a_second_time():
    slot = Slot(0)
    slot.started(5.0)
    assert slot.due_s is None
    assert not slot.over


def test_a_worker_that_the_scheduler_released_is_over():
    slot = over(Exit.RELEASED)
    assert (slot.over, slot.due_s) == ("released", None)


def test_a_worker_that_never_reached_its_scheduler_is_not_tried_again():
    slot = over(Exit.UNREGISTERED)
    assert (slot.over, slot.due_s) == ("unregistered", None)


def test_a_restart_that_was_asked_for_comes_at_once_and_is_no_crash():
    slot = Slot(0)
    assert [lived(slot, Exit.RESTART, start_s=n * 20.0) for n in range(20)] == [0.0] * 20
    assert slot.crashes_s == []


def test_the_first_crash_costs_no_time_and_each_further_one_costs_more():
    assert crashed(Slot(0), 5) == [0.0, 1.0, 2.0, 4.0, 8.0]


def test_the_sixth_crash_within_ten_minutes_is_the_last():
    slot = Slot(0)
    crashed(slot, 5)
    assert not slot.over
    lived(slot, CRASH, start_s=599.0 - 60.0)
    assert slot.over == "crashed"
    assert slot.due_s is None


def test_crashes_of_long_ago_are_forgotten():
    slot = Slot(0)
    assert set(crashed(slot, 20, every_s=601.0)) == {0.0}
    assert not slot.over


@pytest.mark.parametrize("code", [1, 137, -signal.SIGSEGV, -signal.SIGKILL])
def test_any_other_exit_counts_as_a_crash(code):
    slot = Slot(0)
    lived(slot, code, start_s=0.0)
    assert len(slot.crashes_s) == 1


def test_a_broken_stream_is_never_held_against_a_worker():
    slot = Slot(0)
    for n in range(100):
        lived(slot, Exit.DISCONNECTED, start_s=n * 60.0, life_s=1.0)
    assert not slot.over
    assert slot.crashes_s == []


def test_a_worker_without_its_scheduler_asks_again_soon_then_more_and_more_seldom():
    slot = Slot(0)
    delays = [
        lived(slot, Exit.DISCONNECTED, start_s=n * 60.0, life_s=60.0 if n == 0 else 1.0)
        for n in range(8)
    ]
    assert delays == pytest.approx([0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0])


def test_a_worker_that_came_back_and_worked_is_quick_to_come_back_again():
    slot = Slot(0)
    for n in range(5):
        lived(slot, Exit.DISCONNECTED, start_s=n * 60.0, life_s=1.0)
    assert lived(slot, Exit.DISCONNECTED, start_s=1000.0) == pytest.approx(0.05)


def test_a_crash_is_described_with_the_name_of_its_signal():
    assert over(-signal.SIGSEGV).words == "was killed by signal 11 (SIGSEGV)"
    assert over(-250).words == "was killed by signal 250 (unknown)"
    assert over(3).words == "ended with exit code 3"


def test_what_the_starter_knows_of_an_end_is_said_in_place_of_the_signal():
    slot = Slot(0)
    lived(slot, CRASH, start_s=0.0, why="was ended at 3.9 GiB, 95% of its memory limit")
    assert slot.words == "was ended at 3.9 GiB, 95% of its memory limit"


def test_a_job_goes_on_while_one_of_its_workers_may_still_work():
    assert verdict([over(Exit.RELEASED), given_up(1), Slot(2)]) is None


def test_a_job_whose_workers_were_all_released_has_done_what_was_asked():
    assert verdict([over(Exit.RELEASED, n) for n in range(3)]) == (0, "", "")


def test_a_job_with_a_worker_that_crashed_fails_and_says_how_it_ended():
    why = "was ended at 3.9 GiB, 95% of its memory limit"
    code, reason, hint = verdict([over(Exit.RELEASED), given_up(1, why)])
    assert code == 70
    assert reason == f"1 of 2 workers crashed 6 times within 10 min; the last one {why}"
    assert "log of the job" in hint


def test_a_job_whose_workers_all_found_no_scheduler_says_so():
    code, reason, _ = verdict([over(Exit.UNREGISTERED, n) for n in range(2)])
    assert (code, reason) == (69, "no worker could register at the scheduler")


def test_one_worker_without_a_scheduler_does_not_spoil_a_job_whose_others_worked():
    assert verdict([over(Exit.UNREGISTERED), over(Exit.RELEASED, 1)]) == (0, "", "")
