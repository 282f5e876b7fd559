"""Comparing networks and losses: the same folds for all, nothing twice, and a table that adds up."""

import json
import sys
from dataclasses import asdict, replace
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from pictures import discs

from napari_tally.cli import main
from napari_tally.core import compare as core_compare
from napari_tally.core.compare import Note, Progress, Run, compare, done_so_far, folds_of, one_kind, plot, rows
from napari_tally.core.events import run_to_end
from napari_tally.core.images import as_image
from napari_tally.core.samples import TrainingPair
from napari_tally.settings import TrainingSettings

LABELS = discs((64, 64), (16, 16, 7), (16, 46, 7), (46, 16, 7), (46, 46, 7))
SETTINGS = TrainingSettings(steps=2, patch=32, depth=2, base_width=2, device="cpu")
RUN = Run("unet", "dice", 0, 0, ((8, 1, 1), (6, 3, 3), (4, 5, 5), (2, 7, 7), (0, 9, 9)), 9, 9, 10, 5.0, 1000, 0.5)


@pytest.fixture
def pairs(rng):
    return [TrainingPair(as_image((LABELS > 0) * 500 + rng.normal(100, 5, LABELS.shape), name=f"{i}"), LABELS) for i in range(3)]


def test_folds_hold_about_as_many_cells():
    cells = [10, 9, 3, 2, 0]
    pairs = [TrainingPair(as_image(np.zeros((1, 12))), np.array([[*range(1, n + 1), *[0] * (12 - n)]], np.int32)) for n in cells]
    assert folds_of(pairs, 2) == [[0, 3, 4], [1, 2]]
    with pytest.raises(ValueError, match="5 folds want 5 images with cells or more; there are 4"):
        folds_of(pairs, 5)


def test_every_combination_once_and_nothing_twice(pairs, tmp_path):
    work = compare(pairs, ["unet", "res-unet"], ["cross-entropy", "dice"], SETTINGS, tmp_path / "runs.json")
    news = [next(work) for _ in range(12)]
    work.close()  # walked away
    done = [run for run in news if isinstance(run, Run)]
    kept = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [run["loss"] for run in kept] == [run.loss for run in done]
    assert 0 < len(done) < 8
    more = []
    runs = run_to_end(compare(pairs, ["unet", "res-unet"], ["cross-entropy", "dice"], SETTINGS, tmp_path / "runs.json"), more.append)
    assert sum(isinstance(event, Run) for event in more) == 8 - len(done)
    assert [event.number for event in more if isinstance(event, Progress)][0] == len(done) + 1
    assert runs[: len(done)] == done
    assert len({(run.architecture, run.loss, run.fold) for run in runs}) == 8
    assert {run.true for run in runs if run.fold == 0} == {8}  # two of three images
    assert all(tp + fn == run.true and tp + fp == run.predicted for run in runs for tp, fp, fn in run.counts)
    assert all(run.steps == 2 for run in runs)
    nothing = []
    assert run_to_end(compare(pairs, ["unet"], ["dice"], SETTINGS, tmp_path / "runs.json"), nothing.append) == [
        run for run in runs if (run.architecture, run.loss) == ("unet", "dice")
    ]
    assert not nothing


def test_runs_with_other_settings_are_not_mixed(pairs, tmp_path):
    file = tmp_path / "runs.json"
    run_to_end(compare(pairs, ["unet"], ["dice"], SETTINGS, file))
    corrected = [replace(pairs[0], labels=np.minimum(pairs[0].labels, 3)), *pairs[1:]]
    for images, settings in ((pairs, replace(SETTINGS, steps=3)), (pairs[:2], SETTINGS), (corrected, SETTINGS)):
        with pytest.raises(ValueError, match="made with other images, labels, folds or settings"):
            run_to_end(compare(images, ["unet"], ["dice"], settings, file))
    file.write_text("[]")
    with pytest.raises(ValueError, match="this is no list of runs"):
        run_to_end(compare(pairs, ["unet"], ["dice"], SETTINGS, file))


