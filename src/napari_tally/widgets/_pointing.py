"""Pointing at cells: the camera flies to one and it is outlined; clicks and strokes of the mouse on a label layer.

::

    camera tool, not armed     click ──▶ clicked        drag = the camera pans, as always
    camera tool, armed         click ──▶ clicked        drag ──▶ drawing, drawing, ... drawn        (the camera stays)
    brush, eraser, ...         nothing: the mouse paints
"""

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakMethod

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels, Shapes
from numpy.typing import NDArray
from psygnal import Signal
from skimage.measure import find_contours

from napari_tally.widgets._geometry import from_view, placement, to_viewer, turn_to
from napari_tally.widgets._layers import belong, image_of

_LARGE, _WANTED, _SMALL = 160.0, 80.0, 40.0
"""A cell seen so large, in pixels of the screen, is well seen; else the zoom is changed to the one in the middle."""
_STROKE = 5.0
"""Pixels of the screen that a hand may tremble in a click."""
_YELLOW = "#ffd166"

Paths = Sequence[NDArray[np.floating]]


def fly_to(viewer: ViewerModel, layer: Labels, plane: tuple[int, ...], middle: tuple[float, float], diameter: float) -> None:
    """Show a place in the middle of the canvas, of a stack the plane that it is on.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : napari.layers.Labels
    plane : tuple of int
        Index of the plane in the layer; () for a single image.
    middle : (y, x)
        In pixels.
    diameter : float
        How large what is there is, in pixels: the zoom changes only where it would be too small or too large to see.
    """
    world = turn_to(viewer, layer, plane, middle)
    camera = viewer.scene.camera
    on_screen = camera.zoom * diameter * pixel_in_view(viewer, layer)
    if not _SMALL <= on_screen <= _LARGE:
        camera.zoom *= _WANTED / on_screen
    camera.center = (*camera.center[:-2], *world[-2:])


def pixel_in_view(viewer: ViewerModel, layer: Labels) -> float:
    """Give the side of a pixel of a layer in world units of the viewer."""
    return float(abs(layer.scale[-1] * to_viewer(viewer, layer)[-1]))


def part_in_view(layer: Labels) -> tuple[slice, slice]:
    """Give the part of the plane that the canvas shows; all of it where there is no canvas."""
    shape = layer.data.shape[-2:]
    low, high = np.asarray(layer.corner_pixels)[:, -2:]
    low, high = np.clip(np.floor(low), 0, shape).astype(int), np.clip(np.ceil(high) + 1, 0, shape).astype(int)
    if (high - low < 2).any():
        return slice(0, shape[0]), slice(0, shape[1])
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def outlines(cell: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> list[NDArray[np.float64]]:
    """Give the outlines of a cell as closed paths in pixels.

    Parameters
    ----------
    cell : (Y, X) bool
    corner : (y, x)
        Where its first pixel lies.
    """
    return [path - 1 + corner for path in find_contours(np.pad(cell, 1).astype(float), 0.5)]


class Marks:
    """A Shapes layer above a label layer that shows what is pointed at; made when it is needed, and again if somebody deletes it."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Shapes | None = None

    def show(self, labels: Labels, plane: tuple[int, ...], paths: Paths) -> None:
        """Show paths in pixels of a plane of `labels`, and nothing else."""
        layers = self._viewer.layers
        if self._layer is None or self._layer not in layers or self._layer.ndim != labels.ndim:
            self.clear()
            active = layers.selection.active
            self._layer = Shapes(ndim=labels.ndim, name="cell in question", opacity=1.0, **placement(labels, labels.ndim))
            image = image_of(self._viewer, labels)
            belong(self._layer, "aid", image or labels)
            layers.append(self._layer)
            layers.selection.active = active
        for name, value in placement(labels, labels.ndim).items():
            if name in ("scale", "translate"):
                setattr(self._layer, name, value)
        width = 2 / (self._viewer.scene.camera.zoom * pixel_in_view(self._viewer, labels))
        self._layer.data = []
        full = [np.column_stack([np.tile(np.array(plane, float), (len(path), 1)), path]) for path in paths]
        self._layer.add_paths(full, edge_color=_YELLOW, edge_width=width)

    def blank(self) -> None:
        """Show nothing for now: to take the layer away and lay it anew would cost napari seconds."""
        if self._layer is not None and self._layer in self._viewer.layers:
            self._layer.data = []

    def clear(self) -> None:
        """Take the layer away."""
        if self._layer is not None and self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None


class Gestures:
    """Clicks and strokes on a label layer.

    Attributes
    ----------
    clicked : psygnal signal (array)
        Where, in pixels of the layer (all its axes).
    drawing, drawn : psygnal signals (array)
        The stroke so far, (N, axes), and when the button is let go.
    """

    clicked = Signal(object)
    drawing = Signal(object)
    drawn = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        self._callback: Any = None
        self._armed = False

    def listen(self, layer: Labels | None) -> None:
        """Listen to this layer, and to no other."""
        self.armed = False
        if self._layer is not None and self._callback in self._layer.mouse_drag_callbacks:
            self._layer.mouse_drag_callbacks.remove(self._callback)
        self._layer = layer
        if layer is not None:
            act = WeakMethod(self._act)  # the layer must not keep a closed widget

            def callback(layer: Labels, event: Any) -> Iterator[None]:
                method = act()
                if method:
                    yield from method(layer, event)

            self._callback = callback
            layer.mouse_drag_callbacks.append(callback)

    @property
    def armed(self) -> bool:
        """Whether a drag draws instead of panning."""
        return self._armed

    @armed.setter
    def armed(self, on: bool) -> None:
        self._armed = on
        if self._layer is not None:
            if on:
                self._layer.mode = "pan_zoom"
            self._layer.mouse_pan = self._layer.mode == "pan_zoom" and not on

    def _act(self, layer: Labels, event: Any) -> Iterator[None]:
        if layer.mode != "pan_zoom" or event.button != 1 or len(event.dims_displayed) != 2:
            return
        armed, start, points = self._armed, np.array(event.pos), [self._at(layer, event)]
        moved = False
        yield
        while event.type == "mouse_move":
            moved = moved or bool(np.hypot(*(np.array(event.pos) - start)) > _STROKE)
            if armed and moved:
                points.append(self._at(layer, event))
                self.drawing.emit(np.array(points))
            yield
        if not moved:
            self.clicked.emit(points[0])
        elif armed:
            self.drawn.emit(np.array(points))

    def _at(self, layer: Labels, event: Any) -> NDArray[np.float64]:
        return from_view(self._viewer, layer, event.position)
