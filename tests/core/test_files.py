"""Files are there whole or not at all, whatever happens in between."""

import errno
import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from napari_tally.core import files
from napari_tally.core.checkpoint import load_checkpoint, load_pairs
from napari_tally.core.files import (
    LOCK,
    alone_in,
    folder_done,
    partial_folder,
    remove_all_leftovers,
    remove_leftovers,
    state_folder,
    whole_file,
)
from napari_tally.core.journal import read_about, read_journal
from napari_tally.core.label_files import write_labels
from napari_tally.core.model_file import load_model
from napari_tally.core.tables import read_table


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
from napari_tally.core.journal import read_about, read_journal
from napari_tally.core.label_files import write_labels
from napari_tally.core.model_file import load_model
from napari_tally.core.tables import read_table
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_labels({str(path)!r}, np.random.default_rng(0).integers(0, 9999, (500, 500)))
except OSError as error:
    print("said:", error.filename, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"said: {path}" in done.stdout
    assert "make room there or choose another place" in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["labels.tif"]


def test_what_a_crash_left_goes_and_nothing_else(tmp_path):
    made_up = ".abcd_123.part"
    keep = ["m.safetensors", f".m.safetensors{made_up}.csv", f".other.safetensors{made_up}.safetensors", "m.safetensors.part"]
    keep += [".m.safetensors", ".m.safetensors.abc.part.safetensors", f"m.safetensors{made_up}.safetensors"]
    for name in [*keep, f".m.safetensors{made_up}.safetensors", f".m.safetensors{made_up}.safetensors.old"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "m.safetensors")
    assert sorted(os.listdir(tmp_path)) == sorted(keep)


NAMES = ["a.csv", "a", "a [1].tif", "a.zarr", "細" * 80 + ".tif", "é" * 120, "細.細細細細細細細細細細", "x" * 250 + ".tif"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_crash_left_of_any_name_goes(tmp_path, name):
    for remove in (lambda: remove_leftovers(tmp_path / name), lambda: remove_all_leftovers(tmp_path)):
        crash = whole_file(tmp_path / name)
        crash.__enter__().rename(tmp_path / "kept")  # as a crash would: nothing cleans up
        left = partial_folder(tmp_path / name)
        (left / "chunk").touch()
        left.with_name(f"{left.name}.old").mkdir()
        remove()
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
        del crash


def test_hidden_files_of_the_user_stay(tmp_path):
    """A folder of results may be one that the user has long had."""
    names = [".download.part", ".config.parts", ".a.csv.part", ".a.12345678.party", ".12345678.part", ".a.ABCDEFGH.part"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".my.partition").mkdir()
    (tmp_path / ".my.partition" / "thesis.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    remove_all_leftovers(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    remove_all_leftovers(tmp_path / "not there")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_that_the_disk_takes_is_written(tmp_path, name):
    """File systems limit the bytes of a name, and a letter may have several."""
    write(tmp_path / name, "1")
    assert (tmp_path / name).read_text() == "1"
    (tmp_path / name).unlink()
    folder_done(partial_folder(tmp_path / name), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_mount_that_knows_no_rights(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(type(tmp_path), "chmod", refuse)
    write(tmp_path / "a.csv", "1")
    folder_done(partial_folder(tmp_path / "a.zarr"), tmp_path / "a.zarr")
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.zarr"]


def test_the_folder_for_what_outlives_a_crash(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_TALLY_STATE", str(tmp_path / "here"))
    assert state_folder() == tmp_path / "here"
    monkeypatch.delenv("NAPARI_TALLY_STATE")
    assert state_folder().name == "napari-tally"


OTHER_RUN = """
import sys
from pathlib import Path
from napari_tally.core.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("here", flush=True)
    input()
"""


def test_one_run_at_a_time_in_a_folder(tmp_path):
    command = [sys.executable, "-c", OTHER_RUN, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"here"
        with (
            pytest.raises(ValueError, match=rf"another run writes into this folder: process {other.pid}, last seen 2.*delete"),
            alone_in(tmp_path),
        ):
            pass
        other.kill()  # so its lock stays, and keeps nobody out
    assert (tmp_path / LOCK).exists()
    with alone_in(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_walked_away_from_keeps_nobody_out(tmp_path):
    first, second = alone_in(tmp_path), alone_in(tmp_path)
    first.__enter__()
    alive = second.__enter__()
    first.__exit__(None, None, None)  # late, and the lock is not its own any more
    alive()
    assert (tmp_path / LOCK).exists()
    second.__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"host": 3}', "[" * 100_000, '{"host": "HOST", "pid": "x"}', '{"host": "HOST", "pid": 1e99}']
)
def test_a_lock_that_says_nothing_keeps_nobody_out(tmp_path, text):
    (tmp_path / LOCK).write_text(text.replace("HOST", platform.node()))
    with alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("links", [True, False], ids=["", "no links"])
@pytest.mark.parametrize("left", ["", '{"host": "HOST", "pid": 1, "began": 0}'], ids=["a free folder", "the lock of a dead run"])
def test_of_two_runs_at_once_one_gets_in(tmp_path, monkeypatch, left, links):
    """The other comes just when this one has found the folder free, or its lock dead."""
    if left:
        (tmp_path / LOCK).write_text(left.replace("HOST", platform.node()))
    if not links:
        monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no links")))
    where = (files, "_lives_elsewhere") if left else (files.tempfile, "mkstemp")
    usual = getattr(*where)
    others = []

    def late(*arguments, **options):
        found = usual(*arguments, **options)
        if not others:
            command = [sys.executable, "-c", OTHER_RUN, str(tmp_path)]
            others.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert others[0].stdout.readline().strip() == b"here"
        return found

    monkeypatch.setattr(*where, late)
    with pytest.raises(ValueError, match="another run writes into this folder"), alone_in(tmp_path):
        pass
    with others[0] as other:
        other.communicate(b"\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="others may read or not on POSIX")
def test_the_lock_can_be_read_by_other_users(tmp_path):
    (tmp_path / "a.csv").touch()
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).stat().st_mode == (tmp_path / "a.csv").stat().st_mode


@pytest.mark.parametrize("error", [OSError("196608 requested and 25568 written"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_says_which_file(tmp_path, error):
    """NumPy says how many bytes, and the system what it is; neither says of which file."""
    with (
        pytest.raises(OSError, match="(written|device); make room there or choose another place") as caught,
        whole_file(tmp_path / "a.csv"),
    ):
        raise error
    assert caught.value.filename == str(tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes")
@pytest.mark.parametrize("read", [read_table, read_journal, read_about, load_pairs, load_checkpoint, load_model])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(ValueError, match=f"^{tmp_path}/a: "):
        read(tmp_path / "a")
