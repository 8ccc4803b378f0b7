"""Adaptive scaling follows the load up at once, and down only after the grace time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_offload.adaptive import Adaptive, Bounds
from offload_sites.fleet_plan import Policy, decide
from tests.unit.dask.samples import job

GRACE_S = 120.0


def adaptive(minimum=0, maximum=100, *, per_job=4, grace_s=GRACE_S):
    return Adaptive(Bounds(minimum, maximum, grace_s=grace_s), per_job)


def follow(decider, *targets, wanted=0, every_s=2.0, start_s=0.0):
    """Return what is wanted after each of `targets`, asked for every `every_s` seconds."""
    course = []
    for number, target in enumerate(targets):
        wanted = decider.wanted(target, wanted, start_s + number * every_s)
        course.append(wanted)
    return course


def test_more_load_is_answered_at_once():
    assert follow(adaptive(), 0, 8, 40) == [0, 8, 40]


def test_a_target_is_rounded_up_to_whole_jobs():
    assert follow(adaptive(per_job=4), 1, 5, 8, 9) == [4, 8, 8, 12]


def test_rounding_up_does_not_pass_the_maximum():
    assert follow(adaptive(maximum=10), 9) == [10]


def test_no_more_than_the_maximum_and_no_fewer_than_the_minimum_are_wanted():
    assert follow(adaptive(4, 20), 0, 1000) == [4, 20]


def test_queued_jobs_count_as_coming_so_that_a_load_that_stays_is_asked_for_once():
    decider, policy = adaptive(), Policy(workers_per_job=4)
    jobs, wanted = [], 0
    for second in range(0, 600, 2):  # none of them starts in ten minutes
        wanted = decider.wanted(16, wanted, float(second))
        plan = decide(jobs, wanted, policy)
        assert not plan.cancel
        jobs += [job(len(jobs) + n, workers=size) for n, size in enumerate(plan.submit)]
    assert len(jobs) == 4


def test_a_dip_of_the_load_lets_nothing_go():
    dip = [40] * 5 + [0] * 50 + [40] * 5
    assert set(follow(adaptive(), *dip)) == {40}


def test_workers_are_let_go_once_fewer_have_been_enough_for_the_grace_time():
    course = follow(adaptive(), 40, *[0] * 100, every_s=2.0)
    # 0 was first enough at 2 s.
    assert course.index(0) * 2.0 == 2.0 + GRACE_S
    assert set(course[: course.index(0)]) == {40}
    assert set(course[course.index(0) :]) == {0}


def test_the_highest_load_within_the_grace_time_decides_how_many_stay():
    course = follow(adaptive(), 40, 0, 12, *[0] * 100)
    assert [n for n, before in zip(course[1:], course, strict=False) if n != before] == [12, 0]


def test_a_cluster_that_was_scaled_by_hand_keeps_its_workers_for_the_grace_time():
    course = follow(adaptive(), *[0] * 100, wanted=40)
    assert set(course[:60]) == {40}
    assert course[60] == 0


def test_after_a_time_without_any_answer_of_the_scheduler_nothing_is_let_go_at_once():
    decider = adaptive()
    assert decider.wanted(40, 0, 0.0) == 40
    assert decider.wanted(0, 40, 3600.0) == 40
    assert decider.wanted(0, 40, 3600.0 + GRACE_S) == 0


def test_a_lower_maximum_holds_at_once():
    assert follow(adaptive(maximum=8), 40, wanted=40) == [8]
    assert follow(adaptive(maximum=8), 0, wanted=40) == [8]


def test_without_a_grace_time_the_target_is_followed_down_at_once():
    assert follow(adaptive(grace_s=0.0), 40, 0) == [40, 0]


@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=60),
    st.integers(0, 50),
    st.integers(0, 200),
    st.integers(1, 96),
    st.integers(0, 300),
    st.integers(0, 100),
)
def test_whatever_the_load_the_bounds_hold(targets, minimum, more, per_job, wanted, seed):
    bounds = Bounds(minimum, minimum + more, grace_s=GRACE_S)
    decider = Adaptive(bounds, per_job, seed)
    course = follow(decider, *targets, wanted=wanted, every_s=17.0)
    assert all(minimum <= count <= minimum + more for count in course)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 8))
def test_there_are_never_fewer_than_the_tasks_at_hand_need(targets, per_job):
    course = follow(adaptive(maximum=1000, per_job=per_job), *targets, every_s=30.0)
    assert all(count >= target for count, target in zip(course, targets, strict=True))


@pytest.mark.parametrize("per_job", [1, 4, 48])
def test_between_the_bounds_only_whole_jobs_are_wanted(per_job):
    targets = [17, 90, 3, *[3] * 100, 0, *[0] * 100]
    course = follow(adaptive(maximum=960, per_job=per_job), *targets)
    assert all(count % per_job == 0 for count in course)


def seeded(seed, minimum=0, maximum=200, per_job=96):
    return Adaptive(Bounds(minimum, maximum, grace_s=60), per_job, seed)


def test_a_seed_is_wanted_at_once_and_kept_while_there_is_nothing_to_do():
    adaptive = seeded(8)
    assert adaptive.wanted(0, 0, 0.0) == 8
    assert adaptive.wanted(0, 8, 1000.0) == 8


def test_a_seed_is_no_reason_to_want_whole_nodes_but_work_is():
    adaptive = seeded(8)
    assert adaptive.wanted(8, 8, 0.0) == 8
    assert adaptive.wanted(9, 8, 1.0) == 96


def test_after_the_work_the_seed_is_what_stays():
    adaptive = seeded(8)
    assert adaptive.wanted(200, 8, 0.0) == 200
    assert adaptive.wanted(0, 200, 30.0) == 200
    assert adaptive.wanted(0, 200, 100.0) == 8


def test_a_larger_minimum_counts_and_so_does_a_smaller_maximum():
    assert seeded(8, minimum=20, per_job=10).wanted(0, 0, 0.0) == 20
    assert seeded(8, maximum=4).wanted(0, 0, 0.0) == 4


def test_a_seed_that_shrinks_lets_workers_go():
    adaptive = seeded(8, per_job=1)
    assert adaptive.wanted(0, 8, 0.0) == 8
    adaptive.seed = 4
    assert adaptive.wanted(0, 8, 100.0) == 4


def test_a_share_that_shrinks_is_no_reason_to_ask_for_more():
    adaptive = seeded(4)
    assert adaptive.wanted(0, 0, 0.0) == 4
    adaptive.seed = 2
    assert adaptive.wanted(0, 4, 1.0) == 4
    assert adaptive.wanted(0, 4, 100.0) == 2
