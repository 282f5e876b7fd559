"""The review widget in a real window: cells are found, looked at and mended by mouse and keyboard."""

import gc
import threading
import weakref

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from pictures import discs
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from scipy import ndimage as ndi

from napari_tally.core.counting import measure_cells
from napari_tally.core.prediction import Prediction
from napari_tally.core.review import ReviewList
from napari_tally.settings import CountingSettings
from napari_tally.widgets._annotation import region_mask, start_annotation
from napari_tally.widgets._layers import KEY, annotation_of, belong, image_from_layer, is_corrected, region_of
from napari_tally.widgets._mouse_tools import Use
from napari_tally.widgets.review import ReviewWidget

TWO_IN_ONE, FAINT, LEFT, RIGHT = 4, 5, 6, 7
"""Cells of the scene that are wrong: 6 and 7 are the halves of one."""


def scene():
    """Draw three good cells, two that were merged, a faint one and one that was broken; give labels and probabilities."""
    labels = discs((90, 120), (15, 15, 8), (15, 40, 8), (15, 65, 8))
    labels[discs(labels.shape, (45, 18, 8), (45, 33, 8)) > 0] = TWO_IN_ONE
    labels[discs(labels.shape, (45, 75, 7)) > 0] = FAINT
    whole = discs(labels.shape, (72, 60, 9)) > 0
    labels[whole] = np.where(np.indices(labels.shape)[1][whole] < 60, LEFT, RIGHT)
    inside = ndi.gaussian_filter((labels > 0).astype(float), 1)
    inside[:, 25:27] *= 0.8
    faint = labels == FAINT
    inside = np.where(faint, 0.5, inside)
    background = 1 - np.where(faint, 0.6, np.where(labels > 0, 0.98, 0))
    return labels, np.stack([background, inside, np.zeros(labels.shape)]).astype(np.float32)


def add_scene(viewer, stack=False):
    """Lay the scene into a viewer as "3 Predict and count" does."""
    labels, probabilities = scene()
    if stack:
        labels, probabilities = np.stack([np.zeros_like(labels), labels]), np.stack([np.zeros_like(probabilities), probabilities])
    image = viewer.add_image((labels > 0).astype(np.float32), name="well", scale=(0.5,) * labels.ndim, units="um")
    found = viewer.add_labels(labels.astype(np.int32), name="well labels", scale=image.scale, units="um")
    belong(found, "prediction", image)
    found.metadata[KEY]["found"] = (
        Prediction(probabilities if stack else probabilities[None], found.data, 1.0, int(labels.max())),
        CountingSettings(smoothing=1),
    )
    found.editable = False
    return image, found


@pytest.fixture
def click(qtbot):
    def click(button) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return click


def begin(widget, qtbot, click):
    click(widget.start_button)
    qtbot.waitUntil(lambda: widget._list is not None)


@pytest.fixture
def opened(make_napari_viewer, qtbot, click):
    """A real window with the scene, reviewed."""
    viewer = make_napari_viewer(show=True)
    _, labels = add_scene(viewer)
    widget = ReviewWidget(viewer)
    viewer.window.add_dock_widget(widget)
    begin(widget, qtbot, click)
    QApplication.processEvents()
    return viewer, widget, labels


@pytest.fixture
def model(qtbot, click):
    """The same without a window: quick."""
    viewer = ViewerModel()
    _, labels = add_scene(viewer)
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    begin(widget, qtbot, click)
    return viewer, widget, labels


def at(viewer, labels, point) -> QPoint:
    """Where on the canvas a pixel of the labels is."""
    canvas = viewer.window._qt_viewer.canvas.native
    world = np.asarray(labels.data_to_world(point))[-2:]
    y, x = (world - viewer.scene.camera.center[-2:]) * viewer.scene.camera.zoom + np.array([canvas.height(), canvas.width()]) / 2
    return QPoint(round(x), round(y))


def press(viewer, labels, *points) -> None:
    """Click on a pixel, or drag over several."""
    canvas = viewer.window._qt_viewer.canvas.native
    QApplication.processEvents()
    spots = [at(viewer, labels, point) for point in points]
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, pos=spots[0])
    for spot in spots[1:]:
        held, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        where = QPointF(spot)
        moved = QMouseEvent(QEvent.Type.MouseMove, where, QPointF(canvas.mapToGlobal(spot)), none, held, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(canvas, moved)
        QApplication.processEvents()
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=spots[-1])
    QApplication.processEvents()


