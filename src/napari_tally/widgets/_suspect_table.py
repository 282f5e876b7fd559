"""The list of suspects in the window: how many cells, a table with the most suspicious first, and filters."""

import numpy as np
import pandas as pd
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QSpinBox,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)

from napari_tally.core.review import ReviewList
from napari_tally.core.words import number
from napari_tally.widgets._parts import button, note, say
from napari_tally.widgets._tables import filling, item_of

_MOST = 300
"""Rows at most: nobody goes through more at a time, and filling a table takes time."""
_ROW_HEIGHT, _SHOWN = 22, 5

Cell = tuple[int, int]
"""Plane and id."""


class SuspectTable(QWidget):
    """Lists the cells of a :class:`~napari_tally.core.review.ReviewList`.

    Attributes
    ----------
    chosen : Qt signal
        The user has chosen a cell: its plane and id, or None if there is none to choose.
    current : (plane, id) or None
        The cell that is looked at; it need not be in the list.
    """

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._list: ReviewList | None = None
        self.current: Cell | None = None
        self.count_text = note(size=1.6)
        self.details = note()
        self.table = QTableWidget(0, 4)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # it would swallow the keys of the review
        self.table.setHorizontalHeaderLabels(["#", "Fault", "Score", "Area (px)"])
        self.table.setToolTip(
            "The cells most likely to be wrong come first. Score: from 0 to 1, how likely something is wrong. Area: in pixels. Click on "
            "a row, or on a cell in the image."
        )
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.table.setFixedHeight(header.sizeHint().height() + _SHOWN * _ROW_HEIGHT + 4)
        self.table.itemSelectionChanged.connect(self._choose_row)
        self.previous_button = button("◀ Previous", "Go back in the list. Key: Shift+N", self.go_back)
        self.next_button = button("Next ▶  (N)", "Go on in the list. Key: N", self.go_on)
        self.least_score = QDoubleSpinBox()
        self.least_score.setRange(0, 1)
        self.least_score.setSingleStep(0.05)
        self.least_score.setToolTip("List cells with this score or a higher one.")
        self.smallest, self.largest = QSpinBox(), QSpinBox()
        self.smallest.setToolTip("List cells from this area on, in pixels.")
        self.largest.setToolTip("List cells up to this area, in pixels.")
        self.largest.setSpecialValueText("any")
        for box in (self.smallest, self.largest):
            box.setRange(0, 10**7)
        for filter_box in (self.least_score, self.smallest, self.largest):
            filter_box.setKeyboardTracking(False)
            filter_box.valueChanged.connect(self.refill)
        self.with_accepted = QCheckBox("Also those that are accepted")
        self.with_accepted.setToolTip("List the cells that you have accepted or mended too; accepting one again takes it back.")
        self.with_accepted.toggled.connect(self.refill)

        steps, areas, filters = QHBoxLayout(), QHBoxLayout(), QFormLayout()
        steps.setSpacing(4)
        steps.addWidget(self.previous_button)
        steps.addWidget(self.next_button)
        areas.addWidget(self.smallest, 1)
        areas.addWidget(QLabel("to"))
        areas.addWidget(self.largest, 1)
        filters.addRow("Score from", self.least_score)
        filters.addRow("Area (px)", areas)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        for part in (self.count_text, self.details, self.table):
            column.addWidget(part)
        column.addLayout(steps)
        column.addLayout(filters)
        column.addWidget(self.with_accepted)

    def show_list(self, suspects: ReviewList | None) -> None:
        """Show this list; None = there is none."""
        self._list = suspects
        self.refill()

    def refill(self, value: object = None) -> None:
        """Show the list as it is now."""
        self.table.blockSignals(True)
        if self._list is None:
            self.table.setRowCount(0)
            say(self.count_text, "")
            say(self.details, "")
        else:
            cells, listed = self._list.cells, self._passing()
            say(self.count_text, f"{number(len(cells), 'cell')}")
            cut = f"; the first {_MOST} are shown" if len(listed) > _MOST else ""
            say(self.details, f"{int(cells['accepted'].sum())} accepted or mended, {len(listed)} in the list{cut}")
            several = bool((cells["plane"] > 0).any())
            with filling(self.table):
                self._fill(listed.head(_MOST), several)
        self.table.blockSignals(False)
        self.select(self.current)

    def _fill(self, listed: pd.DataFrame, several: bool) -> None:
        self.table.setRowCount(len(listed))
        for r, row in enumerate(listed.itertuples()):
            fault = ("✓ " if row.accepted else "") + row.fault.replace("image ", "")  # so that it fits
            for c, text in enumerate((str(r + 1), fault, f"{row.score:.2f}", str(row.area_px))):
                item = item_of(text, f"Cell {row.label}" + f", plane {row.plane}" * several, is_number=c != 1)
                item.setData(Qt.ItemDataRole.UserRole, (row.plane, row.label))
                self.table.setItem(r, c, item)

    def select(self, cell: Cell | None) -> None:
        """Mark the row of the cell that is looked at."""
        self.current = cell
        row = self.row()
        self.table.blockSignals(True)
        if row is None:
            self.table.clearSelection()
        else:
            self.table.selectRow(row)
        self.table.blockSignals(False)
        self.table.viewport().update()

    def row(self) -> int | None:
        """Give the row of the cell that is looked at; None if it is not listed."""
        return next((r for r in range(self.table.rowCount()) if self._cell_of(r) == self.current), None)

    def go_to(self, row: int) -> None:
        """Choose the cell of a row, the nearest there is."""
        self.chosen.emit(self._cell_of(max(0, min(row, self.table.rowCount() - 1))))

    def go_on(self) -> None:
        """Choose the next cell of the list."""
        row = self.row()
        self.go_to(0 if row is None else row + 1)

    def go_back(self) -> None:
        """Choose the cell before this one."""
        row = self.row()
        self.go_to(0 if row is None else row - 1)

    def _passing(self) -> pd.DataFrame:
        """Give the cells that pass the filters."""
        assert self._list
        cells = self._list.cells
        passes = (cells["score"] >= self.least_score.value() - 1e-9) & (cells["area_px"] >= self.smallest.value())
        passes &= cells["area_px"] <= (self.largest.value() or np.inf)
        if not self.with_accepted.isChecked():
            passes &= ~cells["accepted"].astype(bool)
        return cells[passes]

    def _cell_of(self, row: int) -> Cell | None:
        item = self.table.item(row, 0)
        return tuple(item.data(Qt.ItemDataRole.UserRole)) if item else None

    def _choose_row(self) -> None:
        rows = self.table.selectionModel().selectedRows()
        if rows:
            self.chosen.emit(self._cell_of(rows[0].row()))
