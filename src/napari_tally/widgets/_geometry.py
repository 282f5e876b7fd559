"""Where layers lie: the shape of labels, the size of pixels, and the way from one layer's pixels to another's.

Positions follow napari: a layer with fewer axes than the viewer has the last ones.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pint
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from numpy.typing import NDArray


def label_shape(layer: ImageLayer) -> tuple[int, ...]:
    """Give the shape of a label image for an image layer (that of ``image_from_layer(layer)``) without reading pixels."""
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(int(n) for n in data.shape[: layer.ndim])
    if channel_axis(layer) == 0:
        shape = shape[1:]
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def pixel_size(layer: Layer) -> tuple[float, float] | None:
    """Give height and width of a pixel in um; None where the layer has no units of length (a scale alone says nothing)."""
    height, width = (_micrometres(layer, axis) for axis in (-2, -1))
    return None if height is None or width is None else (height, width)


def z_size(layer: Layer) -> float | None:
    """Give how far the slices of a layer are apart in um; None where it has none, or their axis no unit of length."""
    return _micrometres(layer, -3) if layer.ndim > 2 else None


def _micrometres(layer: Layer, axis: int) -> float | None:
    unit = layer.units[axis]
    return abs(float(layer.scale[axis])) * float((1 * unit).to("micrometer").magnitude) if unit.is_compatible_with("micrometer") else None


def placement(layer: Layer, ndim: int) -> dict[str, Any]:
    """Give the arguments that lay a new layer of `ndim` axes on the same pixels (the last axes) of `layer`."""
    place = {
        "scale": layer.scale[-ndim:],
        "translate": layer.translate[-ndim:],
        "units": layer.units[-ndim:],
        "axis_labels": layer.axis_labels[-ndim:],
        "affine": layer.affine.affine_matrix[-ndim - 1 :, -ndim - 1 :],
    }
    if ndim == layer.ndim:
        place |= {"rotate": layer.rotate, "shear": layer.shear}
    return place


def shown_plane(viewer: ViewerModel, layer: Layer) -> tuple[int, ...]:
    """Give the index of the plane of a layer that the sliders of the viewer stand on; () for a layer without planes."""
    world, units = np.array(viewer.dims.point[-layer.ndim :]), viewer.layers.units
    if units:
        world *= unit_factors(units[-layer.ndim :], layer.units)
    index = np.round(layer.world_to_data(world)[:-2]).astype(int)
    return tuple(int(i) for i in np.clip(index, 0, np.subtract(layer.data.shape[:-2], 1)))


def to_data_of(target: Layer, source: Layer, points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Map points from data coordinates of one layer to those of another; NaN along axes that the source has not."""
    points = points[:, -target.ndim :]
    n, m = points.shape[1], target.ndim
    world = _apply(lambda p: source.data_to_world([0.0] * (source.ndim - n) + list(p))[-n:], points)
    world *= unit_factors(source.units[-n:], target.units[-n:])
    result = _apply(target.world_to_data, np.pad(world, ((0, 0), (m - n, 0))))
    result[:, : m - n] = np.nan
    return result


def unit_factors(units: Sequence[pint.Unit], wanted: Sequence[pint.Unit]) -> list[float]:
    """Give how many of the `wanted` unit make one unit, for each axis; 1 where they cannot be compared, as napari does."""
    if any(a.dimensionality != b.dimensionality for a, b in zip(units, wanted, strict=True)):
        return [1.0] * len(units)
    return [(1 * a).to(b).magnitude for a, b in zip(units, wanted, strict=True)]


def ellipse(corners: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn the four corners around an ellipse into points on it."""
    a, b = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)[:, None]
    return np.mean(corners, axis=0) + np.cos(t) * a + np.sin(t) * b


def _apply(affine: Callable[[Any], Any], points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Apply an affine map of one point to (N, D) points: it is known from the origin and D unit steps."""
    d = points.shape[1]
    origin = np.asarray(affine(np.zeros(d)))
    matrix = np.stack([np.asarray(affine(step)) - origin for step in np.eye(d)])
    return points @ matrix + origin


def channel_axis(layer: ImageLayer) -> int | None:
    """Find the axis that holds channels, by its label."""
    if layer.rgb or layer.ndim < 3:
        return None
    return next((i for i, label in enumerate(layer.axis_labels) if AXIS_LETTERS.get(label.lower()) == "C"), None)


AXIS_LETTERS = dict.fromkeys(("c", "ch", "channel", "channels"), "C") | dict.fromkeys(("t", "time"), "T") | {"z": "Z"}
"""What the labels of axes say, as in the metadata of files."""
