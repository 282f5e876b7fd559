"""The command line: the main job, and every bad input with its one line."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from models import bright_is_cell_in_3d
from pictures import balls
from PIL import Image as Pillow
from safetensors.torch import save_file

import napari_tally as nt
from napari_tally.cli import main
from napari_tally.core import model_file as model_files
from napari_tally.core.model_file import find_model, header_of, load_model


def discs(shape=(96, 96), centres=((20, 20), (20, 60), (60, 24), (68, 70)), radius=9):
    """Draw bright discs on a dark, slightly uneven background: (image uint16, labels int32)."""
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for i, (cy, cx) in enumerate(centres, start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = i
    noise = np.random.default_rng(0).normal(0, 20, shape)
    return (200 + 3000 * (labels > 0) + noise).astype(np.uint16), labels


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """A model that was trained a little, on one grey channel."""
    path = tmp_path_factory.mktemp("model") / "discs.safetensors"
    nt.save_model(nt.train([discs()], start=None, steps=40, patch=64), path)
    return path


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Two folders with one pair."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    image, cells = discs()
    tifffile.imwrite(images / "a.tif", image)
    tifffile.imwrite(labels / "a.tif", cells.astype(np.uint16))
    return images, labels


def run(*arguments) -> int:
    """Call the command line as a shell would."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def train(images, labels, out, *more) -> int:
    return run("train", "--images", images, "--labels", labels, "--out", out, "--steps", 2, "--patch", 32, *more)


def one_line(capsys) -> str:
    """Give the single line on the error stream."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_train_predict_evaluate_info(tmp_path, folders, capsys):
    images, labels = folders
    model, out = tmp_path / "sub" / "model.safetensors", tmp_path / "out"
    assert train(images, labels, model) == 0
    assert run("predict", "--model", model, "--out", out, images) == 0
    assert tifffile.imread(out / "labels" / "a.tif").shape == (96, 96)
    with (out / "counts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:2] == ["image", "count"]
    assert rows[0]["image"] == "a"
    assert int(rows[0]["count"]) == len(np.unique(tifffile.imread(out / "labels" / "a.tif"))) - 1
    assert (out / "cells.csv").read_text().startswith("image,plane,label,y,x,y_um,x_um,area_px,area_um2,perimeter_px")
    capsys.readouterr()
    assert run("evaluate", "--predicted", labels, "--truth", labels, "--json", tmp_path / "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [m["ap"] for m in scores["matching"]] == [1.0] * 5
    assert (scores["true_count"], scores["predicted_count"], scores["mae"], scores["bias"]) == (4, 4, 0, 0)
    assert "Counted 4 cells, true 4 (+0.0 %)" in capsys.readouterr().out
    assert run("info", model) == 0
    shown = capsys.readouterr().out
    assert "2 steps" in shown
    said = " ".join(shown.partition("How its training was planned:")[2].split())
    assert all(" ".join(line.split()) in said for line in find_model(model).record["plan"])


def test_the_start_and_the_trained_model_stand_side_by_side(tmp_path, capsys):
    folders = tmp_path / "images", tmp_path / "labels"
    for folder in folders:
        folder.mkdir()
    for seed in range(4):
        for folder, pixels in zip(folders, nt.simulate_nuclei(seed=seed, n=12), strict=True):
            tifffile.imwrite(folder / f"{seed}.tif", pixels.astype(np.uint16))
    assert train(*folders, tmp_path / "m.safetensors", "--steps", 10, "--patch", 64, "--start", "nuclei") == 0
    out = capsys.readouterr().out
    assert "Starts from nuclei; takes 10 steps" in out
    table = out[out.index("On cells that neither has seen") :].splitlines()
    assert [line[:36].strip() for line in table[1:7]] == [
        "Agreement F1",
        "Average precision",
        "Counted, of 48",
        "Cells broken",
        "Cells merged",
        "Cells missed",
    ]
    assert "48 held-out cells" in table[7]
    assert nt.load_model(tmp_path / "m.safetensors").record["start"] == "nuclei"


def test_the_plan_is_said_without_training(folders, capsys):
    assert run("plan", "--images", folders[0], "--labels", folders[1], "--start", "none", "--minutes", 1) == 0
    out = capsys.readouterr().out
    assert "Images:       1 image, two-dimensional, 4 cells drawn." in out
    assert "Held out:" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_going_on_from_a_model(tmp_path, folders, model_file):
    assert train(*folders, tmp_path / "on.safetensors", "--start", model_file) == 0
    assert nt.load_model(tmp_path / "on.safetensors").record["start"] == nt.load_model(model_file).record["trained"]


@pytest.mark.parametrize("shipped", [False, True])
def test_window_command_and_python_agree_to_the_pixel(tmp_path, folders, model_file, shipped):
    """The window's side of this is in tests/widgets/test_predict.py, against the same API."""
    model = "nuclei" if shipped else model_file
    assert run("predict", "--model", model, "--out", tmp_path / "out", "--tile", 32, "--seed-threshold", 0.2, folders[0] / "a.tif") == 0
    loaded = find_model(model)
    by_api = nt.predict(nt.read_image(folders[0] / "a.tif"), loaded, replace(loaded.counting, seed_threshold=0.2)).labels
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "labels" / "a.tif"), by_api)
    assert by_api.max() > 0