def key(viewer, key, modifier=Qt.KeyboardModifier.NoModifier) -> None:
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, key, modifier)
    QApplication.processEvents()


def listed(widget):
    """Give the ids in the table, top down."""
    table = widget.suspects.table
    return [table.item(r, 0).data(Qt.ItemDataRole.UserRole)[1] for r in range(table.rowCount())]


def count(widget):
    return widget.suspects.count_text.text()


def look_at(widget, cell):
    widget.suspects.table.selectRow(listed(widget).index(cell))
    assert widget._cell[1] == cell


def ids(labels):
    return set(np.unique(labels.data)) - {0}


def test_the_wrong_cells_come_first_and_the_camera_flies_to_them(opened):
    viewer, widget, labels = opened
    assert set(listed(widget)[:4]) == {TWO_IN_ONE, FAINT, LEFT, RIGHT}
    assert count(widget) == "7 cells"
    assert viewer.layers.selection.active is labels
    for _ in range(3):
        cell = widget._cell[1]
        assert labels.selected_label == cell
        middle = np.mean(np.nonzero(labels.data == cell), axis=1)
        np.testing.assert_allclose(viewer.scene.camera.center[-2:], middle / 2, atol=0.3)  # half a micrometre a pixel
        outline = np.concatenate(viewer.layers["cell in question"].data)
        np.testing.assert_allclose(outline.mean(axis=0), middle, atol=1)
        key(viewer, Qt.Key.Key_N)
    assert widget.suspects.row() == 3
    key(viewer, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
    assert widget.suspects.row() == 2
    features = labels.features.set_index("index")
    assert features.loc[TWO_IN_ONE, "fault"] == "two cells?"
    assert features.loc[FAINT, "fault"] == "not a cell?"
    assert features.loc[LEFT, "fault"] == "part of a cell?"


def test_delete_by_key_undo_by_key_and_the_count_follows_at_once(opened, qtbot):
    viewer, widget, labels = opened
    before = labels.data.copy()
    look_at(widget, FAINT)
    key(viewer, Qt.Key.Key_D)
    assert ids(labels) == {1, 2, 3, 4, 6, 7}
    assert count(widget) == "6 cells"
    assert FAINT not in listed(widget)
    assert is_corrected(labels)
    key(viewer, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(labels.data, before)
    qtbot.waitUntil(lambda: count(widget) == "7 cells")
    assert FAINT in listed(widget)


def test_undo_takes_back_the_last_step_and_goes_to_its_cell(opened):
    viewer, widget, labels = opened
    control = Qt.KeyboardModifier.ControlModifier
    look_at(widget, FAINT)
    key(viewer, Qt.Key.Key_D)
    accepted = widget._cell[1]
    key(viewer, Qt.Key.Key_A)
    assert accepted not in listed(widget)
    key(viewer, Qt.Key.Key_Z, control)  # the acceptance, not the deletion before it
    assert FAINT not in ids(labels)
    assert widget._cell[1] == accepted
    assert accepted in listed(widget)
    key(viewer, Qt.Key.Key_Z, control)
    assert widget._cell[1] == FAINT
    key(viewer, Qt.Key.Key_D)
    assert ids(labels) == {1, 2, 3, 4, 5, 6, 7} - {FAINT}


def test_redo_does_again_what_was_taken_back_and_nothing_else(opened):
    viewer, widget, labels = opened
    control, both = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    first = TWO_IN_ONE
    look_at(widget, first)
    key(viewer, Qt.Key.Key_A)
    look_at(widget, FAINT)
    key(viewer, Qt.Key.Key_D)
    key(viewer, Qt.Key.Key_Z, control)
    key(viewer, Qt.Key.Key_Z, control)  # the acceptance before the deletion
    assert first in listed(widget)
    key(viewer, Qt.Key.Key_Z, both)
    assert first not in listed(widget)
    key(viewer, Qt.Key.Key_Z, both)
    assert FAINT not in ids(labels)
    assert widget._cell is not None  # one looks at the next
    key(viewer, Qt.Key.Key_Z, control)
    look_at(widget, LEFT)
    key(viewer, Qt.Key.Key_A)  # something else: the deletion is not to come again
    key(viewer, Qt.Key.Key_Z, control)
    key(viewer, Qt.Key.Key_Z, both)
    assert FAINT in ids(labels)
    assert LEFT not in listed(widget)


def test_another_cell_or_escape_puts_down_what_is_in_hand(opened):
    viewer, widget, labels = opened
    key(viewer, Qt.Key.Key_R)
    assert labels.mode == "paint"
    key(viewer, Qt.Key.Key_N)
    assert labels.mode == "pan_zoom"
    key(viewer, Qt.Key.Key_R)
    key(viewer, Qt.Key.Key_Escape)
    assert labels.mode == "pan_zoom"
    key(viewer, Qt.Key.Key_J)
    key(viewer, Qt.Key.Key_Escape)
    assert not widget.tool_buttons["merge"].isChecked()
    assert widget.hint.text().startswith("<b>Cell")


def test_a_cell_is_split_by_two_clicks_or_by_a_line(opened):
    viewer, widget, labels = opened
    look_at(widget, TWO_IN_ONE)
    key(viewer, Qt.Key.Key_S)
    assert widget.tool_buttons["split"].isChecked()
    press(viewer, labels, (45, 17))
    assert "other one" in widget.hint.text()
    press(viewer, labels, (45, 34))
    assert ids(labels) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert count(widget) == "8 cells"
    halves = [np.mean(np.nonzero(labels.data == i)[1]) for i in (TWO_IN_ONE, 8)]
    np.testing.assert_allclose(sorted(halves), [18, 33], atol=1.5)
    assert not widget.tool_buttons["split"].isChecked()
    assert not {TWO_IN_ONE, 8} & set(listed(widget))  # mended: looked at
    assert labels.features["index"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]

    QTest.mouseClick(widget.undo_button, Qt.MouseButton.LeftButton)
    assert ids(labels) == {1, 2, 3, 4, 5, 6, 7}
    look_at(widget, TWO_IN_ONE)
    camera = viewer.scene.camera.center
    key(viewer, Qt.Key.Key_S)
    press(viewer, labels, (34, 25.5), (45, 25.5), (56, 25.5))
    assert labels.data[45, 20] != labels.data[45, 31]
    assert len(ids(labels)) == 8
    assert max(ids(labels)) == 9  # the id that was taken back is not given to another cell
    press(viewer, labels, (30, 60), (38, 66))  # the tool is put down: the camera pans again
    assert not np.allclose(viewer.scene.camera.center, camera)
    assert len(ids(labels)) == 8


def test_halves_are_merged_and_a_lasso_deletes(opened, click):
    viewer, widget, labels = opened
    look_at(widget, LEFT)
    key(viewer, Qt.Key.Key_J)
    press(viewer, labels, (72, 55))
    press(viewer, labels, (72, 65))
    assert ids(labels) == {1, 2, 3, 4, 5, LEFT}
    assert count(widget) == "6 cells"
    click(widget.undo_button)
    assert count(widget) == "7 cells"
    click(widget.redo_button)
    assert count(widget) == "6 cells"

    viewer.reset_view()
    click(widget.tool_buttons["lasso"])
    press(viewer, labels, (2, 2), (28, 2), (28, 52), (2, 52))
    assert ids(labels) == {3, 4, 5, 6}
    assert count(widget) == "4 cells"
    labels.undo()  # one step
    assert ids(labels) == {1, 2, 3, 4, 5, 6}

    press(viewer, labels, (15, 65))  # no tool in hand: a click looks at the cell
    assert widget._cell == (0, 3)
    assert widget.suspects.row() == listed(widget).index(3)
    assert widget.hint.text().startswith("<b>Cell 3:")
    press(viewer, labels, (30, 50))  # background
    assert widget._cell == (0, 3)


def test_redraw_takes_the_brush_with_the_number_of_the_cell(opened, qtbot):
    viewer, widget, labels = opened
    look_at(widget, TWO_IN_ONE)
    area = int((labels.data == TWO_IN_ONE).sum())
    key(viewer, Qt.Key.Key_R)
    assert labels.mode == "paint"
    press(viewer, labels, (54, 26), (56, 26))
    assert (labels.data == TWO_IN_ONE).sum() > area
    qtbot.waitUntil(lambda: int(widget._list.cells.set_index("label").loc[TWO_IN_ONE, "area_px"]) > area)
    key(viewer, Qt.Key.Key_S)  # a tool of ours takes the brush away
    assert labels.mode == "pan_zoom"
    key(viewer, Qt.Key.Key_S)
    assert not widget.tool_buttons["split"].isChecked()


def test_accepted_cells_leave_the_list_and_can_be_taken_back(model, click):
    _, widget, _ = model
    first, second = listed(widget)[:2]
    click(widget.accept_button)
    assert first not in listed(widget)
    assert widget._cell[1] == second
    assert count(widget) == "7 cells"
    assert widget.suspects.details.text() == "1 accepted or mended, 6 in the list"
    widget.suspects.with_accepted.setChecked(True)
    assert widget.suspects.table.item(0, 1).text().startswith("✓")
    look_at(widget, first)
    click(widget.accept_button)
    widget.suspects.with_accepted.setChecked(False)
    assert listed(widget)[0] == first


def test_what_was_accepted_stays_so_when_the_review_begins_anew_unless_the_cell_has_changed(model, qtbot, click):
    viewer, widget, labels = model
    for cell in (FAINT, TWO_IN_ONE):
        widget._list.accept(0, cell)
    labels.data[labels.data == TWO_IN_ONE] = np.where(np.arange((labels.data == TWO_IN_ONE).sum()) < 20, 0, TWO_IN_ONE)
    again = ReviewWidget(viewer)
    qtbot.addWidget(again)
    begin(again, qtbot, click)
    accepted = again._list.cells.set_index("label")["accepted"]
    assert accepted[FAINT]
    assert accepted.sum() == 1


def test_the_cells_that_are_reviewed_can_be_seen(model, qtbot, click):
    viewer, widget, labels = model
    other = viewer.add_image(np.zeros((90, 120)), name="other")
    labels.visible = False
    click(widget.start_button)
    qtbot.waitUntil(lambda: not widget._job.is_active)
    assert labels.visible
    assert not other.visible


def test_a_cell_that_is_rubbed_out_is_no_longer_looked_at(model, click):
    _, widget, labels = model
    _, cell = widget._cell
    labels.data_setitem(np.nonzero(labels.data == cell), 0)
    widget._follow()
    assert widget._cell is None
    assert cell not in listed(widget)
    widget._accept()  # its key may still be pressed


def test_the_table_forgets_what_was_measured_of_a_cell_that_has_changed(qtbot, click):
    viewer = ViewerModel()
    image, labels = add_scene(viewer)
    cells = measure_cells(labels.data, image_from_layer(image)).drop(columns="image").rename(columns={"label": "index"})
    labels.features = cells
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    begin(widget, qtbot, click)
    rows, columns = np.nonzero(labels.data == TWO_IN_ONE)
    right = columns > np.median(columns)
    labels.data_setitem((rows[right], columns[right]), 8)
    widget._follow()
    table = labels.features.set_index("index")
    assert table.loc[TWO_IN_ONE, "area_px"] == (~right).sum()
    assert table.loc[8, "area_px"] == right.sum()
    assert np.isnan(table.loc[TWO_IN_ONE, "perimeter_px"])
    others = [LEFT, RIGHT, FAINT, 1, 2, 3]
    known = cells.set_index("index").loc[others]
    np.testing.assert_array_equal(table.loc[others, ["area_px", "perimeter_px"]], known[["area_px", "perimeter_px"]])


def test_an_annotation_gets_its_own_keys_back(qtbot, click):
    viewer = ViewerModel()
    image, labels = add_scene(viewer)
    drawn = start_annotation(viewer, image)
    drawn.data = labels.data.copy()
    own = dict(drawn.keymap)
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    widget.labels_choice.layer = drawn
    begin(widget, qtbot, click)
    assert drawn.keymap != own
    widget._leave()
    assert drawn.keymap == own


def test_filters_by_score_and_size(model):
    _, widget, labels = model
    suspects = widget.suspects
    suspects.least_score.setValue(0.5)
    assert set(listed(widget)) <= {TWO_IN_ONE, FAINT, LEFT, RIGHT}
    assert FAINT in listed(widget)
    suspects.least_score.setValue(0)
    suspects.smallest.setValue(150)
    sizes = np.bincount(labels.data.ravel())
    assert set(listed(widget)) == {i for i in ids(labels) if sizes[i] >= 150}
    suspects.largest.setValue(220)
    assert set(listed(widget)) == {i for i in ids(labels) if 150 <= sizes[i] <= 220}
    suspects.smallest.setValue(10**6)
    assert listed(widget) == []
    widget.suspects.go_on()
    assert widget._cell is None
    assert not widget.delete_button.isEnabled()


def test_what_cannot_be_mended_is_said_in_one_sentence(model):
    _, widget, labels = model
    before = labels.data.copy()

    def points(*places):
        for place in places:
            widget._tools._click(np.array(place, float))

    widget._tools.split()
    widget._tools._stroke(np.array([(30, 50), (30, 60)], float))
    assert "crosses no cell" in widget.hint.text()
    points((15, 15), (15, 40))
    assert "in the cell that is two" in widget.hint.text()
    widget._tools.merge()
    points((15, 15), (72, 60))
    assert "px apart" in widget.hint.text()
    points((-30, 15), (15, 15))
    assert "no cell at one of the points" in widget.hint.text()
    np.testing.assert_array_equal(labels.data, before)
    assert not is_corrected(labels)


def test_in_a_stack_the_slider_goes_to_the_plane(qtbot, click):
    viewer = ViewerModel()
    _, labels = add_scene(viewer, stack=True)
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    begin(widget, qtbot, click)
    assert viewer.dims.current_step[0] == 1
    look_at(widget, FAINT)
    click(widget.delete_button)
    assert ids(labels) == {1, 2, 3, 4, 6, 7}
    viewer.dims.set_current_step(0, 0)
    click(widget.undo_button)
    assert ids(labels) == {1, 2, 3, 4, 5, 6, 7}
    assert widget.suspects.table.item(0, 0).toolTip().endswith("plane 1")
    beyond = np.array([(9.0, 0, 0), (9, 0, 120), (9, 90, 120), (9, 90, 0)])  # another layer may be a taller stack
    widget._use(Use("lasso", beyond, is_stroke=True))
    assert ids(labels) == {1, 2, 3, 4, 5, 6, 7}
    assert widget.hint.text() == "The cells do not reach to this plane."


def test_layers_may_be_renamed_and_deleted_at_any_time(opened, qtbot, click):
    viewer, widget, labels = opened
    viewer.layers.remove("cell in question")
    labels.name = "mine"
    key(viewer, Qt.Key.Key_N)
    assert "cell in question" in viewer.layers
    key(viewer, Qt.Key.Key_S)
    press(viewer, labels, tuple(np.mean(np.nonzero(labels.data == TWO_IN_ONE), axis=1)))
    viewer.layers.remove(labels)
    assert count(widget) == ""
    assert not widget.start_button.isEnabled()
    assert "cell in question" not in viewer.layers
    assert not widget.tool_buttons["split"].isChecked()
    other = viewer.add_labels(discs((90, 120), (20, 20, 8), (60, 60, 9)), name="of another program")
    begin(widget, qtbot, click)
    assert widget.message.text().startswith("No probabilities are known")
    assert count(widget) == "2 cells"
    viewer.layers.remove("well")
    assert count(widget) == ""
    other.undo()
    viewer.layers.clear()


def test_cells_found_anew_are_ranked_anew(model, qtbot):
    _, widget, labels = model
    labels.data = discs((90, 120), (20, 20, 8))
    qtbot.waitUntil(lambda: count(widget) == "1 cell")


def test_labels_that_cannot_be_mended_are_refused_in_words(qtbot, click):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((9, 9)))
    viewer.add_labels(da.zeros((9, 9), dtype=int), name="lazy")
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    click(widget.start_button)
    assert widget.message.text().startswith("lazy is read piece by piece")


def test_a_new_id_finds_room_in_small_labels(qtbot, click):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((40, 60)))
    cells = np.where(discs((40, 60), (20, 20, 8), (20, 34, 8)) > 0, 255, 0).astype(np.uint8)
    labels = viewer.add_labels(cells)
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    begin(widget, qtbot, click)
    click(widget.tool_buttons["split"])
    for point in ((20, 20), (20, 34)):
        widget._tools._click(np.array(point, float))
    assert ids(labels) == {255, 256}
    assert count(widget) == "2 cells"


