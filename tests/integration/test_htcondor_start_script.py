"""The script that starts a job at an HTCondor site, run by the shells there are."""

import os
import shutil
import signal
import subprocess
from datetime import timedelta

import pytest

from offload_sites.htcondor import submit
from offload_sites.jobs import JobSpec, Resources
from offload_sites.site_models import HTCondorCESite
from offload_sites.start_script import EXIT_WALLTIME

# Those that are `sh` somewhere.
SHELLS = {"dash": ["dash"], "bash": ["bash"], "busybox": ["busybox", "sh"]}
SITE = HTCondorCESite.model_validate(
    {"kind": "htcondor-ce", "title": "Centre", "collector": "ce.example.org:9619"}
    | {"max_walltime": "1h"}
)


@pytest.fixture(params=[shell for shell in SHELLS if shutil.which(shell)])
def start(request, tmp_path):
    """Start a job's script in the scratch directory, as HTCondor does; returns the process."""

    def begin(command, *, walltime_s=60):
        spec = JobSpec(
            command=("sh", "-c", command),
            resources=Resources(1, 1024**3),
            walltime=timedelta(seconds=walltime_s),
        )
        jobs = {"k-1": {"agent.json": b"hush"}}
        (tmp_path / "agent.json").write_bytes(b"hush")
        script = tmp_path / submit.START
        script.write_text(submit.make_submission("centre", SITE, spec, jobs).start)
        return subprocess.Popen(
            [*SHELLS[request.param], str(script), "k-1", "agent.json"],
            env={"PATH": os.environ["PATH"], "_CONDOR_SCRATCH_DIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def run(start, tmp_path):
    """Run a job to its end; returns its exit code and what comes back of its output."""

    def finish(command, **options):
        process = start(command, **options)
        out, err = process.communicate(timeout=60)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {submit.START, "agent.json"}, "HTCondor would have this to carry or to keep"
        assert (tmp_path / "agent.json").read_bytes() == b""
        return process.returncode, out, err

    return finish


@pytest.mark.parametrize("code", [0, 3, 75, 124])
def test_the_exit_code_is_that_of_the_command(run, code):
    assert run(f"echo out; echo err >&2; exit {code}") == (code, "out\n", "err\n")


def test_of_a_long_output_the_end_comes_back(run, monkeypatch):
    monkeypatch.setattr(submit, "_LOG_BYTES", 10)
    assert run("seq 100000; seq 100000 >&2; echo end") == (
        0,
        "99\n100000\nend\n"[-10:],
        "99\n100000\n",
    )


@pytest.mark.parametrize(
    "command", ["sleep 60", "trap '' TERM; echo deaf; sleep 60 & wait; sleep 60"]
)
def test_the_walltime_ends_the_command_even_one_that_does_not_listen(run, command):
    assert run(command, walltime_s=1)[0] == EXIT_WALLTIME


def test_a_termination_is_passed_on_and_the_code_is_that_of_the_command(start, tmp_path):
    process = start(
        """
        trap 'echo bye; exit 5' TERM
        until grep -q '^State:.S' "/proc/$PPID/status"; do :; done
        echo hi >told
        while :; do sleep 0.1; done
        """
    )
    while not (tmp_path / "told").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (5, "bye\n")
