"""Tables to read: names on the left, numbers right-aligned behind them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

_SHOWN = 5
"""Rows that are in view at a time."""


def number_table(columns: Sequence[str], tooltip: str) -> QTableWidget:
    """Make a table of names, in the first column, and numbers."""
    table = QTableWidget(0, len(columns))
    table.setHorizontalHeaderLabels(list(columns))
    table.setToolTip(tooltip)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.verticalHeader().hide()
    table.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # which plane it is stands at the end
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    return table


def fill_rows(table: QTableWidget, rows: Sequence[Sequence[str]], tips: Sequence[str] = ()) -> None:
    """Show these rows, and make the table as high as they are.

    Parameters
    ----------
    table : QTableWidget
    rows : sequence of sequence of str
    tips : sequence of str
        A tooltip a row for its numbers; left out, what stands there.
    """
    table.setRowCount(len(rows))
    table.setFixedHeight(table.horizontalHeader().height() + min(len(rows), _SHOWN) * table.rowHeight(0) + 4)
    with filling(table):
        for r, row in enumerate(rows):
            for c, text in enumerate(row):
                table.setItem(r, c, item_of(text, tips[r] if tips and c else text, is_number=c > 0))


def item_of(text: str, tip: str, is_number: bool) -> QTableWidgetItem:
    """Make an item of a table."""
    item = QTableWidgetItem(text)
    item.setToolTip(tip)
    if is_number:
        item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


@contextmanager
def filling(table: QTableWidget) -> Iterator[None]:
    """Fill a table: its columns are measured once, at the end, and not again for every cell, which takes seconds for hundreds of rows."""
    header = table.horizontalHeader()
    modes = [header.sectionResizeMode(column) for column in range(table.columnCount())]
    header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
    try:
        yield
    finally:
        for column, mode in enumerate(modes):
            header.setSectionResizeMode(column, mode)
