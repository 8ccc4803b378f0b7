"""The comparison with dask-jobqueue runs on a pool; how fast anything is, is not tested."""

import pytest

from bench import htcondor

pytestmark = pytest.mark.htcondor


def test_each_contestant_is_measured_and_what_it_shows_of_held_jobs(pool, monkeypatch):
    monkeypatch.setenv("OFFLOAD_TEST_POOL", str(pool.state))
    found = htcondor.measure(quick=True)
    assert found["ours"]["registered"] == found["workers"]
    assert found["ours"]["left"] == 0
    assert "held at The pool" in found["ours"]["shown"]
    assert {*htcondor.CONTESTANTS} <= found.keys()
