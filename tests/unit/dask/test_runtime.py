"""The files of a cluster are its user's alone, and its name is free again once it is dead."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_offload.runtime import ClusterFolder, cluster_folders, runtime_root
from dask_offload.supervisor_process import _why_ended
from offload_relay.access import slug
from offload_sites.errors import OffloadError


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def aged(folder, seconds):
    """Let `folder` look as if it had been made `seconds` ago."""
    made_s = folder.path.stat().st_mtime - seconds
    os.utime(folder.path, (made_s, made_s))


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path_factory):
    # Not below tmp_path: the name of a test can make it too long for a socket.
    path = tmp_path_factory.mktemp("r") / "r"
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", str(path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return path


# --- the root ------------------------------------------------------------------------------------


def test_folders_and_files_are_for_their_user_alone_whatever_the_umask(root):
    before = os.umask(0)
    try:
        folder = ClusterFolder.create("mine")
        file = folder.write("scheduler.json", {"key": "secret"})
        folder.write("scheduler.json", {"key": "another"})
    finally:
        os.umask(before)
    assert [mode(path) for path in (root, folder.path, file)] == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o777])
def test_a_root_that_others_may_enter_is_refused(root, bits):
    root.mkdir()
    root.chmod(bits)
    with pytest.raises(OffloadError, match="open to, another user") as refused:
        runtime_root()
    assert "OFFLOAD_RUNTIME_DIR" in refused.value.hint


def test_a_root_that_is_a_link_is_refused(root, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OffloadError):
        runtime_root()


def test_a_root_that_cannot_be_made_is_said_in_a_sentence(root):
    root.write_text("a file")
    with pytest.raises(OffloadError, match="cannot make the folder"):
        runtime_root()


def test_the_root_lies_in_the_users_runtime_directory_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.delenv("OFFLOAD_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_root() == tmp_path / "interlink-offload"


def test_elsewhere_the_root_has_the_number_of_the_user_in_its_name(monkeypatch, tmp_path):
    monkeypatch.delenv("OFFLOAD_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert runtime_root() == tmp_path / f"interlink-offload-{os.getuid()}"


def test_a_root_that_is_named_from_here_is_found_from_everywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", "run")
    assert runtime_root() == tmp_path / "run"


def test_a_computer_without_a_place_for_files_is_said_in_a_sentence(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv("OFFLOAD_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(OffloadError, match="no folder for temporary files"):
        runtime_root()


@pytest.mark.parametrize(
    ("log", "said"),
    [("", "could write nothing to"), ("a\nOSError: b\n", "ended at once: OSError: b")],
)
def test_a_supervisor_that_ended_with_few_words_is_told_with_them(root, log, said):
    folder = ClusterFolder.create("mine")
    (folder.path / "supervisor.log").write_text(log)
    assert said in _why_ended(folder).message
    assert not folder.path.exists()


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "Mine", "1st", "-a", "a b", "../a", "a/b", "a" * 32, "mine\n", "ä", ".", "a.b"],
)
def test_a_name_that_is_no_label_is_refused_and_leaves_nothing_behind(root, name):
    with pytest.raises(OffloadError, match="cannot be called"):
        ClusterFolder.create(name)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "mine", "a-1", "a" * 31])
def test_a_label_is_a_name(root, name):
    assert ClusterFolder.create(name).path == root / name


def test_without_a_name_the_user_and_the_first_free_number_make_one(monkeypatch):
    monkeypatch.setenv("LOGNAME", "Alice.Rossi")
    names = [ClusterFolder.create(None).name for _ in range(3)]
    assert names == ["alice-rossi-1", "alice-rossi-2", "alice-rossi-3"]


@given(st.text(max_size=60), st.integers(2, 24))
def test_any_text_has_a_label(text, most):
    assert (
        ClusterFolder(Path("/r", slug(text, most))).name.strip(
            "abcdefghijklmnopqrstuvwxyz-0123456789"
        )
        == ""
    )
    assert slug(text, most)[0].isalpha()
    assert not slug(text, most).endswith("-")
    assert len(slug(text, most)) <= most


@pytest.mark.parametrize("sign", ["x", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_path_that_no_socket_can_have_is_said_before_anything_starts(monkeypatch, root, sign):
    # The kernel's limit is in bytes, not in characters.
    room = 101 - len(os.fsencode(root.parent)) - len("//mine/supervisor.sock")
    long = root.parent / (sign * -(-room // len(sign.encode())))
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", str(long))
    with pytest.raises(OffloadError, match="too long for a socket"):
        ClusterFolder.create("mine")
    assert cluster_folders() == []


# --- alive ---------------------------------------------------------------------------------------


def test_a_cluster_is_alive_while_its_supervisor_holds_the_lock():
    folder = ClusterFolder.create("mine")
    with folder.locked():
        aged(folder, 3600)
        assert folder.alive
        assert ClusterFolder(folder.path).alive
    assert not folder.alive


def test_a_cluster_whose_supervisor_is_about_to_start_is_alive_for_a_minute():
    folder = ClusterFolder.create("mine")
    assert folder.alive
    aged(folder, 61)
    assert not folder.alive


def test_a_folder_that_has_gone_is_not_alive():
    folder = ClusterFolder.create("mine")
    folder.remove()
    assert not folder.alive


def test_a_second_supervisor_cannot_hold_the_lock():
    folder = ClusterFolder.create("mine")
    with folder.locked(), pytest.raises(OSError), folder.locked():
        pass
    with folder.locked():
        assert folder.alive


def test_asking_whether_a_cluster_is_alive_does_not_disturb_it():
    folder = ClusterFolder.create("mine")
    with folder.locked():
        assert folder.alive
        with pytest.raises(OSError), ClusterFolder(folder.path).locked():
            pass


def test_a_name_is_given_once():
    with ClusterFolder.create("mine").locked():
        with pytest.raises(OffloadError, match="'mine' is running") as refused:
            ClusterFolder.create("mine")
        assert "OffloadCluster.from_name('mine')" in refused.value.hint


def test_a_name_is_taken_from_the_moment_of_its_creation():
    ClusterFolder.create("mine")
    with pytest.raises(OffloadError, match="is running"):
        ClusterFolder.create("mine")


# --- leftovers -----------------------------------------------------------------------------------


def leave_dead(name):
    """Leave what a supervisor leaves that was killed."""
    folder = ClusterFolder.create(name)
    with folder.locked():
        folder.write("scheduler.json", {"key": "old secret"})
        folder.supervisor_socket.touch()
    return folder


def test_the_name_of_a_dead_cluster_is_free_and_nothing_of_it_is_left():
    leave_dead("mine")
    folder = ClusterFolder.create("mine")
    assert list(folder.path.iterdir()) == []
    assert folder.alive


def test_a_name_that_many_want_at_once_is_given_once_though_a_dead_cluster_had_it(monkeypatch):
    leave_dead("mine")
    slow_remove = ClusterFolder.remove

    def remove(folder):
        time.sleep(0.02)  # as for a folder with much in it
        slow_remove(folder)

    monkeypatch.setattr(ClusterFolder, "remove", remove)

    def create(_):
        try:
            return ClusterFolder.create("mine")
        except OffloadError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [folder for folder in pool.map(create, range(8)) if folder]
    assert len(made) == 1
    assert made[0].path.is_dir()


def test_the_number_of_a_dead_cluster_is_given_again(monkeypatch):
    monkeypatch.setenv("LOGNAME", "alice")
    leave_dead("alice-1")
    assert ClusterFolder.create(None).name == "alice-1"
    assert list(ClusterFolder.create("alice-2").path.iterdir()) == []


def test_dead_clusters_are_listed_beside_living_ones():
    leave_dead("dead")
    with ClusterFolder.create("living").locked():
        assert {folder.name: folder.alive for folder in cluster_folders()} == {
            "dead": False,
            "living": True,
        }


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written():
    folder = ClusterFolder.create("mine")
    folder.write("cluster.json", {"id": "c7", "more": [1, None]})
    assert folder.read("cluster.json") == {"id": "c7", "more": [1, None]}
    assert [path.name for path in folder.path.iterdir()] == ["cluster.json"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_a_file_that_is_not_there_or_not_whole_reads_as_empty(content):
    folder = ClusterFolder.create("mine")
    if content is not None:
        (folder.path / "failed.json").write_bytes(content)
    assert folder.read("failed.json") == {}


def test_what_cannot_be_written_leaves_the_former_file_as_it_was():
    folder = ClusterFolder.create("mine")
    folder.write("cluster.json", {"id": "c7"})
    with pytest.raises(TypeError):
        folder.write("cluster.json", {"id": object()})
    assert folder.read("cluster.json") == {"id": "c7"}
