"""What was done to an annotation: strokes and regions in one list, so that Undo takes back what came last, whichever layer it was on.

::

    done     stroke   regions before   stroke        undone     regions after   ...
                                          │                        ▲
                                          └─── undo ───────────────┘         and back again with redo; what is done anew empties it

A stroke itself is in the history of the labels, which napari keeps; of a change of the regions the shapes before it are kept here.
"""

from collections.abc import Callable
from typing import Any, Literal
from weakref import ref

import numpy as np
from napari.layers import Labels, Layer, Shapes
from numpy.typing import NDArray
from psygnal import Signal

Drawn = tuple[list[NDArray[Any]], list[str]]
"""The shapes of a region: vertices and kinds."""
Step = Drawn | None
"""The regions as they were; None = a stroke."""
Direction = Literal["undo", "redo"]
_KEYS: dict[str, Direction] = {"Control-Z": "undo", "Control-Shift-Z": "redo"}
_ENDS = ("added", "changed", "removed")
"""What napari calls a change of shapes that is at its end."""


class History:
    """Takes back what was done to a label layer and to the shapes of its region, by call or with the keys of napari.

    Attributes
    ----------
    moved : psygnal signal ()
        Something was taken back, or done again; of a stroke nobody knows on which plane it was.
    """

    moved = Signal()

    def __init__(self) -> None:
        self._labels: Labels | None = None
        self._region: Shapes | None = None
        self._done: list[Step] = []
        self._undone: list[Step] = []
        self._shapes: Step = None  # as they are now
        self._moving = False

    def watch(self, labels: Labels | None, region: Shapes | None) -> None:
        """Follow these layers from now on, and no others; what is known of them is kept."""
        if labels is self._labels and region is self._region:
            return
        for event, method in self._events():
            event.disconnect(method)
        same = labels is self._labels
        self._done = [step for step in self._done if step is None] if same else []  # another region has other shapes
        self._undone = []
        self._labels, self._region = labels, region
        self._shapes = _shapes_of(region) if region is not None else None
        for event, method in self._events():
            event.connect(method)
        for layer in filter(None, (labels, region)):
            for key, direction in _KEYS.items():
                layer.bind_key(key, _calling(self, direction), overwrite=True)

    def _events(self) -> list[tuple[Any, Callable[[Any], None]]]:
        """What the layers can tell, and who is told."""
        of_labels = [(self._labels.events.paint, self._painted), (self._labels.events.data, self._replaced)] if self._labels else []
        return of_labels + ([(self._region.events.data, self._drawn)] if self._region is not None else [])

    def _painted(self, event: Any = None) -> None:
        self._note(None)

    def _replaced(self, event: Any = None) -> None:
        """The labels have other pixels, and napari has forgotten the strokes."""
        for steps in (self._done, self._undone):
            steps[:] = [step for step in steps if step is not None]

    def _drawn(self, event: Any) -> None:
        """The regions are others, or will be: a shape that is being drawn is none yet."""
        if self._moving or str(event.action) not in _ENDS:
            return
        now = _shapes_of(event.source)
        if self._shapes is not None and not _alike(now, self._shapes):
            self._note(self._shapes)
            self._shapes = now

    def _note(self, step: Step) -> None:
        self._done.append(step)
        self._undone = []

    def undo(self) -> None:
        """Take back what was done last."""
        self._move("undo")

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._move("redo")

    def _move(self, direction: Direction) -> None:
        region = self._region
        if region is not None and (mode := region.mode).startswith("add_"):
            region.mode = "pan_zoom"  # a shape that is being drawn comes to its end, and is what was done last
            region.mode = mode
        take, give = (self._done, self._undone) if direction == "undo" else (self._undone, self._done)
        step: Step = None
        if take:
            step = take.pop()
            give.append(None if step is None else self._shapes)
        if step is not None and region is not None:
            self._lay(region, step)
        elif self._labels is not None:  # where nothing is known, there may be strokes from before
            getattr(self._labels, direction)()
        self.moved.emit()

    def _lay(self, region: Shapes, step: Drawn) -> None:
        """Give the region the shapes that it had."""
        self._moving = True
        try:
            region.data = []
            if step[0]:
                region.add(step[0], shape_type=step[1])
        finally:
            self._moving = False
        self._shapes = step


def _calling(history: History, direction: Direction) -> Callable[[Layer], None]:
    """Make the function for a key of a layer: where the history is gone, or follows another layer, it does what napari does."""
    alive = ref(history)

    def call(layer: Layer) -> None:
        there = alive()
        if there is not None and layer in (there._labels, there._region):
            getattr(there, direction)()
        elif isinstance(layer, Labels):
            getattr(layer, direction)()

    return call


def _shapes_of(region: Shapes) -> Drawn:
    return [np.array(shape) for shape in region.data], [str(kind) for kind in region.shape_type]


def _alike(one: Drawn, other: Drawn) -> bool:
    return one[1] == other[1] and all(np.array_equal(a, b) for a, b in zip(one[0], other[0], strict=True))
