"""What belongs together in a folder of results: labels, tables and record, of `predict` as of `count`."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from test_cli import discs, one_line, run

import napari_tally as nt
from napari_tally.cli import _COMMANDS
from napari_tally.core import image_files
from napari_tally.core.images import is_lazy
from napari_tally.core.label_files import read_labels, write_labels
from napari_tally.widgets._session import SHIPPED

PAGE = "report.html"


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Images and labels: one pair."""
    image, cells = discs()
    for name, pixels in (("images", image), ("labels", cells.astype(np.uint16))):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", pixels)
    return tmp_path / "images", tmp_path / "labels"


@pytest.mark.parametrize("command", [module.__name__.rpartition(".")[2].replace("_image", "").replace("_", "-") for module in _COMMANDS])
def test_help_speaks_no_python(capsys, command):
    for step in (["draw"], ["more"], ["report"]) if command == "audit" else ([],):
        assert run(command, *step, "--help") == 0
        defaults = re.findall(r"\(default: ([^)]*)\)", " ".join(capsys.readouterr().out.split()))
        assert not {"True", "False", "None", ""} & set(defaults)
        assert not [text for text in defaults if re.search(r"[\[\]'{}]|==", text)]


def test_labels_of_another_run_in_the_folder_are_left_out(tmp_path, folders, capsys):
    images, _ = folders
    tifffile.imwrite(images / "b.tif", discs(radius=8)[0])
    out = tmp_path / "out"
    assert run("predict", "--model", "nuclei", "--out", out, images / "a.tif") == 0
    assert run("predict", "--model", "nuclei", "--seed-threshold", 0.5, "--out", out, images / "b.tif") == 0
    capsys.readouterr()
    assert run("export", out, "--format", "points") == 0
    assert "left out, for they are of another run than the tables and the record: 1 label images (a.tif)" in capsys.readouterr().out
    assert [path.name for path in (out / "points").iterdir()] == ["b.csv"]
    for number, place in enumerate((out, out / "labels")):
        study = tmp_path / f"study{number}"
        assert run("audit", "draw", "--labels", place, "--out", study, "--windows", 8, "--window", 20) == 0
        assert "(a.tif)" in capsys.readouterr().out
        assert set(pd.read_csv(study / "windows.csv")["image"]) == {"b"}
    (out / "labels" / "b.tif").unlink()
    assert run("export", out) == 2
    assert "these labels are gone" in one_line(capsys)


def test_labels_that_were_changed_by_hand_are_noticed(tmp_path, folders, capsys):
    out = tmp_path / "out"
    assert run("predict", "--model", "nuclei", "--out", out, folders[0]) == 0
    assert run("report", out) == 0
    assert "were changed after" not in capsys.readouterr().out + (out / PAGE).read_text(encoding="utf-8")
    path = out / "labels" / "a.tif"
    labels = tifffile.imread(path)
    tifffile.imwrite(path, np.where(labels == 1, 0, labels))
    assert run("report", out) == 0
    sentence = "The labels of a were changed after they were counted"
    assert sentence in capsys.readouterr().out
    assert sentence in (out / PAGE).read_text(encoding="utf-8")
    assert run("count", "--images", folders[0], "--labels", out / "labels", "--out", out) == 0
    assert run("report", out) == 0
    assert sentence not in (out / PAGE).read_text(encoding="utf-8")


def test_what_count_wrote_has_a_report_and_exports_but_no_replay(tmp_path, folders, capsys):
    images, labels = folders
    for name in ("b", "c"):
        tifffile.imwrite(images / f"{name}.tif", discs()[0])
    out = tmp_path / "out"
    assert run("count", "--images", images, "--labels", labels, "--out", out) == 0
    assert "2 of 3 images have no labels and are not counted: b, c." in capsys.readouterr().out
    assert run("report", out) == 0
    page = (out / PAGE).read_text(encoding="utf-8")
    assert "The cells of 1 image were counted from label images with napari-tally" in page
    assert "U-Net (" not in page
    assert "<img" in page
    assert run("export", out, "--format", "points") == 0
    assert (out / "points" / "a.csv").is_file()
    capsys.readouterr()
    assert run("replay", out) == 2
    assert "counted as they were, not predicted" in one_line(capsys)


