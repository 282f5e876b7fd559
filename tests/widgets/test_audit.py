"""The widget that checks a count: clicks in random windows, and the corrected count; nothing is lost on the way."""

import json

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

import napari_tally as nt
from napari_tally.core.audit import StudyImage, Window, draw_audit
from napari_tally.core.audit_file import read_audit, write_audit
from napari_tally.settings import AuditSettings
from napari_tally.widgets import _layers
from napari_tally.widgets._annotation import start_annotation
from napari_tally.widgets._frame import CountingFrame, frame_lines
from napari_tally.widgets._geometry import shown_plane
from napari_tally.widgets._layers import belong, cells_on
from napari_tally.widgets._plots import HandPlot
from napari_tally.widgets.audit import AuditWidget


def middles(labels) -> np.ndarray:
    """The middles of the cells, (n, 2)."""
    return np.array([np.argwhere(labels == cell).mean(0) for cell in np.unique(labels)[1:]]).reshape(-1, 2)


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    return {f"im{i}": nt.simulate_nuclei(seed=i, n=30, diameter=12, shape=(128, 160))[1] for i in range(3)}


@pytest.fixture
def model(truth):
    return fill_viewer(ViewerModel(), truth)


def fill_viewer(viewer, truth):
    """Images with predicted cells of which every fifth is missing."""
    for i, (name, cells) in enumerate(truth.items()):
        image = viewer.add_image(
            nt.simulate_nuclei(seed=i, n=30, diameter=12, shape=(128, 160))[0], name=name, scale=(0.5, 0.5), units="um"
        )
        labels = viewer.add_labels(np.where(cells % 5, cells, 0), name=f"{name} labels", scale=(0.5, 0.5), units="um")
        belong(labels, "prediction", image)
    return viewer


@pytest.fixture
def widget(model, qtbot):
    return make(model, qtbot)


def make(viewer, qtbot) -> AuditWidget:
    widget = AuditWidget(viewer)
    qtbot.addWidget(widget)
    widget.settings["windows"].value = 12
    widget.settings["window"].value = 40
    return widget


@pytest.fixture
def started(widget, qtbot, tmp_path):
    widget.start(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    return widget


def count_window(widget, viewer, truth) -> None:
    """Click the true cells of the window that is shown, and press the right button."""
    cells = middles(truth[widget._frame.window.image])
    inside = cells[widget._frame.window.holds(cells)]
    points = viewer.layers["Click on cells"]
    for place in inside:
        points.add(place)
    QTest.mouseClick(widget.done_button if len(inside) else widget.none_button, Qt.MouseButton.LeftButton)


def test_by_mouse_and_keys_through_a_whole_audit(make_napari_viewer, qtbot, truth, tmp_path):
    viewer = fill_viewer(make_napari_viewer(show=True), truth)
    widget = make(viewer, qtbot)
    dock = viewer.window.add_dock_widget(widget)
    widget.settings["windows"].value = 4
    QTest.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    dialog = widget.findChild(QFileDialog)
    dialog.setDirectory(str(tmp_path))
    dialog.selectFile("audit.json")
    dialog.accept()
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    canvas = viewer.window._qt_viewer.canvas.native
    clicked = 0
    for _ in range(4):
        window = widget._frame.window
        assert [layer.name for layer in viewer.layers if layer.visible] == [window.image, "Counting frame", "Click on cells"]
        cells = middles(truth[window.image])
        inside = cells[window.holds(cells)]
        for place in inside:
            world = viewer.layers[window.image].data_to_world(place)
            camera = viewer.scene.camera
            offset = (np.array(world) - camera.center[-2:]) * camera.zoom
            at = QPoint(round(canvas.width() / 2 + offset[1]), round(canvas.height() / 2 + offset[0]))
            assert canvas.rect().contains(at)
            QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=at)
        np.testing.assert_allclose(np.reshape(widget._frame.clicks, (-1, 2)), inside, atol=1)
        clicked += len(inside)
        QTest.keyClick(canvas, Qt.Key.Key_N if len(inside) else Qt.Key.Key_0)
    assert widget.place_text.text() == "All windows are counted"
    assert [layer.name for layer in viewer.layers if layer.visible] == [n for name in truth for n in (name, f"{name} labels")]
    total = read_audit(tmp_path / "audit.json").total()
    assert (total.windows, total.clicks) == (4, clicked)
    predicted = sum(len(np.unique(cells[cells % 5 > 0])) for cells in truth.values())
    wanted = (
        f"predicted {predicted}, corrected {total.corrected:.0f} ({total.low:.0f} to {total.high:.0f}) from 4 windows, {clicked} clicks"
    )
    assert wanted in widget.result.details.text()
    interval = f"({total.low:.0f} to {total.high:.0f})"
    assert interval in widget.result.count_text.text()  # large beside the count, and once more in the sentence
    assert widget.result.details.text().count(interval) == 1
    assert "95 % interval" in widget.result.details.text()
    assert "need not add up to the count of all" in widget.result.table.toolTip()
    assert "10 more windows would narrow it to about ±" in widget.result.details.text()
    assert widget.result.table.rowCount() == 3
    QTest.mouseClick(widget.result.more_button, Qt.MouseButton.LeftButton)
    assert widget.place_text.text() == "Window 5 of 14"
    viewer.window.remove_dock_widget(dock)  # midway
    assert not widget._frame.is_shown
    assert [layer.name for layer in viewer.layers if layer.visible] == [n for name in truth for n in (name, f"{name} labels")]
    viewer.layers.clear()


