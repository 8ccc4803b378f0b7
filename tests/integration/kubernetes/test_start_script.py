"""The script that starts a job, run by the shells there are."""

import os
import shutil
import signal
import subprocess

import pytest

from offload_sites.kubernetes import launch
from offload_sites.start_script import EXIT_WALLTIME

# Those that are `sh` somewhere.
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


@pytest.fixture(params=SHELLS)
def run(request, tmp_path):
    """Run a script as a container would; yields a function that returns the finished process."""

    def prepare(command, *, files=None, environment=None, walltime_s=60, done=0, encode=False):
        files = files or {}
        root = tmp_path / "offload"
        for name in ("run", "files"):
            (root / name).mkdir(parents=True)
        script = launch.render_script(
            "k-1", command, environment or {}, files, walltime_s=walltime_s, done=done, grace_s=1
        )
        (root / "run" / launch.SCRIPT).write_text(script)
        for name, content in launch.pack_files(files).items():
            if encode:
                import base64

                content = base64.b64encode(content)  # noqa: PLW2901
            (root / "files" / name).write_bytes(content)
        place = tmp_path / "tmp"
        place.mkdir()
        return subprocess.Popen(
            [*_shell(request.param), str(root / "run" / launch.SCRIPT)],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(place)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(command, **options):
        process = prepare(command, **options)
        out, err = process.communicate(timeout=60)
        assert not list((tmp_path / "tmp").iterdir()), "it has left files behind"
        return process.returncode, out, err

    finish.start = prepare
    return finish


def _shell(name):
    return [name, "sh"] if name == "busybox" else [name]


ODD = "a 'b' \"c\" $HOME `id` $(id) ${HOME}\n\\ è %s"


def test_words_arrive_unchanged(run):
    code, out, _ = run(["printf", "%s|%s", ODD, ""])
    assert (code, out) == (0, f"{ODD}|")


def test_variables_arrive_unchanged(run):
    assert run(["sh", "-c", 'printf %s "$ODD"'], environment={"ODD": ODD})[1] == ODD


@pytest.mark.parametrize("encode", [False, True], ids=["plain", "still in base64"])
def test_files_arrive_whole_and_private_under_any_name(run, encode):
    files = {"a b'c.json": b"\x00\xff binary\n", "-dash": b"x", "é": b""}
    script = "for f in *; do stat -c '%a %s' \"./$f\"; done"
    code, out, _ = run(["sh", "-c", script], files=files, encode=encode)
    assert code == 0
    assert sorted(out.splitlines()) == ["600 0", "600 1", "600 10"]


def test_a_file_that_did_not_arrive_is_named(run, tmp_path):
    process = run.start(["true"], files={"agent.json": b"x"})
    process.communicate()
    (tmp_path / "offload" / "files" / "file-0").unlink()
    again = subprocess.run(
        ["sh", str(tmp_path / "offload" / "run" / launch.SCRIPT)],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        check=False,
        text=True,
    )
    assert again.returncode == launch.EXIT_NO_FILES
    assert "agent.json" in again.stderr


@pytest.mark.parametrize(("code", "told"), [(0, 0), (3, 3), (75, 75), (100, 100)])
def test_the_exit_code_is_that_of_the_command(run, code, told):
    assert run(["sh", "-c", f"exit {code}"])[0] == told


@pytest.mark.parametrize(("code", "told"), [(0, 100), (3, 3), (100, 101)])
def test_success_can_have_an_exit_code_of_its_own(run, code, told):
    assert run(["sh", "-c", f"exit {code}"], done=100)[0] == told


def test_a_signal_is_told_as_shells_do(run):
    assert run(["sh", "-c", "kill -9 $$"])[0] == 137


@pytest.mark.parametrize("command", ["sleep 60", "trap '' TERM; sleep 60 & wait; sleep 60"])
def test_the_walltime_ends_the_command_even_one_that_does_not_listen(run, command):
    assert run(["sh", "-c", command], walltime_s=1)[0] == EXIT_WALLTIME


def test_a_termination_is_passed_on_and_waited_for(run):
    # Once `timeout` waits: before that it may die of a signal and leave its command alone.
    command = """
        trap 'echo bye; exit 5' TERM
        until grep -q '^State:.S' "/proc/$PPID/status"; do :; done
        echo hi
        while :; do sleep 0.1; done
    """
    process = run.start(["sh", "-c", command])
    assert process.stdout.readline() == "hi\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (5, "bye\n")
