"""`offload jobs`, `offload doctor`, `offload relay`: output, exit status, and real jobs behind them."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest

from offload_cli.main import main
from offload_cli.relay import read_key
from offload_relay.owner import Owner
from offload_sites.jobs import JobSpec, Resources
from offload_sites.local import LocalBackend
from tests.support.processes import assert_no_process_below
from tests.support.relaykit import Kit
from tests.support.waiting import eventually, eventually_sync, scaled

CATALOG = """
sites:
  farm: {{kind: local, title: The farm, max_walltime: 2h, max_jobs: 2, directory: {place}/farm}}
{more}
images:
  here: {{title: This Python, python: current}}
{images}
profiles:
  small: {{title: Small, sites: [farm], images: [{names}], resources: {{cpus: 1, memory: 1GiB}}}}
"""


class Farm:
    """A catalog with a local site `farm` that runs two jobs at once, and the command on it."""

    def __init__(self, place, monkeypatch, capfd):
        self.place = place
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self.catalog = place / "catalog.yaml"
        self.write()
        (place / "run").mkdir(mode=0o700)
        monkeypatch.setenv("OFFLOAD_CATALOG", str(self.catalog))
        monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", str(place / "run"))

    def write(self, more="", **images):
        lines = "\n".join(f"  {n}: {{title: {n}, python: {p}}}" for n, p in images.items())
        names = ", ".join(["here", *images])
        self.catalog.write_text(
            CATALOG.format(place=self.place, more=more, images=lines, names=names)
        )

    def offload(self, *args):
        """Run the command as a shell would; return status, output and diagnostics."""
        self._capfd.readouterr()
        self._monkeypatch.setattr("sys.argv", ["offload", *map(str, args)])
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        out, err = self._capfd.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    def json(self, *args):
        return json.loads(self.offload(*args, "--json").out)

    def backend(self):
        return LocalBackend("farm", directory=self.place / "farm", max_jobs=2, term_grace_s=1)

    def submit(self, script, *keys):
        spec = JobSpec(("sh", "-c", script), Resources(), timedelta(minutes=10))
        asyncio.run(self.backend().submit(spec, {key: {} for key in keys}))

    def states(self, *options):
        return {job["key"]: job["state"] for job in self.json("jobs", "list", *options)}


@pytest.fixture
def farm(tmp_path, monkeypatch, capfd):
    farm = Farm(tmp_path, monkeypatch, capfd)
    yield farm
    asyncio.run(_cancel_all(farm.backend()))
    assert_no_process_below(tmp_path)


async def _cancel_all(backend):
    await backend.cancel((await backend.find("")).values())


SILENT = "  dead: {{kind: local, title: Dead, max_walltime: 2h, directory: {place}/file/site}}"


def with_a_silent_site(farm):
    (farm.place / "file").touch()
    farm.write(SILENT.format(place=farm.place))


# --- offload jobs --------------------------------------------------------------------------------


def test_jobs_are_listed_with_their_states_and_reasons(farm):
    listed = farm.offload("jobs", "list")
    assert (listed.status, listed.out, listed.err) == (0, "", "no jobs\n")
    farm.submit("sleep 600", "alice-1-aa-1", "alice-1-aa-2", "alice-1-aa-3")
    states = {"alice-1-aa-1": "running", "alice-1-aa-2": "running", "alice-1-aa-3": "queued"}
    eventually_sync(lambda: farm.states() == states)
    head, *rows = farm.offload("jobs", "list").out.splitlines()
    assert head.split() == ["KEY", "JOB", "STATE", "SINCE", "NODE", "REASON"]
    assert [row.split()[:3] for row in rows] == [
        [key, f"farm:{key}", state] for key, state in states.items()
    ]
    assert rows[2].endswith("it is the next to start; 2 of 2 jobs running")


def test_ended_jobs_are_listed_only_when_they_are_asked_for(farm):
    farm.submit("exit 3", "alice-1-aa-1")
    eventually_sync(lambda: farm.states("--all") == {"alice-1-aa-1": "failed"})
    assert farm.states() == {}
    [job] = farm.json("jobs", "list", "--all")
    assert (job["job"], job["exit_code"]) == ("farm:alice-1-aa-1", 3)
    assert job["reason"] == "the command ended with exit code 3"


def test_what_answers_is_listed_though_a_site_is_silent_and_the_status_tells(farm):
    farm.submit("sleep 600", "alice-1-aa-1")
    with_a_silent_site(farm)
    listed = farm.offload("jobs", "list")
    assert listed.status == 3
    assert "alice-1-aa-1" in listed.out
    assert "site 'dead' cannot use its directory: Not a directory" in listed.err
    assert farm.offload("jobs", "list", "--site", "farm").status == 0
    assert farm.offload("jobs", "list", "--site", "dead").status == 3


def test_a_site_that_is_not_in_the_catalog_is_refused_with_those_that_are(farm):
    refused = farm.offload("jobs", "list", "--site", "form")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "offload: the catalog has no site 'form'\n  it has farm\n"


def test_the_log_of_a_job_is_printed_to_where_the_job_has_printed_it(farm):
    farm.submit("echo out; echo err >&2; sleep 600", "alice-1-aa-1")
    for name in ("alice-1-aa-1", "farm:alice-1-aa-1"):
        eventually_sync(lambda name=name: farm.offload("jobs", "logs", name).out == "out\n")
        logs = farm.offload("jobs", "logs", name)
        assert (logs.status, logs.err) == (0, "err\n")


@pytest.mark.parametrize("what", ["logs", "cancel"])
@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("alice-1-aa-9", 1, "no site knows a job 'alice-1-aa-9'"),
        ("form:alice-1-aa-9", 1, "the catalog has no site 'form'"),
        (":alice", 2, "expected a job as site:id, got ':alice'"),
        ("../../etc/passwd", 1, "no site knows a job '../../etc/passwd'"),
    ],
)
def test_a_job_that_is_not_there_is_a_sentence(farm, what, name, status, said):
    refused = farm.offload("jobs", what, name)
    assert (refused.status, refused.out) == (status, "")
    assert said in refused.err


def test_a_key_is_looked_for_at_the_sites_that_answer(farm):
    farm.submit("echo here; sleep 600", "alice-1-aa-1")
    (farm.place / "file").touch()
    text = farm.catalog.read_text()
    dead = SILENT.format(place=farm.place)
    farm.catalog.write_text(text.replace("sites:\n", f"sites:\n{dead}\n"))
    eventually_sync(lambda: farm.offload("jobs", "logs", "alice-1-aa-1").out == "here\n")
    missing = farm.offload("jobs", "logs", "alice-1-aa-2")
    assert missing.status == 3  # the silent site may have it
    assert "site 'dead' cannot use its directory" in missing.err


def test_jobs_are_canceled_by_key_and_by_handle(farm):
    farm.submit("sleep 600", "alice-1-aa-1", "alice-1-aa-2", "alice-1-aa-3")
    done = farm.offload("jobs", "cancel", "alice-1-aa-1", "farm:alice-1-aa-3")
    assert (done.status, done.out) == (0, "")
    assert done.err == "farm: asked to end alice-1-aa-1, alice-1-aa-3\n"
    states = {"alice-1-aa-1": "canceled", "alice-1-aa-2": "running", "alice-1-aa-3": "canceled"}
    eventually_sync(lambda: farm.states("--all") == states)


def test_canceling_without_a_name_is_wrong_usage(farm):
    assert farm.offload("jobs", "cancel").status == 2


@contextlib.contextmanager
def living_cluster(farm, name, cluster_id):
    """Have the folder of a cluster whose supervisor is alive."""
    folder = farm.place / "run" / name
    folder.mkdir()
    (folder / "cluster.json").write_text(json.dumps({"id": cluster_id}))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_orphans_are_jobs_whose_cluster_does_not_run(farm):
    farm.submit("sleep 600", "alice-1-aa-1", "alice-2-bb-1")
    with living_cluster(farm, "alice-1", "alice-1-aa"):
        [orphan] = farm.json("jobs", "orphans")
        assert orphan["key"] == "alice-2-bb-1"
        done = farm.offload("jobs", "orphans", "--cancel")
        assert done.status == 0
        assert "asked to end alice-2-bb-1" in done.err
        states = {"alice-1-aa-1": "running", "alice-2-bb-1": "canceled"}
        eventually_sync(lambda: farm.states("--all") == states)
        assert farm.offload("jobs", "orphans").err == "no orphans\n"
    # Its supervisor is gone: what the other cluster left is an orphan as well.
    assert [job["key"] for job in farm.json("jobs", "orphans")] == ["alice-1-aa-1"]


# --- offload doctor ------------------------------------------------------------------------------


def findings(farm, *args):
    return {found["what"].partition(":")[0]: found for found in farm.json("doctor", *args)}


def interpreter(place, name, output):
    """Make what looks like the interpreter of an image: it prints `output` and nothing else."""
    path = place / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_good_installation_is_called_good(farm):
    found = farm.offload("doctor")
    assert found.status == 0
    assert "BAD" not in found.out
    for line in ("good  site farm: up", "good  image here: Python", "good  agent:"):
        assert line in found.out


@pytest.mark.parametrize("url", ["ws://[::1", "ws://a..b/", f"wss://{'a' * 64}.example.org", "x"])
def test_what_is_no_url_of_a_relay_is_said(farm, url):
    found = findings(farm, "--relay", url)["relay"]
    assert found["good"] is False
    assert "wss://relay.example.org" in found["advice"]


def test_a_computer_without_space_for_temporary_files_is_said(farm, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp", full)
    found = findings(farm)["agent"]
    assert found["good"] is False
    assert "TMPDIR" in found["advice"]


def test_each_image_that_cannot_run_workers_is_named_with_what_to_do(farm):
    here = json.dumps({"python": "3.8.1", "dask": "2026.8.0", "distributed": "2026.8.0"})
    farm.write(
        old=interpreter(farm.place, "old", here),
        bare=interpreter(farm.place, "bare", '{"python": "3.11.2"}'),
        silent=interpreter(farm.place, "silent", ""),
        odd=interpreter(farm.place, "odd", "42"),
        missing=farm.place / "missing",
    )
    assert farm.offload("doctor").status == 1
    found = findings(farm)
    assert found["image here"]["good"] is True
    assert "the image has Python 3.8.1, the notebook" in found["image old"]["what"]
    assert found["image bare"]["what"].endswith("no module distributed")
    assert found["image silent"]["what"].endswith(" does not run")
    assert found["image odd"]["what"].endswith(" does not run")
    assert found["image missing"]["what"].endswith(" does not run")
    bad = [found[f"image {name}"] for name in ("old", "bare", "silent", "odd", "missing")]
    assert [one["good"] for one in bad] == [False] * 5
    assert all(one["advice"] for one in bad)


def test_an_interpreter_that_hangs_is_given_up_and_left_behind_by_nobody(farm, monkeypatch):
    monkeypatch.setattr("offload_cli.doctor._PROBE_S", scaled(0.5))
    hangs = interpreter(farm.place, "hangs", "")
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    farm.write(hangs=hangs)
    assert findings(farm)["image hangs"]["good"] is False
    assert_no_process_below(farm.place)
    assert [p for p in psutil.Process().children() if p.name() == "sleep"] == []


def test_a_site_that_is_down_is_bad(farm):
    with_a_silent_site(farm)
    found = findings(farm)
    assert found["site farm"]["good"] is True
    assert found["site dead"]["good"] is False
    assert "down" in found["site dead"]["what"]


def test_a_broken_catalog_is_bad_and_the_rest_is_still_looked_at(farm):
    farm.write("  second: {kind: nowhere, title: A, max_walltime: 1h}")
    ended = farm.offload("doctor")
    assert ended.status == 1
    assert "BAD   catalog: 1 problems" not in ended.out
    assert "BAD   catalog: 1 problem\n" in ended.out
    assert "expected a kind of site" in ended.out
    assert "good  agent:" in ended.out


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "is no URL of a relay"),
        ("ws://127.0.0.1:1", "does not answer (ConnectionRefusedError)"),
        ("ws://127.0.0.1:port", "is no URL of a relay"),
        ("ws://", "is no URL of a relay"),
    ],
)
def test_a_relay_that_is_not_there_is_bad(farm, url, said):
    found = findings(farm, "--relay", url)
    assert found["relay"]["good"] is False
    assert said in found["relay"]["what"]
    assert found["relay"]["advice"]


def test_something_that_is_no_relay_is_bad(farm):
    with _listener(b"SSH-2.0-OpenSSH_9.9\r\n") as port:
        found = findings(farm, "--relay", f"ws://127.0.0.1:{port}")
    assert found["relay"]["good"] is False


@contextlib.contextmanager
def _listener(answer):
    """Serve one connection with `answer`, in a thread."""
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


# --- offload relay -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "Missing option '--key-file'"),
        (["--key-file", "k", "--public", "8300"], "'8300' is not HOST:PORT"),
        (["--key-file", "k", "--dial", "127.0.0.1:99999"], "is not HOST:PORT"),
        (["--key-file", "k", "--public", "fd:77"], "77 is no open socket"),
        (["--key-file", "k", "--tls-cert", "none.pem"], "does not exist"),
        (["--key-file", "k", "--tls-key", __file__], "--tls-key needs --tls-cert"),
    ],
)
def test_wrong_usage_of_a_relay_is_status_2(farm, monkeypatch, args, said):
    monkeypatch.chdir(farm.place)
    ended = farm.offload("relay", *args)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err


def test_a_key_that_others_may_read_or_that_is_too_short_is_refused(farm):
    key = farm.place / "relay.key"
    key.write_bytes(b"x" * 32)
    key.chmod(0o644)
    ended = farm.offload("relay", "--key-file", key)
    assert ended.status == 1
    assert "is open to others" in ended.err
    key.chmod(0o600)
    key.write_bytes(b"short")
    ended = farm.offload("relay", "--key-file", key)
    assert ended.status == 1
    assert "holds 5 bytes; a key has at least 32" in ended.err
    ended = farm.offload("relay", "--key-file", farm.place / "no" / "relay.key")
    assert ended.status == 1
    assert "cannot make the key" in ended.err


def test_a_certificate_that_is_none_is_refused(farm):
    cert = farm.place / "cert.pem"
    cert.write_text("no certificate")
    ended = farm.offload("relay", "--key-file", farm.place / "k", "--tls-cert", cert)
    assert ended.status == 1
    assert "is no certificate with its key" in ended.err


def test_a_port_that_is_taken_is_said_with_its_number(farm):
    with _taken() as port:
        args = ["--key-file", farm.place / "k", "--public", f"127.0.0.1:{port}"]
        ended = farm.offload("relay", *args, "--dial", "127.0.0.1:0")
    assert ended.status == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ended.err


@contextlib.contextmanager
def _taken():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_relay_makes_its_key_serves_owners_and_ends_when_it_is_asked_to(tmp_path):
    key = tmp_path / "relay.key"
    argv = ["relay", "--public", "127.0.0.1:0", "--dial", "127.0.0.1:0", "--key-file", str(key)]
    process = subprocess.Popen(
        [sys.executable, "-m", "offload_cli", *argv], stderr=subprocess.PIPE, text=True
    )
    try:
        # asyncio's debug mode has things to say before.
        line = next(line for line in process.stderr if "relay listens on port" in line)
        public, dial = [
            int(word.strip(",\n")) for word in line.split() if word.strip(",\n").isdigit()
        ]
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert len(key.read_bytes()) == 32
        with urllib.request.urlopen(
            f"http://127.0.0.1:{dial}/health", timeout=scaled(10)
        ) as answer:
            assert answer.read() == b"ok\n"
        asyncio.run(_watch(public, key.read_bytes(), tmp_path))
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=scaled(20))[1]
    assert process.returncode == 0
    assert "Traceback" not in rest


async def _watch(public, key, place):
    kit = Kit.__new__(Kit)
    kit.key = key
    async with Owner(f"ws://127.0.0.1:{public}", kit.token) as owner:
        await eventually(lambda: owner.trouble == "")


def test_relays_that_start_at_the_same_time_make_one_key(tmp_path):
    path = tmp_path / "relay.key"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(read_key, [path] * 16))
    assert len(keys) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["relay.key"]
