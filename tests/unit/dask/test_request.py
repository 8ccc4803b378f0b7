"""What a user gives to a cluster is understood, or refused in a sentence, before anything starts."""

import json
from datetime import timedelta
from pathlib import Path

import dask.config
import numpy as np
import pytest

from dask_offload.bounds import seconds_in, seconds_of, walltime
from dask_offload.config import load_defaults
from dask_offload.request import make_request
from offload_sites.errors import OffloadError
from offload_sites.units import parse_duration

NOTHING = {
    "profile": None,
    "image": None,
    "walltime": None,
    "cpus": None,
    "site": None,
    "catalog": None,
    "relay": None,
    "preload": (),
}


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    """Have the defaults, and write them nowhere."""
    monkeypatch.setattr(dask.config, "ensure_file", lambda **_: None)
    load_defaults()


def request(**given):
    """Return the request as the supervisor reads it."""
    return json.loads(json.dumps(make_request(**{**NOTHING, **given})))


def said(**given):
    with pytest.raises(OffloadError) as refused:
        make_request(**{**NOTHING, **given})
    assert refused.value.hint
    return refused.value.message


@pytest.mark.parametrize("days", [0.001, 1, 11, 12, 30, 400])
def test_a_walltime_of_any_length_arrives_as_it_was_meant(days):
    given = timedelta(days=days)
    arrived = parse_duration(request(walltime=given)["choice"]["walltime"])
    assert abs(arrived - given) < timedelta(seconds=1)


def test_a_walltime_of_nothing_is_not_the_default():
    assert request(walltime=timedelta(0))["choice"]["walltime"] == "0s"
    assert walltime(timedelta(seconds=-5)) == "-5s"


def test_numbers_of_numpy_and_paths_are_taken_for_what_they_are():
    choice = request(cpus=np.int64(2), image=Path("/cvmfs/unpacked.example.org/a"))["choice"]
    assert choice["cpus"] == 2
    assert choice["image"] == "/cvmfs/unpacked.example.org/a"


def test_one_module_needs_no_list(monkeypatch):
    with dask.config.set({"offload.worker.preload": "pandas"}):
        assert request(preload="numpy")["worker"]["preload"] == ["pandas", "numpy"]
    with dask.config.set({"offload.worker.preload": None}):
        assert request(preload=["numpy"])["worker"]["preload"] == ["numpy"]


def test_a_file_is_looked_for_where_the_notebook_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert request(catalog="c.yaml")["catalog"] == str(tmp_path / "c.yaml")
    (tmp_path / "loop").symlink_to("loop")
    assert request(catalog=Path("loop"))["catalog"] == str(tmp_path / "loop")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"profile": ["a"]}, "profile is ['a']"),
        ({"image": {"a": 1}}, "image is"),
        ({"site": 1.5}, "site is 1.5"),
        ({"walltime": 3600}, "walltime is 3600"),
        ({"cpus": True}, "cpus is True"),
        ({"cpus": 1.5}, "cpus is 1.5"),
        ({"preload": 7}, "preload is 7"),
        ({"preload": ["numpy", 7]}, "preload is"),
        ({"catalog": "~no-such-user/c.yaml"}, "no such home folder"),
        ({"relay": "wss://relay.example.org"}, "not a mapping"),
    ],
)
def test_what_cannot_be_meant_is_said(given, words):
    assert words in said(**given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("owner-grace", "soon"),
        ("owner-grace", None),
        ("relay-grace", "-5s"),
        ("queue-budget", "9999999h"),
        ("adaptive.interval", []),
        ("adaptive.target-duration", "later"),
        ("version-check", "Strict"),
        ("relay", "wss://relay.example.org"),
        ("walltime", 3600),
        ("profile", {"a": 1}),
    ],
)
def test_a_setting_that_cannot_be_meant_is_said(name, value):
    with dask.config.set({f"offload.{name}": value}):
        assert repr(value) in said()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distributed.comm.timeouts.connect", timedelta(seconds=30)),
        ("dataframe.backends", [{"numpy"}]),
        ("offload.worker.config", {"array.chunk-size": np.int64(7)}),
    ],
)
def test_a_setting_that_cannot_travel_to_workers_is_named(name, value):
    with dask.config.set({name: value}):
        assert f"Dask's setting {name}" in said()


def test_no_relay_may_be_said_in_several_ways():
    for nothing in (None, {}, {"url": None}, {"url": ""}):
        with dask.config.set({"offload.relay": nothing}):
            assert request()["relay"] is None


def test_times_are_read_as_dask_writes_them():
    assert seconds_in("t", "500ms") == 0.5
    assert seconds_in("t", 3) == 3.0
    assert seconds_of({"grace": timedelta(minutes=2), "interval": "1s"}) == {"grace_s": 120.0}
    with pytest.raises(OffloadError, match="grace is 'parsec'"):
        seconds_of({"grace": "parsec"})


def test_tasks_cannot_be_meant_to_take_no_time_but_workers_may_be_let_go_at_once():
    assert seconds_of({"grace": 0}) == {"grace_s": 0.0}
    with pytest.raises(OffloadError, match="target_duration is no time at all"):
        seconds_of({"target_duration": "0s"})
    with dask.config.set({"offload.adaptive.target-duration": 0}):
        assert "offload.adaptive.target-duration is no time at all" in said()