def test_chosen_channels_from_the_plan_to_the_replay(tmp_path, folders, capsys):
    images, labels = folders
    grey, cells = discs()
    noise = np.random.default_rng(1).integers(0, 3000, (2, *grey.shape)).astype(np.uint16)
    tifffile.imwrite(images / "a.tif", np.stack([*noise, grey]), imagej=True, metadata={"axes": "CYX"})
    assert run("plan", "--images", images, "--labels", labels, "--channels", "3, 1", "--start", "none") == 0
    assert "Channels:     Channels 3 and 1 of 3, in this order." in capsys.readouterr().out
    for wish, says in (
        ("4", "Channel 4 is asked for and a has 3 channels"),
        ("1 1", "Channel 1 is named twice"),
        ("one", "is 'one'; numbers"),
    ):
        assert train(images, labels, tmp_path / "m.safetensors", "--channels", wish) == 2
        assert says in one_line(capsys)
    assert train(images, labels, tmp_path / "m.safetensors", "--channels", "3", "--start", "nuclei", "--patch", 64) == 0
    assert run("predict", "--model", tmp_path / "m.safetensors", "--out", tmp_path / "out", images) == 0
    found = tifffile.imread(tmp_path / "out" / "labels" / "a.tif")
    model = find_model(tmp_path / "m.safetensors")
    assert found.max() > 0
    np.testing.assert_array_equal(found, nt.predict(grey, model).labels)  # an image of one channel is taken as it is
    assert "mean_intensity_2" in (tmp_path / "out" / "cells.csv").read_text()  # measured are all channels
    capsys.readouterr()
    assert run("info", tmp_path / "m.safetensors") == 0
    assert "channel 3 of 3" in capsys.readouterr().out
    assert run("replay", tmp_path / "out") == 0
    assert train(images, labels, tmp_path / "on.safetensors", "--start", tmp_path / "m.safetensors") == 0
    assert find_model(tmp_path / "on.safetensors").channels == model.channels


def test_demo_on_simulated_images(tmp_path, capsys):
    assert run("demo", "--out", tmp_path, "--minutes", 0.05) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "labels", "counts.csv", "cells.csv", "overlay.png"} <= written
    with Pillow.open(tmp_path / "overlay.png") as sheet:
        assert sheet.width > 400
    assert "Counted" in capsys.readouterr().out


def test_a_mask_with_one_id_is_refused_and_split_on_request(tmp_path, folders, capsys):
    tifffile.imwrite(folders[1] / "a.tif", (255 * (discs()[1] > 0)).astype(np.uint8))
    assert train(*folders, tmp_path / "m.safetensors") == 2
    assert "all 4 separate objects have the same id 255" in one_line(capsys)
    assert train(*folders, tmp_path / "m.safetensors", "--split") == 0
    assert "with 4 cells" in capsys.readouterr().out