def test_the_part_in_view_goes_to_the_training_layer(opened, click):
    viewer, widget, labels = opened
    image = viewer.layers["well"]
    look_at(widget, FAINT)
    key(viewer, Qt.Key.Key_D)
    viewer.scene.camera.zoom *= 2
    viewer.scene.camera.center = (*viewer.scene.camera.center[:-2], 7.5, 10)
    QApplication.processEvents()
    click(widget.sending.view_button)
    annotation = annotation_of(viewer, image)
    mask = region_mask(region_of(viewer, annotation), annotation)
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(annotation.data[mask] > 0, labels.data[mask] > 0)
    assert "copied into “well cells”" in widget.sending.sent.text()
    assert viewer.layers.selection.active is labels
    annotation.undo()
    assert not annotation.data.any()


def test_the_whole_image_goes_to_the_training_layer_once(model, click):
    viewer, widget, labels = model
    image = viewer.layers["well"]
    click(widget.sending.all_button)
    annotation = annotation_of(viewer, image)
    np.testing.assert_array_equal(annotation.data, labels.data)
    assert region_mask(region_of(viewer, annotation), annotation).all()
    assert widget.sending.sent.text() == "7 cells copied into “well cells”. Train on it with “2 Train”."
    look_at(widget, FAINT)
    click(widget.delete_button)
    click(widget.sending.all_button)
    np.testing.assert_array_equal(annotation.data > 0, labels.data > 0)


