"""The layers to count in: the frame of a counting window, and the points that are clicked in it; and the flight there.

::

    image of the window ──▶ alone in sight, at the right plane, the frame fills the canvas
    Shapes "Counting frame"   included edges green, excluded edges red and dashed
    Points "Click on cells"   what is inside counts and is green; what is outside is grey

Both are made anew where the next image lies elsewhere, has another scale or other units.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer, Points, Shapes
from numpy.typing import NDArray
from psygnal import Signal

from napari_tally.core.audit import Window
from napari_tally.widgets._geometry import from_view, label_shape, placement, to_viewer, turn_to
from napari_tally.widgets._keys import bind_keys
from napari_tally.widgets._layers import add_notes

INCLUDED, EXCLUDED, OUTSIDE = "#3ddc5a", "#ff4d40", "#9a9a9a"
_DASHES = 15
"""Dashes along an excluded edge."""
_ROOM = 1.5
"""What the canvas shows, in sides of the window."""


class CountingFrame:
    """Shows a counting window in a viewer and hears what is clicked there.

    Parameters
    ----------
    viewer : napari.Viewer
    keys : dict
        Methods to call by key, while the points are the active layer.

    Attributes
    ----------
    clicked : psygnal signal ()
        A point was added, moved or deleted.
    elsewhere : psygnal signal ()
        A click was not taken, for another plane was shown than that of the window.
    lost : psygnal signal ()
        The user has deleted one of the layers; what was clicked is gone from the window, not from `clicks`.
    clicks : list of (y, x)
        Pixels of the plane.
    """

    clicked = Signal()
    elsewhere = Signal()
    lost = Signal()

    def __init__(self, viewer: ViewerModel, keys: dict[str, Callable[[], object]]) -> None:
        self._viewer, self._keys = viewer, {key: WeakMethod(method) for key, method in keys.items()}
        self._layers: list[Any] = []  # the frame and the points, or none
        self._lies: dict[str, Any] = {}  # where they lie
        self._setting = False
        self._seen: dict[Layer, bool] = {}  # which layers were visible before
        self.window: Window | None = None
        self._image: ImageLayer | None = None  # that it lies on
        self.clicks: list[tuple[float, float]] = []
        viewer.layers.events.removed.connect(self._removed)

    @property
    def is_shown(self) -> bool:
        """Whether there is a window to click in."""
        return bool(self._layers)

    def show(self, window: Window, image: ImageLayer, clicks: list[tuple[float, float]]) -> None:
        """Fly to a window, with what was clicked there before."""
        self.window, self._image, self.clicks = window, image, list(clicks)
        self._isolate(image)
        self._make_layers(image)
        frame, points = self._layers
        side = max(window.bottom - window.top, window.right - window.left)
        self._setting = True
        frame.data = frame_lines(window)
        frame.edge_width = [side / 150] * len(frame.data)
        self._put_clicks(points)
        self._setting = True
        points.size = points.current_size = side / 22
        self._setting = False
        points.mode = "add"
        self.fly()

    def _make_layers(self, image: ImageLayer) -> None:
        """Make the two layers on the pixels of an image; those that lie there stay: to take a layer away is slow."""
        place = placement(image, 2)
        lies = {
            name: np.asarray(value).tolist() if name in ("scale", "translate", "affine", "rotate", "shear") else str(value)
            for name, value in place.items()
        }
        if self._layers and lies == self._lies:
            return
        self._take_away()
        self._lies = lies
        frame = Shapes(ndim=2, name="Counting frame", opacity=1.0, **place)
        included, *excluded = frame_lines(Window(0, "", 0, 0, 0, 1, 1))
        frame.add_paths([included], edge_color=INCLUDED)
        frame.add_paths(excluded, edge_color=EXCLUDED)
        frame.editable = False
        points = Points(ndim=2, name="Click on cells", symbol="o", face_color=INCLUDED, border_width=0.15, opacity=0.9, **place)
        for layer in (frame, points):
            add_notes(layer, role="aid")
            self._viewer.layers.append(layer)
        self._layers = [frame, points]
        points.events.data.connect(self._changed)
        bind_keys(points, self._keys)

    def fly(self) -> None:
        """Let the frame fill the canvas, with some of its surroundings, on the plane of the window."""
        if not (self._layers and self.window and self._image):
            return
        w, points = self.window, self._layers[1]
        if leading := label_shape(self._image)[:-2]:
            turn_to(self._viewer, self._image, [int(i) for i in np.unravel_index(w.plane, leading)])
        units = to_viewer(self._viewer, points)
        corners = [np.array(points.data_to_world(c)) * units for c in ((w.top - 0.5, w.left - 0.5), (w.bottom - 0.5, w.right - 0.5))]
        camera = self._viewer.scene.camera
        camera.center = (0.0, *(corners[0] + corners[1]) / 2)
        camera.zoom = min(self._viewer.canvas.size) / (_ROOM * np.abs(corners[1] - corners[0]).max())
        self._viewer.layers.selection.active = points

    def leave(self) -> None:
        """Take the layers away and show what was visible before."""
        self._take_away()
        for layer, visible in self._seen.items():
            if layer in self._viewer.layers:
                layer.visible = visible
        self._seen.clear()
        self.window = self._image = None

    def _take_away(self) -> None:
        layers, self._layers = self._layers, []
        for layer in layers:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _isolate(self, image: ImageLayer) -> None:
        """Hide all but the image: predicted cells would lead the eye."""
        for layer in self._viewer.layers:
            if layer not in self._layers:
                self._seen.setdefault(layer, layer.visible)
                layer.visible = layer is image
        for layer in self._layers:
            layer.visible = True

    def _changed(self, event: Any) -> None:
        points = self._layers[1] if self._layers else None
        if points is None or self._setting or event.action not in ("added", "removed", "changed"):
            return
        if event.action == "added" and not self._is_at_the_window:
            self._put_clicks(points)
            self.elsewhere.emit()
            return
        self.clicks = [(float(y), float(x)) for y, x in points.data]
        self._colour(points)
        self.clicked.emit()

    @property
    def _is_at_the_window(self) -> bool:
        """Whether the sliders show the plane of the window; they may be moved to see what a cell is like above and below."""
        assert self._image
        assert self.window
        leading = label_shape(self._image)[:-2]
        if not leading:
            return True
        shown = np.round(from_view(self._viewer, self._image, self._viewer.dims.point)[:-2])[-len(leading) :]
        return tuple(shown.astype(int)) == np.unravel_index(self.window.plane, leading)

    def _put_clicks(self, points: Points) -> None:
        """Show the clicks that are taken."""
        self._setting = True
        points.selected_data = set()  # napari would go on with those of the window before
        points.data = np.array(self.clicks, float).reshape(-1, 2)
        self._setting = False
        self._colour(points)

    def _colour(self, points: Points) -> None:
        inside = self.inside
        if len(inside):
            points.face_color = np.where(inside[:, None], _rgba(INCLUDED), _rgba(OUTSIDE, 0.25))
            points.border_color = np.where(inside[:, None], _rgba("#0b3d17"), _rgba(OUTSIDE))

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which clicks count."""
        return self.window.holds(self.clicks) if self.window else np.zeros(0, bool)

    def forget(self) -> None:
        """The widget is gone: tell it nothing more. The layers stay until somebody deletes them."""
        self._layers, self.window, self._image = [], None, None

    def _removed(self, event: object) -> None:
        gone = getattr(event, "value", None)
        self._seen.pop(gone, None)
        if gone in self._layers:
            self._take_away()
            self.lost.emit()


def frame_lines(window: Window) -> list[NDArray[np.float64]]:
    """Give the edges of a window: a path along the included ones, then dashes along the excluded ones.

    Pixel coordinates: the edges run between pixels.
    """
    top, left, bottom, right = (float(n) - 0.5 for n in (window.top, window.left, window.bottom, window.right))
    lines = [np.array([[bottom, left], [top, left], [top, right]])]
    for start, end in (((bottom, left), (bottom, right)), ((top, right), (bottom, right))):
        steps = np.linspace(start, end, 2 * _DASHES + 1)
        lines += [steps[k : k + 2] for k in range(1, 2 * _DASHES, 2)]
    return lines


def _rgba(colour: str, opacity: float = 1.0) -> NDArray[np.float64]:
    return np.array([*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), opacity])
