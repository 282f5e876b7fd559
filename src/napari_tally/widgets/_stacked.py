"""Plots one above the other in a narrow dock: what curves, histograms and dots have in common."""

from collections.abc import Sequence

import pyqtgraph as pg
from qtpy.QtCore import QSize, Qt

_WIDTH = 300


class StackedPlots(pg.GraphicsLayoutWidget):
    """Plots that show and do nothing else: no menu, no dragging, and the wheel scrolls what they lie in.

    Parameters
    ----------
    labels : sequence of str
        What the left axis of each plot shows, from the top on.
    height : int
        Of all, in pixels.
    axis : int
        Width of the left axes in pixels, so that all plots begin at the same place.
    """

    def __init__(self, labels: Sequence[str], height: int, axis: int) -> None:
        super().__init__()
        self._height = height
        self.setMinimumHeight(height)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.plots: list[pg.PlotItem] = []
        for row, label in enumerate(labels):
            plot = self.addPlot(row=row, col=0)
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.setMouseEnabled(False, False)
            for side in ("left", "bottom"):
                plot.getAxis(side).setStyle(maxTickLevel=0)
                plot.getAxis(side).enableAutoSIPrefix(False)  # 0.4, not 400 (x0.001)
            plot.getAxis("left").setWidth(axis)
            plot.setLabel("left", label)
            self.plots.append(plot)

    def sizeHint(self) -> QSize:
        """Fit into a narrow dock."""
        return QSize(_WIDTH, self._height)

    def set_colours(self, background: str, text: str) -> None:
        """Follow the theme."""
        self.setBackground(background)
        for plot in self.plots:
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(text)
                plot.getAxis(side).setTextPen(text)


def theme_colours(theme: str) -> tuple[str, str]:
    """Give the background and the text colour of a theme of napari."""
    from napari.utils.theme import get_theme

    colours = get_theme(theme)
    return colours.background.as_hex(), colours.text.as_hex()