def test_an_annotation_without_a_region_stays_annotated_everywhere(model, click):
    viewer, widget, _ = model
    annotation = start_annotation(viewer, viewer.layers["well"])
    annotation.paint((80, 100), 1)
    click(widget.sending.all_button)
    assert len(region_of(viewer, annotation).data) == 0


def test_a_closed_widget_is_gone_and_the_layers_stay_usable(make_napari_viewer, qtbot, click):
    viewer = make_napari_viewer(show=True)
    _, labels = add_scene(viewer)
    widget = ReviewWidget(viewer)
    docked = viewer.window.add_dock_widget(widget)
    begin(widget, qtbot, click)
    docked.destroyOnClose()
    gone = weakref.ref(widget)
    del widget, docked
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert gone() is None
    key(viewer, Qt.Key.Key_D)
    press(viewer, labels, (15, 15))
    labels.undo()
    assert len(ids(labels)) == 7
    viewer.layers.clear()


def test_an_annotation_gets_its_own_keys_back_when_the_dock_is_closed(make_napari_viewer, qtbot, click):
    viewer = make_napari_viewer()
    image, labels = add_scene(viewer)
    annotation = start_annotation(viewer, image)
    annotation.data = labels.data.copy()
    keys = dict(annotation.keymap)
    widget = ReviewWidget(viewer)
    docked = viewer.window.add_dock_widget(widget)
    widget.labels_choice.layer = annotation
    begin(widget, qtbot, click)
    assert annotation.keymap != keys
    docked.destroyOnClose()
    assert annotation.keymap == keys


def test_the_ranking_can_be_cancelled_in_the_middle_of_a_plane(qtbot, click, monkeypatch):
    go, measure = threading.Event(), ReviewList._measure
    monkeypatch.setattr(ReviewList, "_measure", lambda *args: go.wait() and measure(*args))
    viewer = ViewerModel()
    add_scene(viewer)
    widget = ReviewWidget(viewer)
    qtbot.addWidget(widget)
    click(widget.start_button)
    click(widget.cancel_button)
    qtbot.waitUntil(lambda: not widget._job.is_active)
    go.set()
    assert widget._reviewed is None
    assert not widget.cancel_button.isVisibleTo(widget)
    begin(widget, qtbot, click)