def test_next_passes_over_a_broken_file(tmp_path, folders, capsys):
    images, _ = folders
    (images / "broken.tif").write_bytes(b"II*\0")
    assert run("next", "--model", "nuclei", images) == 2
    told = capsys.readouterr()
    assert told.out.startswith("1. a.tif: ")
    assert told.err.count("\n") == 1
    assert "passed over: " in told.err
    assert run("next", "--model", "nuclei", images / "broken.tif") == 2
    assert "broken.tif" in one_line(capsys)


def test_the_plan_takes_what_training_takes(folders, capsys):
    images, labels = folders
    more = ("--val-images", images, "--val-labels", labels, "--statistics", "experiment", "--split", "--start", "none")
    assert run("plan", "--images", images, "--labels", labels, *more) == 0
    out = capsys.readouterr().out
    assert "Held out:     1 image given; all others are trained on." in out
    assert "of all training images together" in out
    assert run("plan", "--images", images, "--labels", labels, "--val-images", images) == 2
    assert "belong together" in one_line(capsys)


def test_what_is_not_annotated_is_no_cell_in_the_copy_of_the_labels(tmp_path, capsys):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image, labels = nt.simulate_nuclei(seed=0)
    partly = np.where(np.arange(labels.shape[1]) < labels.shape[1] // 2, labels, -1).astype(np.int32)
    tifffile.imwrite(tmp_path / "images" / "a.tif", image)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", partly)
    assert run("count", "--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "out") == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "labels" / "a.tif"), np.maximum(partly, 0))
    assert run("report", tmp_path / "out") == 0
    assert "changed after they were counted" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_pixel_size_can_be_stated(tmp_path, folders):
    images, labels = folders
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path / "out", "--pixel-size", 0.5) == 0
    assert run("predict", "--model", "nuclei", "--out", tmp_path / "found", "--pixel-size", 0.5, images / "a.tif") == 0
    for out in (tmp_path / "out", tmp_path / "found"):
        counts = pd.read_csv(out / "counts.csv")
        np.testing.assert_allclose(counts["area_mm2"], counts["area_px"] * 0.25e-6)
        cells = pd.read_csv(out / "cells.csv")
        np.testing.assert_allclose(cells["area_um2"], cells["area_px"] / 4)
        assert json.loads((out / "record.json").read_text())["images"][0]["pixel_size"] == [0.5, 0.5]
    assert image_files.read_image(tmp_path / "found" / "labels" / "a.tif").pixel_size == pytest.approx((0.5, 0.5))


def test_count_and_report_of_an_image_that_stays_in_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "LAZY_BYTES", 1000)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image, labels = nt.simulate_nuclei(seed=0)
    tifffile.imwrite(tmp_path / "images" / "a.tif", image)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", labels.astype(np.uint16))
    assert is_lazy(image_files.read_image(tmp_path / "images" / "a.tif").planes)
    folders = "--images", tmp_path / "images", "--labels", tmp_path / "labels"
    assert run("count", *folders, "--out", tmp_path / "out") == 0
    assert run("report", tmp_path / "out") == 0
    assert run("audit", "draw", *folders, "--out", tmp_path / "audit", "--windows", 4) == 0


