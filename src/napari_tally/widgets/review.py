"""The dock widget to review: the cells most likely to be wrong, one after the other, and the means to mend them.

::

    labels ──▶ signs of every cell ──▶ list, the most suspicious first ──▶ the camera flies to one
                                         ▲                                       │
                                         │          accept, delete, split, merge, redraw, lasso
                                         └──── count, scores ◀──┘  (each a step that napari's undo takes back)

The list follows the labels whoever changes them: a button here, the brush, Ctrl+Z. See :class:`napari_tally.core.review.ReviewList`.
"""

from collections.abc import Callable, Generator
from html import escape
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from numpy.typing import NDArray
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QFormLayout,
    QWidget,
)

from napari_tally.core.edit import Change, cells_inside, delete_cells, merge_cells, split_by_line, split_by_points
from napari_tally.core.review import ReviewList
from napari_tally.core.suspects import usual_area
from napari_tally.settings import CountingSettings
from napari_tally.widgets._annotation import send_cells
from napari_tally.widgets._geometry import shown_plane
from napari_tally.widgets._job import Job
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import KEY, image_under, is_source, layers_of
from napari_tally.widgets._parts import button, fill, group, note, say
from napari_tally.widgets._pointing import Gestures, Marks, fly_to, outlines, part_in_view
from napari_tally.widgets._session import session, unwrap
from napari_tally.widgets._suspect_table import SuspectTable

if TYPE_CHECKING:
    import napari

_UNCHANGED = 0.01
"""Pixels by which the middle of a cell may differ between two tables."""
_PATIENCE = 120
"""Milliseconds without a stroke after which the list follows."""
_HINTS = {
    "split": "Click on the middle of each of the two cells, or draw a line between them.",
    "merge": "Click on the two cells that are one.",
    "lasso": "Draw around the cells to delete: those whose centre is inside go.",
}


