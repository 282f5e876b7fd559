"""The dock widget to review: the cells most likely to be wrong, one after the other, and the means to mend them.

::

    labels ──▶ signs of every cell ──▶ list, the most suspicious first ──▶ the camera flies to one
                                         ▲                                       │
                                         │          accept, delete, split, merge, redraw, lasso
                                         └──── count, scores ◀──┘  (each a step that napari's undo takes back)

The list follows the labels whoever changes them: a button here or the brush. Ctrl+Z takes back what was accepted, too. See
:class:`napari_tally.core.review.ReviewList`.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels, Layer
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_tally.core.edit import Change, cells_inside, delete_cells, merge_cells, split_by_line, split_by_points
from napari_tally.core.review import ReviewList
from napari_tally.core.suspects import usual_area
from napari_tally.widgets._geometry import shown_plane
from napari_tally.widgets._job import Job
from napari_tally.widgets._layer_combo import LayerCombo
from napari_tally.widgets._layers import image_under, is_source, layers_of, notes_of, uncover
from napari_tally.widgets._mouse_tools import HINTS, MouseTools, Use
from napari_tally.widgets._parts import button, fill, group, note, say, say_error
from napari_tally.widgets._pointing import Marks, fly_to
from napari_tally.widgets._reviewed import ReviewedLabels
from napari_tally.widgets._sending import SendingPart
from napari_tally.widgets._session import session, unwrap
from napari_tally.widgets._suspect_table import Cell, SuspectTable

if TYPE_CHECKING:
    import napari

_PATIENCE = 120
"""Milliseconds without a stroke after which the list follows."""


class ReviewWidget(QWidget):
    """Look through the cells that are most likely wrong, and mend them.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: "napari.Viewer") -> None:
        super().__init__()
        self._viewer = unwrap(napari_viewer)
        self._reviewed: ReviewedLabels | None = None
        self._list: ReviewList | None = None
        self._cell: Cell | None = None  # the one that is looked at
        self._done: list[Cell | None] = []  # what Undo takes back: a cell was accepted, or (None) the labels were changed
        self._undone: list[Cell | None] = []
        self._marks = Marks(self._viewer)
        self._tools = MouseTools(self._viewer)
        self._tools.taken.connect(self._show_tool)
        self._tools.said.connect(self._hint)
        self._tools.pointed.connect(self._point)
        self._tools.sketched.connect(self._outline)
        self._tools.used.connect(self._use)
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
        self.cancel_button = button("Cancel", "Stop the ranking.", self._leave)
        self.message = note()

        self.suspects = SuspectTable()
        self.suspects.chosen.connect(self._look_at)

        self.accept_button = button("Accept  (A)", "This cell is right; go on to the next. Key: A", self._accept)
        self.delete_button = button("Delete  (D)", "This is no cell. Key: D", self._delete)
        self.tool_buttons = {
            "split": button("Split  (S)", f"These are two cells. {HINTS['split']} Key: S", self._tools.split, checkable=True),
            "merge": button("Merge  (J)", f"These are parts of one cell. {HINTS['merge']} Key: J", self._tools.merge, checkable=True),
            "lasso": button("Lasso delete", f"{HINTS['lasso']} Key: Shift+D", self._tools.lasso, checkable=True),
        }
        self.redraw_button = button(
            "Redraw  (R)",
            "Take the brush with the number of this cell; the eraser is beside it (key 1). Esc: back to the camera.",
            self._redraw,
        )
        self.undo_button = button("Undo", "Take back the last step (Ctrl+Z), and look at its cell.", self._undo)
        self.redo_button = button("Redo", "Do it again (Ctrl+Shift+Z).", self._redo)
        self.hint = note()
        self.hint.setMinimumHeight(2 * self.fontMetrics().lineSpacing() + 4)  # two lines, so that the buttons below stay where they are
        self.hint.setAlignment(Qt.AlignmentFlag.AlignTop)

        self.sending = SendingPart(self._viewer)

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
            self.sending,
        ]
        fill(self, "5 Review", group("Cells", choice, [self.start_button, self.cancel_button], self.message), *self._working)
        self.labels_choice.changed.connect(self._change_labels)
        self._viewer.layers.events.inserted.connect(self._offer_newest)
        self._offer_newest()
        self._change_labels()

    def changeEvent(self, event: QEvent) -> None:
        """Give the labels their own keys back when napari takes the widget out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._leave()
        super().changeEvent(event)

    # Which labels

    def _can_be_reviewed(self, layer: Layer) -> bool:
        if not isinstance(layer, Labels) or notes_of(layer).get("role") == "aid":
            return False
        return image_under(self._viewer, layer) is not None

    def _offer_newest(self, event: object = None) -> None:
        """Offer the newest prediction, unless a review is under way."""
        if self._reviewed is None:
            self.labels_choice.follow()
            found = [layer for image in self._viewer.layers if is_source(image) for layer in layers_of(self._viewer, "prediction", image)]
            if found:
                self.labels_choice.layer = max(found, key=lambda layer: notes_of(layer).get("number", 0))
        self._enable()

    def _change_labels(self, layer: Labels | None = None) -> None:
        """Leave the labels that were reviewed: others are chosen, or they are gone."""
        self._leave()
        chosen = self.labels_choice.layer
        hint = "Count cells first (3 Predict and count), or open labels of an image: right-click on their layer, Convert to Labels."
        say(self.message, "" if chosen else hint)
        self._enable()

    def _leave(self) -> None:
        if self._reviewed is not None:
            self._reviewed.leave()
        self._job.stop()
        self._tools.listen(None)
        self._marks.clear()
        self._reviewed = self._list = self._cell = self.sending.labels = None
        self._done, self._undone = [], []
        self._tools.put_down()
        self._show()

    def _start(self) -> None:
        labels = self.labels_choice.layer
        self._leave()
        self._again = self._job.is_active
        if labels is None or self._again:
            return
        if not isinstance(labels.data, np.ndarray):
            say(self.message, f"{escape(labels.name)} is read piece by piece from a file and cannot be mended. Copy it into a new layer.")
            return
        self._reviewed = reviewed = ReviewedLabels(labels)
        self.sending.labels = labels
        reviewed.changed.connect(self._follow_later)
        reviewed.painted.connect(self._note)
        reviewed.brush_taken.connect(self._tools.put_down)
        unknown = reviewed.probabilities is None
        say(self.message, "No probabilities are known of these labels: only size and shape are judged." if unknown else "")
        self._job.start(reviewed.ranking(), description=f"Ranking the cells of {labels.name}")
        self._enable()

    def _ended(self) -> None:
        """The job has stopped; start the next if one is wished."""
        self._enable()
        if self._again:
            self._start()

    def _take_list(self, outcome: tuple[NDArray[np.integer], ReviewList]) -> None:
        data, ranked = outcome
        if self._reviewed is None or data is not self._reviewed.data:  # left meanwhile
            self._ended()
            return
        self._list = ranked
        labels = self._reviewed.layer
        if image := image_under(self._viewer, labels):
            uncover(self._viewer, image)
        if not labels.visible:  # napari puts the brush down whenever it is asked to show a layer
            labels.visible = True
        labels.editable = True
        labels.mode = "pan_zoom"
        self._tools.listen(labels)
        self._reviewed.take_keys(
            {
                "a": self._accept,
                "d": self._delete,
                "s": self._tools.split,
                "j": self._tools.merge,
                "r": self._redraw,
                "n": self.suspects.go_on,
                "Shift-n": self.suspects.go_back,
                "Shift-d": self._tools.lasso,
                "Escape": self._drop,
                "Control-Z": self._undo,
                "Control-Shift-Z": self._redo,
            }
        )
        self._viewer.layers.selection.active = labels
        self._follow()
        if self._list is None:  # replaced meanwhile, and ranked anew
            return
        self._reviewed.write_features(self._list.cells)
        self._show()
        self.suspects.go_to(0)

    def _show_failure(self, error: Exception) -> None:
        say_error(self.message, error)
        self._leave()
        self._enable()

    # The list

    def _follow_later(self) -> None:
        """The labels are drawn on, undone or replaced."""
        self._later.start()

    def _follow(self) -> None:
        """Take over what has changed in the labels."""
        self._later.stop()
        reviewed = self._reviewed
        if reviewed is None or self._list is None:
            return
        if reviewed.is_replaced:  # found anew: nothing of the old list is true
            self._start()
            return
        if self._list.update(reviewed.layer.data):
            reviewed.count_correction()
            reviewed.write_features(self._list.cells)
            self._show()
            session(self._viewer).cells_mended.emit()
            if self._cell and self._list.where(*self._cell) is None:  # rubbed out
                self._look_at(None)
            elif not self._tools.in_hand and reviewed.layer.mode == "pan_zoom":
                self._describe()

    def _show(self) -> None:
        self.suspects.show_list(self._list)
        self._enable()

    def _look_at(self, cell: Cell | None, fly: bool = True) -> None:
        before, self._cell = self._cell, cell
        row = self._list.where(*cell) if self._list and cell else None
        if self._reviewed is None or self._list is None or row is None:
            self._cell = None
            self._marks.blank()
            self.suspects.select(None)
            self._describe()
            self._enable()
            return
        found = self._list.cells.iloc[row]
        if cell != before and self._reviewed.layer.mode != "pan_zoom":  # the brush was for the other cell
            self._reviewed.layer.mode = "pan_zoom"
        self._reviewed.layer.selected_label = int(found["label"])
        if fly:
            fly_to(
                self._viewer,
                self._reviewed.layer,
                self._reviewed.index(int(found["plane"])),
                (found["y"], found["x"]),
                float(np.sqrt(4 / np.pi * max(found["area_px"], usual_area(self._list.cells["area_px"])))),  # a crumb with its neighbours
            )
        if self._tools.in_hand:
            self._tools.begin_anew()  # what was pointed at belongs to another cell
        else:
            self._describe()
        self._outline()
        self.suspects.select(cell)
        self._enable()

    def _outline(self, sketch: Sequence[NDArray[np.floating]] = ()) -> None:
        """Outline the cell that is looked at, and show what the mouse has drawn."""
        reviewed = self._reviewed
        if reviewed is None:
            return
        paths, plane = list(sketch), shown_plane(self._viewer, reviewed.layer)
        if self._cell:
            plane = reviewed.index(self._cell[0])
            paths += reviewed.outlines(*self._cell)
        self._marks.show(reviewed.layer, plane, paths)

    # Mending

    def _accept(self) -> None:
        if self._list and self._cell:
            row = self.suspects.row()
            self._list.accept_or_not(*self._cell)
            self._note(self._cell)
            self._show()
            self._go_on(row)

    def _go_on(self, row: int | None) -> None:
        """Go to the next cell: where the one in `row` has left the list, that is the one that moved up."""
        if row is None:
            return
        self.suspects.go_to(row if self.suspects.row() is None else row + 1)

    def _delete(self) -> None:
        if self._cell:
            plane, cell = self._cell
            self._mend(plane, lambda labels: delete_cells(labels, [cell]))

    def _redraw(self) -> None:
        if self._reviewed is not None and self._cell:
            labels = self._reviewed.layer
            self._tools.put_down()
            self._viewer.layers.selection.active = labels
            labels.selected_label = self._cell[1]
            labels.brush_size = float(np.clip(self._reviewed.diameter(*self._cell) / 3, 1, 40))
            labels.mode = "paint"
            self._hint("Paint what is missing, rub out what is too much (key 1). Esc: back to the camera.")

    def _note(self, step: Cell | None = None) -> None:
        """Something was done, so nothing can be done again."""
        self._done.append(step)
        self._undone = []

    def _undo(self) -> None:
        """Take back the last step, and look at its cell."""
        self._move(self._done, self._undone)

    def _redo(self) -> None:
        """Do it again."""
        if self._undone:
            self._move(self._undone, self._done)

    def _move(self, take: list[Cell | None], give: list[Cell | None]) -> None:
        reviewed = self._reviewed
        if reviewed is None:
            return
        self._follow()  # a stroke that is not yet in the list
        step = take.pop() if take else None  # the labels may have been changed before the review
        give.append(step)
        if step is None:
            self._step(reviewed.layer.undo if take is self._done else reviewed.layer.redo)
        elif self._list and self._list.where(*step) is not None:
            self._list.accept_or_not(*step)
            self._show()
            self._look_at(step)

    def _step(self, step: Callable[[], object]) -> None:
        """Go through the history of the labels, and look at the cell that came back; at the first of the list where this one is gone."""
        before, looked_at, row = {} if self._list is None else self._list.areas(), self._cell, self.suspects.row()
        step()
        self._follow()
        if self._list is None:
            return
        now = self._list.areas()
        if changed := [cell for cell in now if now[cell] != before.get(cell)]:
            self._look_at(min(changed, key=lambda cell: (cell not in before, cell)))  # rather one that was there before
        elif looked_at and looked_at not in now:
            self.suspects.go_to(row or 0)
        else:
            self._outline()

    def _drop(self) -> None:
        """Put down whatever is in hand."""
        if self._reviewed is not None:
            self._tools.put_down()
            self._reviewed.layer.mode = "pan_zoom"
            self._describe()
            self._outline()

    def _mend(self, plane: int, make: Callable[[NDArray[np.integer]], Change]) -> None:
        """Change the labels as one step of their history; the list and the count follow at once."""
        reviewed = self._reviewed
        if reviewed is None or self._list is None:
            return
        self._follow()  # strokes of the brush that are not yet in the list
        if self._list is None:
            return
        if reviewed.make_room(self._list.next_id()):  # napari has forgotten the changes before
            self._done, self._undone = [step for step in self._done if step], []
        row = self.suspects.row()
        try:
            change = make(reviewed.pixels(plane))
        except ValueError as error:
            self._hint(escape(str(error)))
            self._tools.begin_anew()
            self._outline()
            return
        self._tools.put_down()
        reviewed.mend(plane, change)
        self._follow()
        for cell in [int(i) for ids in (change.new, change.old) for i in np.unique(ids) if i > 0]:
            if self._list.where(plane, cell) is not None:
                self._list.accept(plane, cell)  # whoever mends a cell has looked at it
        reviewed.write_features(self._list.cells)
        self._show()
        if self._cell and self._list.where(*self._cell) is not None and self.suspects.row() is not None:
            self._outline()
        else:
            self.suspects.go_to(0 if row is None else row)

    # Tools of the mouse

    def _show_tool(self, tool: str) -> None:
        for name, tool_button in self.tool_buttons.items():
            tool_button.setChecked(name == tool)
        if not tool:
            self._describe()

    def _hint(self, text: str) -> None:
        self.hint.setText(text)

    def _describe(self) -> None:
        """Say of the cell that is looked at what may be wrong."""
        row = self._list.where(*self._cell) if self._list and self._cell else None
        if self._list is None or row is None:
            self._hint("" if self._list is None else "Click on a cell in the list or in the image.")
            return
        cell = self._list.cells.iloc[row]
        word = "accepted" if cell["accepted"] else f"score {cell['score']:.2f}"
        self._hint(f"<b>Cell {cell['label']}: {escape(cell['fault'])}</b> ({word}, {cell['area_px']} px)")

    def _point(self, point: NDArray[np.float64]) -> None:
        """A click without a tool looks at a cell."""
        if self._reviewed is not None and (cell := self._reviewed.id_at(point)):
            plane = self._reviewed.plane_at(point)
            self._follow()
            self._look_at((plane, cell), fly=False)

    def _use(self, use: Use) -> None:
        """Mend what a tool was used on."""
        reviewed, ranked = self._reviewed, self._list
        if reviewed is None or ranked is None:
            return
        if not reviewed.has(use.points[-1]):
            self.hint.setText("The cells do not reach to this plane.")
            return
        plane, places = reviewed.plane_at(use.points[-1]), use.points[:, -2:]
        if use.tool == "lasso":
            self._mend(plane, lambda labels: delete_cells(labels, cells_inside(labels, places)))
        elif use.tool == "merge":
            first, second = map(reviewed.id_at, use.points)
            self._mend(plane, lambda labels: merge_cells(labels, first, second))
        elif use.is_stroke:
            self._mend(plane, lambda labels: split_by_line(labels, places[0], places[-1], ranked.next_id()))
        else:
            self._mend(plane, lambda labels: split_by_points(labels, places[0], places[1], reviewed.inside(plane), ranked.next_id()))

    def _enable(self) -> None:
        reviewing, looking = self._list is not None, self._cell is not None
        self.start_button.setEnabled(self.labels_choice.layer is not None and not self._job.is_active)
        self.start_button.setText("Find suspects anew" if reviewing else "Ranking the cells…" if self._job.is_active else "Find suspects")
        self.cancel_button.setVisible(self._job.is_active)
        for box in self._working:
            box.setEnabled(reviewing)
        for part in (self.accept_button, self.delete_button, self.redraw_button):
            part.setEnabled(reviewing and looking)
