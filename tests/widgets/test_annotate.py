"""The annotation widget in a real viewer, driven by the mouse."""

import gc
import weakref

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from napari_tally.widgets._annotation import region_mask, start_annotation
from napari_tally.widgets._layers import annotation_of, belong, image_of, region_of
from napari_tally.widgets.annotate import AnnotateWidget
from napari_tally.widgets.predict import PredictWidget
from napari_tally.widgets.train import TrainWidget


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)  # the canvas takes the mouse only when it is shown


@pytest.fixture
def click(qtbot):
    def click(button) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return click


@pytest.fixture
def opened(viewer, qtbot, rng):
    """A viewer with an image and the widget docked."""
    viewer.add_image(rng.random((40, 50)).astype(np.float32), name="nuclei", scale=(0.5, 0.5), units="um")
    widget = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Annotate")
    return viewer, widget


def drag(qtbot, viewer, *points) -> None:
    """Drag the mouse on the canvas over points in world coordinates (y, x)."""
    canvas = viewer.window._qt_viewer.canvas.native
    middle = np.array(viewer.scene.camera.center[-2:])

    def at(point) -> QPoint:
        y, x = (np.array(point) - middle) * viewer.scene.camera.zoom + np.array([canvas.height(), canvas.width()]) / 2
        return QPoint(round(x), round(y))

    QApplication.processEvents()
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=at(points[0]))
    for point in points[1:]:
        moved = QMouseEvent(
            QEvent.Type.MouseMove,
            QPointF(at(point)),
            QPointF(canvas.mapToGlobal(at(point))),
            Qt.MouseButton.NoButton,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
        QApplication.sendEvent(canvas, moved)  # qtbot.mouseMove holds no button
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=at(points[-1]))


def test_from_an_image_to_a_checked_annotation_with_the_mouse_alone(opened, qtbot, click):
    viewer, widget = opened
    click(widget.start_button)
    labels = annotation_of(viewer, viewer.layers["nuclei"])
    labels.brush_size = 4
    for n, y in enumerate((5, 9, 15), start=1):
        assert labels.selected_label == n
        drag(qtbot, viewer, (y, 6), (y, 8))
        assert labels.data[2 * y, 14] == n
        click(widget.next_button)
    qtbot.waitUntil(lambda: widget.count_text.text() == "3 cells drawn")
    click(widget.tool_buttons["erase"])
    drag(qtbot, viewer, (15, 6), (15, 8))
    qtbot.waitUntil(lambda: widget.count_text.text() == "2 cells drawn")
    click(widget.undo_button)
    qtbot.waitUntil(lambda: widget.count_text.text() == "3 cells drawn")
    click(widget.region_button)
    assert viewer.layers.selection.active.mode == "add_rectangle"
    drag(qtbot, viewer, (2, 3), (12, 20))
    assert widget.region_text.text() == "1 region is marked."
    marked = region_mask(region_of(viewer, labels), labels)
    assert marked[5:23, 7:39].all()
    assert not marked[27:].any()
    click(widget.check_button)
    qtbot.waitUntil(lambda: "Ready to train" in widget.result.text())
    assert "2 cells" in widget.result.text()


def test_n_on_the_canvas_takes_the_next_cell(opened, qtbot, click):
    viewer, widget = opened
    click(widget.start_button)
    labels = viewer.layers["nuclei cells"]
    drag(qtbot, viewer, (5, 6), (5, 8))
    click(widget.tool_buttons["pick"])
    assert labels.mode == "pick"
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key.Key_N)
    assert (labels.selected_label, labels.mode) == (2, "paint")
    assert widget.tool_buttons["paint"].isChecked()
    assert not widget.tool_buttons["pick"].isChecked()


def test_undo_by_button_and_by_key_goes_back_step_by_step_whichever_layer_is_active(opened, qtbot, click):
    viewer, widget = opened
    click(widget.start_button)
    labels = viewer.layers["nuclei cells"]
    region = region_of(viewer, labels)
    canvas = viewer.window._qt_viewer.canvas.native

    def done():
        return len(np.unique(labels.data)) - 1, len(region.data)

    def press(layer, modifiers=Qt.KeyboardModifier.ControlModifier):
        viewer.layers.selection.active = layer
        qtbot.keyClick(canvas, Qt.Key.Key_Z, modifiers)
        return done()

    drag(qtbot, viewer, (5, 6), (5, 8))
    click(widget.region_button)
    drag(qtbot, viewer, (2, 3), (12, 20))
    assert done() == (1, 1)
    click(widget.undo_button)
    assert done() == (1, 0)
    drag(qtbot, viewer, (2, 3), (12, 20))
    click(widget.next_button)
    drag(qtbot, viewer, (15, 6), (15, 8))
    click(widget.clear_button)
    assert done() == (2, 0)
    assert press(labels) == (2, 1)
    assert press(region) == (1, 1)
    assert press(region) == (1, 0)
    redo = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    assert press(labels, redo) == (1, 1)
    assert press(region, redo) == (2, 1)
    assert press(labels, redo) == (2, 0)


