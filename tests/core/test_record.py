"""A record gives the labels again, or says why not."""

import json

import numpy as np
import pytest
import tifffile
import torch

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.core.label_files import fingerprint_labels, read_labels, write_labels
from napari_tally.core.model_file import save_model
from napari_tally.core.record import Replayed, RunRecord, read_record, replay
from napari_tally.settings import PredictionSettings


@pytest.fixture
def study(tmp_path):
    """Two images, a model, what it found in them, and the record."""
    pictures = {name: nt.simulate_nuclei(seed, shape=(64, 96), n=8) for seed, name in enumerate("ab")}
    model = nt.train([pictures["a"]], start=None, steps=12, patch=64)
    nt.save_model(model, tmp_path / "m.safetensors")
    (tmp_path / "out").mkdir()
    record = RunRecord.begin(model, str(tmp_path / "m.safetensors"), PredictionSettings(), model.counting)
    for name, (pixels, _) in pictures.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
        found = nt.predict(pixels, model)
        write_labels(tmp_path / "out" / f"{name}.tif", found.labels)
        record.add(nt.read_image(tmp_path / f"{name}.tif"), tmp_path / f"{name}.tif", found, f"{name}.tif")
    record.write(tmp_path / "out")
    return tmp_path


def again(study, **where):
    events = []
    same = run_to_end(replay(study / "out", **where), events.append)
    return same, [event for event in events if isinstance(event, Replayed)]


def change(study, edit):
    path = study / "out" / "record.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_the_same_to_the_pixel(study):
    same, (a, b) = again(study)
    assert same
    assert (a.same, a.pixels, a.why) == (b.same, b.pixels, b.why) == (True, 0, ())
    assert a.cells[0] == a.cells[1]


def test_what_stands_in_it(study):
    content = read_record(study / "out").content
    assert content["model"]["fingerprint"] == nt.load_model(study / "m.safetensors").fingerprint
    assert content["model"]["training"]["seed"] == 0
    assert content["versions"]["napari-tally"] == nt.__version__
    assert content["device"].startswith(("CPU", "GPU"))
    assert content["settings"]["rules"]["border"] == "all"
    assert [image["fingerprint"] for image in content["images"]] == [nt.read_image(study / f"{n}.tif").fingerprint for n in "ab"]


def test_another_model_is_the_reason(study):
    model = nt.load_model(study / "m.safetensors")
    with torch.no_grad():
        model.network.head.bias[1] += 2
    save_model(model, study / "m.safetensors")
    same, replayed = again(study)
    assert not same
    different = [news for news in replayed if not news.same]
    assert all("the model m.safetensors is another one than " in news.why[0] for news in different)
    assert all(news.pixels > 0 for news in different)
    assert len(different) >= 1


def test_other_pixels_are_the_reason(study):
    tifffile.imwrite(study / "b.tif", nt.simulate_nuclei(9, shape=(64, 96), n=8)[0])
    same, (a, b) = again(study)
    assert (same, a.same, b.same) == (False, True, False)
    assert b.why == ("the pixels of b.tif are others than at the time",)


def test_other_versions_are_named(study):
    change(study, lambda content: content["versions"].update(torch="1.0"))
    change(study, lambda content: content["images"][0].update(labels_fingerprint="0"))
    same, (a, b) = again(study)
    assert (same, a.same, b.same) == (False, False, True)
    assert a.why[0].startswith("other versions: torch 1.0 then, ")
    assert a.pixels is None  # the label file is not that of the record, so it says nothing


def test_cells_that_were_corrected_by_hand_are_the_reason(study):
    labels = read_labels(study / "out" / "a.tif")
    labels[:3, :3] = labels.max() + 1
    write_labels(study / "out" / "a.tif", labels)
    mended = {"labels_fingerprint": fingerprint_labels(labels), "remarks": ["Cells were corrected by hand after they were counted."]}
    change(study, lambda content: content["images"][0].update(mended))
    same, (a, b) = again(study)
    assert (same, a.same, b.same) == (False, False, True)
    assert a.why == ("the cells were corrected by hand after they were predicted, which a prediction does not repeat",)
    assert a.pixels > 0
    assert b.why == ()
    change(study, lambda content: content["images"][0].update(remarks=[]))
    assert again(study)[1][0].why[0].startswith("no reason is known")


def test_a_moved_image_is_looked_for_and_a_lost_one_named(study):
    (study / "elsewhere").mkdir()
    (study / "a.tif").rename(study / "elsewhere" / "a.tif")
    same, (a, b) = again(study)
    assert (same, a.same, a.cells, b.same) == (False, False, None, True)
    assert a.why[0].endswith("say in which folder it is")
    assert again(study, images=study / "elsewhere")[0]


def test_a_lost_model_is_an_error_and_may_be_given(study):
    (study / "m.safetensors").rename(study / "n.safetensors")
    with pytest.raises(ValueError, match="there is no such model file"):
        again(study)
    assert again(study, model=study / "n.safetensors")[0]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"napari_tally_record": 1}', '{"napari_tally_record": 99}'])
def test_what_is_no_record(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match="this is no run record of napari-tally"):
        read_record(tmp_path)
    with pytest.raises(ValueError, match="there is no such record"):
        read_record(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("where", "field", "value", "says"),
    [
        ("model", "fingerprint", None, "the model whose fingerprint is None"),
        ("image", "path", 5, "an image whose path is 5"),
        ("image", "name", ["x"], "an image whose name is"),
        ("image", "found", "<script>", "an image whose found is"),
        ("image", "shape", ["x"], "an image whose shape is no list of whole numbers"),
        ("model", "training", True, "the model whose training is True"),
        ("", "versions", {}, "versions without napari-tally"),
        ("", "failed", "text", "a run whose failed is 'text'"),
        ("", "failed", [{"name": 3}], "an image that failed whose name is 3"),
        ("", "created", 3, "a run whose created is 3"),
        ("settings", "more", 3, "settings that are no group of settings"),
    ],
)
def test_a_record_that_was_changed_by_hand(study, where, field, value, says):
    change(
        study, lambda content: (content["images"][0] if where == "image" else content[where] if where else content).update({field: value})
    )
    with pytest.raises(ValueError, match=f"this is no run record of napari-tally .{says}"):
        again(study)


@pytest.mark.parametrize("place", ["../a.tif", "/etc/passwd", "labels/../../a.tif", "C:\\a.tif", "..\\a.tif", "//server/a.tif"])
def test_a_record_leads_nowhere_else(study, place):
    change(study, lambda content: content["images"][0].update(labels=place))
    with pytest.raises(ValueError, match=r"no run record of napari-tally \(labels outside of its folder\)"):
        again(study)


def test_labels_are_told_apart_by_shape_and_ids():
    labels = np.arange(12).reshape(3, 4)
    assert fingerprint_labels(labels) == fingerprint_labels(labels.astype(np.uint16)[:, :])
    assert len({fingerprint_labels(other) for other in (labels, labels.T, labels.reshape(4, 3), labels + 1)}) == 4