class ReviewWidget(QWidget):
    """Look through the cells that are most likely wrong, and mend them.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._labels: Labels | None = None  # what is reviewed
        self._data: Any = None  # its pixels when the review began: others are another prediction
        self._list: ReviewList | None = None
        self._keymap: dict[Any, Any] = {}
        self._cell: tuple[int, int] | None = None  # plane and id of the one that is looked at
        self._tool, self._points = "", list[NDArray[np.float64]]()
        self._marks, self._gestures = Marks(self._viewer), Gestures(self._viewer)
        self._gestures.clicked.connect(self._click)
        self._gestures.drawing.connect(self._draw)
        self._gestures.drawn.connect(self._stroke)
        self._job = Job(self)
        self._again = False  # start as soon as the job that is to stop has stopped
        self._job.returned.connect(self._take_list)
        self._job.failed.connect(self._show_failure)
        self._job.stopped.connect(self._ended)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_PATIENCE)
        self._later.timeout.connect(self._follow)

        self.labels_choice = LayerCombo(self._viewer, self._can_be_reviewed)
        self.labels_choice.setToolTip("The cells to review: labels from 3 Predict and count, or of another program.")
        self.start_button = button("Find suspects", "Rank the cells by how likely something is wrong with them.", self._start)
        self.message = note()

        self.suspects = SuspectTable()
        self.suspects.chosen.connect(self._look_at)

        self.accept_button = button("Accept  (A)", "This cell is right; go on to the next. Key: A", self._accept)
        self.delete_button = button("Delete  (D)", "This is no cell. Key: D", self._delete)
        self.tool_buttons = {
            "split": button("Split  (S)", f"These are two cells. {_HINTS['split']} Key: S", self._split, checkable=True),
            "merge": button("Merge  (J)", f"These are parts of one cell. {_HINTS['merge']} Key: J", self._merge, checkable=True),
            "lasso": button("Lasso delete", f"{_HINTS['lasso']} Key: Shift+D", self._lasso, checkable=True),
        }
        self.redraw_button = button(
            "Redraw  (R)",
            "Take the brush with the number of this cell; the eraser is beside it (key 1). Key 6: back to the camera.",
            self._redraw,
        )
        self.undo_button = button("Undo", "Take back the last change of the labels (Ctrl+Z).", self._undo)
        self.redo_button = button("Redo", "Do it again (Ctrl+Shift+Z).", self._redo)
        self.hint = note()
        self.hint.setMinimumHeight(2 * self.fontMetrics().lineSpacing() + 4)  # two lines, so that the buttons below stay where they are
        self.hint.setAlignment(Qt.AlignmentFlag.AlignTop)

        self.send_view_button = button(
            "What is in view",
            "Copy the cells in view into the annotation of the image, and mark the part in view as annotated. All that you see there must "
            "be right: what is no cell is background.",
            self._send_view,
        )
        self.send_all_button = button(
            "Whole image",
            "Copy all cells of this image (of a stack: of this plane) into its annotation, and mark all of it.",
            self._send_all,
        )
        self.sent = note()

        choice = QFormLayout()
        choice.addRow("Cells in", self.labels_choice)
        self._working = [
            group("Suspects", self.suspects),
            group(
                "This cell",
                self.hint,
                [self.accept_button, self.delete_button],
                [self.tool_buttons["split"], self.tool_buttons["merge"]],
                [self.redraw_button, self.tool_buttons["lasso"]],
                [self.undo_button, self.redo_button],
            ),
            group("Train on what is right", [self.send_view_button, self.send_all_button], self.sent),
        ]
        fill(self, group("Cells", choice, self.start_button, self.message), *self._working)
        self.labels_choice.changed.connect(self._change_labels)
        self._viewer.layers.events.inserted.connect(self._offer_newest)
        self._offer_newest()
        self._change_labels()

    # Which labels

    def _can_be_reviewed(self, layer: Layer) -> bool:
        if not isinstance(layer, Labels) or layer.metadata.get(KEY, {}).get("role") == "aid":
            return False
        return self._image_of(layer) is not None

    def _image_of(self, labels: Labels) -> ImageLayer | None:
        """Give the image that the cells lie on."""
        return image_under(self._viewer, labels)

    def _offer_newest(self, event: object = None) -> None:
        """Offer the newest prediction, unless a review is under way."""
        if self._labels is None:
            self.labels_choice.follow()
            found = [layer for image in self._viewer.layers if is_source(image) for layer in layers_of(self._viewer, "prediction", image)]
            if found:
                self.labels_choice.layer = found[-1]
        self._enable()

    def _change_labels(self, layer: Labels | None = None) -> None:
        """Leave the labels that were reviewed: others are chosen, or they are gone."""
        self._leave()
        chosen = self.labels_choice.layer
        say(self.message, "" if chosen else "Count cells first (3 Predict and count), or open labels of an image.")
        self._enable()

    def _leave(self) -> None:
        for event in self._events():
            event.disconnect(self._noticed)
        self._job.stop()
        self._gestures.listen(None)
        if self._labels is not None and self._list is not None:
            self._labels.keymap = self._keymap
        self._marks.clear()
        self._labels = self._data = self._list = self._cell = None
        self._put_down()
        self._show()

    def _events(self) -> list[Any]:
        """What the labels can tell."""
        return [self._labels.events[name] for name in ("paint", "set_data", "data", "mode")] if self._labels else []

    def _start(self) -> None:
        labels = self.labels_choice.layer
        self._leave()
        self._again = self._job.is_active
        if labels is None or self._again:
            return
        if not isinstance(labels.data, np.ndarray):
            say(self.message, f"{escape(labels.name)} is read piece by piece from a file and cannot be mended. Copy it into a new layer.")
            return
        self._labels, self._data = labels, labels.data
        for event in self._events():
            event.connect(self._noticed)
        found, counting = labels.metadata.get(KEY, {}).get("found") or (None, None)
        probabilities = found.probabilities if found is not None else None
        zoom = found.zoom if found is not None else 1.0
        without = "No probabilities are known of these labels: only size and shape are judged." if probabilities is None else ""
        say(self.message, without)
        data = labels.data
        self._job.start(lambda: _rank(data, probabilities, counting, zoom), description=f"Ranking the cells of {labels.name}")
        self._enable()

    def _ended(self) -> None:
        """The job has stopped; start the next if one is wished."""
        self._enable()
        if self._again:
            self._start()

    def _take_list(self, outcome: tuple[NDArray[np.integer], ReviewList]) -> None:
        data, ranked = outcome
        labels = self._labels
        if labels is None or data is not self._data:  # left meanwhile
            self._ended()
            return
        self._list = ranked
        labels.editable = True
        labels.mode = "pan_zoom"
        self._gestures.listen(labels)
        self._keymap = dict(labels.keymap)  # it may be an annotation, with a key of its own
        for key, method in {
            "a": self._accept,
            "d": self._delete,
            "s": self._split,
            "j": self._merge,
            "r": self._redraw,
            "n": self.suspects.go_on,
            "Shift-n": self.suspects.go_back,
            "Shift-d": self._lasso,
        }.items():
            labels.bind_key(key, _weakly(method), overwrite=True)
        self._viewer.layers.selection.active = labels
        self._follow()
        if self._list is None:  # replaced meanwhile, and ranked anew
            return
        self._write_features()
        self._show()
        self.suspects.go_to(0)

    def _show_failure(self, error: Exception) -> None:
        say(self.message, escape(str(error)))
        self._leave()
        self._enable()

    # The list

    def _noticed(self, event: Any = None) -> None:
        """The labels are drawn on, undone, replaced, or another tool is taken."""
        if event.type == "mode":
            if event.source.mode != "pan_zoom":
                self._put_down()
            return
        self._later.start()

    def _follow(self) -> None:
        """Take over what has changed in the labels."""
        self._later.stop()
        labels = self._labels
        if labels is None or self._list is None:
            return
        if labels.data is not self._data:  # found anew: nothing of the old list is true
            self._start()
            return
        if self._list.update(labels.data):
            notes = labels.metadata.setdefault(KEY, {})
            notes["corrected"] = notes.get("corrected", 0) + 1
            self._write_features()
            self._show()
            session(self._viewer).cells_mended.emit()
            if self._cell and self._list.where(*self._cell) is None:  # rubbed out
                self._look_at(None)

    def _write_features(self) -> None:
        """Keep the features of the layer, one row a cell, with score and fault."""
        assert self._labels
        assert self._list
        cells = self._list.cells[["plane", "label", "score", "fault", "area_px", "y", "x"]].rename(columns={"label": "index"})
        old = self._labels.features
        if "index" in old:
            keys = ["plane", "index"] if "plane" in old else ["index"]
            cells = cells.merge(old.drop(columns=["score", "fault"], errors="ignore"), on=keys, how="left", suffixes=("", " before"))
            for column in ("area_px", "y", "x"):
                if (before := f"{column} before") in cells:  # what was measured of a cell that has changed is no longer true
                    stale = (cells[column] - cells.pop(before)).abs() > _UNCHANGED
                    measured = [name for name in old if name not in (*keys, "score", "fault", "area_px", "y", "x")]
                    cells[measured] = cells[measured].where(~stale)
        self._labels.features = cells.sort_values(["plane", "index"], ignore_index=True)

    def _show(self) -> None:
        self.suspects.show_list(self._list)
        self._enable()

    def _look_at(self, cell: tuple[int, int] | None, fly: bool = True) -> None:
        self._cell = cell
        row = self._list.where(*cell) if self._list and cell else None
        if self._labels is None or self._list is None or row is None:
            self._cell = None
            self._marks.clear()
            self.suspects.select(None)
            self._describe()
            self._enable()
            return
        found = self._list.cells.iloc[row]
        self._labels.selected_label = int(found["label"])
        if fly:
            fly_to(
                self._viewer,
                self._labels,
                self._index(int(found["plane"])),
                (found["y"], found["x"]),
                float(np.sqrt(4 / np.pi * max(found["area_px"], usual_area(self._list.cells["area_px"])))),  # a crumb with its neighbours
            )
        if self._tool:
            self._points = []  # what was pointed at belongs to another cell
        else:
            self._describe()
        self._outline()
        self.suspects.select(cell)
        self._enable()

    def _outline(self, *more: NDArray[np.float64]) -> None:
        """Outline the cell that is looked at, and show what the mouse has drawn."""
        if self._labels is None:
            return
        paths, plane = list(more), shown_plane(self._viewer, self._labels)
        if self._cell:
            plane = self._index(self._cell[0])
            cell = self._labels.data[plane] == self._cell[1]
            if cell.any():
                rows, columns = (np.flatnonzero(cell.any(axis=axis)) for axis in (1, 0))
                box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                paths += outlines(cell[box], (int(rows[0]), int(columns[0])))
        self._marks.show(self._labels, plane, paths)

    def _index(self, plane: int) -> tuple[int, ...]:
        """Give the index of a plane in the labels."""
        assert self._labels
        return tuple(int(i) for i in np.unravel_index(plane, self._labels.data.shape[:-2])) if self._labels.ndim > 2 else ()

    # Mending

    def _accept(self) -> None:
        if self._list and self._cell:
            row, known = self.suspects.row(), self._list.cells.iloc[self._list.where(*self._cell)]
            self._list.accept(*self._cell, yes=not known["accepted"])
            self._show()
            self._go_on(row)

    def _go_on(self, row: int | None) -> None:
        """Go to the next cell: where the one in `row` has left the list, that is the one that moved up."""
        if row is None:
            return
        self.suspects.go_to(row if self.suspects.row() is None else row + 1)

    def _delete(self) -> None:
        if self._cell:
            plane = self._index(self._cell[0])
            self._mend(plane, lambda labels: delete_cells(labels, [self._cell[1]] if self._cell else []))

    def _redraw(self) -> None:
        if self._labels is not None and self._cell:
            self._put_down()
            self._viewer.layers.selection.active = self._labels
            self._labels.selected_label = self._cell[1]
            diameter = 2 * np.sqrt(np.count_nonzero(self._labels.data[self._index(self._cell[0])] == self._cell[1]) / np.pi)
            self._labels.brush_size = float(np.clip(diameter / 3, 1, 40))
            self._labels.mode = "paint"
            self.hint.setText("Paint what is missing, rub out what is too much (key 1). Key 6: back to the camera.")

    def _undo(self) -> None:
        if self._labels is not None:
            self._labels.undo()
            self._follow()
            self._stay()

    def _redo(self) -> None:
        if self._labels is not None:
            self._labels.redo()
            self._follow()
            self._stay()

    def _stay(self) -> None:
        """Outline the cell anew; look at the first of the list if it is gone."""
        if self._cell and self._list and self._list.where(*self._cell) is None:
            self.suspects.go_to(0)
        else:
            self._outline()

    def _mend(self, plane: tuple[int, ...], make: Callable[[NDArray[np.integer]], Change]) -> None:
        """Change the labels as one step of their history; the list and the count follow at once."""
        labels = self._labels
        if labels is None or self._list is None:
            return
        self._follow()  # strokes of the brush that are not yet in the list
        if self._list is None:
            return
        if self._list.next_id() > np.iinfo(labels.data.dtype).max:  # no room for another id; the history begins anew
            labels.data = labels.data.astype(np.int32)
            self._data = labels.data
        row = self.suspects.row()
        try:
            change = make(labels.data[plane])
        except ValueError as error:
            self.hint.setText(escape(str(error)))
            self._points = []
            self._outline()
            return
        self._put_down()
        change = change.on_plane(plane)
        labels.data_setitem(change.indices, change.new)
        self._follow()
        at = int(np.ravel_multi_index(plane, labels.data.shape[:-2])) if plane else 0
        made = [int(i) for i in np.unique(change.new) if i > 0]
        for cell in made + [int(i) for i in np.unique(change.old) if i > 0]:
            if self._list.where(at, cell) is not None:
                self._list.accept(at, cell)  # whoever mends a cell has looked at it
        self._write_features()
        self._show()
        if self._cell and self._list.where(*self._cell) is not None and self.suspects.row() is not None:
            self._outline()
        else:
            self.suspects.go_to(0 if row is None else row)

    # Tools of the mouse

    def _split(self) -> None:
        self._take_tool("split")

    def _merge(self) -> None:
        self._take_tool("merge")

    def _lasso(self) -> None:
        self._take_tool("lasso")

    def _take_tool(self, tool: str) -> None:
        """Take a tool, or put it down if it is in hand."""
        if self._labels is None or self._list is None or self._tool == tool:
            self._put_down()
            self._outline()
            return
        self._viewer.layers.selection.active = self._labels
        self._tool, self._points = tool, []
        self._gestures.armed = True
        for name, tool_button in self.tool_buttons.items():
            tool_button.setChecked(name == tool)
        self.hint.setText(_HINTS[tool])

    def _put_down(self) -> None:
        self._tool, self._points = "", []
        self._gestures.armed = False
        for tool_button in self.tool_buttons.values():
            tool_button.setChecked(False)
        self._describe()

    def _describe(self) -> None:
        """Say of the cell that is looked at what may be wrong."""
        row = self._list.where(*self._cell) if self._list and self._cell else None
        if self._list is None or row is None:
            self.hint.setText("" if self._list is None else "Click on a cell in the list or in the image.")
            return
        cell = self._list.cells.iloc[row]
        word = "accepted" if cell["accepted"] else f"score {cell['score']:.2f}"
        self.hint.setText(f"<b>Cell {cell['label']}: {escape(cell['fault'])}</b> ({word}, {cell['area_px']} px)")

    def _click(self, point: NDArray[np.float64]) -> None:
        """A click looks at a cell, or is a point for the tool in hand."""
        if self._labels is None or self._list is None:
            return
        plane = tuple(int(i) for i in np.round(point[:-2]))
        if not self._tool:
            at = self._id_at(point)
            if at:
                number = int(np.ravel_multi_index(plane, self._labels.data.shape[:-2])) if plane else 0
                self._follow()
                self._look_at((number, at), fly=False)
            return
        if self._tool == "lasso":
            self.hint.setText(_HINTS["lasso"])
            return
        self._points.append(point)
        if len(self._points) < 2:
            self._outline(*_cross(point[-2:], 2.0))
            self.hint.setText("Now click on the other one.")
            return
        first, second = self._points
        if self._tool == "merge":
            self._mend(plane, lambda labels: merge_cells(labels, self._id_at(first), self._id_at(second)))
        else:
            self._mend(plane, lambda labels: split_by_points(labels, first[-2:], second[-2:], self._inside(plane), self._new_id()))

    def _draw(self, points: NDArray[np.float64]) -> None:
        """Show the stroke: a straight line to split, a loop to delete."""
        if self._tool == "split":
            self._outline(points[[0, -1], -2:])
        elif self._tool == "lasso":
            self._outline(np.concatenate([points, points[:1]])[:, -2:])

    def _stroke(self, points: NDArray[np.float64]) -> None:
        if self._labels is None or self._list is None:
            return
        plane = tuple(int(i) for i in np.round(points[0, :-2]))
        if self._tool == "split":
            self._mend(plane, lambda labels: split_by_line(labels, points[0, -2:], points[-1, -2:], self._new_id()))
        elif self._tool == "lasso":
            self._mend(plane, lambda labels: delete_cells(labels, cells_inside(labels, points[:, -2:])))
        else:
            self.hint.setText(_HINTS["merge"])

    def _new_id(self) -> int:
        assert self._list
        return self._list.next_id()

    def _id_at(self, point: NDArray[np.float64]) -> int:
        """Give the id of the cell at a point; 0 if there is none."""
        assert self._labels
        pixel = tuple(int(i) for i in np.round(point))
        inside = all(0 <= i < n for i, n in zip(pixel, self._labels.data.shape, strict=True))
        return max(0, int(self._labels.data[pixel])) if inside else 0

    def _inside(self, plane: tuple[int, ...]) -> NDArray[np.floating] | None:
        """Give the probability of the inside of a cell on a plane, where it is known."""
        assert self._labels
        found, _ = self._labels.metadata.get(KEY, {}).get("found") or (None, None)
        if found is None or found.probabilities is None:
            return None
        return found.probabilities[int(np.ravel_multi_index(plane, self._labels.data.shape[:-2])) if plane else 0, 1]

    # To the training layer

    def _send_view(self) -> None:
        if self._labels is not None:
            self._send(part_in_view(self._labels))

    def _send_all(self) -> None:
        if self._labels is not None:
            height, width = self._labels.data.shape[-2:]
            self._send((slice(0, height), slice(0, width)))

    def _send(self, window: tuple[slice, slice]) -> None:
        """Copy the cells of a window into the annotation of the image, and mark it as annotated."""
        labels = self._labels
        image = self._image_of(labels) if labels is not None else None
        if labels is None or image is None:
            say(self.sent, "The image of these cells is gone.")
            return
        try:
            annotation, n = send_cells(self._viewer, image, labels, window)
        except ValueError as error:
            say(self.sent, escape(str(error)))
            return
        self._viewer.layers.selection.active = labels
        say(self.sent, f"{n} cell{'s' * (n != 1)} copied into “{escape(annotation.name)}”. Train on it with “2 Train”.")

    def _enable(self) -> None:
        reviewing, looking = self._list is not None, self._cell is not None
        self.start_button.setEnabled(self.labels_choice.layer is not None and not self._job.is_active)
        self.start_button.setText("Find suspects anew" if reviewing else "Ranking the cells…" if self._job.is_active else "Find suspects")
        for box in self._working:
            box.setEnabled(reviewing)
        for part in (self.accept_button, self.delete_button, self.redraw_button):
            part.setEnabled(reviewing and looking)


def _rank(
    data: NDArray[np.integer], probabilities: Any, counting: CountingSettings | None, zoom: float
) -> Generator[int, None, tuple[NDArray[np.integer], ReviewList]]:
    """Rank the cells on the worker thread; give the list with the pixels that it is of."""
    ranked = yield from ReviewList(data, probabilities, counting, zoom).measure()
    return data, ranked


def _cross(point: NDArray[np.float64], arm: float) -> list[NDArray[np.float64]]:
    """Give the two strokes of a cross."""
    return [point + [[-arm, -arm], [arm, arm]], point + [[-arm, arm], [arm, -arm]]]


def _weakly(method: Callable[[], None]) -> Callable[[Labels], None]:
    """Make a key binding that does not keep the widget of a method alive."""
    reference = WeakMethod(method)

    def act(layer: Labels) -> None:
        alive = reference()
        if alive:
            alive()

    return act
