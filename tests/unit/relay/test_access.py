"""Labels in nets: good names for the relay, and never one for two users."""

from hypothesis import given
from hypothesis import strategies as st

from offload_relay.access import site_label, user_label
from offload_relay.protocol import check_net


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_every_user_has_a_label_and_no_two_share_one(one, other):
    check_net(f"j1.naples.s1.{user_label(one)}")
    assert (user_label(one) == user_label(other)) == (one == other)


def test_users_whose_names_look_alike_are_told_apart():
    alike = ["a.b", "a-b", "A.B", "a_b", "a-b-", "b"]
    assert len({user_label(name) for name in alike}) == len(alike)
    assert user_label("alice").startswith("u-alice-")


@given(st.text(min_size=1, max_size=200))
def test_every_site_has_a_label(name):
    check_net(site_label(name))
