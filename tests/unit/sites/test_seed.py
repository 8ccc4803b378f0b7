"""The always-on workers of a site are shared fairly, and none is given twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload_sites.seed import seed_share


def shares(seed, holders):
    return {
        (user, cluster): seed_share(seed, holders, user, cluster)
        for user, clusters in holders.items()
        for cluster in clusters
    }


def test_one_cluster_has_all_of_it():
    assert seed_share(8, {"alice": ["a"]}, "alice", "a") == 8


def test_users_share_first_and_then_each_users_clusters():
    told = shares(9, {"alice": ["a1", "a2"], "bob": ["b1"]})
    assert told == {("alice", "a1"): 3, ("alice", "a2"): 2, ("bob", "b1"): 4}


@pytest.mark.parametrize("user", ["carol", "bob"])
def test_who_holds_no_cluster_has_no_share(user):
    assert seed_share(8, {"alice": ["a"], "bob": []}, user, "a") == 0


@given(
    st.integers(0, 500),
    st.dictionaries(st.sampled_from("abcdef"), st.sets(st.integers(0, 20).map(str), max_size=5)),
)
def test_all_shares_together_are_the_seed_and_differ_little(seed, holders):
    told = shares(seed, holders)
    assert sum(told.values()) == (seed if told else 0)
    by_user = {user: sum(n for (u, _), n in told.items() if u == user) for user, _ in told}
    if by_user:
        assert max(by_user.values()) - min(by_user.values()) <= 1