def test_an_interrupt_before_the_first_step_leaves_a_model_alone(tmp_path, folders, model_file, monkeypatch):
    keep = tmp_path / "keep.safetensors"
    keep.write_bytes(model_file.read_bytes())

    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("napari_tally.core.train.train", interrupted)
    assert train(*folders, keep) == 130
    assert keep.read_bytes() == model_file.read_bytes()


def test_an_interrupt_leaves_the_model_that_was_there(tmp_path, folders, model_file, monkeypatch, capsys):
    keep = tmp_path / "keep.safetensors"
    keep.write_bytes(model_file.read_bytes())
    interrupted_after(monkeypatch, 2)
    assert train(*folders, keep, "--steps", 4, "--start", "none") == 130
    assert keep.read_bytes() == model_file.read_bytes()
    assert "keep.interrupted.safetensors" in capsys.readouterr().out
    assert load_model(tmp_path / "keep.interrupted.safetensors").record["steps"] == 2


def interrupted_after(monkeypatch, step):
    """Let training be interrupted after a checkpoint at this step."""
    from napari_tally.core import checkpoint, train

    real = train.train

    def broken_off(*args, **kwargs):
        for event in real(*args, **kwargs | {"checkpoint_seconds": 1e-9}):
            yield event
            if isinstance(event, checkpoint.Checkpoint) and event.step == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", broken_off)


def test_an_interrupted_training_goes_on_to_the_same_model(tmp_path, folders, monkeypatch, capsys):
    whole, model = tmp_path / "whole.safetensors", tmp_path / "m.safetensors"
    wishes = "--steps", 8, "--start", "none"
    assert train(*folders, whole, *wishes) == 0
    interrupted_after(monkeypatch, 5)
    assert train(*folders, model, *wishes) == 130
    monkeypatch.undo()
    assert "the model as it was then is in" in (shown := capsys.readouterr().out)
    assert shown.rstrip().endswith("To go on: --resume")
    assert {p.name for p in tmp_path.glob("m.*")} == {"m.safetensors", "m.safetensors.unfinished"}
    tifffile.imwrite(folders[0] / "b.tif", discs()[0])
    tifffile.imwrite(folders[1] / "b.tif", discs()[1])
    assert train(*folders, model, "--resume") == 2
    assert "The images or labels are not those with which this training began" in one_line(capsys)
    for folder in folders:
        (folder / "b.tif").unlink()
    assert train(*folders, model, "--resume") == 0
    assert "Goes on after step 5, at 62%" in capsys.readouterr().out
    one, other = nt.load_model(whole), nt.load_model(model)
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert (other.record["steps"], other.record["resumed"]) == (8, [5])
    assert not (tmp_path / "m.safetensors.unfinished").exists()
    assert train(*folders, model, "--resume") == 2
    assert "there is no unfinished training" in one_line(capsys)


def test_a_new_training_says_that_another_was_interrupted(tmp_path, folders, monkeypatch, capsys):
    interrupted_after(monkeypatch, 1)
    assert train(*folders, tmp_path / "m.safetensors") == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert train(*folders, tmp_path / "m.safetensors") == 0
    assert "m.safetensors.unfinished holds an interrupted training" in capsys.readouterr().out


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_training(tmp_path, folders, monkeypatch, capsys):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("napari_tally.core.checkpoint.save_checkpoint", full)
    assert train(*folders, tmp_path / "m.safetensors") == 0
    assert capsys.readouterr().out.count("no space left on device If the training is interrupted now") == 1


