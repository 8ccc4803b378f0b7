"""The examples run as they stand, on processes of this machine."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.clusterkit import TIMEOUT_S

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def hyperparameters():
    path = EXAMPLES / "hyperparameters.py"
    spec = importlib.util.spec_from_file_location("hyperparameters", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hyperparameters"] = module
    spec.loader.exec_module(module)
    return module


def test_the_search_finds_settings_that_separate_signal_from_background(clusters):
    argv = [sys.executable, str(EXAMPLES / "hyperparameters.py"), "--workers", "2", "--trials", "8"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    best = float(re.search(r"area (0\.\d+)", done.stdout)[1])
    assert best > 0.9, done.stdout
    assert len(re.findall(r"trials of", done.stdout)) == 3


def test_a_trial_goes_on_from_what_it_has_learned_and_leaves_that_unchanged(hyperparameters):
    settings = hyperparameters.Settings(width=16, rate=0.003, batch=256, decay=1e-5)
    first, learned = hyperparameters.train(settings, None, 1)
    before = {name: value.copy() for name, value in learned["weights"].items()}
    second, more = hyperparameters.train(settings, learned, 2)
    assert 0.5 < first < second < 1
    assert more["step"] == 3 * learned["step"]
    assert all(np.array_equal(before[name], learned["weights"][name]) for name in before)
