"""Images that stay in their files: labels that fill where the user looks, and one plane of a stack."""

import gc
import threading

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from models import bright_is_cell, nine_discs
from napari.components import ViewerModel
from qtpy.QtCore import Qt

import napari_tally as nt
from napari_tally.core.find import TileWork
from napari_tally.core.instances import climb_tile
from napari_tally.core.tiles import plan_tiles
from napari_tally.settings import PredictionSettings
from napari_tally.widgets._gaze import Gaze
from napari_tally.widgets._geometry import shown_plane
from napari_tally.widgets._layers import layers_of
from napari_tally.widgets._session import session
from napari_tally.widgets.predict import PredictWidget


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def widget(viewer, qtbot):
    session(viewer).put(bright_is_cell(), "bright")
    widget = PredictWidget(viewer)
    widget.show()
    qtbot.addWidget(widget)
    return widget


def press_count(widget, qtbot):
    qtbot.mouseClick(widget.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.run_button.isEnabled())


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_a_lazy_layer_gives_the_cells_of_one_in_memory(widget, viewer, qtbot, tmp_path, kind):
    picture = np.tile(nine_discs(), (2, 3))
    if kind == "dask":
        data = da.from_array(picture, chunks=64)
    else:
        data = zarr.create_array(str(tmp_path / "a.zarr"), data=picture, chunks=(64, 64))
    image = viewer.add_image(data, name="slide", contrast_limits=(0, 255))
    widget.how.value = PredictionSettings(tile=64)
    press_count(widget, qtbot)
    (labels,) = layers_of(viewer, "prediction", image)
    np.testing.assert_array_equal(np.asarray(labels.data[:]), nt.predict(picture, bright_is_cell()).labels)
    assert isinstance(labels.data, zarr.Array)
    assert not labels.editable
    assert widget.count_text.text().startswith(f"{labels.data[:].max()} cells")
    folder = labels.data.store.root.parent
    assert folder.exists()
    viewer.layers.clear()
    del labels, image
    assert not widget._results
    gc.collect()
    assert not folder.exists()


def test_the_files_of_labels_go_with_the_window(qtbot, make_napari_viewer):
    viewer = make_napari_viewer()
    session(viewer).put(bright_is_cell(), "bright")
    dock, widget = viewer.window.add_plugin_dock_widget("napari-tally", "3 Predict and count")
    assert dock.windowTitle() == "3 Count"  # on its tab; the long name stays in its title bar
    viewer.add_image(da.from_array(nine_discs(), chunks=64), name="slide", contrast_limits=(0, 255))
    press_count(widget, qtbot)
    folder = viewer.layers["slide labels"].data.store.root.parent
    assert folder.exists()
    viewer.close()
    del viewer, widget, dock
    gc.collect()
    assert not folder.exists()


@pytest.fixture
def blocked(monkeypatch):
    """Let the second tile, and those after it, take for ever, until the event is set."""
    calls, go = [], threading.Event()

    def climb(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            go.wait()
        return climb_tile(*arguments)

    monkeypatch.setattr("napari_tally.core.find.climb_tile", climb)
    yield calls, go
    go.set()


def cancel_in_the_second_tile(widget, qtbot, calls):
    calls.clear()
    qtbot.mouseClick(widget.run_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(calls) > 1)
    qtbot.mouseClick(widget.cancel_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.run_button.isEnabled())  # though the tile is still at it


@pytest.mark.parametrize("kind", ["slide", "stack"])
def test_labels_that_were_cancelled_say_so(widget, viewer, qtbot, blocked, kind):
    calls, go = blocked
    picture = nine_discs()
    data = da.from_array(np.tile(picture, (1, 2)), chunks=64) if kind == "slide" else np.stack([picture] * 3)
    image = viewer.add_image(data, name=kind, contrast_limits=(0, 255))
    widget.how.value = PredictionSettings(tile=64)
    cancel_in_the_second_tile(widget, qtbot, calls)
    (labels,) = layers_of(viewer, "prediction", image)
    assert labels.name == f"{kind} labels (stopped, unfinished)"
    assert "cells are not joined" in widget.message.text()
    assert widget.count_text.text() == ""
    go.set()
    press_count(widget, qtbot)
    assert labels.name == f"{kind} labels"
    found = np.array(labels.data[:])
    cells = widget.count_text.text()
    assert cells == f"{found.max()} cells"
    go.clear()
    cancel_in_the_second_tile(widget, qtbot, calls)  # what was found before is shown again
    np.testing.assert_array_equal(labels.data[:], found)
    assert labels.name == f"{kind} labels"
    assert widget.count_text.text() == cells


def test_the_plane_that_is_shown_comes_first(widget, viewer, qtbot, monkeypatch):
    stack = np.stack([nine_discs(radius=radius) for radius in (4, 5, 6, 7, 5, 4)]).reshape(2, 3, 64, 64)
    image = viewer.add_image(stack, name="stack")
    viewer.dims.set_current_step(0, 1)
    viewer.dims.set_current_step(1, 2)
    order, run = [], TileWork.run
    monkeypatch.setattr(TileWork, "run", lambda work, plane, tile: order.append(plane) or run(work, plane, tile))
    press_count(widget, qtbot)
    assert order == [5, 4, 3, 2, 1, 0]
    (labels,) = layers_of(viewer, "prediction", image)
    np.testing.assert_array_equal(labels.data, nt.predict(stack, bright_is_cell()).labels)


def test_missing_chunks_are_told(widget, viewer, qtbot, tmp_path):
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(64, 128), chunks=(64, 64), dtype="uint8")
    array[:, :64] = nine_discs()
    viewer.add_image(array, name="slide", contrast_limits=(0, 255))
    press_count(widget, qtbot)
    assert "slide: 1 of the 2 chunks of the file are missing" in widget.details.text()