def test_what_was_learned_is_saved_elsewhere_where_the_disk_is_full_at_the_end(tmp_path, folders, monkeypatch, capsys):
    monkeypatch.setenv("NAPARI_TALLY_STATE", str(tmp_path / "state"))
    write = model_files.save_file

    def full(tensors, path, metadata):
        if path.parent == tmp_path:
            raise OSError("no space left on device")
        write(tensors, path, metadata)

    monkeypatch.setattr(model_files, "save_file", full)
    assert train(*folders, tmp_path / "m.safetensors") == 2
    (kept,) = (tmp_path / "state" / "models").iterdir()
    assert f"no space left on device; make room there or choose another place. Until then the model is in {kept}" in capsys.readouterr().err
    assert nt.load_model(kept).record["steps"] == 2


def test_validation_images_of_other_channels(tmp_path, folders, capsys):
    for folder, pixels in (
        ("i", np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)),
        ("l", discs()[1][:40, :40].astype(np.uint8)),
    ):
        (tmp_path / folder).mkdir()
        Pillow.fromarray(pixels).save(tmp_path / folder / "v.png")
    assert (
        train(*folders, tmp_path / "m.safetensors", "--val-images", tmp_path / "i", "--val-labels", tmp_path / "l", "--start", "none") == 2
    )
    assert "v has 3 channels (RGB colour), but this model was trained on images with 1 channel" in one_line(capsys)


def test_evaluate_wants_ids(tmp_path, folders, capsys):
    tifffile.imwrite(folders[0] / "a.tif", np.random.default_rng(0).random((96, 96)).astype(np.float32))
    assert run("evaluate", "--predicted", folders[0], "--truth", folders[1]) == 2
    assert "are no label image" in one_line(capsys)


def test_the_process_says_one_line_and_no_traceback(tmp_path, model_file):
    """In a process of its own: what decoders log or warn of would show there."""
    tifffile.imwrite(tmp_path / "cut.tif", discs()[0], compression="zlib")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "cut.tif").read_bytes()[:-2000])
    command = [sys.executable, "-m", "napari_tally.cli", "predict", "--model", model_file, "--out", tmp_path / "out", tmp_path / "cut.tif"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "cut.tif: the file cannot be read as an image" in ended.stderr


# ------------------------------------------------------------------ bad input: exit code 2 and one line


def test_empty_folder(tmp_path, folders, capsys):
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "empty", folders[1], tmp_path / "m.safetensors") == 2
    assert "there is no image in this folder" in one_line(capsys)


def test_absent_folder(tmp_path, folders, capsys):
    assert train(tmp_path / "nowhere", folders[1], tmp_path / "m.safetensors") == 2
    assert "there is no such folder" in one_line(capsys)


def test_unpaired_stems(tmp_path, folders, capsys):
    tifffile.imwrite(folders[0] / "b.tif", discs()[0])
    assert train(*folders, tmp_path / "m.safetensors") == 2
    assert "1 of 2 files" in (line := one_line(capsys))
    assert "have no partner of the same stem" in line
    assert line.rstrip().endswith("a.tif.")


def test_corrupt_tiff(tmp_path, model_file, capsys):
    (tmp_path / "bad.tif").write_bytes(b"II*\0 this is no TIFF")
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", tmp_path / "bad.tif") == 2
    assert "bad.tif: the file cannot be read as an image" in one_line(capsys)


