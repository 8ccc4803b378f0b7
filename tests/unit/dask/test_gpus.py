"""Which GPUs of a job belong to which worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_offload.gpus import TooFewError, share_out


def cuda(text, **more):
    return {"CUDA_VISIBLE_DEVICES": text, **more}


@pytest.mark.parametrize(
    ("environment", "workers", "each", "shares"),
    [
        (cuda("0,1,2,3"), 4, 1, [cuda("0"), cuda("1"), cuda("2"), cuda("3")]),
        (cuda("0,1,2,3"), 2, 2, [cuda("0,1"), cuda("2,3")]),
        (cuda(" 5 , 7 "), 2, 1, [cuda("5"), cuda("7")]),
        (cuda("GPU-aa,GPU-bb"), 2, 1, [cuda("GPU-aa"), cuda("GPU-bb")]),
        (cuda("MIG-1/2/3"), 1, 1, [cuda("MIG-1/2/3")]),
        ({}, 2, 1, [cuda("0"), cuda("1")]),
        ({"ROCR_VISIBLE_DEVICES": "3,4"}, 2, 1, [{"ROCR_VISIBLE_DEVICES": g} for g in "34"]),
        (cuda("0,1,2"), 2, 1, [cuda("0"), cuda("1")]),
        (cuda(""), 2, 0, [{}, {}]),
    ],
)
def test_each_worker_sees_its_own(environment, workers, each, shares):
    assert list(share_out(environment, workers, each)) == shares


@pytest.mark.parametrize(
    ("environment", "seen"),
    [(cuda("0"), None), (cuda("0,-1,2"), None), (cuda("NoDevFiles"), None), ({}, 1), ({}, 0)],
)
def test_too_few_are_said_before_a_worker_starts(environment, seen):
    with pytest.raises(TooFewError, match="its workers need 2"):
        share_out(environment, 2, 1, seen)


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 3))
def test_no_two_workers_share_one(workers, each, spare):
    names = [f"GPU-{number}" for number in range(workers * each + spare)]
    shares = share_out(cuda(",".join(names)), workers, each)
    given_out = [name for share in shares for name in share["CUDA_VISIBLE_DEVICES"].split(",")]
    assert len(given_out) == len(set(given_out)) == workers * each
