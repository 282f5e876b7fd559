"""Many files from the window: dropped, counted, written as the command line writes them."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from models import bright_is_cell, nine_discs
from napari.components import ViewerModel
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QMessageBox

from napari_tally.cli import main
from napari_tally.core.model_file import save_model
from napari_tally.widgets._session import session
from napari_tally.widgets.batch import BatchWidget
from napari_tally.widgets.predict import PredictWidget


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for n, radius in enumerate((4, 6, 7)):
        tifffile.imwrite(tmp_path / "in" / f"image {n}.tif", nine_discs(radius=radius))
    (tmp_path / "in" / "image 3.tif").write_bytes(b"II*\0 torn")
    return tmp_path / "in"


@pytest.fixture
def viewer():
    viewer = ViewerModel()
    session(viewer).put(bright_is_cell(), "bright")
    return viewer


@pytest.fixture
def widget(viewer, qtbot):
    widget = BatchWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    return widget


def drop(widget, *paths):
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    event = QDropEvent(QPointF(10, 10), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    widget.dropEvent(event)
    assert event.isAccepted()


def column(widget, n):
    return [widget.table.item(row, n).text() for row in range(widget.table.rowCount())]


def test_dropped_files_are_counted_as_the_command_counts_them(widget, qtbot, folder, tmp_path):
    assert not widget.start_button.isEnabled()
    drop(widget, folder)
    assert column(widget, 0) == [f"image {n}.tif" for n in range(4)]
    widget.put_out(tmp_path / "window")
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.start_button.isEnabled())
    assert column(widget, 1) == ["9", "9", "9", "passed over"]
    assert "image 3.tif" in widget.table.item(3, 1).toolTip()
    assert "27 cells</b> in 3 files" in widget.message.text()
    assert pd.read_csv(tmp_path / "window" / "failed.csv")["image"].tolist() == ["image 3"]
    save_model(bright_is_cell(), tmp_path / "bright.safetensors")
    assert main(["predict", "--model", str(tmp_path / "bright.safetensors"), "--out", str(tmp_path / "command"), str(folder)]) == 2
    for table in ("cells.csv", "counts.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "window" / table), pd.read_csv(tmp_path / "command" / table))
    for n in range(3):
        window, command = (tifffile.imread(tmp_path / way / "labels" / f"image {n}.tif") for way in ("window", "command"))
        np.testing.assert_array_equal(window, command)


def test_when_no_file_could_be_counted_no_tables_are_promised(widget, qtbot, folder, tmp_path):
    drop(widget, folder / "image 3.tif")
    widget.put_out(tmp_path / "out")
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.start_button.isEnabled())
    assert widget.message.text().startswith("None of the files could be counted")
    assert "tables" not in widget.message.text()
    written = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert written == {"failed.csv", "failed.parquet", "record.json"}


def test_a_second_run_counts_only_what_is_new(widget, qtbot, folder):
    drop(widget, folder / "image 0.tif")
    for expected in (["9"], ["9", "9"]):
        qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: widget.start_button.isEnabled())
        assert column(widget, 1) == expected
        widget.add([folder / "image 1.tif"])
    assert widget.out_text.toolTip() == str(folder / "counts")
    drop(widget, folder / "image 1.tif")
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.start_button.isEnabled())
    assert widget.table.item(0, 1).toolTip() == "counted by an earlier run"


def test_what_cannot_be_counted_is_refused_at_once(widget, folder, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "image 0.tif").write_bytes(b"")
    widget.add([folder / "image 0.tif", tmp_path / "notes.txt", tmp_path / "image 0.tif", tmp_path / "absent"])
    assert column(widget, 0) == ["image 0.tif"]
    assert "notes.txt: files ending in" in widget.message.text()
    assert "there is a file of this name already" in widget.message.text()
    widget.clear()
    assert column(widget, 0) == []
    assert not widget.start_button.isEnabled()


def test_without_a_model_nothing_starts(qtbot, folder):
    widget = BatchWidget(ViewerModel())
    qtbot.addWidget(widget)
    widget.add([folder])
    assert not widget.start_button.isEnabled()
    assert widget.model_choice.text.text().startswith("none yet")


def test_files_are_counted_as_the_image_in_the_window_is(viewer, widget, qtbot, folder, tmp_path):
    predict = PredictWidget(viewer)
    qtbot.addWidget(predict)
    assert "stored in the model" in widget.way_text.text()
    predict.counting["min_area"].value = 10_000
    predict.results.form["border"].value = "exclude"
    assert "as set in “3 Predict and count”" in widget.way_text.text()
    drop(widget, folder / "image 0.tif")
    widget.put_out(tmp_path / "window")
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.start_button.isEnabled())
    assert column(widget, 1) == ["0"]
    assert "border" in pd.read_csv(tmp_path / "window" / "counts.csv")["rule"].iloc[0]
    session(viewer).put(None)
    assert "stored in the model" in widget.way_text.text()


def test_results_of_other_files_are_not_replaced_without_asking(widget, qtbot, folder, tmp_path):
    first, second = folder / "image 0.tif", tmp_path / "image 0.tif"
    tifffile.imwrite(second, nine_discs(radius=5))
    drop(widget, first)
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: (folder / "counts" / "counts.csv").exists() and widget.start_button.isEnabled())
    widget.clear()
    drop(widget, second)
    assert widget.out_text.toolTip() == str(tmp_path / "counts")  # beside these files
    widget.put_out(folder / "counts")
    written = (folder / "counts" / "cells.csv").read_bytes()
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    box = widget.findChild(QMessageBox)
    assert "holds the counts of 1 other image (image 0)" in box.text()
    qtbot.mouseClick(box.button(QMessageBox.StandardButton.No), Qt.MouseButton.LeftButton)
    assert (folder / "counts" / "cells.csv").read_bytes() == written
    qtbot.waitUntil(lambda: widget.findChild(QMessageBox) is None)
    qtbot.mouseClick(widget.start_button, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(widget.findChild(QMessageBox).button(QMessageBox.StandardButton.Yes), Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "9 cells" in widget.message.text())
    assert (folder / "counts" / "cells.csv").read_bytes() != written
