"""Files are there whole or not at all, whatever happens in between."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from napari_tally.core.files import remove_leftovers, state_folder, whole_file
from napari_tally.core.images import write_labels


def write(path, text):
    with whole_file(path) as partial:
        partial.write_text(text)


def test_a_file_is_made_and_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "new" / "a.csv"
    write(path, "1")
    write(path, "2")
    assert path.read_text() == "2"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_what_fails_leaves_the_old_file(tmp_path, error):
    def fail():
        with whole_file(tmp_path / "a.csv") as partial:
            partial.write_text("half")
            raise error

    write(tmp_path / "a.csv", "old")
    with pytest.raises(type(error)):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "old")]


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    write(tmp_path / "a.csv", "1")
    (tmp_path / "b.csv").touch()
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "b.csv").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path):
    """Also the name under which others write while they write: nobody can lay a link there."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("a.csv", "a.csv.part", ".a.csv.part"):
        (tmp_path / name).symlink_to(precious)
    write(tmp_path / "a.csv", "1")
    assert precious.read_text() == "precious"
    assert not (tmp_path / "a.csv").is_symlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    write(tmp_path / "link" / "b.csv", "2")  # a linked folder is where the user wants it
    assert (tmp_path / "folder" / "b.csv").read_text() == "2"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path):
    """A limit on the size of files does what a full disk does: the write comes back short."""
    path = tmp_path / "labels.tif"
    write_labels(path, np.ones((5, 5), np.int32))
    before = path.read_bytes()
    code = f"""
import resource, signal, numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from napari_tally.core.images import write_labels
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_labels({str(path)!r}, np.random.default_rng(0).integers(0, 9999, (500, 500)))
except OSError as error:
    print("said:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "said:" in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["labels.tif"]


def test_what_a_crash_left_goes_and_nothing_else(tmp_path):
    keep = ["m.safetensors", ".m.safetensors.x.part.csv", ".other.safetensors.x.part.safetensors", "m.safetensors.part", ".m.safetensors"]
    for name in [*keep, ".m.safetensors.abc_1.part.safetensors"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "m.safetensors")
    assert sorted(os.listdir(tmp_path)) == sorted(keep)


def test_the_folder_for_what_outlives_a_crash(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_TALLY_STATE", str(tmp_path / "here"))
    assert state_folder() == tmp_path / "here"
    monkeypatch.delenv("NAPARI_TALLY_STATE")
    assert state_folder().name == "napari-tally"
