"""Live curves of a training: the loss above, the agreement with held-out cells below."""

from typing import Any

import pyqtgraph as pg
from qtpy.QtGui import QColor

from napari_tally.widgets._stacked import StackedPlots

_SMOOTHING = 0.03
"""Weight of a new point in the smooth curve; larger for the first points."""
_MOST = 1000
"""Points that a curve keeps at most; then every other one is dropped, so an update costs the same after hours."""
_COLOURS = {"training": "#4fc3f7", "held out": "#ffb74d"}


class Curves(StackedPlots):
    """Two plots over the training steps.

    Parameters
    ----------
    background, text : str
        Colours of the theme.
    """

    def __init__(self, background: str, text: str) -> None:
        super().__init__(["loss", "F1 (cells)"], height=210, axis=48)
        self.setToolTip(
            "Above: the loss, what training makes small (thin: as it is, thick: smoothed). Below: F1, the agreement with "
            "held-out cells: 1 = every cell found and none invented."
        )
        self._loss, self._f1 = self.plots
        for plot in self.plots:
            plot.setClipToView(True)
        self._loss.getAxis("bottom").setStyle(showValues=False)
        self._f1.setLabel("bottom", "training steps")
        self._f1.setXLink(self._loss)
        self._f1.setYRange(0, 1)
        self._f1.getAxis("left").setTicks([[(0, "0"), (0.5, "0.5"), (1, "1")]])
        self._loss.setLimits(xMin=0, minXRange=20, yMin=0)
        self.ci.layout.setRowStretchFactor(0, 3)
        self.ci.layout.setRowStretchFactor(1, 2)
        self.ci.layout.setSpacing(6)
        legend = "&nbsp;&nbsp;&nbsp;".join(f'<span style="color: {colour}">● {name}</span>' for name, colour in _COLOURS.items())
        self._loss.setTitle(legend, size="9pt")
        thin, thick = (QColor(_COLOURS["training"]) for _ in range(2))
        thin.setAlphaF(0.35)
        self._curves = {
            "loss": self._loss.plot(pen=pg.mkPen(thin)),
            "smooth": self._loss.plot(pen=pg.mkPen(thick, width=2)),
            "validation": self._loss.plot(**_dots("held out")),
            "f1": self._f1.plot(**_dots("held out")),
        }
        self.clear_curves()
        self.set_colours(background, text)

    def clear_curves(self) -> None:
        """Begin anew."""
        self._points: dict[str, list[tuple[float, float]]] = {name: [] for name in self._curves}
        self._every, self._seen = 1, 0
        self._mean = 0.0
        self.draw()

    def add_loss(self, step: int, loss: float) -> None:
        """Add the training loss of a step."""
        self._seen += 1
        self._mean += (loss - self._mean) * max(_SMOOTHING, 5 / (self._seen + 4))
        if self._seen % self._every == 0:
            self._points["loss"].append((step, loss))
            self._points["smooth"].append((step, self._mean))
            if len(self._points["loss"]) > _MOST:
                self._every *= 2
                for name in ("loss", "smooth"):
                    del self._points[name][::2]

    def add_validation(self, step: int, loss: float, f1: float) -> None:
        """Add how well the model does on what is held out."""
        self._points["validation"].append((step, loss))
        self._points["f1"].append((step, f1))

    def draw(self) -> None:
        """Show what was added. Any painting makes Qt put the whole window together again, so this is for once a second."""
        for name, points in self._points.items():
            self._curves[name].setData(*(zip(*points, strict=True) if points else ([], [])))


def _dots(name: str) -> dict[str, Any]:
    """The look of few points that belong together."""
    colour = _COLOURS[name]
    return {"pen": pg.mkPen(colour, width=2), "symbol": "o", "symbolSize": 6, "symbolBrush": colour, "symbolPen": None}
