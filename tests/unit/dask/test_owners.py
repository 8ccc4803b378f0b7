"""A cluster lives as long as a notebook is attached, and a grace time longer."""

import os

from dask_offload.owners import Owners, process_start
from dask_offload.rpc import Caller


class Stage:
    """Owners with a clock and a table of processes."""

    def __init__(self, grace_s=90.0):
        self.now_s = 1000.0
        self.processes = {}
        self.owners = Owners(
            grace_s, clock=lambda: self.now_s, started=lambda pid: self.processes.get(pid, "")
        )

    def attach(self, pid, started="77"):
        caller = Caller()
        self.processes[pid] = started
        self.owners.came(caller, pid)
        return caller

    def away_after(self, seconds):
        self.owners.away()
        self.now_s += seconds
        return self.owners.away()


def test_a_cluster_that_nobody_attached_to_ends_after_the_grace_time():
    stage = Stage(grace_s=90.0)
    assert not stage.away_after(90.0)
    assert stage.away_after(1.0)


def test_a_cluster_with_a_notebook_never_ends_by_itself():
    stage = Stage()
    stage.attach(5)
    assert not stage.away_after(1e6)


def test_a_notebook_that_left_has_the_grace_time_to_come_back():
    stage = Stage(grace_s=90.0)
    stage.owners.left(stage.attach(5))
    assert not stage.away_after(90.0)
    stage.attach(6)
    assert not stage.away_after(1e6)


def test_the_grace_time_begins_anew_each_time_that_nobody_is_left():
    stage = Stage(grace_s=90.0)
    for pid in (5, 6, 7):
        caller = stage.attach(pid)
        assert not stage.owners.away()
        stage.owners.left(caller)
        assert not stage.away_after(80.0)
    assert stage.away_after(80.0)


def test_a_killed_notebook_is_gone_though_a_child_of_it_holds_the_connection():
    stage = Stage(grace_s=90.0)
    stage.attach(5)
    assert not stage.owners.away()
    del stage.processes[5]
    assert not stage.away_after(90.0)
    assert stage.away_after(1.0)


def test_another_process_under_the_same_number_is_not_the_notebook():
    stage = Stage(grace_s=90.0)
    stage.attach(5, started="77")
    assert not stage.owners.away()
    stage.processes[5] = "4242"
    assert stage.away_after(91.0)


def test_two_notebooks_have_to_leave_both():
    stage = Stage(grace_s=90.0)
    first, second = stage.attach(5), stage.attach(6)
    stage.owners.left(first)
    assert not stage.away_after(1e6)
    stage.owners.left(second)
    assert stage.away_after(91.0)


def test_of_two_notebooks_one_that_was_killed_does_not_end_the_other_ones_cluster():
    stage = Stage()
    stage.attach(5)
    stage.attach(6)
    del stage.processes[5]
    assert not stage.away_after(1e6)


def test_one_notebook_that_is_attached_twice_may_close_one_of_them():
    stage = Stage()
    first = stage.attach(5)
    stage.attach(5)
    stage.owners.left(first)
    assert not stage.away_after(1e6)


def test_a_caller_that_never_attached_may_leave():
    stage = Stage()
    stage.attach(5)
    stage.owners.left(Caller())
    assert not stage.away_after(1e6)


def test_a_living_process_has_one_start_and_no_process_has_none():
    own = process_start(os.getpid())
    assert own.isdecimal()
    assert process_start(os.getpid()) == own
    assert process_start(2**22 + 1) == ""  # above the largest number that Linux gives