def test_going_on_with_an_audit_finds_everything_as_it_was(started, model, qtbot, truth, tmp_path):
    for _ in range(5):
        count_window(started, model, truth)
    model.layers["Click on cells"].add([20.0, 20.0])
    qtbot.waitUntil(lambda: "5" in json.loads((tmp_path / "audit.json").read_text())["clicks"])  # written a second after the click
    shown = started._frame.window
    again = make(fill_viewer(ViewerModel(), truth), qtbot)
    again.open(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: again._frame.is_shown)
    assert again._frame.window == shown
    assert again._frame.clicks == [(20.0, 20.0)]
    assert again.place_text.text() == "Window 6 of 12"
    assert again._audit.counts == started._audit.counts


def test_cells_that_were_changed_after_the_drawing_are_named(started, model, qtbot, truth, tmp_path):
    qtbot.waitUntil(lambda: not started._comparison.is_active)
    assert "changed" not in started.result.details.text()
    model.layers["im1 labels"].data_setitem(np.nonzero(model.layers["im1 labels"].data == 1), 0)  # as a brush does
    for _ in range(12):
        count_window(started, model, truth)
    named = "The cells of im1 were changed after the windows were drawn."
    qtbot.waitUntil(lambda: named in started.result.details.text())
    again = make(model, qtbot)
    again.open(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: named in again.result.details.text())


def test_a_smaller_audit_is_opened_over_a_larger_one(started, model, qtbot, tmp_path):
    images = [StudyImage(f"im{i}", model.layers[f"im{i} labels"].data) for i in range(3)]
    write_audit(tmp_path / "small.json", draw_audit(images, AuditSettings(windows=4, window=40)))
    started._number = 11
    started.open(tmp_path / "small.json")
    qtbot.waitUntil(lambda: started.place_text.text() == "Window 1 of 4")


def test_another_image_of_the_same_name_is_not_taken_for_that_of_the_audit(started, model, qtbot, truth, tmp_path):
    wanted = started._audit.window(0).image
    viewer = fill_viewer(ViewerModel(), truth)
    names = list(truth)
    viewer.layers[wanted].name = "another name"
    other = next(name for name in names if name != wanted)
    viewer.layers[other].name = wanted
    again = make(viewer, qtbot)
    again.open(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: again._frame.is_shown)
    assert again._images.known[wanted] is viewer.layers["another name"]  # by its pixels
    viewer.layers.remove("another name")
    again._go_there()
    assert f"{wanted} has other pixels than when the windows were drawn" in again.message.text()