# The others need no canvas: a viewer without a window is quicker.


@pytest.fixture
def model():
    return ViewerModel()


@pytest.fixture
def widget(model, qtbot):
    widget = AnnotateWidget(model)
    qtbot.addWidget(widget)
    return widget


def test_without_an_image_it_says_what_to_do(model, widget):
    assert not widget.start_button.isEnabled()
    assert widget.message.text().startswith("Open an image first")
    model.add_image(np.zeros((9, 9)))
    assert widget.start_button.isEnabled()
    assert not widget.message.text()
    assert not widget.next_button.isEnabled()


def test_a_loaded_mask_is_split_into_cells_and_back(model, widget, qtbot, click):
    model.add_image(np.zeros((30, 30)), name="a")
    mask = np.kron(np.eye(5, dtype=np.uint8), np.ones((6, 6), np.uint8))
    mask[:, ::6] = mask[::6] = 0
    loaded = model.add_labels(mask.copy(), name="mask")
    widget.labels_choice.layer = loaded
    click(widget.start_button)
    assert annotation_of(model, model.layers["a"]) is loaded
    assert widget.count_text.text() == "1 cell drawn"
    click(widget.check_button)
    qtbot.waitUntil(lambda: "all 5 separate objects have the same id 1" in widget.result.text())
    assert widget.split_button.isVisibleTo(widget)
    click(widget.split_button)
    assert widget.count_text.text() == "5 cells drawn"
    assert not widget.split_button.isVisibleTo(widget)
    qtbot.waitUntil(lambda: "Ready to train" in widget.result.text())
    click(widget.undo_button)
    np.testing.assert_array_equal(loaded.data, mask)
    qtbot.waitUntil(lambda: widget.count_text.text() == "1 cell drawn")


def test_a_prediction_is_copied_around_what_is_annotated_and_undo_takes_it_back(model, widget, qtbot, click):
    image = model.add_image(np.zeros((30, 30)), name="a")
    click(widget.start_button)
    labels = widget.labels_choice.layer
    labels.data[2:6, 2:6] = 1
    region_of(model, labels).add_rectangles([[-0.5, -0.5], [9.5, 9.5]])
    assert not widget.copy_button.isEnabled()
    found = np.zeros((30, 30), np.int32)
    found[3:8, 3:8], found[7:9, 1:4], found[20:25, 20:25] = 1, 2, 3
    predicted = Labels(found, name="a labels")
    belong(predicted, "prediction", image)
    model.add_layer(predicted)
    assert widget.copy_choice.layer is predicted
    assert predicted not in widget.labels_choice.layers
    click(widget.copy_button)
    assert set(np.unique(labels.data)) == {0, 1, 2}
    assert (labels.data[2:6, 2:6] == 1).all()
    assert (labels.data[20:25, 20:25] == 2).all()
    assert (labels.selected_label, widget.count_text.text()) == (3, "2 cells drawn")
    click(widget.undo_button)
    assert set(np.unique(labels.data)) == {0, 1}


def test_a_stack_is_annotated_plane_by_plane(model, widget, qtbot, click):
    model.add_image(np.zeros((3, 20, 20)), name="stack", scale=(5, 1, 1))
    click(widget.start_button)
    labels = widget.labels_choice.layer
    assert (labels.data.shape, widget.whole_button.text()) == ((3, 20, 20), "Whole plane")
    for z in (0, 2):
        model.dims.set_point(0, 5 * z)
        labels.paint((z, 5, 5), 1)
        labels.paint((z, 15, 5), 2)
        qtbot.waitUntil(lambda z=z: widget.count_text.text() == f"{2 + z} cells drawn")
    click(widget.whole_button)
    click(widget.check_button)
    qtbot.waitUntil(lambda: "Ready" in widget.result.text())
    assert "2 cells, 33% of the image" in widget.result.text()
    click(widget.clear_button)
    assert widget.region_text.text().startswith("No region")
    assert not widget.result.text()


