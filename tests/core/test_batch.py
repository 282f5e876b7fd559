"""A batch: tables fill as it goes, what is done is not done again, a bad file is passed over."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile

import napari_tally as nt
from napari_tally.core import batch as module
from napari_tally.core import images
from napari_tally.core.batch import Batch, ImageDone, PassedOver, Working
from napari_tally.core.events import run_to_end
from napari_tally.core.images import read_image, read_labels
from napari_tally.core.model_file import find_model
from napari_tally.settings import BatchSettings, CountingSettings, PredictionSettings

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
    for table in ("cells.csv", "counts.csv"):
        assert (tmp_path / "out" / table).read_text() == (tmp_path / "once" / table).read_text()
    first, second = (json.loads((tmp_path / name / "record.json").read_text())["images"] for name in ("out", "once"))
    assert first == second


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
    monkeypatch.setattr(images, "LAZY_BYTES", 1000)
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


def test_a_folder_that_cannot_be_written(model, paths, tmp_path):
    (tmp_path / "out").write_text("a file is in the way")
    with pytest.raises(OSError, match="out"):
        events_of(batch(model, tmp_path / "out").run(paths))


def test_an_image_that_is_gone_meanwhile(model, paths, tmp_path):
    shutil.move(paths[2], tmp_path / "elsewhere.tif")
    news, _ = events_of(batch(model, tmp_path / "out").run(paths))
    assert [event.path for event in news if isinstance(event, PassedOver)] == [paths[2]]