def test_nothing_is_written_over_what_was_read(tmp_path, folders, capsys):
    images, labels = folders
    drawn = read_labels(labels / "a.tif").astype(np.int32)
    drawn[:5] = -1
    tifffile.imwrite(labels / "a.tif", drawn)
    before = (labels / "a.tif").read_bytes()
    assert run("predict", "--model", "nuclei", "--out", tmp_path, labels) == 2
    assert "the labels would be written over the images. Choose another folder for the results." in one_line(capsys)
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path) == 2
    assert "these labels would be replaced by what counts of them. Choose another folder for --out." in one_line(capsys)
    assert (labels / "a.tif").read_bytes() == before
    model = tmp_path / "m.safetensors"
    model.write_bytes((SHIPPED[0]).read_bytes())
    for command in (("export-model", model, "--format", "onnx"), ("import-model", model), ("convert", model)):
        assert run(*command, "--out", model) == 2
        assert "is the file that is read; --out wants another name." in one_line(capsys)
    assert model.read_bytes() == SHIPPED[0].read_bytes()


def test_a_file_is_no_folder_for_results(tmp_path, folders, capsys):
    images, labels = folders
    (tmp_path / "out").touch()
    assert run("predict", "--model", "nuclei", "--out", tmp_path / "out", images) == 2
    assert "is a file; a folder for the results is wanted" in one_line(capsys)
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path / "out") == 2
    assert "is a file; a folder for the results is wanted" in one_line(capsys)


def test_a_mask_is_split_where_the_message_says_so(tmp_path, folders, capsys):
    images, labels = folders
    n = read_labels(labels / "a.tif").max()
    tifffile.imwrite(labels / "a.tif", (255 * (read_labels(labels / "a.tif") > 0)).astype(np.uint8))
    for command in (("count", "--images", images, "--labels", labels, "--out", tmp_path / "out"), ("export", labels, "--format", "points")):
        assert run(*command) == 2
        assert "--split on the command line" in one_line(capsys)
        assert run(*command, "--split") == 0
    assert len(pd.read_csv(tmp_path / "out" / "cells.csv")) == len(pd.read_csv(labels / "points" / "a.csv")) == n


def test_count_says_what_is_odd(tmp_path, folders, capsys):
    images, labels = folders
    three = np.isin(read_labels(labels / "a.tif"), (1, 2, 3))
    tifffile.imwrite(labels / "a.tif", 7 * three.astype(np.uint8))
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "Note: a.tif: 1 of 1 ids are in several pieces that do not touch. Split them (on the command line: --split)" in told
    assert "1 cell in 1 image." in told


def test_a_run_says_what_an_earlier_one_left_in_its_folder(tmp_path, folders, capsys):
    images, _ = folders
    tifffile.imwrite(images / "b.tif", discs(radius=8)[0])
    assert run("predict", "--model", "nuclei", "--out", tmp_path / "out", images) == 0
    assert "left out" not in capsys.readouterr().out
    assert run("predict", "--model", "phase", "--out", tmp_path / "out", images / "b.tif") == 0
    assert "left out, for they are of another run than the tables and the record: 1 label images (a.tif)" in capsys.readouterr().out


def test_labels_in_zarr_are_exported_as_tiff(tmp_path, folders):
    out = tmp_path / "out"
    assert run("predict", "--model", "nuclei", "--format", "ome-zarr", "--out", out, folders[0]) == 0
    assert run("export", out, "--format", "labels") == 0
    np.testing.assert_array_equal(read_labels(out / "labels" / "a.tif"), read_labels(out / "labels" / "a.zarr").reshape(96, 96))


@pytest.mark.parametrize(("axes", "points"), [("ZYX", 2), ("TYX", 8), (None, 2)])
def test_points_of_volumes_are_one_a_cell_and_of_time_one_a_frame(tmp_path, axes, points):
    """A label file has no axes; the image that the record names has."""
    labels = np.zeros((4, 30, 40), np.uint8)
    labels[:, 5:12, 5:12], labels[:, 20:27, 20:27] = 1, 2
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", labels, photometric="minisblack", imagej=bool(axes), metadata=axes and {"axes": axes})
    write_labels(tmp_path / "labels" / "a.tif", labels)
    out = tmp_path / "out"
    assert run("count", "--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", out) == 0
    assert len((out / "cells.csv").read_text().splitlines()) - 1 == points
    assert run("export", out, "--format", "points") == 0
    assert len((out / "points" / "a.csv").read_text().splitlines()) - 1 == points
