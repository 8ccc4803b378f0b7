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


def test_sites_have_labels_of_their_own_however_long_or_odd_their_names_are():
    names = ["recas", "recas-naples-gpu-nodes-a", "recas-naples-gpu-nodes-b", "4a", "u4a", "x" * 40]
    labels = [site_label(name) for name in names]
    assert labels[0] == "recas"
    assert labels[1].startswith("recas-naples-")
    assert len(set(labels)) == len(names)
    for label in labels:
        assert check_net(f"j1.{label}.c7")
        assert len(label) <= 20