def test_only_the_plane_that_is_shown(widget, viewer, qtbot):
    stack = np.stack([nine_discs(), nine_discs(radius=4), nine_discs(radius=7)])
    image = viewer.add_image(stack, name="stack")
    assert widget.this_plane.isVisible()
    viewer.dims.set_current_step(0, 1)
    widget.this_plane.setChecked(True)
    press_count(widget, qtbot)
    (labels,) = layers_of(viewer, "prediction", image)
    whole = nt.predict(stack, bright_is_cell()).labels
    assert [int(plane.max() > 0) for plane in labels.data] == [0, 1, 0]
    np.testing.assert_array_equal(labels.data[1] > 0, whole[1] > 0)
    assert widget.count_text.text().startswith(f"{len(np.unique(whole[1])) - 1} cells")


def test_planes_that_nobody_looked_at_are_not_counted(widget, viewer, qtbot, tmp_path):
    """Neither after another threshold, nor in what is saved."""
    viewer.add_image(np.stack([nine_discs()] * 3), name="stack: a/b")
    viewer.add_image(np.stack([nine_discs()] * 3), name="stack_ a_b")
    viewer.dims.set_current_step(0, 1)
    widget.image_choice.setCurrentIndex(widget.image_choice.count() - 1)  # all images
    widget.this_plane.setChecked(True)
    press_count(widget, qtbot)
    assert widget.count_text.text() == "18 cells"
    assert widget.table.rowCount() == 2
    widget.counting["min_area"].value = 5
    qtbot.waitUntil(lambda: all(one.counting.min_area == 5 for one in widget._results.values()))
    assert widget.table.rowCount() == 2
    widget.save(tmp_path)
    qtbot.waitUntil(lambda: not widget.results.is_writing)
    counts = pd.read_csv(tmp_path / "counts.csv")
    assert counts[["plane", "count"]].to_numpy().tolist() == [[1, 9], [1, 9]]
    assert "Only plane 1 was looked at" in (tmp_path / "record.json").read_text()
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["stack_ a_b 2.tif", "stack_ a_b.tif"]


def test_a_single_plane_offers_no_choice_of_planes(widget, viewer):
    viewer.add_image(nine_discs())
    assert not widget.this_plane.isVisible()


def test_tiles_near_the_middle_of_the_view_come_first(viewer):
    image = viewer.add_image(np.zeros((3, 100, 100)), scale=(1, 2, 2))
    gaze = Gaze(viewer)
    gaze.follow([image])
    tiles = plan_tiles((100, 100), (25, 25))
    viewer.dims.set_current_step(0, 2)
    for y, x in ((10, 80), (60, 30), (-50, 200)):
        viewer.scene.camera.center = (0, 2 * y, 2 * x)
        rows, columns = tiles[gaze.nearest(image, 2, tiles)]
        assert (rows.start, columns.start) == (min(75, max(0, y // 25 * 25)), min(75, x // 25 * 25))
    assert gaze.plane(image) == 2


def test_a_stack_in_other_units_than_the_viewer_is_looked_at_where_it_is_shown(viewer):
    viewer.add_image(np.zeros((9, 8, 8)), scale=(1, 1, 1), units=("um", "um", "um"))
    stack = viewer.add_image(np.zeros((9, 8, 8)), scale=(1000, 1000, 1000), units=("nm", "nm", "nm"))
    gaze = Gaze(viewer)
    gaze.follow([stack])
    viewer.dims.set_current_step(0, 4)
    assert gaze.plane(stack) == shown_plane(viewer, stack)[0] == 4
    viewer.layers.remove(stack)
    viewer.dims.set_current_step(0, 2)
    assert gaze.plane(stack) == 4  # for the work that still runs; the layer itself is let go
    assert not gaze._layers
