"""Find the processes that a test has left behind."""

from offload_cli.demo.programs import processes_below
from tests.support.waiting import eventually_sync

__all__ = ["assert_no_process_below", "processes_below"]


def assert_no_process_below(place, within_s=20):
    """Wait until no process has `place` in its arguments or environment."""

    def none():
        left = processes_below(place)
        assert not left, f"still there: {left}"
        return True

    eventually_sync(none, within_s=within_s)
