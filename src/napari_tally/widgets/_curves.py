"""Live curves of a training: the loss above, the agreement with held-out cells below."""

from typing import Any

import pyqtgraph as pg
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor

_SMOOTHING = 0.03
"""Weight of a new point in the smooth curve; larger for the first points."""
_MOST = 1000
"""Points that a curve keeps at most; then every other one is dropped, so an update costs the same after hours."""
_COLOURS = {"training": "#4fc3f7", "held out": "#ffb74d"}


class Curves(pg.GraphicsLayoutWidget):
    """Two plots over the training steps.

    Parameters
    ----------
    background, text : str
        Colours of the theme.
    """

    def __init__(self, background: str, text: str) -> None:
        super().__init__()
        self.setMinimumHeight(210)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)  # the wheel scrolls the widget, not the axes
        self.setToolTip(
            "Above: the loss, what training makes small (thin: as it is, thick: smoothed). Below: F1, the agreement with "
            "held-out cells: 1 = every cell found and none invented."
        )
        self._loss, self._f1 = self.addPlot(row=0, col=0), self.addPlot(row=1, col=0)
        for plot, name in ((self._loss, "loss"), (self._f1, "F1 (cells)")):
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.setMouseEnabled(False, False)
            plot.setLabel("left", name)
            plot.getAxis("left").enableAutoSIPrefix(False)  # 0.4, not 400 (x0.001)
            plot.getAxis("left").setWidth(48)  # both plots begin at the same place
            for side in ("left", "bottom"):
                plot.getAxis(side).setStyle(maxTickLevel=0)
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

    def sizeHint(self) -> QSize:
        """Fit into a narrow dock."""
        return QSize(300, 210)

    def set_colours(self, background: str, text: str) -> None:
        """Follow the theme."""
        self.setBackground(background)
        for plot in (self._loss, self._f1):
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(text)
                plot.getAxis(side).setTextPen(text)

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


def theme_colours(theme: str) -> tuple[str, str]:
    """Give the background and the text colour of a theme of napari."""
    from napari.utils.theme import get_theme

    colours = get_theme(theme)
    return colours.background.as_hex(), colours.text.as_hex()