def test_the_table_adds_up():
    other = replace(RUN, fold=1, counts=((2, 9, 9),) * 5, true=11, predicted=22, steps=20, seconds=7.0)
    better = replace(RUN, architecture="res-unet", counts=((9, 0, 0),) * 5, seed=0)
    worse = replace(better, seed=1, counts=((0, 9, 9),) * 5)
    first, second = rows([RUN, other, better, worse])
    assert (first.architecture, first.runs, first.ap[0], first.spread) == ("res-unet", 2, 9 / 27, 1.0)
    assert (second.ap[0], second.f1) == (10 / 30, 20 / 40)
    assert second.bias == pytest.approx(31 / 20 - 1)
    assert (second.steps, second.seconds, second.spread) == (15, 6, 0)


def test_a_seed_with_fewer_folds_than_others_is_left_out():
    """As a comparison that was stopped leaves it: folds are not equally hard."""
    hard, again = replace(RUN, fold=1, counts=((2, 9, 9),) * 5), replace(RUN, seed=1, counts=((9, 0, 0),) * 5)
    assert rows([RUN, hard, again]) == rows([RUN, hard])
    assert rows([RUN, hard, again, replace(hard, seed=1)])[0].runs == 4


def test_the_plot_is_a_drawing_with_a_line_for_each_row():
    table = rows([RUN, replace(RUN, loss="focal")])
    drawing = ElementTree.fromstring(plot(table))
    lines = drawing.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    heights = [float(point.split(",")[1]) for point in lines[0].get("points").split()]
    assert heights == sorted(heights)  # AP falls with IoU: down on the page
    assert "unet, focal" in plot(table)


def test_runs_come_back_from_json(tmp_path):
    (tmp_path / "runs.json").write_text(json.dumps({"made_with": {}, "runs": [asdict(RUN), asdict(replace(RUN, seed=3))]}))
    assert done_so_far(tmp_path / "runs.json", ["unet"], ["dice"], range(2)) == [RUN]
    assert done_so_far(tmp_path / "runs.json", ["unet"], ["focal"], range(9)) == []
    again = json.loads(json.dumps(asdict(RUN)))
    assert Run(**again | {"counts": tuple(map(tuple, again["counts"]))}) == RUN


def test_the_command(pairs, tmp_path, capsys):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for pair in pairs:
        tifffile.imwrite(tmp_path / "images" / f"{pair.image.name}.tif", pair.image.planes[0, 0])
        tifffile.imwrite(tmp_path / "labels" / f"{pair.image.name}.tif", LABELS.astype(np.uint8))
    command = ["compare", "--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--out", str(tmp_path / "out")]
    assert main([*command, "--losses", "dice", "--steps", "1", "--patch", "32"]) == 0
    out = capsys.readouterr().out
    assert "unet, dice, fold 1, seed 0: 1 steps" in out
    assert "| unet | dice | 2 |" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs.json", "table.md", "plot.svg"}
    assert main([*command, "--losses", "dice", "--steps", "1", "--patch", "32"]) == 0
    assert "fold 1" not in capsys.readouterr().out
    assert main([*command, "--folds", "1"]) == 2
    assert "2 to 20 folds" in capsys.readouterr().err


@pytest.fixture
def stacks():
    """Two z-stacks whose cells keep their ids from slice to slice."""
    labels = np.stack([LABELS] * 6)
    return [TrainingPair(as_image((labels > 0).astype(np.float32), axes="ZYX", name=name), labels) for name in "ab"]


