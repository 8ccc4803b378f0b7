"""Which of several sites is taken, and when the next one is tried."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_sites.choose import in_order, moved_words, next_site
from offload_sites.jobs import SiteHealth, SiteState
from offload_sites.ledger_records import Waits

MINUTE = timedelta(minutes=1)


def waits(**minutes):
    return {site: Waits(20, n * MINUTE, 2 * n * MINUTE) for site, n in minutes.items()}


def health(**states):
    return {site: SiteHealth(state) for site, state in states.items()}


UP, FULL, DEGRADED = SiteState.UP, SiteState.FULL, SiteState.DEGRADED
DOWN, NO_ANSWER = SiteState.DOWN, SiteState.NO_ANSWER


@pytest.mark.parametrize(
    ("states", "minutes", "order"),
    [
        ({"a": UP, "b": UP, "c": UP}, {}, "abc"),
        ({"a": UP, "b": UP, "c": UP}, {"a": 60, "b": 5, "c": 30}, "bca"),
        ({"a": UP, "b": UP}, {"a": 60}, "ba"),  # without experience it gets some
        ({"a": FULL, "b": UP}, {}, "ba"),
        ({"a": FULL, "b": UP}, {"a": 5, "b": 60}, "ab"),  # its wait is known
        ({"a": DEGRADED, "b": UP}, {"a": 1, "b": 60}, "ba"),
        ({"a": DOWN, "b": NO_ANSWER, "c": UP}, {}, "cba"),
        ({"b": UP}, {}, "ba"),  # the other one has not answered yet
        ({}, {}, "ab"),
    ],
)
def test_the_healthy_one_with_the_shortest_wait_comes_first(states, minutes, order):
    assert in_order(sorted(order), health(**states), waits(**minutes)) == tuple(order)


def test_where_something_waited_too_long_comes_after_those_that_are_as_well():
    states = health(a=UP, b=UP, c=DEGRADED)
    assert in_order("abc", states, waits(b=60), last={"a"}) == ("b", "a", "c")


@given(st.permutations("abcd"), st.sets(st.sampled_from("abcd")))
def test_no_site_is_lost(sites, last):
    assert sorted(in_order(sites, {}, {}, last=last)) == sorted(sites)


def move(waited, *, states=None, minutes=None, tried=()):
    return next_site(
        "a",
        waited * MINUTE,
        30 * MINUTE,
        sites="abc",
        health=health(**(states or {"a": UP, "b": UP, "c": UP})),
        waits=waits(**(minutes or {})),
        tried=tried,
    )


def test_a_job_waits_as_long_as_its_patience():
    assert move(29) is None
    assert move(30) == "b"


def test_it_goes_to_the_best_of_the_others():
    assert move(60, minutes={"b": 50, "c": 10}) == "c"
    assert move(60, states={"b": FULL, "c": UP}) == "c"


def test_it_stays_where_nothing_better_is():
    assert move(60, states={"a": UP}) is None
    assert move(60, states={"b": DOWN, "c": DEGRADED}) is None
    assert move(60, tried={"b", "c"}) is None
    assert move(60, minutes={"b": 61, "c": 600}) is None


def test_users_read_what_happened():
    words = moved_words("Leonardo", "Naples", 45 * MINUTE)
    assert words == "nothing started at Leonardo within 45 min; it goes to Naples"
