"""Plots of what was counted: how large the cells are, how many there are image by image, and how far hand and prediction agree."""

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import Qt

from napari_tally.widgets._stacked import StackedPlots

_BAR = "#4fc3f7"
_DOT, _LARGEST = 6.0, 18.0
"""Diameters in pixels of the dot of one window, and of one that stands for many."""
_BINS = 40


class Plots(StackedPlots):
    """A histogram of diameters above, bars of densities below.

    Parameters
    ----------
    background, text : str
        Colours of the theme.
    """

    def __init__(self, background: str, text: str) -> None:
        super().__init__(["cells", ""], height=300, axis=52)
        self.setFixedHeight(300)
        self._sizes, self._densities = self.plots
        self.bars: list[pg.BarGraphItem] = []
        self.set_colours(background, text)

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


class HandPlot(StackedPlots):
    """Hand counts against predicted counts, a dot a window; larger where several windows agree in both.

    Parameters
    ----------
    background, text : str
        Colours of the theme.
    """

    def __init__(self, background: str, text: str) -> None:
        super().__init__(["counted by hand"], height=240, axis=40)
        self.setFixedHeight(240)
        (self._plot,) = self.plots
        self._plot.setLabel("bottom", "predicted")
        self._equal = self._plot.plot()
        self.dots = pg.ScatterPlotItem(pen=None, brush=pg.mkBrush(_BAR + "b0"))
        self._plot.addItem(self.dots)
        self.set_colours(background, text)

    def set_colours(self, background: str, text: str) -> None:
        """Follow the theme."""
        super().set_colours(background, text)
        self._equal.setPen(pg.mkPen(text, style=Qt.PenStyle.DashLine))

    def draw(self, predicted: NDArray[np.number], hand: NDArray[np.number]) -> None:
        """Show windows.

        Parameters
        ----------
        predicted, hand : (n,) arrays
            Cells of each window.
        """
        places, times = np.unique(np.stack([predicted, hand], axis=1), axis=0, return_counts=True)
        self.dots.setData(x=places[:, 0], y=places[:, 1], size=np.minimum(_DOT * np.sqrt(times), _LARGEST))
        most = float(max(1, places.max(initial=0)))
        self._equal.setData([0, most], [0, most])
        self._plot.setRange(xRange=(0, most), yRange=(0, most), padding=0.06)
