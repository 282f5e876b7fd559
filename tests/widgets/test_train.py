"""The Train widget in a real window, driven by the mouse."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy
from napari.utils.notifications import notification_manager
from pictures import balls, discs
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

import napari_tally as nt
from napari_tally.core.events import run_to_end
from napari_tally.widgets import train as train_module
from napari_tally.widgets._annotation import start_annotation
from napari_tally.widgets._curves import Curves
from napari_tally.widgets._layers import KEY, belong
from napari_tally.widgets._pairs import propose_pairs
from napari_tally.widgets._session import session
from napari_tally.widgets.train import TrainWidget

PLACES = [(20, 20, 9), (20, 60, 10), (60, 25, 9), (58, 66, 11), (30, 100, 9), (70, 105, 9), (45, 42, 8), (80, 50, 9)]
LABELS = discs((96, 128), *PLACES)
PICTURE = (200 * (LABELS > 0) + np.random.default_rng(0).normal(100, 5, LABELS.shape)).clip(0).astype(np.uint16)
SMALL = {"steps": 400, "patch": 32}


def fill(viewer):
    viewer.add_image(PICTURE, name="wells")
    viewer.add_labels(LABELS.copy(), name="drawn")
    return viewer


@pytest.fixture
def viewer():
    """A viewer without a window: enough for most of what the widget does, and quick."""
    return fill(ViewerModel())


@pytest.fixture
def make_widget(qtbot):
    """Make a widget that is still at the end."""
    made = []

    def make(viewer, **settings):
        made.append(TrainWidget(viewer))
        choose(made[-1], **(SMALL | settings))
        return made[-1]

    yield make
    for widget in made:
        widget._job.stop()
        qtbot.waitUntil(lambda: not widget._job.is_active)  # noqa: B023
        widget.close()


@pytest.fixture
def widget(viewer, make_widget):
    return make_widget(viewer)


@pytest.fixture
def click(qtbot):
    return lambda button: qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def choose(widget, **values):
    for name, value in values.items():
        widget.expert[name].value = value


def wait_for_the_end(widget, qtbot):
    qtbot.waitUntil(lambda: not (widget._job.is_active or widget._weighing.is_active or widget.model_part.is_busy))


def answer(widget, path):
    """Choose a file in the dialog that is open."""
    dialog = widget.findChild(QFileDialog)
    assert dialog.isVisible()
    dialog.fileSelected.emit(str(path))
    dialog.close()


def test_from_start_to_a_loaded_model(make_napari_viewer, make_widget, qtbot, click, tmp_path):
    viewer = fill(make_napari_viewer())
    widget = make_widget(viewer)
    viewer.window.add_dock_widget(widget, name="2 Train")
    assert widget.pairs.pairs == [(viewer.layers["wells"], viewer.layers["drawn"])]
    assert widget.start_button.text() == "Start"
    assert not widget.model_part.save_button.isEnabled()
    click(widget.start_button)
    qtbot.waitUntil(lambda: "step" in widget.status.text())
    assert "8 cells in 1 image" in widget.message.text()
    assert "CPU" in widget.status.text()
    assert widget.start_button.isHidden()

    click(widget.pause_button)
    assert (widget._job.state, widget.pause_button.text()) == ("paused", "Resume")
    assert widget.status.text().endswith("paused")
    click(widget.pause_button)
    assert (widget._job.state, widget.pause_button.text()) == ("running", "Pause")
    click(widget.stop_button)
    assert (widget._job.state, widget.stop_button.text()) == ("stopping", "Stopping …")
    qtbot.waitUntil(lambda: not widget._job.is_active)
    assert "Stopped after" in widget.status.text()
    kept = session(viewer).model
    assert kept is not None
    assert not session(viewer).saved
    assert (widget.start_button.text(), widget.start_button.isHidden()) == ("Train on", False)

    click(widget.model_part.save_button)
    answer(widget, tmp_path / "cells.safetensors")
    wait_for_the_end(widget, qtbot)
    assert (tmp_path / "cells.safetensors").exists()
    assert "cells.safetensors" in widget.message.text()

    click(widget.model_part.reset_button)  # saved: nothing to ask
    assert session(viewer).model is None
    assert widget.start_button.text() == "Start"

    click(widget.model_part.load_button)
    answer(widget, tmp_path / "cells.safetensors")
    wait_for_the_end(widget, qtbot)
    assert session(viewer).model_name == "cells"
    for name, tensor in kept.network.state_dict().items():
        assert torch.equal(tensor, session(viewer).model.network.state_dict()[name])


def test_the_same_model_as_from_python(viewer, widget, qtbot, click):
    choose(widget, steps=3)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    here = session(viewer).model
    there = nt.train([(PICTURE, LABELS)], steps=3, patch=32)
    assert here.record["steps"] == 3
    for name, tensor in there.network.state_dict().items():
        # To the bit only where both threads got the same number of cores; three steps move a weight by up to 0.006.
        torch.testing.assert_close(here.network.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_training_goes_on_from_the_current_model(viewer, widget, qtbot, click):
    choose(widget, steps=2)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    before = session(viewer).model
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "has learned 1 of these images already" in widget.message.text()
    assert widget.quality.text().startswith("No cells were held out to judge by")
    assert session(viewer).model.record["start"] == before.record["trained"]


def fails(model, *args, **kwargs):
    from napari_tally.core.train import Step

    yield Step(1, 0.5, 0.1, 9.0)
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_bug_in_training_leaves_a_usable_widget(viewer, widget, qtbot, click, monkeypatch):
    before = len(notification_manager.records)
    monkeypatch.setattr("napari_tally.core.train.train", fails)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    (notice,) = notification_manager.records[before:]
    assert "a bug (RuntimeError: mat1 and mat2 shapes cannot be multiplied)" in notice.message
    assert "Failed after 1 step" in widget.status.text()
    monkeypatch.undo()
    choose(widget, steps=1)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "Done: 1 step" in widget.status.text()


def test_a_mask_is_not_trained_on_before_it_is_split(viewer, widget, qtbot, click):
    drawn = viewer.layers["drawn"]
    drawn.data = (LABELS > 0).astype(np.int32)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "same id 1" in widget.message.text()
    assert session(viewer).model is None
    click(widget.split_button)
    assert drawn.data.max() == len(PLACES)
    drawn.undo()
    assert drawn.data.max() == 1
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    choose(widget, steps=1)
    click(widget.anyway_button)
    wait_for_the_end(widget, qtbot)
    assert session(viewer).model is not None


def test_what_stops_training_is_said(viewer, widget, qtbot, click):
    viewer.layers["drawn"].data = np.ones_like(LABELS)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "Stops training" in widget.message.text()
    assert widget.anyway_button.isHidden()


@pytest.mark.parametrize(
    ("module", "name", "start"),
    [
        ("annotations", "check_labels", "start_button"),
        ("start", "choose_start", "start_button"),
        ("plan", "plan_training", "start_button"),
        ("train", "train", "start_button"),
        ("annotations", "check_labels", "weights_button"),
        ("plan", "prepare", "weights_button"),
    ],
)
def test_stop_does_not_wait_for_what_comes_before_the_first_step(widget, qtbot, click, monkeypatch, module, name, start):
    begun, let_go, ended = (threading.Event() for _ in range(3))

    def slow(*arguments, **more):
        begun.set()
        let_go.wait(20)
        ended.set()

    monkeypatch.setattr(f"napari_tally.core.{module}.{name}", slow)
    if name == "train":
        monkeypatch.setattr("napari_tally.core.train.train", lambda *arguments, **more: (slow() for _ in range(1)))
    widget.expert_button.click()
    click(getattr(widget, start))
    qtbot.waitUntil(begun.is_set)
    click(widget.stop_button if start == "start_button" else widget.weights_button)
    wait_for_the_end(widget, qtbot)
    assert not ended.is_set()
    let_go.set()
    assert widget.weights_button.text() == "Show weight map"
    assert widget.start_button.isEnabled()


def test_only_the_region_is_learned_from(viewer, widget, qtbot, click):
    image = viewer.layers["wells"]
    drawn = start_annotation(viewer, image, viewer.layers["drawn"])
    region = viewer.layers["wells region"]
    region.add_rectangles([[0, 0], [0, 63], [95, 63], [95, 0]])
    run = widget._wishes()
    assert run.sources[0].region[:, :63].all()
    assert not run.sources[0].region[:, 65:].any()
    widget.pairs._tell()
    assert "inside “wells region”" in widget.pairs._rows[0].line.text()
    drawn.data[:] = 0
    assert run.sources[0].labels.any()  # what is drawn later does not reach a training under way


def assert_same_corners(layer, image):
    """Both cover the same area; a pixel reaches half a pixel around its centre."""
    for corner in ((0, 0), (1, 1)):
        world = [one.data_to_world(np.array(corner) * one.data.shape - 0.5) for one in (layer, image)]
        np.testing.assert_allclose(*world)


def test_the_preview_lies_on_the_image(make_widget, qtbot, click, monkeypatch):
    monkeypatch.setattr(train_module, "_PREVIEW_SECONDS", 0.01)
    viewer = ViewerModel()
    labels = discs((150, 180), (45, 45, 32), (100, 130, 31))  # so large that the network sees them smaller
    image = viewer.add_image(100.0 * (labels > 0), name="large", scale=(0.5, 0.25), translate=(7, 3))
    viewer.add_labels(labels, scale=(0.5, 0.25), translate=(7, 3))
    widget = make_widget(viewer, steps=4)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    preview = viewer.layers["large preview"]
    assert preview.data.shape[0] < labels.shape[0]
    assert_same_corners(preview, image)
    assert [pair[1].name for pair in widget.pairs.pairs] == ["labels"]  # a preview is nothing to learn from
    assert "of their size, so that the cells have the size it knows" in widget.message.text()
    click(widget.weights_button)
    wait_for_the_end(widget, qtbot)
    assert_same_corners(viewer.layers["large border weights"], image)


def test_the_preview_of_a_stack_lies_on_its_plane(make_widget, qtbot, click, monkeypatch):
    monkeypatch.setattr(train_module, "_PREVIEW_SECONDS", 0.01)
    viewer = ViewerModel()
    drawn = np.zeros((3, *LABELS.shape), np.int32)
    drawn[1] = LABELS
    viewer.add_image(np.stack([PICTURE] * 3), name="7", scale=(5, 1, 1))
    viewer.add_labels(drawn, scale=(5, 1, 1))
    widget = make_widget(viewer, steps=3)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    preview = viewer.layers["7 preview"]
    assert preview.data.shape == (1, *LABELS.shape)
    np.testing.assert_allclose(preview.translate, (5, 0, 0))


def test_a_deleted_preview_stays_away(viewer, widget, qtbot, click, monkeypatch):
    monkeypatch.setattr(train_module, "_PREVIEW_SECONDS", 0.01)
    click(widget.start_button)
    qtbot.waitUntil(lambda: "wells preview" in viewer.layers)
    viewer.layers.remove("wells preview")
    seen = widget.status.text()
    qtbot.waitUntil(lambda: widget.status.text() != seen)
    assert "wells preview" not in viewer.layers


def test_layers_may_go_and_change_their_names(viewer, widget, qtbot, click):
    click(widget.start_button)
    qtbot.waitUntil(lambda: "step" in widget.status.text())
    viewer.layers["drawn"].name = "other"
    viewer.layers["wells"].name = "plate"
    seen = widget.status.text()
    qtbot.waitUntil(lambda: widget.status.text() != seen)
    viewer.layers.clear()
    click(widget.stop_button)
    wait_for_the_end(widget, qtbot)
    assert session(viewer).model is not None
    assert widget.pairs.pairs == []
    assert not widget.start_button.isEnabled()


def test_rows_of_pairs(viewer, widget, click):
    viewer.add_image(PICTURE[:50], name="second")
    viewer.add_labels(LABELS[:50], name="second drawn")
    assert len(widget.pairs.pairs) == 1
    click(widget.pairs.add_button)
    assert [(i.name, d.name) for i, d in widget.pairs.pairs] == [("wells", "drawn"), ("second", "second drawn")]
    click(widget.pairs._rows[0].remove)
    assert [i.name for i, _ in widget.pairs.pairs] == ["second"]
    viewer.layers.remove("second drawn")
    assert widget.pairs.pairs == []
    assert "Annotate" in widget.pairs._rows[0].line.text()


def test_rows_that_somebody_has_chosen_stay_and_annotations_come_to_them(widget, viewer, qtbot, click):
    def names():
        return [(i.name, d.name) for i, d in widget.pairs.pairs]

    for name in ("second", "third"):
        viewer.add_image(PICTURE, name=name)
    assert names() == [("wells", "drawn")]
    qtbot.keyClick(widget.pairs._rows[0].image, Qt.Key.Key_Down)
    assert names() == [("second", "drawn")]
    start_annotation(viewer, viewer.layers["third"])
    assert names() == [("second", "drawn"), ("third", "third cells")]
    gone = weakref.ref(widget.pairs._rows[1])
    click(widget.pairs._rows[1].remove)
    gc.collect()
    assert gone() is None
    viewer.layers["third"].name = "other"
    assert names() == [("second", "drawn")]  # it is not wanted
    start_annotation(viewer, viewer.layers["wells"])
    viewer.layers.remove("second")
    assert names() == [("wells", "wells cells")]
    viewer.layers.remove("wells")
    assert names() == [("other", "other cells")]  # nothing is left of what was chosen


def test_annotations_are_proposed_before_anything_else():
    viewer = ViewerModel()
    first, second = (viewer.add_image(PICTURE, name=name) for name in ("a", "b"))
    foreign = viewer.add_labels(LABELS)
    assert propose_pairs(viewer) == [(first, foreign)]
    found = viewer.add_labels(LABELS)
    belong(found, "prediction", first)
    viewer.layers.remove(foreign)
    assert propose_pairs(viewer) == []
    drawn = [viewer.add_labels(LABELS) for _ in range(2)]
    for image, labels in zip((first, second), drawn, strict=True):
        belong(labels, "annotation", image)
    assert propose_pairs(viewer) == [(first, drawn[0]), (second, drawn[1])]


def test_the_wheel_scrolls_and_changes_nothing(widget):
    for field in (widget.minutes["minutes"].native, widget.start_from):
        before = widget.minutes.value, widget.start_from.currentIndex()
        middle = QPointF(field.rect().center())
        nothing = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase
        QApplication.sendEvent(field, QWheelEvent(middle, middle, QPoint(0, 0), QPoint(0, -120), *nothing, False))
        assert (widget.minutes.value, widget.start_from.currentIndex()) == before


@pytest.mark.parametrize(("reply", "kept"), [("No", True), ("Yes", False)])
def test_an_unsaved_model_is_not_lost_without_asking(viewer, widget, qtbot, click, reply, kept):
    choose(widget, steps=1)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    click(widget.model_part.reset_button)
    click(widget.findChild(QMessageBox).button(getattr(QMessageBox.StandardButton, reply)))
    assert (session(viewer).model is not None) == kept


def test_taking_the_widget_out_of_the_window_stops_it(make_napari_viewer, make_widget, qtbot, click):
    viewer = fill(make_napari_viewer())
    widget = make_widget(viewer)
    viewer.window.add_dock_widget(widget)
    click(widget.start_button)
    qtbot.waitUntil(lambda: "step" in widget.status.text())
    viewer.window.remove_dock_widget(widget)
    assert widget._job.state == "stopping"


def test_a_damaged_model_file_is_one_sentence(viewer, widget, qtbot, click, tmp_path):
    (tmp_path / "no.safetensors").write_text("no model")
    before = len(notification_manager.records)
    click(widget.model_part.load_button)
    answer(widget, tmp_path / "no.safetensors")
    wait_for_the_end(widget, qtbot)
    (notice,) = notification_manager.records[before:]
    assert "not a model file" in notice.message
    assert session(viewer).model is None


def test_one_session_for_each_viewer():
    viewer = ViewerModel()
    assert session(viewer) is session(PublicOnlyProxy(viewer))
    assert session(viewer) is not session(ViewerModel())


def test_a_session_goes_with_its_viewer():
    gone = weakref.ref(session(ViewerModel()))
    gc.collect()
    assert gone() is None


def test_curves_cost_the_same_after_hours(qtbot):
    curves = Curves("black", "white")
    qtbot.addWidget(curves)
    for step in range(1, 5001):
        curves.add_loss(step, 1 / step)
    curves.add_validation(5000, 0.1, 0.9)
    curves.draw()
    steps, losses = curves._curves["smooth"].getData()
    assert 500 <= len(steps) <= 1000
    assert steps[0] < 20
    assert steps[-1] > 4980
    assert losses[-1] < 0.01
    curves.clear_curves()
    assert curves._curves["f1"].getData()[0] is None


@pytest.fixture
def crowd():
    """Enough cells for two folds."""
    viewer = ViewerModel()
    picture, labels = nt.simulate_nuclei(seed=1, n=40)
    viewer.add_image(picture, name="crowd")
    viewer.add_labels(labels, name="drawn")
    return viewer


def test_did_it_help_stands_in_the_window(crowd, make_widget, qtbot, click):
    widget = make_widget(crowd, steps=10)
    widget.start_from.setCurrentIndex(widget.start_from.findData("nuclei"))
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    rows = widget.quality.text()
    assert all(word in rows for word in ("start", "trained", "Agreement F1", "Cells broken", "Cells merged", "Cells missed"))
    assert "held-out cells" in rows
    assert ("The start model is kept" in widget.message.text()) == session(crowd).model.record.get("start_kept", False)
    comparison = session(crowd).model.record["comparison"]
    assert comparison["before"]["true_count"] == comparison["after"]["true_count"] >= 6


@pytest.mark.parametrize("insist", [False, True])
def test_a_start_that_does_better_is_kept_unless_the_user_insists(crowd, make_widget, qtbot, click, insist):
    widget = make_widget(crowd, steps=10, learning_rate=0.9, insist=insist)  # so large that it can only spoil
    widget.start_from.setCurrentIndex(widget.start_from.findData("nuclei"))
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "Training made it worse" in widget.quality.text()
    assert ("The start model is kept" in widget.message.text()) is not insist
    assert (session(crowd).model_name == "nuclei, kept") is not insist
    assert session(crowd).saved is not insist  # nothing was learned that could be lost
    assert (session(crowd).model_source == "nuclei") is not insist  # for the record of a run
    shipped = nt.find_model("nuclei").network.state_dict()
    here = session(crowd).model.network.state_dict()
    assert all(torch.equal(here[name], shipped[name]) for name in here) is not insist


def test_what_a_model_found_is_not_taken_for_drawn_cells_without_a_word(crowd, make_widget, qtbot, click):
    found = crowd.layers["drawn"]
    belong(found, "prediction", crowd.layers["crowd"])
    widget = make_widget(crowd, steps=3)
    assert [labels for _, labels in widget.pairs.pairs] == [found]
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert "drawn: these cells were found by a model" in widget.message.text()
    assert session(crowd).model is None
    found.metadata[KEY]["corrected"] = 1  # somebody has looked
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert session(crowd).model is not None


def test_time_and_memory_are_said_before_start(viewer, widget):
    choose(widget, steps=0)
    widget.minutes["minutes"].value = 3
    assert widget.estimate.text().startswith("Takes about 3 min 6 s and 0.")
    assert widget.estimate.text().endswith("GB of memory.")
    choose(widget, steps=5)
    assert widget.estimate.text() == ""


def test_label_layers_of_one_image_are_one_type_each(viewer, make_widget):
    second = np.where(LABELS > 5, LABELS, 0)
    viewer.layers["drawn"].data = np.where(LABELS > 5, 0, LABELS)
    viewer.add_labels(second, name="others")
    widget = make_widget(viewer, types=2, ids_per_type=100)
    widget.pairs.add_pair()
    row = widget.pairs._rows[-1]
    row.show_pair(viewer.layers["wells"], viewer.layers["others"])
    pairs, problems = run_to_end(widget._wishes()._pairs())
    assert len(pairs) == 1
    assert np.unique(pairs[0].labels).tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102]
    choose(widget, types=0)  # automatic: as many as there are layers
    wishes = widget._wishes()
    pairs, _ = run_to_end(wishes._pairs())
    assert (len(pairs), wishes.settings.types, pairs[0].labels.max()) == (1, 2, 102)
    choose(widget, types=1)
    with pytest.raises(ValueError, match="2 label layers lie on one image. Each is a type of cells, and there is 1"):
        run_to_end(widget._wishes()._pairs())


def test_a_volume_trains_with_its_preview(make_widget, qtbot, click):
    bodies = balls((10, 36, 52), *[(z, y, x, 4) for z in (2, 8) for y in (6, 18, 30) for x in range(6, 50, 10)])
    viewer = ViewerModel()
    image = viewer.add_image((200 * (bodies > 0) + 100).astype(np.uint16), name="stack", scale=(2, 1, 1), units="um")
    viewer.add_labels(bodies, name="drawn", scale=(2, 1, 1), units="um")
    widget = make_widget(viewer, steps=3, patch=16, depth=1, base_width=2)
    widget._weigh()
    wait_for_the_end(widget, qtbot)
    weights = viewer.layers["stack border weights"]
    assert weights.data.shape == bodies.shape
    np.testing.assert_allclose(weights.extent.world, image.extent.world)
    widget.preview.setChecked(True)
    click(widget.start_button)
    wait_for_the_end(widget, qtbot)
    assert session(viewer).model.settings.dimensions == 3
    assert "Learns from 30 cells in 1 image" in widget.message.text()
    assert viewer.layers["stack preview"].data.shape == bodies.shape
