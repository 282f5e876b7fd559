"""What outlives a crash: offered back in the window, once, and only when nobody works on it."""

import gc
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from models import bright_is_cell
from napari.components import ViewerModel
from pictures import discs
from qtpy.QtCore import Qt

from napari_tally.core.files import owner, state_folder
from napari_tally.core.journal import read_journal
from napari_tally.widgets import _kept, _unsaved
from napari_tally.widgets._kept import unfinished_trainings
from napari_tally.widgets._layers import annotation_of, region_of
from napari_tally.widgets._session import session
from napari_tally.widgets._unsaved import unsaved_models
from napari_tally.widgets.annotate import AnnotateWidget
from napari_tally.widgets.train import TrainWidget

LABELS = discs((96, 128), (20, 20, 9), (20, 60, 10), (60, 25, 9), (58, 66, 11), (30, 100, 9), (70, 105, 9), (45, 42, 8), (80, 50, 9))
PICTURE = (200 * (LABELS > 0) + np.random.default_rng(0).normal(100, 5, LABELS.shape)).clip(0).astype(np.uint16)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """A folder of its own for each test."""
    monkeypatch.setenv("NAPARI_TALLY_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def click(qtbot):
    return lambda button: qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


@pytest.fixture
def ended():
    """What a process says of itself that runs no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"pid": process.pid, "began": 1.0}


# --- trainings -------------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr("napari_tally.core.checkpoint.EVERY", 1e-3)


@pytest.fixture
def make_train(qtbot):
    made = []

    def make(viewer, steps=40):
        made.append(TrainWidget(viewer))
        made[-1].expert["steps"].value, made[-1].expert["patch"].value = steps, 32
        made[-1].preview.setChecked(False)
        return made[-1]

    yield make
    for widget in made:
        widget._job.stop()
        qtbot.waitUntil(lambda: not widget._job.is_active)  # noqa: B023
        widget.close()


def with_cells():
    viewer = ViewerModel()
    viewer.add_image(PICTURE, name="wells")
    viewer.add_labels(LABELS.copy(), name="drawn")
    return viewer


def wait_for_the_end(widget, qtbot):
    qtbot.waitUntil(lambda: not widget._job.is_active)


@pytest.fixture
def crashed(make_train, click, qtbot, often, state, tmp_path, ended):
    """A training whose napari was killed: its folder as it lay there at some moment."""
    widget = make_train(with_cells())
    copy = tmp_path / "copy"

    def lies_there():
        found = [path.parent for path in state.glob("trainings/*/about.json")]
        if found and not copy.exists():
            shutil.copytree(found[0], copy, ignore=shutil.ignore_patterns(".*"))
        return copy.exists()

    click(widget.start_button)
    qtbot.waitUntil(lies_there)
    click(widget.stop_button)
    wait_for_the_end(widget, qtbot)
    assert not list(state.glob("trainings/*"))  # who stops does not want to go on
    about = json.loads((copy / "about.json").read_text())
    (copy / "about.json").write_text(json.dumps(about | ended))
    shutil.copytree(copy, state / "trainings" / "1-0")
    return about["step"]


def test_a_training_goes_on_after_a_crash_without_its_layers(crashed, make_train, qtbot, click, state):
    viewer = ViewerModel()
    widget = make_train(viewer)
    assert f"step {crashed}" in widget.unfinished_text.text()
    assert "wells" in widget.unfinished_text.text()
    assert not widget.go_on_button.isHidden()
    click(widget.go_on_button)
    assert widget.go_on_button.isHidden()
    wait_for_the_end(widget, qtbot)
    assert "Done: 40 steps" in widget.status.text()
    assert session(viewer).model.record["resumed"][0] >= crashed
    assert session(viewer).model.record["images"] == ["wells"]
    assert not list(state.glob("trainings/*"))
    assert widget.go_on_button.isHidden()


# --- models that are not saved ---------------------------------------------------------------------


@pytest.fixture
def trained(make_train, click, qtbot, state, ended):
    """A model that was trained and not saved by a napari that was closed."""
    viewer = with_cells()
    widget = make_train(viewer, steps=3)
    widget.start_from.setCurrentIndex(widget.start_from.findData("none"))
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    qtbot.waitUntil(lambda: bool(list(state.glob("models/*/about.json"))))
    assert not unsaved_models()  # this viewer has it
    about = next(state.glob("models/*/about.json"))
    shutil.copytree(about.parent, state / "models" / "1-0")
    session(viewer).put(None)
    qtbot.waitUntil(lambda: not about.exists())  # unwanted there
    path = state / "models" / "1-0" / "about.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ended))
    return path.parent


def test_a_model_that_was_not_saved_is_offered_by_the_next_napari(trained, make_train, qtbot, click, state, tmp_path):
    viewer = ViewerModel()
    part = make_train(viewer).model_part
    assert "A model was not saved:</b> trained for " in part.unsaved_text.text()
    click(part.take_button)
    qtbot.waitUntil(lambda: session(viewer).model is not None)
    assert session(viewer).model_name.startswith("trained for ")
    assert not session(viewer).saved
    assert part.unsaved_text.isHidden()
    qtbot.waitUntil(lambda: not trained.exists() and len(list(state.glob("models/*/about.json"))) == 1)  # kept anew
    part.save(str(tmp_path / "mine.safetensors"))
    qtbot.waitUntil(lambda: not list(state.glob("models/*")))
    assert session(viewer).saved


def test_a_model_that_is_not_wanted_goes(trained, make_train, qtbot, click):
    part = make_train(ViewerModel()).model_part
    click(part.discard_button)
    assert part.unsaved_text.isHidden()
    qtbot.waitUntil(lambda: not trained.exists())


def test_a_model_of_a_viewer_that_is_closed_is_offered_by_the_next_one(state):
    viewer = ViewerModel()
    session(viewer).put(bright_is_cell(), "mine, not saved", saved=False)
    del viewer
    gc.collect()
    _unsaved._writer.submit(int).result()  # it is written
    (left,) = unsaved_models()
    assert str(left).startswith("mine, ")


def test_a_training_that_is_not_wanted_goes(crashed, make_train, click, state):
    widget = make_train(ViewerModel())
    click(widget.discard_button)
    assert widget.unfinished_text.isHidden()
    assert not list(state.glob("trainings/*"))


def test_a_damaged_one_is_one_sentence(crashed, make_train, qtbot, click, state):
    (state / "trainings" / "1-0" / "state.safetensors").write_bytes(b"half")
    widget = make_train(ViewerModel())
    click(widget.go_on_button)
    wait_for_the_end(widget, qtbot)
    assert "no unfinished training can be read" in widget.message.text()


def test_a_training_under_way_is_not_offered_to_another_window(make_train, qtbot, click, often, state):
    widget = make_train(with_cells(), steps=2000)
    click(widget.start_button)
    qtbot.waitUntil(lambda: bool(list(state.glob("trainings/*/about.json"))))
    assert unfinished_trainings() == []
    assert make_train(ViewerModel()).go_on_button.isHidden()


def test_closing_the_dock_keeps_the_training(make_napari_viewer, make_train, qtbot, click, often, state):
    viewer = make_napari_viewer()
    viewer.add_image(PICTURE, name="wells")
    viewer.add_labels(LABELS.copy(), name="drawn")
    widget = make_train(viewer, steps=2000)
    viewer.window.add_dock_widget(widget)
    click(widget.start_button)
    qtbot.waitUntil(lambda: bool(list(state.glob("trainings/*/about.json"))))
    viewer.window.remove_dock_widget(widget)
    wait_for_the_end(widget, qtbot)
    (found,) = unfinished_trainings()
    assert found.images == ("wells",)
    assert not make_train(viewer).go_on_button.isHidden()


def test_a_full_disk_does_not_end_the_training(make_train, qtbot, click, often, monkeypatch):
    def full(*_):
        raise OSError("state.safetensors: No space left on device.")

    monkeypatch.setattr("napari_tally.core.checkpoint.save_checkpoint", full)
    widget = make_train(with_cells(), steps=4)
    said = []
    widget._job.event.connect(lambda event: said.append(event.message) if type(event).__name__ == "NotKept" else None)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "Done: 4 steps" in widget.status.text()
    assert len(said) == 1
    assert "this training cannot go on" in said[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[" * 100_000, '{"pid": "x"}', '{"pid": -1, "began": 1}', '{"pid": 1e999, "began": 1}']
)
def test_foreign_files_in_the_folder_are_passed_over(state, text):
    folder = state / "trainings" / "x"
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(text)
    (folder / "state.safetensors").touch()
    assert unfinished_trainings() == []


def test_what_a_training_that_was_killed_in_its_first_seconds_left_goes_after_a_month(state):
    for name, days in (("young", 29), ("old", 31)):
        folder = state / "trainings" / name
        folder.mkdir(parents=True)
        (folder / "data.safetensors").touch()
        when = time.time() - days * 24 * 3600
        os.utime(folder, (when, when))
    assert unfinished_trainings() == []
    assert [path.name for path in (state / "trainings").iterdir()] == ["young"]


@pytest.mark.parametrize(("later", "alone"), [(5, False), (-30, False), (90, True)])
def test_the_clock_may_be_set_meanwhile(later, alone):
    about = owner()
    assert _kept.is_alone(about | {"began": about["began"] + later}) == alone


def test_after_a_month_a_training_goes(crashed, state):
    (found,) = unfinished_trainings()
    old = time.time() - 31 * 24 * 3600
    os.utime(found.folder / "about.json", (old, old))
    assert unfinished_trainings() == []
    assert not found.folder.exists()


# --- drawings --------------------------------------------------------------------------------------


@pytest.fixture
def make_annotate(qtbot):
    def make(viewer):
        widget = AnnotateWidget(viewer)
        qtbot.addWidget(widget, before_close_func=lambda w: w._keeper.flush())  # else it writes into the next test's folder
        return widget

    return make


def journals(state):
    return list(state.glob("drawings/[!.]*.journal"))


@pytest.fixture
def drawn(make_annotate, click, qtbot, state):
    """A drawing under way: the viewer, its widget and its layer."""
    viewer = ViewerModel()
    viewer.add_image(PICTURE, name="wells")
    widget = make_annotate(viewer)
    click(widget.start_button)
    labels = widget.labels_choice.layer
    labels.brush_size = 8
    labels.paint((20, 20), 1)
    return viewer, widget, labels


def shown_by(path, labels):
    return bool(path) and np.array_equal(read_journal(path[0]).labels, labels.data)


def test_every_stroke_comes_to_the_disk_by_itself(drawn, qtbot, state):
    viewer, widget, labels = drawn
    qtbot.waitUntil(lambda: shown_by(journals(state), labels))
    labels.paint((60, 60), 2)
    qtbot.waitUntil(lambda: shown_by(journals(state), labels))
    labels.undo()
    qtbot.waitUntil(lambda: shown_by(journals(state), labels))
    assert set(np.unique(labels.data)) == {0, 1}
    region_of(viewer, labels).add_rectangles([[0, 0], [40, 40]])
    qtbot.waitUntil(lambda: bool(read_journal(journals(state)[0]).region))


def test_nothing_is_written_while_nothing_is_drawn(make_annotate, click, qtbot, state):
    viewer = ViewerModel()
    viewer.add_image(PICTURE, name="wells")
    widget = make_annotate(viewer)
    click(widget.start_button)
    widget._keeper.flush()
    assert journals(state) == []


def test_another_image_ends_the_one_before(drawn, make_annotate, click, state):
    viewer, widget, labels = drawn
    other = viewer.add_image(PICTURE[:50], name="other")
    widget.image_choice.layer = other
    assert shown_by(journals(state), labels)


def left_behind(path, about):
    """Make a journal one of a process that runs no more."""
    drawing = read_journal(path)
    path.unlink()
    _kept.Journal(path, drawing.about | about).write(drawing.labels, drawing.region)


def test_a_drawing_comes_back_after_a_crash(drawn, make_annotate, click, qtbot, state, ended):
    viewer, widget, labels = drawn
    region_of(viewer, labels).add_rectangles([[0, 0], [40, 40]])
    region_of(viewer, labels).add_ellipses([[50, 50], [70, 80]])
    widget._keeper.flush()
    again = ViewerModel()
    again.add_image(PICTURE, name="wells", scale=(0.5, 0.5))
    assert make_annotate(again).bring_button.isHidden()  # napari still runs there
    (path,) = journals(state)
    left_behind(path, ended)
    fresh = make_annotate(again)
    assert not fresh.bring_button.isHidden()
    assert "was left behind" in fresh.left_text.text()
    click(fresh.bring_button)
    restored = annotation_of(again, again.layers["wells"])
    np.testing.assert_array_equal(restored.data, labels.data)
    np.testing.assert_allclose(restored.scale, (0.5, 0.5))
    assert list(region_of(again, restored).shape_type) == ["rectangle", "ellipse"]
    assert fresh.count_text.text() == "1 cell drawn"
    assert fresh.bring_button.isHidden()
    (now,) = journals(state)  # it goes on in a journal of its own
    assert now != path
    assert shown_by([now], restored)


def test_a_drawing_is_offered_for_its_own_image_alone(drawn, make_annotate, click, state, ended):
    viewer, widget, labels = drawn
    widget._keeper.flush()
    left_behind(journals(state)[0], ended)
    other = ViewerModel()
    other.add_image(PICTURE, name="other")
    other.add_image(PICTURE[:50], name="wells")
    fresh = make_annotate(other)
    for layer in other.layers:
        fresh.image_choice.layer = layer
        assert fresh.bring_button.isHidden()
    third = other.add_image(PICTURE, name="wells")  # napari calls it "wells [1]"
    other.layers.remove(other.layers[1])
    third.name = "wells"
    fresh.image_choice.layer = other.layers[0]
    fresh.image_choice.layer = third
    assert not fresh.bring_button.isHidden()
    click(fresh.drop_button)
    assert fresh.bring_button.isHidden()
    assert journals(state) == []


def test_a_damaged_drawing_is_one_sentence(drawn, make_annotate, click, state, ended):
    viewer, widget, labels = drawn
    widget._keeper.flush()
    (path,) = journals(state)
    left_behind(path, ended)
    content = path.read_bytes()
    again = ViewerModel()
    again.add_image(PICTURE, name="wells")
    fresh = make_annotate(again)
    path.write_bytes(b"napari-tally drawing 1\n" + content[:0])
    click(fresh.bring_button)
    assert "no drawing can be read" in fresh.message.text()
    click(fresh.drop_button)
    assert journals(state) == []


def test_a_full_disk_is_said_once(drawn, qtbot, monkeypatch):
    viewer, widget, labels = drawn

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(_kept.Journal, "write", full)
    said = []
    widget._keeper.trouble.connect(said.append)
    for n in range(3):
        labels.paint((60, 10 * n), 2)
        widget._keeper.flush()
    assert len(said) == 1
    assert "cannot be kept against a crash (No space left on device)" in widget.message.text()


def test_the_window_does_not_wait_for_the_journal(make_annotate, click, monkeypatch):
    """Whatever the writing takes, it is on another thread."""
    viewer = ViewerModel()
    viewer.add_image(PICTURE, name="wells")
    widget = make_annotate(viewer)
    click(widget.start_button)
    widget.labels_choice.layer.paint((20, 20), 1)
    threads = []
    real = _kept.Journal.write

    def write(journal, *args):
        import threading

        threads.append(threading.current_thread().name)
        return real(journal, *args)

    monkeypatch.setattr(_kept.Journal, "write", write)
    widget._keeper.flush()
    assert [name.rsplit("_", 1)[0] for name in threads] == ["journal"]


def test_the_state_folder_of_the_tests_is_no_users(state):
    assert state_folder() == state
