import os
import stat

import pytest

from offload_cli.relay import _open_to_others


def found(mode, owner):
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, owner, 32, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "owner", "others"),
    [
        (0o600, 1000, False),
        (0o400, 1000, False),
        (0o640, 1000, True),
        (0o604, 1000, True),
        (0o440, 0, False),
        (0o640, 0, False),
        (0o660, 0, True),
        (0o444, 0, True),
    ],
)
def test_a_key_is_for_its_owner_and_one_of_root_for_its_group_as_well(mode, owner, others):
    assert _open_to_others(found(mode, owner)) is others
