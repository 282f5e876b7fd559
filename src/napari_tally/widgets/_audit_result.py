"""The part of the widget *Check the count* that shows what an audit says: the corrected count, its interval, image by image."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_tally.core.audit import Audit
from napari_tally.core.results import few
from napari_tally.core.tables import write_table
from napari_tally.core.words import number
from napari_tally.widgets._parts import ask_where_to_save, button, group, note, say
from napari_tally.widgets._plots import HandPlot
from napari_tally.widgets._stacked import theme_colours
from napari_tally.widgets._tables import fill_rows, number_table

_MORE = 10
"""Windows that are added at a time."""


class AuditResult(QWidget):
    """The result of an audit as it stands: count, table of images, plot, and what can be done with it.

    Parameters
    ----------
    viewer : napari.Viewer or ViewerModel

    Attributes
    ----------
    more_wanted : Qt signal (int)
        The user wants so many more windows.
    said : Qt signal (str)
        A sentence for the user.
    """

    more_wanted = Signal(int)
    said = Signal(str)

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self._viewer = viewer
        self._audit: Audit | None = None
        self.count_text = note(size=2.0)
        self.details = note()
        self.table = number_table(
            ["Image", "Predicted", "Corrected", "95 %"],
            "95 %: the interval. An image has a corrected count of its own where at least 4 of its windows are counted. These need not add "
            "up to the count of all: each is estimated by the windows of its image, that of all by all windows.",
        )
        self.more_button = button(
            f"{_MORE} more windows", "Go on with the same random order: the interval becomes narrower.", self._ask_for_more
        )
        self.save_button = button("Save CSV…", "Write corrected.csv: all images together, each image, each group.", self._ask_where_to_save)
        self.plot_button = button("▸ Hand against predicted", "Each window that is done as a dot.", self._fold, checkable=True)
        self.plot = HandPlot(*theme_colours(getattr(viewer, "theme", "dark")))
        self.plot_text = note(
            "A dot a window; larger where several agree. On the dashed line hand and prediction are equal, above it cells were missed."
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(
            group(
                "Result",
                self.count_text,
                self.details,
                self.table,
                [self.more_button, self.save_button],
                self.plot_button,
                self.plot,
                self.plot_text,
            )
        )
        self._fold()
        if hasattr(viewer.events, "theme"):
            viewer.events.theme.connect(self._follow_theme)

    def show_audit(self, audit: Audit | None, others: Sequence[str]) -> None:
        """Show what an audit says now; None = there is none.

        Parameters
        ----------
        audit : Audit or None
        others : sequence of str
            Images whose cells were changed after the windows were drawn.
        """
        self._audit = audit
        self.setVisible(audit is not None)
        if audit is None:
            return
        total = audit.total()
        known = total.known
        interval = f"({total.low:,.0f} to {total.high:,.0f})" if known else ""
        # Beside the count, or below it where the dock is narrow.
        cells = number(f"{total.corrected:,.0f}", "cell")
        say(self.count_text, f'{cells} <span style="font-size: 12pt">{interval}</span>' if known else "")
        if not known:
            need = audit.windows_to_interval()
            lines = [f"Predicted {total.predicted:,.0f}. {number(need, 'more window')} to go until there is an interval."]
        else:
            line = f"predicted {total.predicted:,.0f}, corrected {total.corrected:,.0f} {interval} "
            line += f"from {total.windows} windows, {number(total.clicks, 'click')}; in brackets: the 95 % interval"
            lines = [line]
            margin = audit.expected_margin(_MORE)
            if np.isfinite(margin):
                lines.append(f"{_MORE} more windows would narrow it to about ±{margin:,.0f} (now ±{total.margin:,.0f}).")
        if others:
            lines.append(
                f"The cells of {escape(few(list(others)))} were changed after the windows were drawn. Predicted are those of then; the "
                "corrected count holds all the same."
            )
        say(self.details, "<br>".join(lines))
        self.more_button.setVisible(known and audit.next_open() is None and audit.wanted < len(audit.order))
        self.save_button.setVisible(known)
        self._fill_table(audit)
        self._draw_plot()

    def _fill_table(self, audit: Audit) -> None:
        rows = audit.by("image") if len(audit.images) > 1 else audit.by("image").iloc[:0]
        self.table.setVisible(len(rows) > 0)
        texts, tips = [], []
        for row in rows.itertuples():
            known = row.low == row.low
            interval = f"{row.low:,.0f}–{row.high:,.0f}" if known else "–"
            texts.append((str(row.image), f"{row.predicted:,.0f}", f"{row.corrected:,.0f}" if known else "–", interval))
            tips.append(f"{number(row.windows, 'window')}, {number(row.clicks, 'cell')} counted by hand")
        fill_rows(self.table, texts, tips)

    def _fold(self) -> None:
        unfolded = self.plot_button.isChecked()
        self.plot_button.setText(f"{'▾' if unfolded else '▸'} Hand against predicted")
        self.plot.setVisible(unfolded)
        self.plot_text.setVisible(unfolded)
        self._draw_plot()

    def _draw_plot(self) -> None:
        if self._audit and self.plot_button.isChecked():
            done = self._audit.compared()
            self.plot.draw(done["predicted"].to_numpy(), done["hand"].to_numpy())

    def _follow_theme(self, event: object = None) -> None:
        self.plot.set_colours(*theme_colours(self._viewer.theme))

    def _ask_for_more(self) -> None:
        self.more_wanted.emit(_MORE)

    def _ask_where_to_save(self) -> None:
        ask_where_to_save(self, "Save the corrected counts", "corrected.csv", "Tables (*.csv)", self.save)

    def save(self, path: str | Path) -> None:
        """Write the corrected counts, as the command line does."""
        assert self._audit
        try:
            write_table(path, self._audit.table())
        except OSError as error:
            self.said.emit(f"{error}. Choose another folder.")
            return
        self.said.emit(f"Saved {path}.")