def test_labels_of_another_origin_lie_on_one_image(qtbot, truth, tmp_path):
    viewer = ViewerModel()
    for i, name in enumerate(("a DAPI", "b DAPI")):
        viewer.add_image(nt.simulate_nuclei(seed=i, n=30, diameter=12, shape=(128, 160))[0], name=name)
    for name, cells in (("b cells", truth["im1"]), ("a cells", truth["im0"])):
        viewer.add_labels(cells, name=name)
    widget = make(viewer, qtbot)
    widget.start(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    counted = {image.name: image.predicted for image in widget._audit.images}
    assert counted == {"a DAPI": len(np.unique(truth["im0"])) - 1, "b DAPI": len(np.unique(truth["im1"])) - 1}
    assert "The cells are those of “a cells” on a DAPI, “b cells” on b DAPI." in widget.message.text()
    for name in ("b cells", "a cells"):
        viewer.layers[name].name = "cells"
    viewer.layers.remove("cells")
    assert [layer.name for layer in widget.image_choice.layers] == ["b DAPI"]  # the next one below


def test_no_window_lies_where_nobody_has_counted(qtbot, truth, tmp_path):
    viewer = ViewerModel()
    stack = np.stack([nt.simulate_nuclei(seed=0, n=30, diameter=12, shape=(128, 160))[0]] * 3)
    image = viewer.add_image(stack, name="stack")
    labels = viewer.add_labels(np.stack([0 * truth["im0"], truth["im0"], 0 * truth["im0"]]), name="stack labels")
    belong(labels, "prediction", image)
    labels.metadata["napari_tally"]["planes"] = (1,)
    widget = make(viewer, qtbot)
    widget.start(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    assert set(widget._audit.windows["plane"]) == {1}


def test_what_is_clicked_outside_is_shown_and_not_counted(started, model):
    window, points = started._frame.window, model.layers["Click on cells"]
    points.add([window.top + 1, window.left + 1])
    points.add([window.top - 0.5, window.left - 0.5])  # on the included corner
    points.add([window.bottom - 0.5, window.left + 1])  # on an excluded edge
    assert started._frame.inside.tolist() == [True, True, False]
    assert started.clicks_text.text().startswith("2 cells clicked, 1 outside, not counted")
    assert points.face_color[0].tolist() != points.face_color[2].tolist()
    points.selected_data = {1}
    points.remove_selected()
    assert started.clicks_text.text().startswith("1 cell clicked, 1 outside")
    QTest.mouseClick(started.done_button, Qt.MouseButton.LeftButton)
    assert started._audit.counts == {0: 1}


def test_an_empty_window_takes_a_click_of_its_own(started, model):
    QTest.mouseClick(started.done_button, Qt.MouseButton.LeftButton)
    assert "No cell is clicked in the frame" in started.clicks_text.text()
    assert started._audit.counts == {}
    model.layers["Click on cells"].add([started._frame.window.top + 1, started._frame.window.left + 1])
    QTest.mouseClick(started.none_button, Qt.MouseButton.LeftButton)
    assert "There are clicks in the frame" in started.clicks_text.text()
    assert started._audit.counts == {}
    model.layers["Click on cells"].data = np.zeros((0, 2))
    QTest.mouseClick(started.none_button, Qt.MouseButton.LeftButton)
    assert started._audit.counts == {0: 0}


def test_back_shows_what_was_clicked_and_it_can_be_changed(started, model, truth):
    count_window(started, model, truth)
    first = started._audit.counts[0]
    QTest.mouseClick(started.back_button, Qt.MouseButton.LeftButton)
    assert started.place_text.text() == "Window 1 of 12"
    window = started._frame.window
    model.layers["Click on cells"].add([window.top + 0.5, window.left + 0.5])
    assert 0 not in started._audit.counts  # until it is done again
    QTest.mouseClick(started.done_button, Qt.MouseButton.LeftButton)
    assert started._audit.counts[0] == first + 1
    assert started.place_text.text() == "Window 2 of 12"


def test_back_from_the_result_shows_the_last_window_counted(started, model, qtbot, truth, tmp_path):
    for _ in range(12):
        assert started.back_button.isEnabled() == (started._number > 0)
        count_window(started, model, truth)
    assert not started._frame.is_shown
    last = started._audit.counts[11]
    QTest.mouseClick(started.back_button, Qt.MouseButton.LeftButton)
    assert started.place_text.text() == "Window 12 of 12"
    window = started._frame.window
    model.layers["Click on cells"].add([window.top + 0.5, window.left + 0.5])
    QTest.mouseClick(started.done_button, Qt.MouseButton.LeftButton)
    assert started._audit.counts[11] == last + 1
    assert started.place_text.text() == "All windows are counted"
    again = make(fill_viewer(ViewerModel(), truth), qtbot)
    again.open(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: again.place_text.text() == "All windows are counted" and again.back_button.isEnabled())
    QTest.mouseClick(again.back_button, Qt.MouseButton.LeftButton)
    assert again._frame.window == window


def test_back_while_paused_waits_for_go_there(started, model, truth):
    count_window(started, model, truth)
    QTest.mouseClick(started.stop_button, Qt.MouseButton.LeftButton)
    assert not started.back_button.isEnabled()
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert started.place_text.text() == "Window 2 of 12"
    assert started.back_button.isEnabled()


def test_deleting_layers_midway_leaves_the_window_usable(started, model, truth):
    count_window(started, model, truth)
    model.layers["Click on cells"].add([20.0, 20.0])
    model.layers.remove("Click on cells")
    assert "Counting frame" not in model.layers
    assert "the clicks are kept" in started.clicks_text.text()
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert model.layers["Click on cells"].data.tolist() == [[20.0, 20.0]]
    model.layers.remove("Counting frame")
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert started._frame.is_shown
    name = started._frame.window.image
    kept = model.layers[name]
    model.layers.remove(kept)
    assert started.message.text().startswith(f"{name} was closed")
    assert not started._frame.is_shown
    assert not started.done_button.isEnabled()
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert "which is not open" in started.message.text()
    model.add_image(kept.data, name=name, scale=(0.5, 0.5), units="um")
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert started._frame.is_shown
    assert started._frame.clicks == [(20.0, 20.0)]
    model.layers.clear()
    assert not started._frame.is_shown
    assert not started.start_button.isEnabled()


def test_images_of_a_folder_are_opened_one_at_a_time(qtbot, truth, tmp_path):
    (tmp_path / "images").mkdir()
    for i, name in enumerate(truth):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", nt.simulate_nuclei(seed=i, n=30, diameter=12, shape=(128, 160))[0])
    audit = draw_audit([StudyImage(name, cells) for name, cells in truth.items()], AuditSettings(windows=12, window=40))
    write_audit(tmp_path / "audit.json", audit)
    viewer = ViewerModel()
    widget = make(viewer, qtbot)
    widget.open(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: "which is not open" in widget.message.text())
    assert widget.folder_button.isVisibleTo(widget)
    widget.find_images(tmp_path / "images")
    for _ in range(12):
        assert [layer.name for layer in viewer.layers] == [widget._frame.window.image, "Counting frame", "Click on cells"]
        count_window(widget, viewer, truth)
    assert widget.place_text.text() == "All windows are counted"
    total = read_audit(tmp_path / "audit.json").total()
    assert total.corrected == pytest.approx(total.predicted)  # the cells are the predicted ones


def test_annotated_images_are_left_out(model, widget, qtbot, tmp_path):
    annotation = start_annotation(model, model.layers["im0"])
    annotation.data[:10, :10] = 1
    widget.start(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    assert set(widget._audit.windows["image"]) == {1, 2}
    assert "Windows that touch your annotations are left out" in widget.message.text()


def test_the_frame_lies_on_the_plane_and_the_pixels_of_its_image(qtbot):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((4, 64, 80)), name="stack", scale=(3, 0.5, 0.5), translate=(0, 10, 20))
    frame = CountingFrame(viewer, {})
    frame.show(Window(0, "stack", 2, 16, 32, 32, 48), image, [])
    assert viewer.dims.current_step[0] == 2
    shapes = viewer.layers["Counting frame"]
    np.testing.assert_allclose(shapes.data_to_world((15.5, 31.5)), image.data_to_world((2, 15.5, 31.5))[-2:])
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], image.data_to_world((2, 23.5, 39.5))[-2:], atol=0.1)
    included, *dashes = frame_lines(frame.window)
    np.testing.assert_array_equal(included, [[31.5, 31.5], [15.5, 31.5], [15.5, 47.5]])  # left and top
    np.testing.assert_array_equal(shapes.data[0], included)
    ends = np.array(dashes).reshape(-1, 2)
    assert ((ends[:, 0] == 31.5) | (ends[:, 1] == 47.5)).all()  # bottom or right
    frame.leave()
    assert list(viewer.layers) == [image]


