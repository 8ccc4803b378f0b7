"""`make demo` as a person has it: what it prints is right, and Ctrl-C ends all of it.

What `CHECK=1` looks at is not looked at again here.
"""

import os
import re
import signal
import subprocess
import sys

import pytest

from offload_cli.demo.hub import LocalHub
from offload_cli.demo.judge import judge
from offload_cli.demo.programs import PROXY
from offload_cli.demo.setting import USERS
from offload_cli.demo.visitor import Visitor
from tests.support.processes import assert_no_process_below, processes_below
from tests.support.tiers import lacking
from tests.support.waiting import eventually_sync, scaled

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]


@pytest.fixture
def demo(request, tmp_path):
    """Start the demo; all its files are below a temporary folder that nobody else uses."""
    if not PROXY.exists():
        lacking(request.config, "hub", "configurable-http-proxy is missing: make setup")
    room = tmp_path / "a place"  # with a blank in its name
    room.mkdir()
    started = []

    def start(*options):
        command = [
            sys.executable,
            "-m",
            "offload_cli.demo",
            "--output",
            str(room / "out"),
            *options,
        ]
        with (room / "said.txt").open("ab") as said:
            started.append(
                subprocess.Popen(
                    command,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "TMPDIR": str(room)},
                )
            )
        return started[-1]

    start.room = room
    start.said = (room / "said.txt").read_text
    yield start
    for process in started:
        process.terminate()
        process.wait(scaled(60))
    assert_no_process_below(room)


class Started(LocalHub):
    """The hub of the demo, as far as it says where it is."""

    def __init__(self, said):
        self._url, self.passwords = re.search(r"http://\S+", said)[0], {}
        for user in USERS:
            self.passwords[user.name] = re.search(rf"^  {user.name} +(\S+) ", said, re.MULTILINE)[1]

    url = property(lambda self: self._url)


def test_who_it_says_may_sign_in_may_and_ctrl_c_ends_everything(demo):
    process = demo()
    eventually_sync(
        lambda: "Ctrl-C stops everything" in demo.said(), within_s=90, saying="it is up"
    )
    hub = Started(demo.said())
    visitors = {user.name: Visitor(hub, user.name, hub.passwords[user.name]) for user in USERS}
    assert visitors["ada"].offered() == ["plain", "broken"]
    with pytest.raises(ValueError, match="cannot sign in"):
        Visitor(hub, "mallory", hub.passwords["alice"])
    with pytest.raises(ValueError, match="cannot sign in"):
        Visitor(hub, "ada", hub.passwords["alice"])
    visitors["alice"].start("plain")
    [home] = (demo.room / "out" / "home").glob("u-alice-*")
    assert sorted(path.name for path in home.glob("dimuon*")) == ["dimuon.ipynb", "dimuon.py"]
    # A cluster that is still there, too.
    (home / "busy.ipynb").write_text(_BUSY)
    cells = visitors["alice"].run_notebook("busy.ipynb")
    assert next(cells).output.text == "2\n"  # its kernel lives on
    assert any("dask_offload.worker" in line for line in processes_below(demo.room).values())
    process.send_signal(signal.SIGINT)
    assert process.wait(scaled(60)) == 0
    assert_no_process_below(demo.room, within_s=1)
    assert sorted(path.name for path in demo.room.iterdir()) == ["out", "said.txt"]
    assert (home / "busy.ipynb").exists()  # what users wrote stays


_BUSY = """{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "execution_count": null,
"outputs": [], "source": ["from dask_offload import OffloadCluster\\n",
"cluster = OffloadCluster(2, quiet=True); cluster.wait_for_workers(2, timeout=120)\\n",
"client = cluster.get_client(); print(len(client.scheduler_info(n_workers=-1)['workers']))"]}],
"metadata": {}, "nbformat": 4, "nbformat_minor": 5}"""


@pytest.mark.parametrize("when", ["hub.sqlite", "relay.key"])
def test_it_may_be_ended_while_it_starts(demo, when):
    process = demo()
    eventually_sync(lambda: list(demo.room.glob(f"offload-demo-*/{when}")), within_s=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(scaled(60)) == 0
    assert_no_process_below(demo.room, within_s=1)


def test_a_hub_that_ends_by_itself_is_said_and_its_log_is_kept(demo):
    process = demo()
    eventually_sync(lambda: "Ctrl-C stops everything" in demo.said(), within_s=90)
    hubs = [pid for pid, line in processes_below(demo.room).items() if "-m jupyterhub" in line]
    for pid in hubs:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(scaled(60)) == 1
    assert "hub has ended by itself" in demo.said()
    assert "Hub API listening" in (demo.room / "out" / "logs" / "hub.log").read_text()


def test_a_wrong_result_is_told_from_a_right_one():
    right = (
        "events analysed    57,600\nZ peak  90.75 GeV\nworkers used  4\nthrough the relay 1.1 MiB\n"
    )
    assert judge(right, 4) == []
    assert judge(right, 8) == ["4 workers used, expected 8"]
    assert len(judge(right.replace("90.75", "80.1").replace("57,600", "57,599"), 4)) == 2
    assert judge(right.replace("1.1 MiB", "0.0 MiB"), 4) == ["no byte went through the relay"]
    assert len(judge("", 4)) == 4
