"""Label images that are there are counted as they are: each once, with a word on what is odd, and by one run at a time."""

import json
import platform
import subprocess
import sys

import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
from pictures import picture

from napari_tally.core import count_labels
from napari_tally.core.count_labels import LabelBatch
from napari_tally.core.done import ImageDone, PassedOver
from napari_tally.core.events import run_to_end
from napari_tally.core.files import LOCK
from napari_tally.core.label_files import write_labels
from napari_tally.core.record import read_record
from napari_tally.settings import RuleSettings

LABELS = picture("""
    11..22
    11..22
    ......
    33....
    33..44
""")


@pytest.fixture
def write(tmp_path):
    """Write an image and its labels; give both files."""

    def pair(stem, labels=LABELS, place="labels", **how):
        files = tmp_path / place / f"{stem}.tif", tmp_path / "images" / f"{stem}.tif"
        for file in files:
            file.parent.mkdir(exist_ok=True, parents=True)
        if labels.min() < 0:
            tifffile.imwrite(files[0], labels.astype(np.int32))
        else:
            write_labels(files[0], labels)
        tifffile.imwrite(files[1], np.full(labels.shape, 7, np.uint8), **how)
        return files

    return pair


def events_of(work):
    news = []
    run_to_end(work, news.append)
    return [event for event in news if isinstance(event, ImageDone | PassedOver)]


def test_an_image_is_counted_or_passed_over_and_never_both(write, tmp_path):
    """The labels of a would be replaced by the copy without what is not annotated: it is passed over."""
    partly = LABELS.copy()
    partly[2] = -1
    pairs = [write("a", partly, "out/labels"), write("b", place="out/labels")]
    news = events_of(LabelBatch(tmp_path / "out").run(pairs))
    assert "would be replaced" in news[0].reason
    assert news[1].counts["count"].tolist() == [4]
    for name, image in (("counts", "b"), ("failed", "a")):
        assert pd.read_csv(tmp_path / "out" / f"{name}.csv")["image"].unique().tolist() == [image]
    content = read_record(tmp_path / "out").content
    assert [entry["name"] for key in ("images", "failed") for entry in content[key]] == ["b", "a"]


def test_an_image_that_is_too_large_is_passed_over(write, tmp_path, monkeypatch):
    pairs = [write("a"), write("b")]
    reading = count_labels.read_image

    def short_of_memory(path):
        if path.stem == "a":
            raise MemoryError
        return reading(path)

    monkeypatch.setattr(count_labels, "read_image", short_of_memory)
    first, second = events_of(LabelBatch(tmp_path / "out").run(pairs))
    assert isinstance(first, PassedOver)
    assert int(second.counts["count"].sum()) == 4
    assert "memory" in (tmp_path / "out" / "failed.csv").read_text()


def test_a_mask_of_a_volume_is_split_into_bodies(write, tmp_path):
    bodies = np.stack([255 * (LABELS > 0)] * 5)
    pair = write("mask", bodies, photometric="minisblack", metadata={"axes": "ZYX"})
    (refused,) = events_of(LabelBatch(tmp_path / "a").run([pair]))
    assert isinstance(refused, PassedOver)
    (news,) = events_of(LabelBatch(tmp_path / "b", split=True).run([pair]))
    assert int(news.counts["count"].sum()) == 4


def test_what_is_odd_is_said_and_recorded(write, tmp_path):
    profiles = np.stack([np.where(LABELS > 0, LABELS + 4 * z, 0) for z in range(5)])
    bodies = np.stack([LABELS] * 5)
    zstack = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    pairs = [
        write("profiles", profiles, **zstack),
        write("bodies", bodies, **zstack),
        write("mask", 7 * (LABELS % 4 > 0)),
        write("stated", resolution=(2e4, 2e4), resolutionunit="CENTIMETER"),
        write("well"),
    ]
    news = events_of(LabelBatch(tmp_path / "out", RuleSettings(pixel_size=0.1)).run(pairs))
    assert [int(event.counts["count"].sum()) for event in news] == [20, 4, 1, 4, 4]
    beginnings = (
        "The 5 slices of this z-stack",
        "Cells are counted as bodies",
        "1 of 1 ids are in several pieces",
        "Pixels are taken to be 0.1",
        "",
    )
    for event, words in zip(news, beginnings, strict=True):
        assert event.remark.startswith(words)
        assert bool(event.remark) == bool(words)
    assert [" ".join(entry["remarks"]) for entry in read_record(tmp_path / "out").content["images"]] == [event.remark for event in news]


def test_two_runs_into_one_folder(write, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = psutil.Process(other.pid).create_time()
        (out / LOCK).write_text(json.dumps({"host": platform.node(), "pid": other.pid, "began": began}))
        with pytest.raises(ValueError, match=r"out: another run writes into this folder"):
            events_of(LabelBatch(out).run([write("a")]))
        assert [path.name for path in out.iterdir()] == [LOCK]


def test_a_run_that_is_broken_off_leaves_the_tables_that_there_are(write, tmp_path):
    pairs = [write(stem) for stem in "ab"]
    events_of(LabelBatch(tmp_path / "out").run(pairs))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    work = LabelBatch(tmp_path / "out", RuleSettings(border="frame")).run(pairs)
    next(event for event in work if isinstance(event, ImageDone))
    work.close()
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