def test_the_frame_turns_to_its_plane_whatever_units_the_image_is_in_and_comes_back_to_it():
    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 64, 80)), scale=(3, 0.5, 0.5), units="um")
    image = viewer.add_image(np.zeros((4, 64, 80)), name="stack", scale=(3000, 500, 500), units="nm")
    frame = CountingFrame(viewer, {})
    frame.show(Window(0, "stack", 2, 16, 32, 32, 48), image, [])
    assert shown_plane(viewer, image) == (2,)
    viewer.dims.set_current_step(0, 0)
    frame.fly()
    assert shown_plane(viewer, image) == (2,)
    frame.leave()


def test_a_click_on_another_plane_than_that_of_the_window_is_not_taken(qtbot, tmp_path):
    viewer = ViewerModel()
    cells = nt.simulate_nuclei(seed=0, n=30, diameter=12, shape=(128, 160))[1]
    viewer.add_image(np.zeros((3, 128, 160)), name="stack")
    belong(viewer.add_labels(np.stack([cells] * 3)), "prediction", viewer.layers["stack"])
    widget = make(viewer, qtbot)
    widget.start(tmp_path / "audit.json")
    qtbot.waitUntil(lambda: widget._frame.is_shown)
    window, points = widget._frame.window, viewer.layers["Click on cells"]
    points.add([window.top + 5.0, window.left + 5.0])
    viewer.dims.set_current_step(0, (window.plane + 1) % 3)
    points.add([window.top + 9.0, window.left + 9.0])
    assert len(widget._frame.clicks) == len(points.data) == 1
    assert "not taken" in widget.clicks_text.text()
    QTest.mouseClick(widget.fly_button, Qt.MouseButton.LeftButton)
    points.add([window.top + 9.0, window.left + 9.0])
    assert len(widget._frame.clicks) == len(points.data) == 2
    assert widget.clicks_text.text().startswith("2 cells clicked")


