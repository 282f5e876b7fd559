"""A batch: tables fill as it goes, what is done is not done again, a bad file is passed over."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
import zarr
from models import bright_is_cell, nine_discs

import napari_tally as nt
from napari_tally.cli import main
from napari_tally.core import batch as module
from napari_tally.core import done as notes
from napari_tally.core import image_files
from napari_tally.core.batch import Batch
from napari_tally.core.done import ImageDone, PassedOver, Working
from napari_tally.core.events import run_to_end
from napari_tally.core.files import LOCK
from napari_tally.core.image_files import read_image
from napari_tally.core.label_files import read_labels, write_labels
from napari_tally.core.model_file import find_model, save_model
from napari_tally.core.record import changed_labels, read_record
from napari_tally.core.regions import Region
from napari_tally.settings import BatchSettings, CountingSettings, PredictionSettings, RuleSettings

SETTINGS = PredictionSettings(diameter=20, tile=64, device="cpu")


@pytest.fixture(scope="module")
def model():
    return find_model("nuclei")


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "in").mkdir()
    files = []
    for seed, stem in enumerate(("one", "007", "three")):
        picture, _ = nt.simulate_nuclei(shape=(96, 130), seed=seed)
        files.append(tmp_path / "in" / f"{stem}.tif")
        tifffile.imwrite(files[-1], picture, tile=(16, 16), resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    return files


def batch(model, out, **files):
    return Batch(model, "nuclei", out, SETTINGS, model.counting, files=BatchSettings(**files))


def events_of(work):
    news = []
    results = run_to_end(work, news.append)
    return news, results


def test_a_batch_is_its_images(model, paths, tmp_path):
    news, results = events_of(batch(model, tmp_path / "out").run(paths))
    done = [event for event in news if isinstance(event, ImageDone)]
    assert [event.path for event in done] == paths
    assert all(isinstance(event, Working | ImageDone) for event in news)
    counts = pd.read_csv(tmp_path / "out" / "counts.csv", dtype={"image": str})
    assert counts["image"].tolist() == ["one", "007", "three"]
    for path, n in zip(paths, counts["count"], strict=True):
        alone = nt.predict(read_image(path), model, settings=SETTINGS)
        np.testing.assert_array_equal(read_labels(tmp_path / "out" / "labels" / f"{path.stem}.tif"), alone.labels)
        assert n == alone.cells > 3
    assert len(pd.read_csv(tmp_path / "out" / "cells.csv")) == counts["count"].sum() == len(results.tables()["cells"])


def test_a_run_that_was_broken_off_goes_on(model, paths, tmp_path, monkeypatch):
    """Broken off in the second image: the first is not predicted again, and the end is that of a run in one go."""
    work = batch(model, tmp_path / "out").run(paths)
    for event in work:
        if isinstance(event, Working) and event.number == 2 and event.tile:
            break
    del work  # no `finally` of ours is counted on: the process may be gone
    predicted = []
    monkeypatch.setattr(module, "read_image", lambda path: predicted.append(path) or read_image(path))
    news, _ = events_of(batch(model, tmp_path / "out").run(paths))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [True, False, False]
    assert predicted == paths[1:]
    events_of(batch(model, tmp_path / "once").run(paths))
    assert_same_results(tmp_path / "out", tmp_path / "once")
    first, second = (json.loads((tmp_path / name / "record.json").read_text())["images"] for name in ("out", "once"))
    assert first == second


def assert_same_results(first, second):
    """All but the record, which has a date, is the same to the byte."""
    names = [sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) for out in (first, second)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.suffix in (".csv", ".tif"):
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_run_that_goes_on_writes_the_tables_of_one_in_one_go(tmp_path):
    """To the byte, whatever the images are: no cells, several channels, large numbers, names that look like nothing."""
    disc = nine_discs().astype(np.float64)
    paths = [tmp_path / "in" / f"{stem}.tif" for stem in ("empty", "NA", "1e5", "null")]
    (tmp_path / "in").mkdir()
    for path, pixels in zip(paths, (0 * disc, disc * 1e6 / 3, disc + 0.1, disc * 1234567), strict=True):
        tifffile.imwrite(path, np.stack([pixels, pixels]).astype(np.float32), photometric="minisblack", metadata={"axes": "CYX"})
    model = bright_is_cell(channels=2)
    half = Region("nan", (np.array([(-1.0, -1), (-1, 30), (60, 30), (60, -1)]),))
    how = {"regions": lambda path: [half], "group": lambda path: "None" if path.stem == "NA" else "007"}
    whole, broken = (replace(batch(model, tmp_path / name), settings=PredictionSettings(device="cpu"), **how) for name in ("a", "b"))
    events_of(whole.run(paths))
    for n in range(1, 5):
        events_of(broken.run(paths[:n]))
    assert_same_results(tmp_path / "a", tmp_path / "b")
    assert pd.read_csv(tmp_path / "a" / "counts.csv", keep_default_na=False)["image"].tolist() == ["empty", "NA", "1e5", "null"]


def test_what_could_not_be_counted_is_in_the_tables(model, paths, tmp_path):
    for path in paths[1:]:
        path.write_bytes(b"torn")
    _, results = events_of(batch(model, tmp_path / "out").run(paths))
    failed = pd.read_csv(tmp_path / "out" / "failed.csv", dtype=str)
    assert failed["image"].tolist() == ["007", "three"]
    assert failed["reason"].str.contains("cannot be read as an image").all()
    noted = json.loads((tmp_path / "out" / "record.json").read_text())["failed"]
    assert [(entry["name"], entry["path"]) for entry in noted] == [(path.stem, str(path)) for path in paths[1:]]
    assert len(results) == 1
    tifffile.imwrite(paths[1], np.zeros((20, 20), np.uint8))
    events_of(batch(model, tmp_path / "out").run(paths[:2]))
    assert not (tmp_path / "out" / "failed.csv").exists()


def test_a_table_that_is_open_in_another_program(model, paths, tmp_path, monkeypatch):
    """All images are counted and the record is written, though a table can be replaced neither between images nor at the end."""
    monkeypatch.setattr(module, "_TABLES_EVERY", 0.0)
    monkeypatch.setattr(module, "_SHARE", 0)
    out, news = tmp_path / "out", []
    (out / "counts.csv").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(OSError, match=r"counts\.csv"):
        run_to_end(batch(model, out).run(paths), news.append)
    done = [event for event in news if isinstance(event, ImageDone)]
    assert [event.path for event in done] == paths
    assert all("counts.csv could not be written (" in event.remark for event in done)
    noted = json.loads((out / "record.json").read_text())["images"]
    assert [entry["name"] for entry in noted] == [path.stem for path in paths]
    assert not any("counts.csv" in remark for entry in noted for remark in entry["remarks"])
    (out / "counts.csv").rmdir()
    events_of(batch(model, out).run(paths))
    assert len(pd.read_csv(out / "counts.csv")) == 3


def test_a_folder_of_results_that_holds_other_things(model, paths, tmp_path):
    out = tmp_path / "out"
    kept = [out / ".my.partition" / "thesis.txt", out / ".download.part", out / ".thesis.abcdefgh.part.docx"]
    left = [
        out / ".counts.csv.abcdefgh.part.csv",
        out / "labels" / ".x.zarr.abcdefgh.part.zarr" / "0",
        out / "done" / ".x.json.abcdefgh.part.json",
    ]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    events_of(batch(model, out).run(paths[:1]))
    assert all(path.exists() for path in kept)
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["one.tif"]
    assert not any(path.exists() for path in left)


def test_two_runs_into_one_folder(model, paths, tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = psutil.Process(other.pid).create_time()
        out = tmp_path / "out"
        out.mkdir()
        (out / LOCK).write_text(json.dumps({"host": platform.node(), "pid": other.pid, "began": began}))
        with pytest.raises(ValueError, match=r"out: another run writes into this folder"):
            events_of(batch(model, out).run(paths))
        assert [path.name for path in out.iterdir()] == [LOCK]


def test_a_run_without_any_result_leaves_what_there_was(model, paths, tmp_path):
    out = tmp_path / "out"
    events_of(batch(model, out).run(paths[:1]))
    before = {name: (out / name).read_bytes() for name in ("counts.csv", "cells.csv", "record.json")}
    paths[1].write_bytes(b"torn")
    _, results = events_of(batch(model, out).run(paths[1:2]))
    assert not len(results)
    assert {name: (out / name).read_bytes() for name in before} == before
    assert pd.read_csv(out / "failed.csv", dtype=str)["image"].tolist() == ["007"]


def test_missing_chunks_are_told(model, tmp_path):
    group = zarr.open_group(tmp_path / "z.zarr", mode="w")
    array = group.create_array("0", shape=(64, 64), chunks=(32, 64), dtype="uint8")
    array[:32] = nine_discs()[:32]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    news, _ = events_of(batch(model, tmp_path / "out").run([tmp_path / "z.zarr"]))
    assert news[-1].remark.startswith("1 of the 2 chunks of the file are missing")
    (entry,) = json.loads((tmp_path / "out" / "record.json").read_text())["images"]
    assert news[-1].remark.startswith(entry["remarks"][0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_in_the_middle_and_run_again(paths, tmp_path):
    """A real process, killed at several moments; what is hidden and half-written goes away."""

    def start(out):
        how = ["--model", "nuclei", "--diameter", "20", "--tile", "64", "--device", "cpu"]
        run = [sys.executable, "-m", "napari_tally.cli", "predict", *how, "--out", str(out), *map(str, paths)]
        return subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "once").wait() == 0
    out = tmp_path / "out"
    for seen in ("done/one.json", "labels/.007.tif.*.part.tif"):
        process = start(out)
        while process.poll() is None and not list(out.glob(seen)):
            pass
        process.kill()
        process.wait()
        for csv in out.rglob("*.csv"):
            pd.read_csv(csv)  # whole
    assert start(out).wait() == 0
    assert_same_results(out, tmp_path / "once")


@pytest.fixture
def little_room(tmp_path):
    """A folder on a file system of its own, with room for 400 kB."""
    place = tmp_path / "little"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("file_format", ["tiff", "ome-zarr"])
def test_a_disk_that_is_full(little_room, model, tmp_path, capsys, file_format):
    """One sentence; what was counted before stays, and nothing half-written."""
    for n, side in enumerate((64, 1500)):
        tifffile.imwrite(tmp_path / f"{n}.tif", np.tile(nine_discs(), (side // 64, side // 64)))
    (little_room / "other").write_bytes(b"x" * 300_000)
    save_model(bright_is_cell(), tmp_path / "m.safetensors")
    out = little_room / "out"
    command = ["predict", "--model", str(tmp_path / "m.safetensors"), "--format", file_format, "--out", str(out)]
    assert main([*command, str(tmp_path / "0.tif")]) == 0
    kept = (out / "counts.csv").read_bytes()
    capsys.readouterr()
    assert main([*command, str(tmp_path / "0.tif"), str(tmp_path / "1.tif")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert (out / "counts.csv").read_bytes() == kept
    assert [path.stem for path in (out / "labels").iterdir()] == ["0"]
    assert [path.name for path in (out / "done").iterdir() if path.suffix == ".json"] == ["0.json"]


def test_a_folder_that_may_only_be_read(little_room, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "0.tif", nine_discs())
    subprocess.run(["mount", "-o", "remount,ro", str(little_room)], check=True)
    for out in (little_room, little_room / "new"):
        assert main(["predict", "--model", "nuclei", "--out", str(out), str(tmp_path / "0.tif")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "Read-only file system" in line


@pytest.mark.parametrize("change", ["file", "threshold", "labels gone", "note torn", "anew"])
def test_what_has_changed_is_counted_again(model, paths, tmp_path, change):
    out = tmp_path / "out"
    events_of(batch(model, out).run(paths[:1]))
    again = batch(model, out, anew=change == "anew")
    if change == "file":
        tifffile.imwrite(paths[0], np.zeros((40, 40), np.uint8))
    elif change == "threshold":
        again = replace(again, counting=CountingSettings(min_area=100))
    elif change == "labels gone":
        (out / "labels" / "one.tif").unlink()
    elif change == "note torn":
        note = out / "done" / "one.json"
        note.write_text(note.read_text()[:100])
    news, _ = events_of(again.run(paths[:1]))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [False]


def test_another_image_of_the_same_name_size_and_time_is_counted_anew_and_a_moved_folder_is_not(model, paths, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    events_of(batch(model, out).run(paths[:1]))
    moved = elsewhere / paths[0].name
    shutil.move(paths[0], moved)  # as it was
    news, _ = events_of(batch(model, out).run([moved]))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [True]
    assert read_record(out).content["images"][0]["path"] == str(moved)
    state = moved.stat()
    pixels = tifffile.imread(moved)
    tifffile.imwrite(paths[0], pixels[::-1].copy(), tile=(16, 16), resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    os.utime(paths[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert paths[0].stat().st_size == state.st_size
    news, _ = events_of(batch(model, out).run(paths[:1]))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [False]


def test_a_bad_file_is_passed_over(model, paths, tmp_path):
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    news, results = events_of(batch(model, tmp_path / "out").run(paths))
    (passed,) = (event for event in news if isinstance(event, PassedOver))
    assert passed.path == paths[1]
    assert "007" in passed.reason
    assert len(results) == 2
    assert not (tmp_path / "out" / "labels" / "007.tif").exists()


@pytest.mark.parametrize("file_format", ["tiff", "ome-zarr"])
def test_images_that_stay_in_their_files_give_the_same(model, paths, tmp_path, monkeypatch, file_format):
    events_of(batch(model, tmp_path / "memory").run(paths[:1]))
    monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)
    events_of(batch(model, tmp_path / "lazy", format=file_format).run(paths[:1]))
    if file_format == "tiff":
        found = read_labels(tmp_path / "lazy" / "labels" / "one.tif")
    else:
        stored = read_image(tmp_path / "lazy" / "labels" / "one.zarr")
        assert stored.pixel_size == (0.5, 0.5)
        found = stored.loaded().planes[0, 0]
    np.testing.assert_array_equal(found, read_labels(tmp_path / "memory" / "labels" / "one.tif"))
    memory, lazy = (pd.read_csv(tmp_path / name / "cells.csv") for name in ("memory", "lazy"))
    pd.testing.assert_frame_equal(memory[lazy.columns], lazy)
    assert sorted(p.name for p in (tmp_path / "lazy" / "labels").iterdir()) == ["one.tif" if file_format == "tiff" else "one.zarr"]


def test_a_file_in_place_of_the_folder(model, paths, tmp_path):
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(ValueError, match="out is a file; a folder for the results is wanted"):
        events_of(batch(model, tmp_path / "out").run(paths))


def test_an_image_that_is_gone_meanwhile(model, paths, tmp_path):
    shutil.move(paths[2], tmp_path / "elsewhere.tif")
    news, _ = events_of(batch(model, tmp_path / "out").run(paths))
    assert [event.path for event in news if isinstance(event, PassedOver)] == [paths[2]]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("file_format", ["tiff", "ome-zarr"])
def test_an_image_without_cells_counts_zero_and_the_batch_goes_on(model, paths, tmp_path, monkeypatch, file_format, lazy):
    tifffile.imwrite(paths[0], np.zeros((64, 64), np.uint16))
    if lazy:
        monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)
    _, results = events_of(batch(model, tmp_path / "out", format=file_format).run(paths[:2]))
    counts = results.tables()["counts"]["count"]
    assert counts.iloc[0] == 0
    assert counts.iloc[1] > 3


def test_the_note_of_another_run_does_not_vouch_for_labels_that_were_replaced(model, paths, tmp_path, monkeypatch):
    """The process ends between the labels and the note: what an earlier run noted must not be believed any more."""
    first, other = batch(model, tmp_path / "out"), replace(batch(model, tmp_path / "out"), counting=CountingSettings(min_area=400))
    events_of(first.run(paths[:1]))
    monkeypatch.setattr(notes, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        events_of(other.run(paths[:1]))
    monkeypatch.undo()
    news, _ = events_of(first.run(paths[:1]))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [False]


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_an_image_whose_name_is_as_long_as_can_be(tmp_path, form):
    """What is written of it has longer endings; two such images do not meet, and are known again."""
    model, paths = bright_is_cell(), [tmp_path / "in" / f"{'a' * 250}{end}.tif" for end in "bc"]
    paths[0].parent.mkdir()
    for path in paths:
        tifffile.imwrite(path, nine_discs())
    work = replace(batch(model, tmp_path / "out", format=form), settings=PredictionSettings(device="cpu"))
    news, _ = events_of(work.run(paths))
    assert [event.counts["count"].item() for event in news if isinstance(event, ImageDone)] == [9, 9]
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2
    news, _ = events_of(work.run(paths))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [True, True]


def test_no_count_without_its_labels(model, paths, tmp_path, monkeypatch):
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(module, "writing_labels", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):
        events_of(batch(model, tmp_path / "out").run(paths))
    assert not (tmp_path / "out" / "counts.csv").exists()


@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzw", None])
def test_a_large_file_that_is_cut_off_is_passed_over(model, paths, tmp_path, monkeypatch, compression):
    tifffile.imwrite(
        paths[0], np.random.default_rng(0).integers(0, 999, (200, 200)).astype(np.uint16), tile=(32, 32), compression=compression
    )
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[: len(whole) * 6 // 10])
    monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)
    news, results = events_of(batch(model, tmp_path / "out").run(paths[:2]))
    (passed,) = (event for event in news if isinstance(event, PassedOver))
    assert "one" in passed.reason
    assert len(results) == 1
    assert not list((tmp_path / "out" / "labels").glob("*.part"))


def test_an_ome_zarr_that_was_changed_inside_is_counted_anew(model, paths, tmp_path):
    picture = tifffile.imread(paths[0])
    group = zarr.open_group(tmp_path / "in" / "z.zarr", mode="w")
    array = group.create_array("0", shape=picture.shape, chunks=(64, 64), dtype=picture.dtype)
    array[:] = picture
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    out = batch(model, tmp_path / "out")
    _, before = events_of(out.run([tmp_path / "in" / "z.zarr"]))
    array[:] = 0
    _, after = events_of(out.run([tmp_path / "in" / "z.zarr"]))
    assert [results.tables()["counts"]["count"].iloc[0] > 0 for results in (before, after)] == [True, False]


def test_a_region_that_was_redrawn_is_counted_anew(model, paths, tmp_path):
    """Numpy prints the ends of a long outline only, so a change in its middle must not hide there."""
    turn = np.linspace(0, 2 * np.pi, 800)
    ring = np.stack([48 + 40 * np.sin(turn), 65 + 40 * np.cos(turn)], axis=1)
    dented = ring.copy()
    dented[300:500] = 48, 65
    areas = []
    for outline in (ring, dented):
        region = Region("inside", (outline,))
        work = replace(batch(model, tmp_path / "out"), regions=lambda path, region=region: [region])
        news, results = events_of(work.run(paths[:1]))
        assert not any(event.again for event in news if isinstance(event, ImageDone))
        areas.append(results.tables()["regions"]["area_px"].iloc[0])
    assert areas[1] < areas[0]


def discs_file(path, **how):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, nine_discs(), **how)
    return path


def discs_batch(out, **how):
    return replace(batch(bright_is_cell(), out), settings=PredictionSettings(device="cpu"), **how)


def take_out(place, *ids):
    """Correct labels as a user does: some cells go."""
    if place.suffix == ".zarr":
        array = zarr.open_group(place)["0"]
        array[:] = np.where(np.isin(array[:], ids), 0, array[:])
    else:
        write_labels(place, np.where(np.isin(read_labels(place), ids), 0, read_labels(place)))


OTHER = {
    "nothing": {},
    "rule": {"rules": RuleSettings(border="frame")},
    "region": {"regions": lambda path: [Region("left", (np.array([(-1.0, -1), (-1, 30), (65, 30), (65, -1)]),))]},
    "group": {"group": lambda path: "b"},
    "threshold": {"counting": CountingSettings(min_area=30)},
}


@pytest.mark.parametrize("file_format", ["tiff", "ome-zarr"])
@pytest.mark.parametrize("other", OTHER)
def test_labels_that_were_corrected_are_counted_as_they_are(tmp_path, other, file_format):
    """Whatever is asked anew of them: three of nine cells went, two of these at the upper border, where one is left."""
    image, out = discs_file(tmp_path / "in" / "a.tif"), tmp_path / "out"
    first = discs_batch(out, files=BatchSettings(format=file_format))
    events_of(first.run([image]))
    (place,) = (out / "labels").iterdir()
    take_out(place, 1, 2, 4)
    kept = read_labels(place)
    for again in (False, True):
        news, results = events_of(replace(first, **OTHER[other]).run([image]))
        np.testing.assert_array_equal(read_labels(place), kept)
        done = news[-1]
        assert done.again == again
        assert done.remark.startswith(
            f"The cells of labels/{place.name} were corrected by hand after they were predicted, so they are counted"
        )
        (row,) = results.tables()["counts"].to_dict("records")
        assert row["found"] == 6
        assert row["count"] == (5 if other == "rule" else 6)
        assert changed_labels(out) == []
        assert read_record(out).content["images"][0]["found"] == 6
    take_out(place, 3)
    news, results = events_of(replace(first, **OTHER[other]).run([image]))
    assert results.tables()["counts"]["found"].tolist() == [5]
    news, results = events_of(replace(first, files=BatchSettings(format=file_format, anew=True)).run([image]))
    assert results.tables()["counts"]["found"].tolist() == [9]
    assert read_labels(place).max() == 9
    assert not news[-1].remark


def test_corrected_labels_of_an_image_that_is_another_now_are_left_alone(tmp_path):
    image, out = discs_file(tmp_path / "in" / "a.tif"), tmp_path / "out"
    events_of(discs_batch(out).run([image]))
    take_out(out / "labels" / "a.tif", 1)
    kept = (out / "labels" / "a.tif").read_bytes()
    discs_file(image, resolution=(2e4, 2e4), resolutionunit="CENTIMETER")  # the same pixels
    news, _ = events_of(discs_batch(out).run([image]))
    assert news[-1].counts["found"].tolist() == [8]
    tifffile.imwrite(image, nine_discs()[::-1].copy())
    news, _ = events_of(discs_batch(out).run([image]))
    assert "a.tif was corrected by hand, and" in news[-1].reason
    assert "--anew" in news[-1].reason
    assert (out / "labels" / "a.tif").read_bytes() == kept
    (out / "labels" / "a.tif").write_bytes(b"torn")
    news, _ = events_of(discs_batch(out).run([image]))
    assert "delete them, or predict --anew" in news[-1].reason


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("other", ["rule", "region", "group"])
def test_other_rules_need_no_other_prediction_and_give_the_tables_of_one(tmp_path, monkeypatch, other, lazy):
    paths = [discs_file(tmp_path / "in" / "a.tif", resolution=(2e4, 2e4), resolutionunit="CENTIMETER"), tmp_path / "in" / "empty.tif"]
    tifffile.imwrite(paths[1], np.zeros((64, 64), np.uint8))
    if lazy:
        monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)
    events_of(discs_batch(tmp_path / "once", **OTHER[other]).run(paths))
    before = OTHER["region"] | {"group": lambda path: "a"} if other == "rule" else {"rules": RuleSettings(smallest=50)}
    events_of(discs_batch(tmp_path / "out", **before).run(paths))
    monkeypatch.setattr(module, "find_cells", None)
    news, _ = events_of(discs_batch(tmp_path / "out", **OTHER[other]).run(paths))
    assert [event.again for event in news if isinstance(event, ImageDone)] == [False, False]
    for name in ("cells", "counts", "regions", "groups"):
        files = [tmp_path / out / f"{name}.csv" for out in ("once", "out")]
        assert files[0].exists() == files[1].exists() == (name in ("cells", "counts") or other == name.removesuffix("s"))
        if files[0].exists():
            pd.testing.assert_frame_equal(*map(pd.read_csv, files))
    first, second = (json.loads((tmp_path / out / "record.json").read_text()) for out in ("once", "out"))
    assert first["images"] == second["images"]
    assert first["settings"] == second["settings"]


@pytest.mark.parametrize("anew", [False, True])
def test_a_second_run_that_is_broken_off_keeps_what_still_holds(tmp_path, anew):
    paths = [discs_file(tmp_path / "in" / f"{stem}.tif") for stem in "abcd"]
    out = tmp_path / "out"
    events_of(discs_batch(out).run(paths[:3]))
    paths[2].write_bytes(b"torn since")
    work = discs_batch(out, files=BatchSettings(anew=anew)).run(paths)
    next(event for event in work if isinstance(event, ImageDone))
    work.close()
    assert pd.read_csv(out / "counts.csv")["image"].tolist() == ["a", "b"]
    assert len(pd.read_csv(out / "cells.csv")) == 18
    assert [entry["name"] for entry in read_record(out).content["images"]] == ["a", "b"]
    work = discs_batch(out).run(paths[:2])
    next(work)
    work.close()  # before anything has come of it
    assert pd.read_csv(out / "counts.csv")["image"].tolist() == ["a", "b"]
