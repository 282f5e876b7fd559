"""Two plots of the cells that count: how large they are, and how many there are image by image."""

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt

_BAR = "#4fc3f7"
_BINS = 40


class Plots(pg.GraphicsLayoutWidget):
    """A histogram of diameters above, bars of densities below.

    Parameters
    ----------
    background, text : str
        Colours of the theme.
    """

    def __init__(self, background: str, text: str) -> None:
        super().__init__()
        self.setFixedHeight(300)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)  # the wheel scrolls the widget, not the axes
        self._sizes, self._densities = self.addPlot(row=0, col=0), self.addPlot(row=1, col=0)
        for plot in (self._sizes, self._densities):
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.setMouseEnabled(False, False)
            for side in ("left", "bottom"):
                plot.getAxis(side).setStyle(maxTickLevel=0)
                plot.getAxis(side).enableAutoSIPrefix(False)
            plot.getAxis("left").setWidth(52)
        self._sizes.setLabel("left", "cells")
        self.bars: list[pg.BarGraphItem] = []
        self.set_colours(background, text)

    def sizeHint(self) -> QSize:
        """Fit into a narrow dock."""
        return QSize(300, 300)

    def set_colours(self, background: str, text: str) -> None:
        """Follow the theme."""
        self.setBackground(background)
        for plot in (self._sizes, self._densities):
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(text)
                plot.getAxis(side).setTextPen(text)

    def draw(self, diameters: NDArray[np.floating], unit: str, densities: Sequence[float], what: str) -> None:
        """Show other cells.

        Parameters
        ----------
        diameters : (n,) floats
            Of the cells that count.
        unit : str
            Of the diameters.
        densities : sequence of float
            One an image (or plane).
        what : str
            What these are.
        """
        for plot in (self._sizes, self._densities):
            plot.clear()
        self.bars = []
        if len(diameters):
            bins = min(_BINS, max(5, len(np.histogram_bin_edges(diameters, "fd")) - 1)) if np.ptp(diameters) else 1
            numbers, edges = np.histogram(diameters, bins)
            self._add(self._sizes, (edges[:-1] + edges[1:]) / 2, numbers, 0.9 * float(edges[1] - edges[0]))
        self._sizes.setLabel("bottom", f"diameter ({unit})")
        self._add(self._densities, np.arange(1, len(densities) + 1), np.nan_to_num(np.asarray(densities, float)), 0.8)
        self._densities.setLabel("left", what)
        self._densities.setLabel("bottom", "image")
        self._densities.getAxis("bottom").setTicks([[(i, str(i)) for i in range(1, len(densities) + 1, 1 + len(densities) // 8)]])

    def _add(self, plot: pg.PlotItem, x: NDArray[np.number], height: NDArray[np.number], width: float) -> None:
        bar = pg.BarGraphItem(x=x, height=height, width=width, brush=_BAR, pen=None)
        plot.addItem(bar)
        plot.setYRange(0, max(1e-9, float(np.max(height, initial=0))))
        self.bars.append(bar)