def test_layers_that_are_renamed_deleted_or_selected_are_followed(model, widget, click):
    a = model.add_image(np.zeros((9, 9)), name="a")
    click(widget.start_button)
    cells_of_a, region_of_a = model.layers["a cells"], model.layers["a region"]
    b = model.add_image(np.zeros((9, 9, 3), np.uint8), name="b", rgb=True)
    widget.image_choice.layer = b
    assert widget.labels_choice.layer is None
    click(widget.start_button)
    assert image_of(model, widget.labels_choice.layer) is b
    model.layers.selection.active = cells_of_a
    assert (widget.image_choice.layer, widget.labels_choice.layer) == (a, cells_of_a)
    a.name = "c"
    assert widget.image_choice.currentText() == "c"
    click(widget.whole_button)
    assert widget.region_text.text() == "1 region is marked."
    model.layers.remove(region_of_a)
    assert widget.region_text.text().startswith("No region is marked")
    click(widget.region_button)
    assert model.layers.selection.active.name == "c region"
    assert model.layers.selection.active.mode == "add_rectangle"
    model.layers.remove(cells_of_a)
    assert not widget.next_button.isEnabled()
    assert widget.count_text.text() == ""
    model.layers.clear()
    assert not widget.start_button.isEnabled()


def test_protection_from_the_brush_is_that_of_the_layer(model, widget, qtbot, click):
    model.add_image(np.zeros((9, 9)))
    click(widget.start_button)
    labels = widget.labels_choice.layer
    qtbot.mouseClick(widget.protect, Qt.MouseButton.LeftButton, pos=QPoint(8, widget.protect.height() // 2))
    assert labels.preserve_labels
    labels.preserve_labels = False
    assert not widget.protect.isChecked()


def test_labels_that_cannot_be_painted_are_refused_in_words(model, widget, click):
    model.add_image(np.zeros((9, 9)))
    widget.labels_choice.layer = model.add_labels(da.zeros((9, 9), dtype=int), name="lazy")
    click(widget.start_button)
    assert widget.message.text().startswith("lazy is read piece by piece from a file and cannot be painted.")


@pytest.mark.filterwarnings("ignore:.*invalid value|All-NaN")
def test_what_stops_the_check_is_said_in_the_widget(model, widget, qtbot, click):
    model.add_image(np.full((9, 9), np.nan), name="bad")
    click(widget.start_button)
    click(widget.check_button)
    qtbot.waitUntil(lambda: "81 of 81 values are not finite" in widget.result.text())


def test_the_proxy_that_napari_gives_to_plugins_will_do(model, qtbot, click):
    model.add_image(np.zeros((9, 9)), name="a")
    widget = AnnotateWidget(PublicOnlyProxy(model))
    qtbot.addWidget(widget)
    click(widget.start_button)
    assert widget.next_button.isEnabled()


@pytest.mark.parametrize("kind", [AnnotateWidget, PredictWidget, TrainWidget])
def test_a_closed_widget_is_gone_and_the_layers_stay_usable(make_napari_viewer, kind):
    viewer = make_napari_viewer()
    image = viewer.add_image(np.zeros((9, 9)))
    widget = kind(viewer)
    start_annotation(viewer, image)
    docked = viewer.window.add_dock_widget(widget)
    docked.destroyOnClose()
    gone = weakref.ref(widget)
    del widget, docked
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert gone() is None
    viewer.layers["Image cells"].paint((4, 4), 1)
    image.name = "renamed"
    viewer.layers.clear()


def test_points_become_cells(opened, click):
    viewer, widget = opened
    assert widget.points_group.isHidden()
    points = viewer.add_points(np.array([[5.0, 5], [10, 12]]), units="um", name="dots")  # in pixels of 0.5 um: (10, 10), (20, 24)
    assert not widget.points_group.isHidden()
    click(widget.start_button)
    labels = annotation_of(viewer, viewer.layers["nuclei"])
    labels.data[20:23, 24:27] = 7  # drawn before: stays
    widget.radius.setValue(3)
    click(widget.points_button)
    assert widget.message.text() == "1 cell made of points."
    assert labels.data[10, 10] == labels.data[13, 10] > 0
    assert labels.data[14, 10] == 0
    assert labels.data[21, 25] == 7
    click(widget.undo_button)
    assert labels.data[10, 10] == 0
    points.data = np.array([[5.0, 500]])
    click(widget.points_button)
    assert "lie outside the image" in widget.message.text()
    points.data = np.empty((0, 2))
    click(widget.points_button)
    assert "dots holds no points yet" in widget.message.text()
    viewer.layers.remove(points)
    assert widget.points_group.isHidden()


def test_undo_takes_back_what_was_done_last_regions_too(model, widget, click):
    image = model.add_image(np.zeros((20, 30)), name="well")
    click(widget.start_button)
    labels = annotation_of(model, image)
    region = region_of(model, labels)
    for number in (1, 2):
        labels.data_setitem((np.array([number]), np.array([3])), number)
    for _ in range(2):
        click(widget.whole_button)
        assert len(region.data) == 1  # it is marked already
    click(widget.undo_button)
    assert not len(region.data)
    click(widget.whole_button)
    click(widget.clear_button)
    click(widget.undo_button)
    assert region_mask(region, labels).all()
    labels.data_setitem((np.array([5]), np.array([3])), 3)
    click(widget.undo_button)  # the stroke came last
    assert region_mask(region, labels).all()
    assert np.unique(labels.data).tolist() == [0, 1, 2]


def test_undo_goes_back_in_order_whatever_was_looked_at_meanwhile(model, widget, click):
    image = model.add_image(np.zeros((20, 30)), name="well")
    click(widget.start_button)
    labels = annotation_of(model, image)
    region = region_of(model, labels)
    labels.paint((5, 5), 1)
    click(widget.whole_button)
    click(widget.clear_button)
    labels.visible = False
    labels.visible = True
    click(widget.undo_button)
    assert (len(region.data), labels.data.max()) == (1, 1)
    click(widget.undo_button)
    assert (len(region.data), labels.data.max()) == (0, 1)
    model.layers.remove(region)
    click(widget.whole_button)  # in a new one
    click(widget.undo_button)
    click(widget.undo_button)
    assert (len(region_of(model, labels).data), labels.data.max()) == (0, 0)
    click(widget.undo_button)  # there is nothing more


def test_the_keys_of_a_widget_that_is_gone_do_what_napari_does(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    image = viewer.add_image(np.zeros((9, 9)))
    widget = AnnotateWidget(viewer)
    labels = start_annotation(viewer, image)
    widget.labels_choice.layer = labels
    docked = viewer.window.add_dock_widget(widget)
    docked.destroyOnClose()
    del widget, docked
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    labels.paint((4, 4), 1)
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not labels.data.any()


def test_cells_of_a_stack_are_counted_whichever_plane_is_shown(model, widget, qtbot, click):
    image = model.add_image(np.zeros((4, 20, 30)), name="stack")
    click(widget.start_button)
    labels = annotation_of(model, image)
    model.dims.set_point(0, 0)
    labels.paint((0, 5, 5), 1)
    model.dims.set_point(0, 2)  # before it is counted
    qtbot.waitUntil(lambda: widget.count_text.text() == "1 cell drawn")
    found = np.zeros((4, 20, 30), np.int32)
    found[:, 10:15, 10:15] = 1
    widget.copy_choice.layer = model.add_labels(found)
    click(widget.copy_button)
    assert widget.count_text.text() == "5 cells drawn"
    for n in ("1 cell", "0 cells"):
        click(widget.undo_button)
        qtbot.waitUntil(lambda n=n: widget.count_text.text() == f"{n} drawn")


def test_a_check_is_of_the_annotation_that_is_worked_on(model, widget, qtbot, click):
    for name in "ab":
        model.add_image(np.zeros((30, 30)), name=name)
        widget.image_choice.layer = model.layers[name]
        click(widget.start_button)
    widget.image_choice.layer = model.layers["a"]
    cells = model.layers["a cells"]
    cells.data[2:6, 2:6] = cells.data[12:16, 12:16] = 1
    click(widget.check_button)
    widget.image_choice.layer = model.layers["b"]
    qtbot.waitUntil(lambda: widget.check_button.text() == "Check annotation")
    assert not widget.result.text()
    assert not widget.split_button.isVisibleTo(widget)
    widget.image_choice.layer = model.layers["a"]
    click(widget.check_button)
    click(widget.check_button)  # the same button stops it
    qtbot.waitUntil(lambda: widget.check_button.text() == "Check annotation")
    assert not widget.result.text()


def test_a_prediction_that_is_there_already_can_be_copied(model, qtbot, click):
    image = model.add_image(np.zeros((20, 30)), name="well")
    found = model.add_labels(np.pad(np.ones((4, 4), np.int32), ((0, 16), (0, 26))), name="well labels")
    belong(found, "prediction", image)
    widget = AnnotateWidget(model)
    qtbot.addWidget(widget)
    click(widget.start_button)
    click(widget.copy_button)
    np.testing.assert_array_equal(annotation_of(model, image).data, found.data)
