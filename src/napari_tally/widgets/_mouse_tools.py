"""The tools of the mouse that mend cells: which one is in hand, and what was pointed at with it.

::

    no tool   click ──▶ pointed
    split     click, click ──▶ used      or a line, sketched ──▶ used
    merge     click, click ──▶ used
    lasso                                   a loop, sketched ──▶ used

What the tools do to the cells is the widget's. It puts a tool down when its work is done.
"""

from dataclasses import dataclass

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels
from numpy.typing import NDArray
from psygnal import Signal

from napari_tally.widgets._pointing import Gestures

HINTS = {
    "split": "Click on the middle of each of the two cells, or draw a line between them.",
    "merge": "Click on the two cells that are one.",
    "lasso": "Draw around the cells to delete: those whose centre is inside go.",
}
"""The tools, and how each is used."""
_ARM = 2.0
"""Pixels from the middle of a cross to its ends."""


@dataclass(frozen=True, eq=False)
class Use:
    """A tool was used.

    Attributes
    ----------
    tool : str
    points : (N, axes) float
        In pixels of the layer: two clicks, or a stroke.
    is_stroke : bool
    """

    tool: str
    points: NDArray[np.float64]
    is_stroke: bool


class MouseTools:
    """Takes clicks and strokes on a label layer for the tool in hand.

    Parameters
    ----------
    viewer : napari.Viewer

    Attributes
    ----------
    in_hand : str
        A key of `HINTS`; "" = none.
    taken : psygnal signal (str)
        Another tool is in hand, or none.
    pointed : psygnal signal (array)
        A click without a tool: where, in pixels of the layer.
    sketched : psygnal signal (list of arrays)
        What the mouse has drawn so far, as paths in pixels of the plane.
    used : psygnal signal (Use)
        There is something to do.
    said : psygnal signal (str)
        What the user does next.
    """

    taken = Signal(str)
    pointed = Signal(object)
    sketched = Signal(list)
    used = Signal(object)
    said = Signal(str)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        self.in_hand = ""
        self._points: list[NDArray[np.float64]] = []
        self._gestures = Gestures(viewer)
        self._gestures.clicked.connect(self._click)
        self._gestures.drawing.connect(self._draw)
        self._gestures.drawn.connect(self._stroke)

    def listen(self, layer: Labels | None) -> None:
        """Listen to this layer, and to no other."""
        self._layer = layer
        self._gestures.listen(layer)

    def split(self) -> None:
        """Take the tool that makes two cells of one, or put it down."""
        self._take("split")

    def merge(self) -> None:
        """Take the tool that makes one cell of two, or put it down."""
        self._take("merge")

    def lasso(self) -> None:
        """Take the tool that deletes cells, or put it down."""
        self._take("lasso")

    def _take(self, tool: str) -> None:
        if self._layer is None or self.in_hand == tool:
            self.put_down()
            self.sketched.emit([])
            return
        self._viewer.layers.selection.active = self._layer
        self.in_hand = tool
        self.begin_anew()
        self._gestures.armed = True
        self.taken.emit(tool)
        self.said.emit(HINTS[tool])

    def put_down(self) -> None:
        """Take no tool: the camera pans again."""
        self.in_hand = ""
        self.begin_anew()
        self._gestures.armed = False
        self.taken.emit("")

    def begin_anew(self) -> None:
        """Forget what was pointed at; the tool stays in hand."""
        self._points = []

    def _click(self, point: NDArray[np.float64]) -> None:
        if not self.in_hand:
            self.pointed.emit(point)
            return
        if self.in_hand == "lasso":
            self.said.emit(HINTS["lasso"])
            return
        self._points.append(point)
        if len(self._points) < 2:
            self.sketched.emit(_cross(point[-2:]))
            self.said.emit("Now click on the other one.")
            return
        self.used.emit(Use(self.in_hand, np.array(self._points), is_stroke=False))

    def _draw(self, points: NDArray[np.float64]) -> None:
        """Show the stroke: a straight line to split, a loop to delete."""
        if self.in_hand == "split":
            self.sketched.emit([points[[0, -1], -2:]])
        elif self.in_hand == "lasso":
            self.sketched.emit([np.concatenate([points, points[:1]])[:, -2:]])

    def _stroke(self, points: NDArray[np.float64]) -> None:
        if self.in_hand == "merge":
            self.said.emit(HINTS["merge"])
        else:
            self.used.emit(Use(self.in_hand, points, is_stroke=True))


def _cross(point: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Give the two strokes of a cross."""
    return [point + [[-_ARM, -_ARM], [_ARM, _ARM]], point + [[-_ARM, _ARM], [_ARM, -_ARM]]]
