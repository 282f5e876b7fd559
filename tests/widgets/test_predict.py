"""The widget that predicts and counts: the engine's numbers, in layers, on time and undisturbed."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from models import bright_is_cell, bright_is_cell_in_3d, nine_discs
from napari.components import ViewerModel
from napari.layers._source import layer_source
from napari_builtins.io import magic_imread
from pictures import balls
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

import napari_tally as nt
from napari_tally.cli import main
from napari_tally.core.channels import ChannelChoice
from napari_tally.core.counting import measure_cells, summarise
from napari_tally.core.model_file import shipped_models
from napari_tally.settings import CountingSettings
from napari_tally.widgets import _counting
from napari_tally.widgets._annotation import start_annotation
from napari_tally.widgets._geometry import shown_plane
from napari_tally.widgets._layers import add_notes, annotation_of, cells_on, image_from_layer, layers_of, region_of
from napari_tally.widgets._reviewed import ReviewedLabels
from napari_tally.widgets._session import session
from napari_tally.widgets.annotate import AnnotateWidget
from napari_tally.widgets.predict import PredictWidget


@pytest.fixture
def model():
    return ViewerModel()  # without a window: quick


@pytest.fixture
def widget(model, qtbot):
    session(model).put(bright_is_cell(), "bright")
    widget = PredictWidget(model)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def click(qtbot):
    def click(button) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return click


@pytest.fixture
def count(widget, qtbot, click):
    def count() -> None:
        click(widget.run_button)
        qtbot.waitUntil(lambda: widget.run_button.isEnabled())

    return count


def test_by_mouse_from_a_model_file_to_the_numbers(make_napari_viewer, qtbot, click, tmp_path):
    viewer = make_napari_viewer()
    nt.save_model(bright_is_cell(), tmp_path / "bright.safetensors")
    image = viewer.add_image(nine_discs(), name="well", scale=(0.5, 0.5), units="um")
    widget = PredictWidget(viewer)
    viewer.window.add_dock_widget(widget)
    assert not widget.run_button.isEnabled()
    assert widget.message.text().startswith("Train a model (2 Train)")
    *_, file = widget.model_choice.load_button.menu().actions()
    file.trigger()
    dialog = widget.findChild(QFileDialog)
    dialog.setDirectory(str(tmp_path))
    dialog.selectFile("bright.safetensors")
    dialog.accept()
    qtbot.waitUntil(lambda: session(viewer).model is not None)  # torch may be imported now
    assert widget.model_choice.text.text() == "bright"
    click(widget.run_button)
    qtbot.waitUntil(lambda: widget.count_text.text() == "9 cells")
    assert "6 of them do not touch the border" in widget.details.text()
    assert f"{9 / (0.032 * 0.032):,.0f} cells/mm²" in widget.details.text()
    names = [layer.name for layer in viewer.layers]
    assert names == ["well", "well probability", "well labels"]
    assert viewer.layers.selection.active is image
    probability, labels = viewer.layers[1:]
    wanted = nt.predict(image_from_layer(image), bright_is_cell())
    np.testing.assert_array_equal(labels.data, wanted.labels)
    np.testing.assert_array_equal(probability.data, 1 - wanted.probabilities[0, 0])
    assert (probability.visible, tuple(probability.contrast_limits)) == (False, (0, 1))
    for layer in (probability, labels):
        np.testing.assert_array_equal(layer.extent.world, image.extent.world)
    features = labels.features
    assert list(features["index"]) == list(range(1, 10))
    assert features["area_um2"].sum() == (labels.data > 0).sum() / 4
    assert not labels.editable


def test_only_the_newest_cells_of_an_image_are_seen(model, widget, count):
    image = model.add_image(nine_discs(), name="well")
    drawn = start_annotation(model, image)
    drawn.mode = "paint"
    count()
    (found,) = layers_of(model, "prediction", image)
    assert (found.visible, drawn.visible) == (True, True)  # somebody draws
    drawn.mode = "pan_zoom"
    count()
    assert (found.visible, drawn.visible) == (True, False)
    add_notes(found, corrected=1)  # mended by hand: it stays, and what is found anew lies over it
    count()
    before, now = layers_of(model, "prediction", image)
    assert (before, now.visible, before.visible) == (found, True, False)


def test_who_draws_on_sees_what_was_drawn(model, widget, count, click, qtbot):
    image = model.add_image(nine_discs(), name="well")
    annotate = AnnotateWidget(model)
    qtbot.addWidget(annotate)
    click(annotate.start_button)
    (drawn,) = layers_of(model, "annotation", image)
    drawn.mode = "pan_zoom"
    count()
    assert not drawn.visible
    click(annotate.tool_buttons["paint"])
    assert (drawn.visible, drawn.mode) == (True, "paint")
    drawn.mode = "pan_zoom"
    count()
    click(widget.copy_button)
    (found,) = layers_of(model, "prediction", image)
    assert (found.visible, drawn.visible) == (False, True)


def test_what_is_mended_after_a_second_count_is_counted_too(model, widget, count):
    image = model.add_image(nine_discs(), name="well")
    for left in (8, 8):
        count()
        labels = layers_of(model, "prediction", image)[-1]
        review = ReviewedLabels(labels)
        labels.data_setitem(np.nonzero(labels.data == 5), 0)
        review.count_correction()
        review.leave()
        widget._show()
        assert widget.count_text.text() == f"{left} cells"


def test_other_pixels_are_not_counted(model, widget, count):
    image = model.add_image(nine_discs(), name="well")
    count()
    image.data = np.zeros((64, 64), np.uint8)
    assert widget.count_text.text() == ""
    assert "well has other pixels now: press Count cells." in widget.message.text()
    assert not widget.save_button.isVisibleTo(widget)
    assert "well labels (outdated)" in model.layers
    assert cells_on(model, image) is None  # nor checked, or sent on
    count()
    assert widget.count_text.text() == "0 cells"
    assert "well labels" in model.layers


def test_cells_that_were_mended_on_other_pixels_never_count_again(model, widget, count):
    image = model.add_image(nine_discs(), name="well")
    count()
    (mended,) = layers_of(model, "prediction", image)
    mended.data[mended.data == 5] = 0
    mended.metadata["napari_tally"]["corrected"] = 1
    widget._show()
    image.data = np.zeros((48, 48), np.uint8)
    count()
    assert mended.name == "well labels (outdated)"
    model.layers.remove(layers_of(model, "prediction", image)[-1])
    assert widget.details.text() == "Nothing is counted yet."


def test_pixels_that_change_while_they_are_counted_are_not_counted_and_their_size_may_change(model, widget, qtbot, click, monkeypatch):
    going, changed, found = threading.Event(), threading.Event(), _counting.image_from_layer

    def read(layer):
        image = found(layer)
        going.set()
        changed.wait()
        return image

    monkeypatch.setattr(_counting, "image_from_layer", read)
    image = model.add_image(nine_discs(), name="well")
    click(widget.run_button)
    going.wait()
    image.units, image.scale = ("um", "um"), (0.5, 0.5)
    changed.set()
    qtbot.waitUntil(lambda: "cells/mm²" in widget.details.text())
    qtbot.waitUntil(lambda: not widget._finding.is_active)
    model.layers.remove("well labels")
    model.layers.remove("well probability")
    going.clear()
    changed.clear()
    click(widget.run_button)
    going.wait()
    image.data = np.zeros((64, 64), np.uint8)
    changed.set()
    qtbot.waitUntil(lambda: "well got other pixels while it was counted" in widget.message.text())
    qtbot.waitUntil(lambda: not widget._finding.is_active)
    assert widget.count_text.text() == ""
    assert list(model.layers) == [image]


def test_another_scale_gives_other_densities(model, widget, count, tmp_path, qtbot):
    image = model.add_image(nine_discs(), name="well")
    count()
    assert "No density" in widget.details.text()
    image.units, image.scale = ("um", "um"), (0.5, 0.5)
    assert f"{9 / (0.032 * 0.032):,.0f} cells/mm²" in widget.details.text()
    assert (model.layers["well labels"].features["area_um2"] * 4 == model.layers["well labels"].features["area_px"]).all()
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: widget.message.text().startswith("Saved"))
    assert pd.read_csv(tmp_path / "cells.csv")["area_um2"].notna().all()


def test_a_model_that_goes_by_the_pixel_size_has_to_count_anew_at_another_scale(model, widget, count):
    session(model).put(replace(bright_is_cell(), pixel_size=0.5), "by size")
    image = model.add_image(nine_discs(), name="well", units="um", scale=(0.5, 0.5))
    count()
    image.scale = (0.25, 0.25)
    assert widget.count_text.text() == ""
    assert "well has another pixel size now, and the model goes by it" in widget.message.text()


def test_models_that_come_with_the_package_are_offered(model, qtbot, tmp_path, monkeypatch):
    widget = PredictWidget(model)
    qtbot.addWidget(widget)
    nuclei, phase, file = widget.model_choice.load_button.menu().actions()
    assert nuclei.text() == "nuclei (comes with napari-tally)"
    nuclei.trigger()
    qtbot.waitUntil(lambda: session(model).model_name == "nuclei")
    file.trigger()
    assert widget.findChild(QFileDialog).isVisible()


def test_two_clicks_count_nuclei_without_any_training(model, qtbot, click):
    picture, truth = nt.simulate_nuclei(seed=7, n=30)
    empty = np.random.default_rng(0).normal(300, 10, picture.shape).astype(np.uint16)
    model.add_image(picture, name="nuclei")
    model.add_image(empty, name="empty well")
    widget = PredictWidget(model)
    qtbot.addWidget(widget)
    widget.model_choice.load_button.menu().actions()[0].trigger()
    qtbot.waitUntil(lambda: session(model).model_name == "nuclei")
    widget.image_choice.setCurrentIndex(widget.image_choice.findText("All images"))
    click(widget.run_button)
    qtbot.waitUntil(lambda: widget.run_button.isEnabled() and "empty well labels" in model.layers)
    assert abs(int(model.layers["nuclei labels"].data.max()) - truth.max()) <= 0.15 * truth.max()
    assert model.layers["empty well labels"].data.max() == 0
    assert "Please look" not in widget.details.text()


def test_cells_much_larger_than_the_model_knows_are_remarked(model, widget, count):
    session(model).put(replace(bright_is_cell(), diameter=3.0), "small cells")
    model.add_image(nine_discs(), name="well")
    count()
    assert "Please look:" in widget.details.text()
    assert "but at this magnification the model expects about 3 px" in widget.details.text()


def test_the_same_pixels_as_the_python_api_with_the_thresholds_of_the_form(model, widget, count):
    image = model.add_image(nine_discs())
    widget.counting["seed_threshold"].value = 0.97
    widget.counting["min_area"].value = 60
    widget.how["tile"].value = 32
    count()
    wanted = nt.predict(image_from_layer(image), bright_is_cell(), CountingSettings(seed_threshold=0.97, edge_threshold=0.4, min_area=60))
    np.testing.assert_array_equal(layers_of(model, "prediction", image)[0].data, wanted.labels)
    assert 0 < wanted.labels.max() < 9


def test_another_threshold_counts_anew_without_the_network(model, widget, qtbot, count):
    image = model.add_image(nine_discs())
    count()
    kept = next(iter(widget._results.values())).found.probabilities
    layers = list(model.layers)
    widget.counting["seed_threshold"].value = 0.7
    qtbot.waitUntil(lambda: widget._deciding.is_active)
    for threshold in (0.98, 0.99):  # while it is still busy with another: the latest wins
        widget.counting["seed_threshold"].value = threshold
    qtbot.waitUntil(lambda: next(iter(widget._results.values())).counting.seed_threshold == 0.99)
    assert next(iter(widget._results.values())).found.probabilities is kept
    wanted = nt.predict(image_from_layer(image), bright_is_cell(), CountingSettings(seed_threshold=0.99, edge_threshold=0.4)).labels
    np.testing.assert_array_equal(layers_of(model, "prediction", image)[0].data, wanted)
    assert widget.count_text.text() == f"{wanted.max()} cells"
    assert len(layers_of(model, "prediction", image)[0].features) == wanted.max()
    assert list(model.layers) == layers


@pytest.mark.parametrize(
    ("axes", "how", "choice"),
    [
        ("CYX", "imagej", None),
        ("CYX", "imagej", ChannelChoice((2,), 2)),
        ("TYX", "imagej", None),
        ("ZYX", "imagej", None),
        ("TCYX", "ome", None),
        ("ZCYX", "ome", ChannelChoice((2, 1), 2)),
        ("TZCYX", "ome", ChannelChoice((2,), 2)),
    ],
)
def test_a_file_that_napari_opens_is_counted_as_on_the_command_line(model, widget, count, tmp_path, axes, how, choice):
    """To the pixel, and the labels lie where the cells are: the second channel has other cells than the first."""
    turns = [lambda p: p, lambda p: p[..., ::-1, :] // 2 + 10, lambda p: p[..., ::-1]]
    pixels = nine_discs()
    for axis in reversed(axes[:-2]):
        pixels = np.stack([turn(pixels) for turn in (turns if axis == "T" else turns[:2])])
    path = tmp_path / ("a.ome.tif" if how == "ome" else "a.tif")
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, **{how: True})
    channels = len(choice.order) if choice else 2 if "C" in axes else 1
    trained = replace(bright_is_cell(channels), channels=choice)
    session(model).put(trained, "bright")
    nt.save_model(trained, tmp_path / "bright.safetensors")
    assert main(["predict", "--model", str(tmp_path / "bright.safetensors"), "--out", str(tmp_path / "out"), str(path)]) == 0
    wanted = tifffile.imread(next((tmp_path / "out" / "labels").iterdir()))
    with layer_source(path=str(path)):
        layer = model.add_image(magic_imread([str(path)]), name="a")
    widget.image_choice.layer = layer
    count()
    labels = layers_of(model, "prediction", layer)[0]
    assert wanted.max() >= 9
    np.testing.assert_array_equal(labels.data, wanted)
    np.testing.assert_array_equal(labels.extent.world, layer.extent.world[:, layer.ndim - labels.ndim :])
    assert widget.count_text.text() == f"{wanted.max()} cells"
    if "T" in axes:
        model.dims.set_point(layer.ndim - labels.ndim, 1)  # the slider of time moves both
        assert shown_plane(model, labels)[0] == shown_plane(model, layer)[layer.ndim - labels.ndim] == 1


def test_all_images_at_once_and_what_cannot_be_counted_is_named(model, widget, count):
    model.add_image(nine_discs(), name="a")
    model.add_image(nine_discs(48), name="b")
    model.add_image(np.zeros((2, 48, 48)), axis_labels=("c", "y", "x"), name="two")
    widget.image_choice.setCurrentIndex(widget.image_choice.findText("All images"))
    count()
    assert widget.table.rowCount() == 2
    assert [widget.table.item(0, c).text() for c in range(4)] == ["a", "9", "6", "–"]
    total = sum(int(widget.table.item(r, 1).text()) for r in range(2))
    assert widget.count_text.text() == f"{total} cells"
    assert widget.message.text().startswith("two has 2 channels, but this model was trained on images with 1 channel")
    widget.image_choice.layer = model.layers["a"]
    assert widget.count_text.text() == "9 cells"
    assert not widget.table.isVisibleTo(widget)
    widget.image_choice.layer = model.layers["two"]
    assert widget.details.text() == "Nothing is counted yet."


def test_a_stack_has_a_row_for_each_plane(model, widget, count):
    stack = model.add_image(np.stack([nine_discs(), np.full((64, 64), 20, np.uint8)]), name="stack")
    count()
    assert layers_of(model, "prediction", stack)[0].data.shape == (2, 64, 64)
    assert layers_of(model, "probability", stack)[0].data.shape == (2, 64, 64)
    rows = [[widget.table.item(r, c).text() for c in range(2)] for r in range(2)]
    assert rows == [["stack, plane 0", "9"], ["stack, plane 1", "0"]]


@pytest.mark.filterwarnings("ignore:.*invalid value|All-NaN")
def test_what_cannot_be_used_is_said_in_one_sentence(model, widget, click, qtbot):
    model.add_image(np.full((9, 9), np.nan), name="bad")
    click(widget.run_button)
    qtbot.waitUntil(lambda: widget.message.text().startswith("bad: 81 of 81 values are not finite"))
    assert widget.run_button.isEnabled()
    widget.model_choice.load("no such file.safetensors")
    qtbot.waitUntil(lambda: widget.message.text() == "no such file.safetensors: there is no such model file.")
    assert session(model).model_name == "bright"


def test_cancel_stops_between_two_tiles_and_leaves_no_trace(model, widget, click, qtbot):
    model.add_image(np.zeros((2000, 2000), np.uint8))
    widget.how["tile"].value = 16
    click(widget.run_button)
    assert not widget.run_button.isEnabled()
    qtbot.waitUntil(lambda: "tile" in widget.bar.format())
    click(widget.cancel_button)
    qtbot.waitUntil(lambda: widget.run_button.isEnabled())
    assert len(model.layers) == 1
    assert not widget.bar.isVisibleTo(widget)


def test_layers_may_be_renamed_edited_and_deleted_at_any_time(model, widget, click, qtbot, count):
    a, b = model.add_image(nine_discs(), name="a"), model.add_image(nine_discs(), name="b")
    widget.image_choice.setCurrentIndex(widget.image_choice.findText("All images"))
    click(widget.run_button)
    model.layers.remove(a)
    b.name = "c"
    qtbot.waitUntil(lambda: widget.run_button.isEnabled())
    assert [layer.name for layer in model.layers] == ["c", "c probability", "c labels"]
    assert widget.count_text.text() == "9 cells"
    widget.counting["seed_threshold"].value = 0.7
    qtbot.waitUntil(lambda: widget._results[b.unique_id].counting.seed_threshold == 0.7)
    b.data = nine_discs(48)
    count()
    assert layers_of(model, "prediction", b)[-1].data.shape == (48, 48)
    model.layers.clear()
    assert not widget.run_button.isEnabled()
    assert widget.details.text() == "Nothing is counted yet."


def test_a_new_model_brings_its_thresholds(model, widget, qtbot, count):
    model.add_image(nine_discs())
    count()
    strict = bright_is_cell()
    strict.counting = CountingSettings(min_area=10_000)
    session(model).put(strict, "strict")
    assert widget.counting.value == strict.counting
    assert not widget._later.isActive()  # what the other model found stays as it was counted
    assert widget.count_text.text() == "9 cells"
    assert "Counted with the model “bright”. Press Count cells to use the model above." in widget.details.text()
    widget.counting["min_area"].value = 20_000
    qtbot.waitUntil(lambda: not widget._later.isActive())
    assert not widget._deciding.is_active
    count()
    assert widget.count_text.text() == "0 cells"
    assert "Counted with" not in widget.details.text()


def test_the_tables_are_those_of_the_command_line(model, widget, click, count, tmp_path, qtbot):
    image = image_from_layer(model.add_image(nine_discs(), name="a"))
    count()
    click(widget.save_button)
    dialog = widget.findChild(QFileDialog)
    dialog.setDirectory(str(tmp_path))
    dialog.accept()
    qtbot.waitUntil(lambda: widget.message.text().startswith("Saved tables, labels, record.json and report.html in "))
    cells = measure_cells(nt.predict(image, bright_is_cell()).labels, image)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "cells.csv"), cells, rtol=1e-5, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "counts.csv"), summarise(cells, image), rtol=1e-5, check_dtype=False)
    assert {path.name for path in tmp_path.iterdir()} >= {"labels", "record.json", "report.html"}
    (tmp_path / "cells.csv").write_text("mine")
    widget._save_unless_there(str(tmp_path))
    box = widget.findChild(QMessageBox)
    assert "Replace?" in box.text()
    click(box.button(QMessageBox.StandardButton.No))
    assert (tmp_path / "cells.csv").read_text() == "mine"
    widget._save_unless_there(str(tmp_path))
    click(widget.findChildren(QMessageBox)[-1].button(QMessageBox.StandardButton.Yes))
    qtbot.waitUntil(lambda: not widget.results.is_writing)
    assert (tmp_path / "cells.csv").read_text().startswith("image,plane")
    widget.save(tmp_path / "not there")
    qtbot.waitUntil(lambda: "not there" in widget.message.text())
    assert widget.message.text().endswith("Choose another folder.")


def test_the_cells_go_into_the_annotation_around_what_is_annotated(model, widget, click, count):
    image = model.add_image(nine_discs())
    count()
    click(widget.copy_button)
    annotation = annotation_of(model, image)
    assert not layers_of(model, "prediction", image)[0].visible
    np.testing.assert_array_equal(annotation.data, layers_of(model, "prediction", image)[0].data)
    annotation.undo()
    region_of(model, start_annotation(model, image, annotation)).add_rectangles([[-0.5, -0.5], [31.5, 63.5]])
    click(widget.copy_button)
    assert not annotation.data[:32].any()
    assert annotation.data[45:].any()


def test_opening_the_widgets_does_not_import_torch():
    code = (
        "import sys\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "from napari_tally.widgets.annotate import AnnotateWidget\n"
        "from napari_tally.widgets.predict import PredictWidget\n"
        "viewer = ViewerModel()\n"
        "widgets = AnnotateWidget(viewer), PredictWidget(viewer)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"})


def test_labels_that_were_mended_by_hand_are_counted_and_not_made_anew(model, widget, qtbot, count, tmp_path):
    image = model.add_image(nine_discs(), name="well")
    count()
    mended = layers_of(model, "prediction", image)[0]
    assert mended.metadata["napari_tally"]["found"][0].labels is mended.data  # what the review needs
    mended.data[mended.data == 5] = 0
    mended.metadata["napari_tally"]["corrected"] = 1  # as the review notes it
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: not widget.results.is_writing)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 8
    assert list(pd.read_csv(tmp_path / "counts.csv")["count"]) == [8]
    widget.show()
    assert widget.count_text.text() == "8 cells"
    mended.data[mended.data == 6] = 0
    mended.metadata["napari_tally"]["corrected"] = 2
    session(model).cells_mended.emit()
    qtbot.waitUntil(lambda: widget.count_text.text() == "7 cells")  # with both docks in view
    before = mended.data.copy()
    widget.counting["min_area"].value = 10_000
    qtbot.waitUntil(lambda: "The cells of well were mended by hand, so thresholds leave them as they are" in widget.message.text())
    assert widget.count_text.text() == "7 cells"
    assert "those that you mended" not in widget.details.text()
    count()
    assert widget.count_text.text() == "0 cells"
    first, second = layers_of(model, "prediction", image)
    assert first is mended  # the newest, which is counted, lies on top
    assert "those that you mended are in “well labels” and are not counted" in widget.details.text()
    assert not second.data.any()
    np.testing.assert_array_equal(mended.data, before)
    assert "corrected by hand" in (tmp_path / "record.json").read_text()


def test_cells_may_be_mended_while_other_images_are_still_to_come(model, widget, click, qtbot, monkeypatch):
    one, two = model.add_image(nine_discs(), name="one"), model.add_image(nine_discs(), name="two")
    go, read = threading.Event(), _counting.image_from_layer
    monkeypatch.setattr(_counting, "image_from_layer", lambda layer: read(layer) if layer is one or go.wait(30) else None)
    widget.image_choice.layer = None
    click(widget.run_button)
    qtbot.waitUntil(lambda: widget.count_text.text() == "9 cells")
    (labels,) = layers_of(model, "prediction", one)
    labels.data[labels.data == 5] = 0
    labels.metadata["napari_tally"]["corrected"] = 1
    session(model).cells_mended.emit()
    go.set()
    qtbot.waitUntil(lambda: widget.run_button.isEnabled() and bool(layers_of(model, "prediction", two)))
    assert widget.count_text.text() == "17 cells"
    assert layers_of(model, "prediction", one) == [labels]


def test_what_is_mended_in_view_is_counted_beside_the_window(model, widget, qtbot, count, monkeypatch):
    image = model.add_image(nine_discs(), name="well")
    count()
    widget.show()
    (labels,) = layers_of(model, "prediction", image)
    mended, threads = _counting.mended, []

    def mend(known, pixels):
        threads.append(threading.current_thread())
        if len(threads) == 1:  # the user goes on meanwhile
            take_out(6)
        return mended(known, pixels)

    def take_out(cell):
        labels.data[labels.data == cell] = 0
        labels.metadata["napari_tally"]["corrected"] = cell

    monkeypatch.setattr(_counting, "mended", mend)
    take_out(5)
    session(model).cells_mended.emit()
    qtbot.waitUntil(lambda: widget.count_text.text() == "7 cells")
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    assert widget._results[image.unique_id].found.labels is labels.data


def test_without_its_labels_an_image_has_no_count(model, widget, count):
    image = model.add_image(nine_discs(), name="well")
    count()
    model.layers.remove(layers_of(model, "prediction", image)[0])
    assert widget.details.text() == "Nothing is counted yet."
    assert not widget.save_button.isVisibleTo(widget)


def test_where_new_labels_go_the_mended_ones_count_again(model, widget, qtbot, count):
    image = model.add_image(nine_discs(), name="well")
    count()
    (mended,) = layers_of(model, "prediction", image)
    mended.data[mended.data == 5] = 0
    mended.metadata["napari_tally"]["corrected"] = 1
    widget.counting["min_area"].value = 10_000
    count()
    assert widget.count_text.text() == "0 cells"
    model.layers.remove(layers_of(model, "prediction", image)[-1])
    assert widget.count_text.text() == "8 cells"
    assert widget.results.cells(widget._results[image.unique_id])["counted"].sum() == 8


def test_an_image_that_is_closed_is_not_counted_further(model, widget, click, qtbot):
    image = model.add_image(np.zeros((2000, 2000), np.uint8), name="large")
    widget.how["tile"].value = 16
    click(widget.run_button)
    qtbot.waitUntil(lambda: "tile" in widget.bar.format())
    model.layers.remove(image)
    qtbot.waitUntil(lambda: not widget._finding.is_active)
    assert widget.message.text() == "large was closed, so it is not counted."


def test_an_image_that_is_counted_is_closed_without_a_word(model, widget, count):
    image = model.add_image(nine_discs(), name="well")
    count()
    model.layers.remove(image)
    assert widget.message.text() == ""
    assert widget.details.text() == "Nothing is counted yet."


def test_images_that_were_counted_in_different_ways_are_not_saved_as_one(model, widget, qtbot, count, tmp_path):
    model.add_image(nine_discs(), name="a")
    count()
    session(model).put(bright_is_cell(), "another")
    widget.image_choice.layer = model.add_image(nine_discs(), name="b")
    count()
    widget.image_choice.setCurrentIndex(widget.image_choice.count() - 1)  # all images
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: "counted with different models or settings" in widget.message.text())
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize(("reply", "name"), [("No", "mine"), ("Yes", "nuclei")])
def test_a_model_that_is_not_saved_is_not_replaced_without_asking(model, widget, qtbot, click, reply, name):
    session(model).put(bright_is_cell(), "mine", saved=False)
    widget.model_choice.load(str(shipped_models()["nuclei"]))
    box = widget.findChild(QMessageBox)
    assert box.defaultButton() is box.button(QMessageBox.StandardButton.No)
    click(box.button(getattr(QMessageBox.StandardButton, reply)))
    qtbot.waitUntil(lambda: not widget.model_choice.is_loading)
    assert session(model).model_name == name


def test_thresholds_that_take_time_are_said_to_be_at_work_and_if_they_fail_nothing_is_saved(
    model, widget, qtbot, count, monkeypatch, tmp_path
):
    model.add_image(nine_discs(), name="well")
    count()
    going, decide = threading.Event(), _counting.decide

    def slow(stale, counting):
        while not going.is_set():
            yield
        yield from decide(stale, counting)

    monkeypatch.setattr(_counting, "decide", slow)
    widget.counting["min_area"].value = 10
    qtbot.waitUntil(lambda: widget.message.text() == "Finding the cells anew…")
    going.set()
    qtbot.waitUntil(lambda: widget.message.text() == "")

    def failing(stale, counting):
        yield
        raise MemoryError

    monkeypatch.setattr(_counting, "decide", failing)
    widget.counting["min_area"].value = 11
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: "The memory is not enough" in widget.message.text())
    monkeypatch.setattr(_counting, "decide", decide)
    widget.counting["min_area"].value = 12
    qtbot.waitUntil(lambda: widget._shown()[0].counting.min_area == 12 and not widget._deciding.is_active)
    assert not widget.results.is_writing
    assert not list(tmp_path.iterdir())


def test_a_training_that_shares_its_model_leaves_what_is_said(model, widget):
    widget._say("Saved tables.")
    session(model).put(bright_is_cell(), "in training", saved=False)
    assert widget.message.text() == "Saved tables."


def test_an_image_that_comes_later_is_said_not_to_be_counted(model, widget, count):
    for name in ("a", "b"):
        model.add_image(nine_discs(), name=name)
    widget.image_choice.layer = None
    count()
    model.add_image(np.stack([nine_discs()] * 3), name="c")
    assert "not counted yet: c" in widget.details.text()
    assert widget.this_plane.isVisibleTo(widget)


def test_nothing_is_written_over_or_left_out_without_a_word(model, widget, qtbot, count, click, tmp_path):
    model.add_image(nine_discs(), name="A")
    count()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "A.tif").write_text("mine")
    widget._save_unless_there(str(tmp_path))
    assert "labels/A.tif already. Replace?" in widget.findChild(QMessageBox).text()
    click(widget.findChild(QMessageBox).button(QMessageBox.StandardButton.Yes))
    widget.save(tmp_path / "more")
    assert "still being written" in widget.message.text()
    qtbot.waitUntil(lambda: widget.message.text().startswith("Saved"))
    points = next(action for action in widget.results.export_button.menu().actions() if action.data() == "points")
    for times in range(2):
        points.trigger()
        dialog = widget.findChild(QFileDialog)
        dialog.setDirectory(str(tmp_path))
        dialog.accept()
        if times:
            assert "points/A.csv already. Replace?" in widget.results.findChild(QMessageBox).text()
        qtbot.waitUntil(lambda: widget.message.text().startswith("Exported"))


def test_an_image_that_was_counted_and_closed_is_gone(model, widget, count):
    image = weakref.ref(model.add_image(np.stack([nine_discs()] * 2)))
    count()
    model.add_image(nine_discs())  # napari itself remembers the layer that was active last
    model.layers.remove(image())
    gc.collect()
    assert image() is None


def test_a_volume_is_counted_as_bodies(model, widget, qtbot, count):
    bodies = balls((10, 40, 40), (3, 10, 10, 5), (6, 10, 28, 6), (5, 29, 20, 6), aspect=2)
    session(model).put(bright_is_cell_in_3d(), "bright")
    image = model.add_image((100 * (bodies > 0) + 20).astype(np.uint8), name="stack", scale=(2, 1, 1), units="um")
    count()
    assert widget.count_text.text() == "3 cells"
    (labels,) = layers_of(model, "prediction", image)
    assert labels.data.shape == bodies.shape
    assert set(np.unique(labels.data)) == {0, 1, 2, 3}
    assert widget.table.rowCount() == 1
    assert labels.features["volume_um3"].tolist() == [2 * (labels.data == cell).sum() for cell in (1, 2, 3)]
    before = labels.data.copy()
    widget.counting["min_area"].value = 5000
    qtbot.waitUntil(lambda: widget.count_text.text() == "0 cells")
    widget.counting["min_area"].value = 20
    qtbot.waitUntil(lambda: widget.count_text.text() == "3 cells")
    np.testing.assert_array_equal(layers_of(model, "prediction", image)[0].data, before)
    model.dims.set_point(0, 8)
    widget.this_plane.setChecked(True)  # a volume is seen as a whole
    count()
    assert widget.table.rowCount() <= 1


def test_a_plane_is_no_volume(model, widget, qtbot, count):
    session(model).put(bright_is_cell_in_3d(), "bright")
    model.add_image(nine_discs(), name="well")
    count()
    assert "well is a single plane, but this model was trained on volumes" in widget.message.text()


def test_a_closed_dock_is_opened_again_with_its_counts(model, widget, count, qtbot, tmp_path):
    image = model.add_image(nine_discs(), name="well")
    count()
    again = PredictWidget(model)
    qtbot.addWidget(again)
    assert again.count_text.text() == "9 cells"
    again.save(tmp_path)
    qtbot.waitUntil(lambda: not again.results.is_writing)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == 9
    model.layers.remove(image)
    assert not again._results


def test_mending_that_was_undone_is_no_correction(model, widget, count, qtbot, tmp_path):
    image = model.add_image(nine_discs(), name="well")
    count()
    (labels,) = layers_of(model, "prediction", image)
    before = labels.data.copy()
    for number, pixels in enumerate((np.where(before == 5, 0, before), before), start=1):
        labels.data[:] = pixels
        labels.metadata["napari_tally"]["corrected"] = number
        widget.show()
        session(model).cells_mended.emit()
        qtbot.waitUntil(lambda wanted=f"{7 + number} cells": widget.count_text.text() == wanted)
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: not widget.results.is_writing)
    assert "corrected by hand" not in (tmp_path / "record.json").read_text()
    count()
    assert layers_of(model, "prediction", image) == [labels]


def test_what_was_not_counted_is_named_and_so_is_a_single_plane(model, widget, count):
    model.add_image(nine_discs(), name="one")
    count()
    series = model.add_image(np.stack([nine_discs()] * 2), name="film", axis_labels=("t", "y", "x"))
    widget.image_choice.layer = None
    assert "In 1 of 2 images" in widget.details.text()
    assert "not counted yet: film" in widget.details.text()
    widget.image_choice.layer = series
    count()
    assert "The 2 frames of this time series are counted one by one and added up" in widget.details.text()
    assert [widget.table.item(row, 0).text() for row in range(2)] == ["film, t 0", "film, t 1"]
    model.dims.set_point(0, 1)
    widget.show()
    widget.this_plane.setChecked(True)
    count()
    assert "Only of t 1" in widget.details.text()
    assert widget.count_text.text() == "9 cells"


def test_what_is_saved_is_what_the_thresholds_give(model, widget, count, qtbot, tmp_path):
    model.add_image(nine_discs(), name="well")
    count()
    widget.counting["min_area"].value = 10_000
    widget.save(tmp_path)  # before the cells are found anew
    assert "then saving" in widget.message.text()
    qtbot.waitUntil(lambda: (tmp_path / "report.html").exists() and not widget.results.is_writing)
    assert list(pd.read_csv(tmp_path / "counts.csv")["count"]) == [0]


def test_layers_follow_their_image_and_the_image_that_is_counted_can_be_seen(model, widget, count):
    a, b = model.add_image(nine_discs(), name="a"), model.add_image(nine_discs(), name="b")
    channel = model.add_image(nine_discs(), name="c", blending="additive")
    widget.image_choice.layer = b
    count()
    (of_b,) = layers_of(model, "prediction", b)
    widget.image_choice.layer = a
    count()
    assert [layer.visible for layer in (a, b, of_b, channel)] == [True, False, False, True]
    (labels,) = layers_of(model, "prediction", a)
    a.scale, a.units, a.translate, a.name = (0.5, 0.5), "um", (3, 4), "well"
    np.testing.assert_array_equal(labels.scale, (0.5, 0.5))
    np.testing.assert_array_equal(labels.translate, (3, 4))
    assert labels.units == a.units
    assert labels.name == "well labels"
    assert widget.results.cells(widget._results[a.unique_id])["image"].unique().tolist() == ["well"]