def test_the_newest_cells_are_audited_in_whatever_order_the_layers_lie(model, widget):
    image, older = model.layers["im0"], model.layers["im0 labels"]
    newer = model.add_labels(np.zeros_like(older.data), name="im0 labels")
    belong(newer, "prediction", image)
    model.layers.move(model.layers.index(older), len(model.layers))
    assert cells_on(model, image) is newer


def test_the_frame_does_not_lie_on_other_pixels(started, model):
    window = started._frame.window
    image = model.layers[window.image]
    before, image.data = image.data, image.data[::-1].copy()
    assert not started._frame.is_shown
    assert f"{window.image} has other pixels now" in started.message.text()
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert not started._frame.is_shown
    assert "has other pixels than when the windows were drawn" in started.message.text()
    image.data = before
    QTest.mouseClick(started.fly_button, Qt.MouseButton.LeftButton)
    assert started._frame.window == window


def test_a_layer_more_is_held_against_every_image_once(qtbot, monkeypatch):
    """Of forty images with labels each more layer took two seconds."""
    viewer, asked = ViewerModel(), []
    for i in range(8):
        viewer.add_image(np.zeros((16, 16)), name=f"image {i}")
        viewer.add_labels(np.ones((16, 16), int), name=f"cells {i}")
    make(viewer, qtbot)
    under = _layers.image_under
    monkeypatch.setattr(_layers, "image_under", lambda *args: asked.append(args) or under(*args))
    viewer.add_labels(np.ones((16, 16), int))
    assert len(asked) == 9


def test_a_file_that_cannot_be_used_is_said(widget, qtbot, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    widget.open(tmp_path / "bad.json")
    qtbot.waitUntil(lambda: "this is not an audit" in widget.message.text())
    widget.start(tmp_path / "bad.json" / "audit.json")
    qtbot.waitUntil(lambda: "bad.json" in widget.message.text() and "exists" in widget.message.text())
    assert widget.start_button.isEnabled()


def test_the_table_is_that_of_the_command_line(started, model, truth, tmp_path):
    for _ in range(12):
        count_window(started, model, truth)
    started.save(tmp_path / "corrected.csv")
    lines = (tmp_path / "corrected.csv").read_text().splitlines()
    assert lines[0] == "what,name,predicted,corrected,low,high,windows,clicks"
    assert [line.split(",")[:2] for line in lines[1:]] == [["all", ""], ["image", "im0"], ["image", "im1"], ["image", "im2"]]
    assert "Saved" in started.message.text()


def test_without_predicted_cells_it_says_what_to_do(qtbot):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((9, 9)))
    widget = make(viewer, qtbot)
    assert not widget.start_button.isEnabled()
    assert widget.message.text().startswith("First count cells")


def test_hand_against_predicted_is_a_dot_a_window(started, model, truth):
    started.result.plot_button.click()
    assert not started.result.plot.dots.data["x"].size
    for _ in range(8):
        count_window(started, model, truth)
    done = started._audit.compared()
    dots = started.result.plot.dots.data
    assert len(done) == 8
    assert {*zip(dots["x"], dots["y"], strict=True)} == {*zip(done["predicted"], done["hand"], strict=True)}
    assert (done["hand"] >= done["predicted"]).all()  # every fifth cell is missing
    assert started.result.plot.isVisibleTo(started)
    started.result.plot_button.click()
    assert not started.result.plot.isVisibleTo(started)


def test_windows_that_agree_are_one_larger_dot(qtbot):
    plot = HandPlot("black", "white")
    qtbot.addWidget(plot)
    plot.draw(np.array([3, 3, 5, 0]), np.array([4, 4, 5, 0]))
    dots = plot.dots.data
    size = {(x, y): size for x, y, size in zip(dots["x"], dots["y"], dots["size"], strict=True)}
    assert size[3, 4] > size[5, 5] == size[0, 0]
    assert plot._equal.getData()[1].tolist() == [0, 5]