def test_one_bad_file_of_two_is_passed_over(tmp_path, folders, model_file, capsys):
    (folders[0] / "bad.tif").write_bytes(b"II*\0 this is no TIFF")
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", folders[0]) == 2
    shown = capsys.readouterr()
    assert "passed over" in shown.err
    assert "1 of 2 images could not be predicted" in shown.err
    assert (tmp_path / "out" / "labels" / "a.tif").exists()
    assert (tmp_path / "out" / "counts.csv").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("name", "pixels", "labels_shape"),
    [
        ("grey_as_rgb.png", np.repeat(discs()[0][..., None] // 16, 3, axis=2).astype(np.uint8), (96, 96)),
        ("grey_as_rgba.png", np.dstack([discs()[0] // 16] * 3 + [np.full((96, 96), 255)]).astype(np.uint8), (96, 96)),
        ("pages.tif", np.stack([discs()[0]] * 3), (3, 96, 96)),
        ("float.tif", discs()[0].astype(np.float32) / 1000, (96, 96)),
        ("uint32.tif", discs()[0].astype(np.uint32) * 70000, (96, 96)),
        ("tiny.tif", np.full((1, 1), 7, np.uint16), (1, 1)),
        ("narrow.tif", discs()[0][:17, :3], (17, 3)),
        ("constant.tif", np.full((40, 50), 1234, np.uint16), (40, 50)),
    ],
)
def test_odd_images_are_predicted(tmp_path, model_file, name, pixels, labels_shape):
    path = tmp_path / name
    Pillow.fromarray(pixels).save(path) if name.endswith("png") else tifffile.imwrite(path, pixels, photometric="minisblack")
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", path) == 0
    labels = tifffile.imread(tmp_path / "out" / "labels" / f"{path.stem}.tif")
    assert labels.shape == labels_shape
    if name == "constant.tif":
        assert labels.max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, model_file, capsys, value):
    image = discs()[0].astype(np.float32)
    image[3, :2] = value
    tifffile.imwrite(tmp_path / "gaps.tif", image)
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", tmp_path / "gaps.tif") == 2
    assert "gaps: 2 of 9216 values are not finite" in one_line(capsys)


def test_colour_image_for_a_grey_model(tmp_path, model_file, capsys):
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "stain.png")
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", tmp_path / "stain.png") == 2
    assert "stain has 3 channels (RGB colour), but this model was trained on images with 1 channel" in one_line(capsys)


def test_training_on_other_channels_than_the_start_adapts_it(tmp_path, model_file, capsys):
    colours = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    for folder, pixels in (("i", colours), ("l", discs()[1][:40, :40].astype(np.uint8))):
        (tmp_path / folder).mkdir()
        Pillow.fromarray(pixels).save(tmp_path / folder / "a.png")
    assert train(tmp_path / "i", tmp_path / "l", tmp_path / "m.safetensors", "--start", model_file) == 0
    assert "The start model knows 1 channel(s); its first layer is adapted to 3." in capsys.readouterr().out
    assert run("predict", "--model", tmp_path / "m.safetensors", "--out", tmp_path / "out", tmp_path / "i") == 0


def test_labels_of_another_shape(tmp_path, folders, capsys):
    tifffile.imwrite(folders[1] / "a.tif", discs()[1][:50].astype(np.uint16))
    assert train(*folders, tmp_path / "m.safetensors") == 2
    assert "a: the labels have the shape (50, 96) and the image has (96, 96)" in one_line(capsys)


def test_no_labels(tmp_path, folders, capsys):
    tifffile.imwrite(folders[1] / "a.tif", np.zeros((96, 96), np.uint16))
    assert train(*folders, tmp_path / "m.safetensors") == 2
    assert "No cell is drawn in 1 image(s)" in one_line(capsys)


def test_an_image_without_cells_beside_one_with_cells_is_fine(tmp_path, folders):
    tifffile.imwrite(folders[0] / "b.tif", np.random.default_rng(0).normal(200, 20, (64, 64)).astype(np.uint16))
    tifffile.imwrite(folders[1] / "b.tif", np.zeros((64, 64), np.uint16))
    assert train(*folders, tmp_path / "m.safetensors") == 0


def test_output_that_cannot_be_written(tmp_path, folders, model_file, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run("predict", "--model", model_file, "--out", tmp_path / "file", folders[0]) == 2
    assert "file" in one_line(capsys)
    assert train(*folders, tmp_path / "file" / "m.safetensors") == 2
    assert "file" in one_line(capsys)
    assert train(*folders, tmp_path) == 2
    assert "is a folder; --out wants a file name" in one_line(capsys)


def test_not_a_model_file(tmp_path, folders, capsys):
    (tmp_path / "m.safetensors").write_bytes(b"something else")
    assert run("predict", "--model", tmp_path / "m.safetensors", "--out", tmp_path / "out", folders[0]) == 2
    assert "this is not a model file of napari-tally" in one_line(capsys)
    assert run("info", "no_such_name") == 2
    assert "no shipped model of that name" in one_line(capsys)


def doctored(path, model, **record):
    """Write a model whose record was changed by hand."""
    tensors = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(tensors, path, metadata={"napari_tally": json.dumps(header_of(model) | {"record": model.record | record})})
    return path


@pytest.mark.parametrize(
    "record", [{"images": 3}, {"images": [[]]}, {"plan": [1]}, {"versions": []}, {"versions": {"torch": []}}, {"steps": {}}]
)
def test_info_of_a_record_of_wrong_types(tmp_path, model_file, capsys, record):
    assert run("info", doctored(tmp_path / "m.safetensors", find_model(model_file), **record)) == 2
    assert "the header of the model file is damaged (the record says" in one_line(capsys)


def test_info_shows_texts_of_a_foreign_file_as_one_line_each(tmp_path, model_file, capsys):
    odd = {
        "name": "x",
        "plan": ["no topic\n", "Time:\x1b[2Jone\r: " + "word " * 99, "", "z" * 300],
        "images": ["two\nlines \x1b[31mred \ud800"],
        "versions": {"torch\n": "1\r"},
    }
    assert run("info", doctored(tmp_path / "m.safetensors", find_model(model_file), **odd)) == 0
    shown = capsys.readouterr().out
    assert "on two lines  [31mred   with" in shown
    assert "\x1b" not in shown
    assert all(line[18:19].strip() for line in shown.splitlines())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--minutes", "-1", "Minutes (minutes) is -1.0; it must lie between"),
        ("--device", "abacus", "invalid choice"),
        ("--border-width", "nan", "must lie between"),
    ],
)
def test_settings_out_of_range(tmp_path, folders, capsys, option, value, says):
    assert train(*folders, tmp_path / "m.safetensors", option, value) == 2
    assert says in one_line(capsys)


def test_two_images_of_one_stem(tmp_path, folders, model_file, capsys):
    (tmp_path / "more").mkdir()
    tifffile.imwrite(tmp_path / "more" / "a.tif", discs()[0])
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", folders[0], tmp_path / "more") == 2
    assert "have the same stem" in one_line(capsys)


def test_count_by_rules_regions_and_groups(tmp_path, folders, capsys):
    images, labels = folders
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path / "out") == 0
    assert "4 cells in 1 image." in capsys.readouterr().out
    corner = {"type": "Polygon", "coordinates": [[[0, 0], [48, 0], [48, 48], [0, 48], [0, 0]]]}
    (tmp_path / "corner.geojson").write_text(json.dumps({"type": "Feature", "geometry": corner, "properties": {"name": "corner"}}))
    more = ("--regions", tmp_path / "corner.geojson", "--groups", "folder", "--smallest", 250, "--border", "frame")
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path / "out", *more) == 0
    assert "Rule: unbiased frame" in capsys.readouterr().out
    with (tmp_path / "out" / "regions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["region"], row["count"]) for row in rows] == [("images", "corner", "1"), ("images", "outside", "3")]
    assert (tmp_path / "out" / "groups.csv").read_text().startswith("group,images,count")
    assert run("count", "--images", images, "--labels", labels, "--out", tmp_path / "out", "--regions", tmp_path / "none") == 2
    assert "there is no such file or folder of regions" in one_line(capsys)


def test_predict_counts_by_the_same_rules(tmp_path, folders, model_file):
    images, _ = folders
    out = tmp_path / "out"
    assert run("predict", "--model", model_file, "--out", out, "--smallest", 200, "--groups", "folder", images) == 0
    assert (
        run("count", "--images", images, "--labels", out / "labels", "--out", tmp_path / "again", "--smallest", 200, "--groups", "folder")
        == 0
    )
    for name in ("cells.csv", "counts.csv", "groups.csv"):
        assert (tmp_path / "again" / name).read_text() == (out / name).read_text()


def test_replay_says_whether_it_is_the_same(tmp_path, folders, model_file, capsys):
    images, _ = folders
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", "--seed-threshold", 0.2, images) == 0
    capsys.readouterr()
    assert run("replay", tmp_path / "out") == 0
    assert capsys.readouterr().out == "a: the same labels, to the pixel.\nAll labels are those of the record.\n"
    tifffile.imwrite(images / "a.tif", discs(radius=6)[0])
    assert run("replay", tmp_path / "out" / "record.json") == 1
    out = capsys.readouterr().out
    assert "a: NOT the same." in out
    assert "Why: the pixels of a.tif are others than at the time" in out


def test_what_keeps_an_image_from_being_compared_is_said(tmp_path, folders, model_file, capsys):
    images, _ = folders
    out = tmp_path / "out"
    assert run("predict", "--model", model_file, "--out", out, "--seed-threshold", 0.2, images) == 0
    tifffile.imwrite(out / "labels" / "a.tif", np.zeros((96, 96), np.uint16))
    capsys.readouterr()
    assert run("replay", out) == 0
    assert "a: the same labels, to the pixel; yet a.tif in the folder was changed since." in capsys.readouterr().out
    assert run("replay", out, "--model", "nuclei") == 1
    assert "the model nuclei is another one than " in capsys.readouterr().out
    (images / "a.tif").unlink()
    assert run("replay", out) == 1
    assert "a: could not be compared.\n  Why: the image is no longer at" in capsys.readouterr().out


def test_export_for_other_programs(tmp_path, folders, capsys):
    out = folders[0].parent
    assert run("export", out, "--format", "imagej", "geojson", "labels") == 0
    assert "imagej: " in capsys.readouterr().out
    assert (out / "imagej" / "a.zip").is_file()
    assert len(json.loads((out / "geojson" / "a.geojson").read_text())["features"]) == 4
    assert run("export", out / "labels", "--format", "points", "--out", tmp_path / "elsewhere") == 0
    assert len((tmp_path / "elsewhere" / "points" / "a.csv").read_text().splitlines()) == 5
    assert run("export", tmp_path / "none") == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_next_passes_over_what_is_annotated(tmp_path, folders, model_file, capsys):
    images, _ = folders
    tifffile.imwrite(images / "b.tif", discs(radius=5)[0])
    assert run("next", "--model", model_file, images) == 0
    out = capsys.readouterr().out
    assert "Passed over, for they are annotated already: 1." in out
    assert "1. b.tif: " in out
    assert run("next", "--model", model_file, images / "a.tif") == 2
    assert "All of these images are annotated already" in one_line(capsys)


def test_report_of_a_folder(tmp_path, folders, model_file, capsys):
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", folders[0]) == 0
    capsys.readouterr()
    assert run("report", tmp_path / "out", "--title", "Discs & more") == 0
    assert capsys.readouterr().out == f"The report is in {tmp_path / 'out' / 'report.html'}.\n"
    assert "<h1>Discs &amp; more</h1>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert run("report", tmp_path) == 2
    assert "there are no results in this folder" in one_line(capsys)


def test_a_report_carries_the_interval_of_the_audit(tmp_path, folders, model_file, capsys):
    images, _ = folders
    assert run("predict", "--model", model_file, "--out", tmp_path / "out", images) == 0
    study = tmp_path / "study"
    assert run("audit", "draw", "--labels", tmp_path / "out" / "labels", "--out", study, "--windows", 8, "--window", 20) == 0
    assert run("report", tmp_path / "out", "--audit", study) == 2
    assert "too few windows are counted by hand" in capsys.readouterr().err
    windows = pd.read_csv(study / "windows.csv")
    windows.assign(hand=[n % 3 for n in range(len(windows))]).to_csv(study / "windows.csv", index=False)
    assert run("audit", "report", study) == 0
    assert run("report", tmp_path / "out", "--audit", study) == 0
    assert run("audit", "draw", "--labels", folders[1], "--out", tmp_path / "of the truth", "--windows", 8, "--window", 20) == 0
    capsys.readouterr()
    assert run("report", tmp_path / "out", "--audit", tmp_path / "of the truth") == 2
    assert "this audit is of other labels than these results" in one_line(capsys)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"counted by hand in {len(windows)} randomly placed windows" in page
    assert "<circle " in page


def test_volumes_from_training_to_evaluation(tmp_path, capsys):
    cells = balls((12, 36, 52), *[(z, y, x, 4.2) for z in (3, 9) for y in (6, 18, 30) for x in range(6, 50, 10)], aspect=2)
    picture = (200 + 3000 * (cells > 0)).astype(np.uint16)
    for folder, pixels in (("images", picture), ("labels", cells.astype(np.uint16))):
        (tmp_path / folder).mkdir()
        metadata = {"axes": "ZYX", "unit": "um", "spacing": 1.0}
        tifffile.imwrite(tmp_path / folder / "a.tif", pixels, imagej=True, resolution=(2, 2), metadata=metadata)
    images, labels, model, out = (tmp_path / name for name in ("images", "labels", "model.safetensors", "out"))
    wish = "--start", "none", "--depth", 2, "--base-width", 4, "--patch", 16
    assert run("plan", "--images", images, "--labels", labels, *wish) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert "12 slices, seen as volumes, for cells go through them, 30 cells drawn" in plan
    assert "Slices are 2 pixels apart" in plan
    assert run("train", "--images", images, "--labels", labels, "--out", model, "--steps", 2, *wish) == 0
    assert "Training on 1 volume with 30 cells" in capsys.readouterr().out
    assert run("info", model) == 0
    assert "Slices:           2 px apart; 1 of 2 halvings leave z alone" in capsys.readouterr().out
    nt.save_model(bright_is_cell_in_3d(slice_distance=2.0), model)  # two steps teach nothing
    assert run("predict", "--model", model, "--out", out, images) == 0
    assert "30 cells in 1 image" in capsys.readouterr().out
    counts, table = pd.read_csv(out / "counts.csv"), pd.read_csv(out / "cells.csv")
    assert counts[["count", "slices"]].to_numpy().tolist() == [[30, 12]]
    assert table["volume_um3"].to_numpy() == pytest.approx(table["volume_vx"] * 0.25)
    assert run("evaluate", "--predicted", out / "labels", "--truth", labels) == 0
    assert "   0.5   1.000" in capsys.readouterr().out
    assert run("count", "--images", images, "--labels", out / "labels", "--out", tmp_path / "again") == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "cells.csv"), table)
    tifffile.imwrite(tmp_path / "flat.tif", picture[3])
    assert run("predict", "--model", model, "--out", out, tmp_path / "flat.tif") == 2
    assert "flat is a single plane, but this model was trained on volumes" in capsys.readouterr().err
    assert run("train", "--images", images, "--labels", labels, "--out", model, "--dimensions", "2-D", "--start", model) == 2
    assert "The start model is one for volumes (3-D), and 2-D is asked for" in capsys.readouterr().err


def test_black_and_white_volumes_are_split_as_bodies(tmp_path, capsys):
    cells = balls((12, 36, 52), *[(z, y, x, 4) for z in (3, 9) for y in (6, 18, 30) for x in range(6, 50, 10)])
    for folder, pixels in (("images", (cells > 0) * np.uint8(200)), ("labels", (cells > 0).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", pixels, photometric="minisblack")
    wish = "--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "model.safetensors", "--split"
    small = "--start", "none", "--depth", 1, "--base-width", 2, "--patch", 16, "--steps", 1
    assert run("train", *wish, *small, "--dimensions", "3-D") == 0
    assert "Training on 1 volume with 15 cells" in capsys.readouterr().out  # those one above the other touch
    assert run("train", *wish, *small, "--dimensions", "2-D") == 0
    assert "Training on 1 image with 180 cells" in capsys.readouterr().out