def test_bodies_and_profiles_are_not_compared(stacks, tmp_path):
    """The networks for planes decide for all; the one for volumes alone learns volumes, in whatever fold."""
    settings, note = one_kind(stacks, ["unet", "res-unet"], SETTINGS)
    assert settings.dimensions == "2-D"
    assert "but ResU-Net is for planes only: all networks learn" in note.text
    settings, note = one_kind(stacks, ["unet"], SETTINGS)
    assert settings.dimensions == "3-D"
    assert "bodies in volumes (3-D)" in note.text
    assert one_kind(stacks, ["unet"], replace(SETTINGS, dimensions="2-D")) == (replace(SETTINGS, dimensions="2-D"), None)
    flat = [TrainingPair(as_image(pair.image.planes[0, 0]), LABELS) for pair in stacks]
    assert one_kind(flat, ["unet", "res-unet"], SETTINGS) == (replace(SETTINGS, dimensions="2-D"), None)
    news = []
    runs = run_to_end(compare(stacks, ["unet", "res-unet"], ["dice"], replace(SETTINGS, steps=1), tmp_path / "runs.json"), news.append)
    assert [type(event) for event in news].count(Note) == 1
    assert isinstance(news[0], Note)
    assert {run.true for run in runs if run.architecture == "unet"} == {run.true for run in runs if run.architecture == "res-unet"} == {24}
    with pytest.raises(ValueError, match="made with other"):  # bodies, to the same file
        run_to_end(compare(stacks, ["unet"], ["dice"], replace(SETTINGS, steps=1), tmp_path / "runs.json"))


def test_what_cannot_be_built_is_said_before_the_first_training(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    news = []
    with pytest.raises(ValueError, match="MONAI, which is not installed"):
        run_to_end(compare(pairs, ["unet", "unet++"], ["dice"], replace(SETTINGS, depth=0), tmp_path / "runs.json"), news.append)
    assert not news
    assert not list(tmp_path.iterdir())


def written(tmp_path, pairs):
    for folder in ("images", "labels", "points"):
        (tmp_path / folder).mkdir()
    for pair in pairs:
        tifffile.imwrite(tmp_path / "images" / f"{pair.image.name}.tif", pair.image.planes[0, 0])
        tifffile.imwrite(tmp_path / "labels" / f"{pair.image.name}.tif", (LABELS > 0).astype(np.uint8) * 255)
        (tmp_path / "points" / f"{pair.image.name}.csv").write_text("y,x\n16,16\n16,46\n46,16\n46,46\n")
    return ["compare", "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--steps", "1", "--patch", "32"]


def test_what_is_done_is_in_the_table_when_it_stops(pairs, tmp_path, monkeypatch, capsys):
    command = [*written(tmp_path, pairs), "--labels", str(tmp_path / "labels"), "--split"]
    usual, calls = core_compare._run, []

    def stops(*given):
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        return usual(*given)

    monkeypatch.setattr(core_compare, "_run", stops)
    assert main(command) == 130
    assert "Stopped; the table, the plot and the runs that are done are in" in capsys.readouterr().out
    assert "| unet | cross-entropy | 1 |" in (tmp_path / "out" / "table.md").read_text()
    assert "1 of 2 runs are done; a row stands on" in (tmp_path / "out" / "table.md").read_text()
    assert "<polyline" in (tmp_path / "out" / "plot.svg").read_text()
    assert [len(np.unique(pair.labels)) for pair in calls[0][0]] == [5] * len(calls[0][0])  # the masks are split
    monkeypatch.setattr(core_compare, "_run", usual)
    assert main(command) == 0
    assert "| unet | cross-entropy | 2 |" in (tmp_path / "out" / "table.md").read_text()
    assert "runs are done" not in (tmp_path / "out" / "table.md").read_text()


def test_points_and_settings_as_for_training(pairs, tmp_path, capsys):
    command = [*written(tmp_path, pairs), "--labels", str(tmp_path / "points"), "--radius", "7", "--statistics", "experiment"]
    assert main([*command, "--seed", "5", "--depth", "2", "--base-width", "2", "--dimensions", "2-D"]) == 0
    assert "fold 2, seed 5: 1 steps" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert content["made_with"]["settings"]["depth"] == 2
    assert content["made_with"]["settings"]["statistics"] == "experiment"
    assert main([*command, "--radius", "-1"]) == 2
    assert main([*command, "--types", "2", "--ids-per-type", "100"]) == 2  # no second type is there
