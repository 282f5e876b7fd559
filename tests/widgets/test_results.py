"""Rules, regions, plots and exports in the window."""

import json

import numpy as np
import pandas as pd
import pytest
import roifile
from models import bright_is_cell
from napari.components import ViewerModel
from qtpy.QtWidgets import QFileDialog

from napari_tally.core.image_files import read_image
from napari_tally.core.range import NAMES
from napari_tally.core.record import read_record
from napari_tally.core.regions import locate
from napari_tally.widgets._annotation import start_annotation
from napari_tally.widgets._layers import layers_of
from napari_tally.widgets._regions import is_regions, regions_from_shapes
from napari_tally.widgets._session import session
from napari_tally.widgets.predict import PredictWidget

SIDE = 64
LEFT = np.array([[-0.5, -0.5], [-0.5, 31.5], [63.5, 31.5], [63.5, -0.5]])


def discs():
    """Nine discs in three columns; the upper three touch the top edge."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.full((SIDE, SIDE), 20)
    for i in (0.05, 0.5, 0.84):
        for j in (0.16, 0.5, 0.84):
            image[np.hypot(y - i * SIDE, x - j * SIDE) < 6] = 200
    return image.astype(np.uint8)


@pytest.fixture
def model():
    return ViewerModel()


@pytest.fixture
def widget(model, qtbot):
    session(model).put(bright_is_cell(diameter=12.0), "bright")
    model.add_image(discs(), name="well", scale=(0.5, 0.5), units="um")
    widget = PredictWidget(model)
    qtbot.addWidget(widget)
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.count_text.text() == "9 cells")
    return widget


def features(model):
    return layers_of(model, "prediction", model.layers["well"])[0].features


def test_a_rule_counts_at_once_and_stands_in_the_features(model, widget):
    found = next(iter(widget._results.values())).found
    widget.results.form["border"].value = "frame"
    assert widget.count_text.text() == "6 cells"
    assert features(model)["counted"].sum() == 6
    assert {"perimeter_um", "eccentricity", "solidity", "mean_intensity", "y_um"} <= set(features(model))
    widget.results.form["smallest"].value = 1e5
    assert widget.count_text.text() == "0 cells"
    widget.results.form["smallest"].value = 0
    widget.results.form["border"].value = "all"
    assert widget.count_text.text() == "9 cells"
    assert next(iter(widget._results.values())).found is found


def test_cells_that_do_not_count_are_grey(model, widget):
    labels = layers_of(model, "prediction", model.layers["well"])[0]
    own = labels.colormap
    widget.results.form["border"].value = "frame"
    table = labels.features.set_index("index")
    colours = labels.colormap.map(table.index.to_numpy())
    grey = np.ptp(colours[:, :3], axis=1) == 0
    np.testing.assert_array_equal(grey, ~table["counted"].to_numpy(bool))
    assert "3 more cells found, not counted (grey)" in widget.details.text()
    np.testing.assert_allclose(colours[~grey], own.map(table.index[~grey].to_numpy()))
    assert labels.colormap.map(np.array([0, 99]))[:, 3].tolist() == [0, 1]  # what is drawn later can be seen
    widget.results.form["border"].value = "all"
    assert labels.colormap is own


def test_an_area_in_um_needs_a_pixel_size(model, widget, qtbot):
    model.add_image(discs(), name="unknown")
    widget.image_choice.layer = model.layers["unknown"]
    widget.results.form["unit"].value = "um2"
    widget.results.form["smallest"].value = 5
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.count_text.text() == "9 cells")
    assert "for the pixel size is not known" in widget.results.region_text.text()
    widget.results.form["unit"].value = "px"
    assert widget.results.region_text.text() == ""


def test_a_pixel_size_can_be_stated(model, widget, qtbot, tmp_path):
    model.add_image(discs(), name="unknown")
    widget.image_choice.layer = model.layers["unknown"]
    widget.run_button.click()
    qtbot.waitUntil(lambda: widget.count_text.text() == "9 cells")
    assert "No density: the pixel size is not known" in widget.details.text()
    widget.results.form["pixel_size"].native.setFocus()
    widget.results.form["pixel_size"].native.setValue(0.3225)
    assert f"{9 / (SIDE * 0.3225e-3) ** 2:,.0f} cells/mm²" in widget.details.text()
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: not widget.results.is_writing)
    assert read_record(tmp_path).content["images"][0]["pixel_size"] == [0.3225, 0.3225]
    assert read_image(tmp_path / "labels" / "unknown.tif").pixel_size == pytest.approx((0.3225, 0.3225))
    assert pd.read_csv(tmp_path / "counts.csv")["area_mm2"].item() == pytest.approx((SIDE * 0.3225e-3) ** 2)
    widget.image_choice.layer = model.layers["well"]
    assert "0.3225 µm wide, as you stated; the file says 0.5 µm" in widget.results.region_text.text()


def test_regions_from_shapes_follow_what_is_drawn(model, widget, qtbot):
    shapes = model.add_shapes([LEFT], shape_type="polygon", name="parts", scale=(0.5, 0.5), units="um", features={"name": ["cortex"]})
    assert is_regions(shapes)
    widget.results.region_choice.layer = shapes
    assert widget.results.region_text.text().startswith("cortex: ")
    assert features(model)["region"].isin(["cortex", "outside"]).all()
    before = (features(model)["region"] == "cortex").sum()
    shapes.data = [LEFT * (1, 2)]
    qtbot.waitUntil(lambda: (features(model)["region"] == "cortex").sum() > before)
    shapes.features = {"name": ["medulla"]}
    qtbot.waitUntil(lambda: widget.results.region_text.text().startswith("medulla: "))
    model.layers.remove(shapes)
    assert widget.results.region_text.text() == ""
    assert "region" not in features(model)


def test_what_the_user_calls_a_region_is_one_and_what_is_annotated_is_none(model):
    start_annotation(model, model.add_image(discs(), name="well"))
    names = [layer.name for layer in model.layers if is_regions(layer)]
    assert not names
    assert is_regions(model.add_shapes([LEFT], shape_type="polygon", name="tumour region"))


def test_shapes_in_their_own_scale_on_their_own_plane(model):
    stack = model.add_image(np.zeros((3, 20, 20)), name="stack")
    flat = model.add_shapes([LEFT / 8], shape_type="rectangle", scale=(2, 2))
    assert [region.plane for region in regions_from_shapes(flat, stack)] == [None]
    assert regions_from_shapes(flat, stack)[0].area((20, 20)) == pytest.approx(16 * 8)
    deep = model.add_shapes([np.column_stack([np.full(4, 2), LEFT / 8])], shape_type="polygon")
    deep.add_lines([[1, 0, 0], [1, 5, 5]])
    deep.add_ellipses([[1, 2, 2], [1, 2, 8], [1, 8, 8], [1, 8, 2]])
    two, ellipse = regions_from_shapes(deep, stack)
    assert (two.plane, two.name, ellipse.plane) == (2, "region 1", 1)
    assert ellipse.area((20, 20)) == pytest.approx(np.pi * 9, rel=0.01)
    assert locate([two, ellipse], np.array([[5.0, 5.0]]), 1).tolist() == ["region 2"]


def test_saved_results_have_a_record_and_a_report(model, widget, qtbot, tmp_path):
    widget.results.form["border"].value = "frame"
    widget.results.region_choice.layer = model.add_shapes([LEFT], shape_type="polygon", scale=(0.5, 0.5), units="um")
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: widget.message.text().startswith("Saved"))
    assert {path.name for path in tmp_path.iterdir()} >= {"cells.csv", "counts.csv", "regions.csv", "record.json", "report.html", "labels"}
    content = read_record(tmp_path).content
    assert (content["model"]["name"], content["settings"]["rules"]["border"]) == ("bright", "frame")
    assert content["images"][0]["labels"] == "labels/well.tif"
    assert ">6 cells<" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_export_by_the_menu(widget, qtbot, tmp_path):
    imagej, geojson, points, labels = widget.results.export_button.menu().actions()
    geojson.trigger()
    dialog = widget.results.findChild(QFileDialog)
    dialog.setDirectory(str(tmp_path))
    dialog.accept()
    qtbot.waitUntil(lambda: widget.message.text() == f"Exported 1 image to {tmp_path / 'geojson'}.")
    assert len(json.loads((tmp_path / "geojson" / "well.geojson").read_text())["features"]) == 9
    widget.results.export(tmp_path, "imagej")
    qtbot.waitUntil(lambda: "imagej" in widget.message.text())
    assert len(roifile.roiread(tmp_path / "imagej" / "well.zip")) == 9


def test_plots_are_folded_away_and_show_what_counts(widget):
    assert not widget.results.plots.isVisibleTo(widget)
    widget.results.plot_button.click()
    assert widget.results.plots.isVisibleTo(widget)
    sizes, densities = widget.results.plots.bars
    assert sum(sizes.opts["height"]) == 9
    assert densities.opts["height"] == pytest.approx([9 / 0.032**2])
    widget.results.form["border"].value = "frame"
    assert sum(widget.results.plots.bars[0].opts["height"]) == 6


def test_an_image_unlike_the_training_is_remarked(model, widget, qtbot):
    strange = bright_is_cell(diameter=12.0)
    point = [0.9, -1, 0.5, 0.2, -2, 6.0, 0.1, 0.5]
    strange.record["range"] = {"numbers": list(NAMES), "points": [point], "limit": 4.0}
    session(model).put(strange, "strange")
    widget.run_button.click()
    qtbot.waitUntil(lambda: "unlike those that the model was trained on" in widget.details.text())
