"""Where layers lie: the shape of labels, the size of pixels, and the way from one layer's pixels to another's.

Positions follow napari: a layer with fewer axes than the viewer has the last ones.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import dask.array as da
import numpy as np
import pint
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from numpy.typing import NDArray

from napari_tally.core.image_files import stated_axes
from napari_tally.core.images import is_lazy

AXIS_LETTERS = dict.fromkeys(("c", "ch", "channel", "channels"), "C") | dict.fromkeys(("t", "time"), "T") | {"z": "Z", "samples": "S"}
"""What the labels of axes say, as in the metadata of files."""
_RANK = {"C": 0, "S": 1, "Y": 3, "X": 4}
"""Where an axis must be for labels to lie on an image; what is none of these, planes, is 2."""
_STATED: WeakKeyDictionary[ImageLayer, tuple[str, tuple[int, ...]]] = WeakKeyDictionary()
"""What the files of layers say of their axes: each is asked once."""


def axes_of(layer: ImageLayer) -> str:
    """Give a letter for each axis of the pixels of an image layer, as :func:`napari_tally.core.images.as_image` takes them.

    The labels of its axes say it. Where nobody has set these, as when napari opens a file, the file does, so that the window takes an
    image as the command line does. What is not said is an axis of planes, "Q".
    """
    if layer.source.path and _has_no_labels(layer):
        if layer not in _STATED:
            _STATED[layer] = stated_axes(layer.source.path)
        letters, shape = _STATED[layer]
        if shape == tuple(full_size(layer).shape) and letters.count("Y") == letters.count("X") == 1:
            return letters
    letters = "".join(AXIS_LETTERS.get(label.lower(), "Q") for label in layer.axis_labels[:-2])
    return letters + ("YXS" if layer.rgb else "YX")


def _has_no_labels(layer: ImageLayer) -> bool:
    """Whether the labels of the axes are those that napari gives to axes of which nothing is known."""
    return tuple(layer.axis_labels) == tuple(str(i) for i in range(-layer.ndim, 0))


def full_size(layer: ImageLayer) -> Any:
    """Give the pixels of a layer at full resolution, of whatever kind they are."""
    return layer.data[0] if layer.multiscale else layer.data


def _order(layer: ImageLayer, letters: str) -> list[int]:
    """Give the axes of a layer as labels want them: channels first, then planes, Y and X."""
    return sorted(range(layer.ndim), key=lambda i: _RANK.get(letters[i], 2))


def label_shape(layer: ImageLayer) -> tuple[int, ...]:
    """Give the shape of a label image for an image layer (that of ``image_from_layer(layer)``) without reading pixels."""
    size, letters = full_size(layer).shape, axes_of(layer)
    shape = tuple(int(size[i]) for i in _order(layer, letters) if letters[i] not in "CS")
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def channels_to_front(viewer: ViewerModel, layer: ImageLayer) -> None:
    """Move the channels of a layer before its other axes, where they are not: only so can labels, which have none, lie on it.

    No pixel is copied, and the viewer goes on to show the same plane.

    Raises
    ------
    ValueError
        If the layer is turned, sheared or has an affine transform, which would have to be turned too.
    """
    letters, n = axes_of(layer), layer.ndim
    order = _order(layer, letters)
    if order == list(range(n)):
        return
    if not (np.allclose(layer.rotate, np.eye(n)) and not np.any(layer.shear) and np.allclose(layer.affine.affine_matrix, np.eye(n + 1))):
        raise ValueError(
            f"{layer.name}: the axes are {', '.join(letters[:n].lower())}; the channels must be the first one, and the layer is turned or "
            "sheared. Move them there, or split them into layers (right-click on the layer, Split Stack)."
        )
    labels = ["samples" if letter == "S" else letter.lower() for letter in letters] if _has_no_labels(layer) else layer.axis_labels
    scale, translate, units, point = layer.scale, layer.translate, layer.units, np.array(viewer.dims.point)
    levels = [_turned(level, order) for level in (layer.data if layer.multiscale else [layer.data])]
    layer.data = levels if layer.multiscale else levels[0]
    layer.axis_labels = [labels[i] for i in order]
    layer.scale, layer.translate, layer.units = scale[order], translate[order], [units[i] for i in order]
    if viewer.dims.ndim >= n:
        first = viewer.dims.ndim - n
        viewer.dims.set_point(list(range(first, first + n)), list(point[first:][order]))


def _turned(pixels: Any, order: list[int]) -> Any:
    """Give an array with its axes in another order, colour samples last; what is lazy stays so."""
    pixels = as_array(pixels)
    return pixels.transpose([*order, *range(len(order), pixels.ndim)])


def as_array(pixels: Any) -> Any:
    """Give the pixels of a layer as a numpy or dask array: what is lazy stays so."""
    if is_zarr(pixels):
        pixels = da.from_zarr(pixels)
    return pixels if is_lazy(pixels) else np.asarray(pixels)


def is_zarr(pixels: Any) -> bool:
    """Whether pixels are a zarr array; zarr need not be there."""
    return type(pixels).__module__.startswith("zarr.")


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


def to_viewer(viewer: ViewerModel, layer: Layer) -> NDArray[np.float64]:
    """Give the units of the viewer that make one unit of the layer, an axis each: world coordinates of layers are in units of their own."""
    units = viewer.layers.units
    return np.array(unit_factors(layer.units, units[-layer.ndim :]) if units else [1.0] * layer.ndim)


def from_view(viewer: ViewerModel, layer: Layer, point: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Turn a point of the viewer into pixels of a layer."""
    return np.asarray(layer.world_to_data(np.array(point[-layer.ndim :], float) / to_viewer(viewer, layer)), float)


def shown_plane(viewer: ViewerModel, layer: Layer) -> tuple[int, ...]:
    """Give the index of the plane of a layer that the sliders of the viewer stand on; () for a layer without planes."""
    index = np.round(from_view(viewer, layer, viewer.dims.point)[:-2]).astype(int)
    return tuple(int(i) for i in np.clip(index, 0, np.subtract(layer.data.shape[: layer.ndim - 2], 1)))


def turn_to(viewer: ViewerModel, layer: Layer, plane: Sequence[int], middle: Sequence[float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """Move the sliders to a plane of a layer, and give where a place of it (in pixels) lies in the viewer.

    Axes of the layer before those of `plane`, which are channels, go to their beginning.
    """
    index = [*[0] * (layer.ndim - 2 - len(plane)), *plane, *middle]
    place = np.asarray(layer.data_to_world(index), float)[-layer.ndim :] * to_viewer(viewer, layer)
    for axis, value in enumerate(place[:-2], start=viewer.dims.ndim - layer.ndim):
        viewer.dims.set_point(axis, value)
    return place


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
