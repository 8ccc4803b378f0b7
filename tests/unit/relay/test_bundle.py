"""The agent's archive is there whole, whoever else makes it at the same time."""

from concurrent.futures import ThreadPoolExecutor

from offload_relay.bundle import build_agent, write_agent


def test_many_may_write_the_agent_into_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(write_agent, [tmp_path] * 16))
    [path] = paths
    assert path.read_bytes() == build_agent()
    assert list(tmp_path.iterdir()) == [path]
