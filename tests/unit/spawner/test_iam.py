import pytest

from interlink_spawner.iam import iam_groups


@pytest.mark.parametrize(
    ("claims", "groups"),
    [
        ({"wlcg.groups": ["/highrate", "/highrate/admins"]}, ["/highrate", "/highrate/admins"]),
        ({"groups": ["highrate", "highrate/admins"]}, ["/highrate", "/highrate/admins"]),
        ({"wlcg.groups": [], "groups": ["others"]}, []),
        ({}, []),
    ],
)
def test_groups_are_paths_whichever_profile_the_iam_speaks(claims, groups):
    assert iam_groups({"oauth_user": claims}) == groups


def test_somebody_who_never_signed_in_has_no_groups():
    assert iam_groups({}) == []
