"""Where the user looks: the tiles there are computed first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer

from napari_tally.core.tiles import Region
from napari_tally.widgets._geometry import from_view, label_shape

if TYPE_CHECKING:
    import napari


class Gaze:
    """The point in the middle of the view, in pixels of the layers that it follows.

    The window writes it, the worker thread reads it: one tuple a layer, replaced whole.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: "napari.Viewer") -> None:
        self._viewer = viewer
        self._layers: list[ImageLayer] = []
        self._points: dict[Any, tuple[int, float, float]] = {}
        viewer.scene.camera.events.center.connect(self._look)
        viewer.dims.events.current_step.connect(self._look)
        viewer.layers.events.removing.connect(self._forget)

    def follow(self, layers: Sequence[ImageLayer]) -> None:
        """Look at these layers from now on."""
        self._layers, self._points = list(layers), {}
        self._look()

    def plane(self, layer: ImageLayer) -> int:
        """Give the plane of a layer that is shown."""
        return self._points[layer.unique_id][0]

    def nearest_plane(self, layer: ImageLayer, planes: Sequence[int]) -> int:
        """Give the place of the plane that is nearest to the one shown: the same time first, then outwards."""
        leading = label_shape(layer)[:-2]
        if not leading:
            return 0
        shown = np.unravel_index(self.plane(layer), leading)
        away = np.abs(np.stack(np.unravel_index(np.asarray(planes), leading)) - np.array(shown)[:, None])  # (axes, planes)
        return int(np.lexsort(away[::-1])[0])  # the first axis counts most

    def nearest(self, layer: ImageLayer, plane: int, tiles: Sequence[Region]) -> int:
        """Give the place of the tile that is nearest to the middle of the view."""
        _, y, x = self._points[layer.unique_id]
        away = [max(rows.start - y, y - rows.stop, 0) ** 2 + max(columns.start - x, x - columns.stop, 0) ** 2 for rows, columns in tiles]
        return int(np.argmin(away))

    def _forget(self, event: Any) -> None:
        gone = event.source[event.index]
        self._layers = [layer for layer in self._layers if layer is not gone]

    def _look(self, event: object = None) -> None:
        dims = self._viewer.dims
        middle = np.array(dims.point)
        shown = dims.displayed[-2:]
        middle[list(shown)] = self._viewer.scene.camera.center[-2:]
        points = dict(self._points)  # of a layer that is gone too: the worker may still be at it
        for layer in self._layers:
            shape = label_shape(layer)
            at = from_view(self._viewer, layer, middle)[-len(shape) :]
            leading = [int(np.clip(round(v), 0, n - 1)) for v, n in zip(at[:-2], shape[:-2], strict=True)]
            plane = int(np.ravel_multi_index(leading, shape[:-2])) if leading else 0
            points[layer.unique_id] = (plane, float(at[-2]), float(at[-1]))
        self._points = points
