"""What stands below which cell of a notebook."""

from collections import defaultdict

import pytest
from jupyter_client.manager import start_new_kernel

from tests.support.waiting import scaled

START = "from dask_offload import OffloadCluster; cluster = OffloadCluster(0)"
# One more than there will be: what is over within a second shows nothing.
WAIT = """
import distributed
cluster.scale(1)
try:
    cluster.wait_for_workers(2, timeout="3s")
except distributed.TimeoutError:
    pass
"""


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    manager, client = start_new_kernel(startup_timeout=scaled(60))
    yield client
    client.stop_channels()
    manager.shutdown_kernel()


def test_progress_stands_below_the_cell_that_waits_and_not_as_an_error(kernel):
    printed = defaultdict(str)

    def hear(message):
        if message["msg_type"] == "stream":
            cell = message["parent_header"]["msg_id"]
            printed[cell, message["content"]["name"]] += message["content"]["text"]

    def run(code):
        reply = kernel.execute_interactive(code, output_hook=hear, timeout=scaled(60))
        assert reply["content"]["status"] == "ok", reply["content"]
        return reply["parent_header"]["msg_id"]

    run(START)
    waited = run(WAIT)
    run("cluster.close()")
    lines = printed.pop((waited, "stdout"))
    assert "/2 working after" in lines
    # Those of other cells, and standard error.
    assert "/2" not in "".join(printed.values())
