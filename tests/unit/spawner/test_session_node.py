"""Whose port it is, as the kernel's table tells."""

import os

import pytest

from interlink_spawner.session_node import UnfitError, listens

# From /proc/net/tcp of Linux 6.1; 0A is LISTEN, 01 ESTABLISHED.
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
ROW = "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5d}        0 1 1"


@pytest.fixture
def table(tmp_path):
    def write(*rows):
        fields = {"address": "0100007F:22B8", "state": "0A", "uid": os.geteuid()}
        lines = [ROW.format(**{**fields, **row}) for row in rows]
        file = tmp_path / "tcp"
        file.write_text("\n".join([HEAD, *lines, ""]))
        return file

    return write


def test_a_server_of_ours_listens(table):
    assert listens(8888, table({}))


@pytest.mark.parametrize(
    "row", [{"state": "01"}, {"address": "0100007F:22B9"}, {"address": "22B80000:0016"}]
)
def test_nothing_else_is_taken_for_it(table, row):
    assert not listens(8888, table(row))
    assert not listens(8888, table())


def test_a_server_of_somebody_else_gets_no_requests_of_ours(table):
    with pytest.raises(UnfitError, match="another user of this node has taken port 8888"):
        listens(8888, table({"uid": os.geteuid() + 1}))
