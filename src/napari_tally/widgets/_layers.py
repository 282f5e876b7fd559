"""What the layers of a viewer mean: images for the core, label layers that fit an image, the annotated region.

Layers of four kinds belong to an image. What a layer is stands in its metadata, by ids that survive renaming::

    layer.metadata["napari_tally"] = {"role": "annotation", "image": id, "region": id}     Labels, drawn
                                     {"role": "prediction", "image": id}                   Labels, found by a model; also "found": what
                                                                                           gave them, "corrected": how often they were
                                                                                           mended by hand
                                     {"role": "probability", "image": id}                  Image
                                     {"role": "aid", "image": id}                          only to look at: preview, weight map

Positions follow napari: a layer with fewer axes than the viewer has the last ones.
"""

from collections.abc import Callable, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import pint
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox
from skimage.draw import polygon

from napari_tally.core.edit import take_over
from napari_tally.core.images import Image, as_image, is_lazy
from napari_tally.core.lazy import missing_chunks, open_ome_zarr
from napari_tally.core.points import discs

_LETTERS = dict.fromkeys(("c", "ch", "channel", "channels"), "C") | dict.fromkeys(("t", "time"), "T") | {"z": "Z"}
"""What the labels of axes say, as in the metadata of files."""
KEY = "napari_tally"
Role = Literal["annotation", "prediction", "probability", "aid"]


def image_from_layer(layer: ImageLayer) -> Image:
    """Read an image layer: its full resolution, its channels and its pixel size.

    Parameters
    ----------
    layer : napari.layers.Image
        (Y, X), colour, or planes before them. A first axis labelled ``c`` or ``channel`` holds channels; ``t`` or ``time`` is
        time, ``z`` are slices.

    Returns
    -------
    Image
        With a pixel size where the last two axes of the layer have units of length, and so for the distance of slices. Pixels of a
        dask or zarr layer stay where they are.

    Raises
    ------
    ValueError
        If the values are no real, finite numbers, or the channels are not the first axis.
    """
    require_channels_first(layer)
    data = layer.data[0] if layer.multiscale else layer.data
    letters = (_LETTERS.get(label.lower(), "Q") for label in layer.axis_labels[:-2])
    axes = "".join(letters) + ("YXS" if layer.rgb else "YX")
    if type(data).__module__.startswith("zarr."):
        data = da.from_zarr(data)
    data = data if is_lazy(data) else np.asarray(data)
    steps = {"Z": distance} if (distance := z_size(layer)) else {}
    return as_image(data, axes=axes, name=layer.name, pixel_size=pixel_size(layer), steps=steps)


def what_is_odd(layer: ImageLayer) -> str:
    """Say what is odd about the file of a large image: chunks that are missing; "" = nothing, or not known. It may take a while."""
    data = layer.data[0] if layer.multiscale else layer.data
    if type(data).__module__.startswith("zarr."):
        return missing_chunks(data)
    path = Path(layer.source.path or "")
    if path.suffix != ".zarr" or not path.is_dir():
        return ""
    try:
        return open_ome_zarr(path).note
    except ValueError:  # something else that a reader knows
        return ""


def require_channels_first(layer: ImageLayer) -> None:
    """Raise a ``ValueError`` if channels are another axis than the first: labels could not lie on the image then."""
    if _channel_axis(layer):
        raise ValueError(
            f"{layer.name}: the axes are {', '.join(layer.axis_labels)}; the channels must be the first one. "
            "Move them there, or split them into layers (right-click on the layer, Split Stack)."
        )


def label_shape(layer: ImageLayer) -> tuple[int, ...]:
    """Give the shape of a label image for an image layer (that of ``image_from_layer(layer)``) without reading pixels."""
    data = layer.data[0] if layer.multiscale else layer.data
    shape = tuple(int(n) for n in data.shape[: layer.ndim])
    if _channel_axis(layer) == 0:
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


def belong(layer: Layer, role: Role, image: ImageLayer, region: Shapes | None = None) -> None:
    """Note in the metadata of `layer` what it is, and of which image."""
    layer.metadata[KEY] = {"role": role, "image": image.unique_id} | ({"region": region.unique_id} if region else {})


def layers_of(viewer: ViewerModel, role: Role, image: ImageLayer) -> list[Any]:
    """Find the layers of an image that have this role, the newest last."""
    return [layer for layer in viewer.layers if is_a(layer, role, image)]


def is_a(layer: Layer, role: Role, image: ImageLayer) -> bool:
    """Whether a layer has this role for this image."""
    return {"role": role, "image": image.unique_id}.items() <= _notes(layer).items()


def is_corrected(layer: Layer) -> bool:
    """Whether somebody has mended cells of this prediction by hand; then it must not be made anew."""
    return bool(_notes(layer).get("corrected"))


def fits(layer: Layer, image: ImageLayer) -> bool:
    """Whether a layer holds cells of the shape of an image, and belongs to no other image."""
    if not isinstance(layer, Labels) or layer.data.shape != label_shape(image):
        return False
    return _notes(layer).get("image") in (None, image.unique_id) and _notes(layer).get("role") != "aid"


def cells_on(viewer: ViewerModel, image: ImageLayer) -> Labels | None:
    """Find the cells of an image: its newest prediction, else labels of another origin that are its own."""
    found = layers_of(viewer, "prediction", image)
    others = [layer for layer in viewer.layers if not _notes(layer) and fits(layer, image) and image_under(viewer, layer) is image]
    return next(reversed([*others, *found]), None)


def image_under(viewer: ViewerModel, labels: Labels) -> ImageLayer | None:
    """Find the one image that cells lie on: noted, else of those that they fit the one called most alike, else the next one below."""
    if noted := image_of(viewer, labels):
        return noted
    images = [layer for layer in viewer.layers if is_source(layer) and _can_hold(layer, labels)]
    if len(images) < 2:
        return next(iter(images), None)
    alike = [len(commonprefix([image.name.lower(), labels.name.lower()])) for image in images]
    if alike.count(max(alike)) == 1:
        return images[alike.index(max(alike))]
    at = viewer.layers.index(labels)
    return next((image for image in reversed(images) if viewer.layers.index(image) < at), images[0])


def _can_hold(image: ImageLayer, labels: Labels) -> bool:
    """Whether labels are of the shape of an image; false where that cannot be told."""
    try:
        return fits(labels, image)
    except ValueError:
        return False


def annotation_of(viewer: ViewerModel, image: ImageLayer) -> Labels | None:
    """Find the Labels layer in which the cells of an image are drawn."""
    return next(reversed(layers_of(viewer, "annotation", image)), None)


def region_of(viewer: ViewerModel, labels: Labels) -> Shapes | None:
    """Find the Shapes layer that marks the annotated region of an annotation."""
    return _by_id(viewer, _notes(labels).get("region"))


def image_of(viewer: ViewerModel, layer: Layer) -> ImageLayer | None:
    """Find the image layer that an annotation, a prediction or a probability map belongs to."""
    return _by_id(viewer, _notes(layer).get("image"))


def labels_for_image(viewer: ViewerModel, image: ImageLayer) -> list[Labels]:
    """Find the Labels layers of the shape of an image: its annotation first, its predictions last."""
    rank = {"annotation": 0, "prediction": 2}
    return sorted((layer for layer in viewer.layers if fits(layer, image)), key=lambda layer: rank.get(_notes(layer).get("role", ""), 1))


def is_source(layer: Layer) -> bool:
    """Whether a layer is an image to work on, and no probability map of ours."""
    return isinstance(layer, ImageLayer) and not _notes(layer)


def region_mask(shapes: Shapes, labels: Labels) -> NDArray[np.bool_]:
    """Rasterise the annotated region on the pixels of a label layer.

    Parameters
    ----------
    shapes : napari.layers.Shapes
        Rectangles, ellipses and polygons count, lines and paths have no inside. A shape marks the
        planes that it lies on; a layer of flat shapes over a stack marks every plane.
    labels : napari.layers.Labels
        Both layers may have their own scale, translation and units.

    Returns
    -------
    bool array of the shape of `labels`
        True where the centre of a pixel is inside any shape.
    """
    mask = np.zeros(labels.data.shape, bool)
    planes = mask.reshape(-1, *mask.shape[-2:])
    for vertices, kind in zip(shapes.data, shapes.shape_type, strict=True):
        if kind in ("line", "path"):
            continue
        outline = _to_data_of(labels, shapes, _ellipse(vertices) if kind == "ellipse" else np.asarray(vertices))
        inside = polygon(outline[:, -2], outline[:, -1], mask.shape[-2:])
        leading = outline[:, :-2]
        spans = [
            range(n) if np.isnan(along).any() else range(max(0, round(along.min())), min(n - 1, round(along.max())) + 1)
            for n, along in zip(mask.shape[:-2], leading.T, strict=True)
        ]
        which = np.zeros(mask.shape[:-2], bool)
        which[np.ix_(*spans)] = True
        for p in np.flatnonzero(which):
            planes[p][inside] = True
    return mask


def start_annotation(viewer: ViewerModel, image: ImageLayer, labels: Labels | None = None) -> Labels:
    """Make the layers to annotate an image, as far as they do not exist, and get ready to paint a new cell.

    Parameters
    ----------
    viewer : napari.Viewer
    image : napari.layers.Image
    labels : napari.layers.Labels, optional
        Go on with this layer, for example the annotation of the image; left out, a new one.

    Raises
    ------
    ValueError
        If the labels do not fit the image, or cannot be painted.
    """
    require_channels_first(image)
    shape = label_shape(image)
    place = placement(image, len(shape))
    if labels is None:
        labels = Labels(np.zeros(shape, np.int32), name=f"{image.name} cells", **place)
        viewer.add_layer(labels)
    elif labels.data.shape != shape:
        raise ValueError(
            f"{labels.name} has the shape {labels.data.shape} and {image.name} needs {shape}. Choose 'New layer', or labels of this image."
        )
    elif not isinstance(labels.data, np.ndarray):
        raise ValueError(f"{labels.name} is read piece by piece from a file and cannot be painted. Choose 'New layer', then copy it there.")
    region = region_of(viewer, labels)
    if region is None:
        thickness = max(1.0, min(shape[-2:]) / 250)
        region = Shapes(
            ndim=len(shape), name=f"{image.name} region", face_color="transparent", edge_color="#ffd166", edge_width=thickness, **place
        )
        viewer.add_layer(region)
    if labels.data.dtype.itemsize < 4:
        labels.data = labels.data.astype(np.int32)  # room for more cells
    if image_of(viewer, labels) is not image:
        labels.brush_size = float(np.clip(min(shape[-2:]) / 50, 3, 20))
    belong(labels, "annotation", image, region)
    labels.bind_key("n", next_cell, overwrite=True)
    viewer.layers.selection.active = labels
    next_cell(labels)
    return labels


def mark_plane(viewer: ViewerModel, region: Shapes, labels: Labels) -> None:
    """Add a rectangle around the plane that is shown (of a single image: around the image)."""
    (top, left), (bottom, right) = (-0.5, -0.5), np.subtract(labels.data.shape[-2:], 0.5)
    plane = shown_plane(viewer, labels)
    corners = [[*plane, top, left], [*plane, top, right], [*plane, bottom, right], [*plane, bottom, left]]
    region.add_rectangles(np.array(corners, float))


def shown_plane(viewer: ViewerModel, layer: Layer) -> tuple[int, ...]:
    """Give the index of the plane of a layer that the sliders of the viewer stand on; () for a layer without planes."""
    world, units = np.array(viewer.dims.point[-layer.ndim :]), viewer.layers.units
    if units:
        world *= unit_factors(units[-layer.ndim :], layer.units)
    index = np.round(layer.world_to_data(world)[:-2]).astype(int)
    return tuple(int(i) for i in np.clip(index, 0, np.subtract(layer.data.shape[:-2], 1)))


def copy_cells(viewer: ViewerModel, image: ImageLayer, found: Labels, annotation: Labels | None = None) -> Labels:
    """Copy the cells that were found on an image into its annotation (made if there is none), see :func:`fill_in`.

    The layer that they come from is hidden: it would shine through what is corrected.

    Raises
    ------
    ValueError
        If the two label images have different shapes.
    """
    annotation = start_annotation(viewer, image, annotation or annotation_of(viewer, image))
    if annotation.data.shape != found.data.shape:
        raise ValueError(f"{found.name} has the shape {found.data.shape} and {annotation.name} has {annotation.data.shape}.")
    region = region_of(viewer, annotation)
    rewrite(annotation, fill_in(annotation.data, np.asarray(found.data), region_mask(region, annotation) if region else None))
    next_cell(annotation)
    found.visible = False
    return annotation


def send_cells(viewer: ViewerModel, image: ImageLayer, labels: Labels, window: tuple[slice, slice]) -> tuple[Labels, int]:
    """Copy the corrected cells of a part of the plane that is shown into the annotation of an image, and mark that part as annotated.

    An annotation without a region counts as annotated everywhere, if there are cells in it; it goes on to do so. It is hidden: it
    would lie over what is reviewed.

    Parameters
    ----------
    viewer : napari.Viewer
    image : napari.layers.Image
    labels : napari.layers.Labels
    window : (slice, slice)
        Rows and columns.

    Returns
    -------
    annotation : napari.layers.Labels
    n : int
        How many cells were copied.

    Raises
    ------
    ValueError
        If the labels are the annotation, or have another shape.
    """
    old = annotation_of(viewer, image)
    if old is labels:
        raise ValueError("These are the labels to train on already.")
    region = region_of(viewer, old) if old is not None else None
    everywhere = old is not None and bool((old.data > 0).any()) and not (region is not None and len(region.data))
    annotation = start_annotation(viewer, image, old)
    if annotation.data.shape != labels.data.shape:
        raise ValueError(f"{labels.name} has the shape {labels.data.shape} and {annotation.name} has {annotation.data.shape}.")
    found = (labels.metadata.get(KEY, {}).get("found") or (None,))[0]
    if found is not None and found.are_bodies:
        raise ValueError(f"The cells of {labels.name} go through slices; copy them all at once with 'Copy to annotation'.")
    plane = shown_plane(viewer, labels)
    wanted = annotation.data.copy()
    wanted[plane], ids = take_over(annotation.data[plane], labels.data[plane], window)
    rewrite(annotation, wanted)
    region = region_of(viewer, annotation)
    if region is not None and not everywhere:
        (top, left), (bottom, right) = ([side.start - 0.5 for side in window], [side.stop - 0.5 for side in window])
        corners = [[*plane, top, left], [*plane, top, right], [*plane, bottom, right], [*plane, bottom, left]]
        region.add_rectangles(np.array(corners, float))
    annotation.mode = "pan_zoom"
    annotation.visible = False
    return annotation, len(ids)


def cells_from_points(viewer: ViewerModel, points: Points, labels: Labels, radius: float) -> int:
    """Draw a disc around every point that lies on no drawn cell; see :func:`napari_tally.core.points.discs`.

    Parameters
    ----------
    viewer : napari.Viewer
    points : napari.layers.Points
        It may have its own scale, translation and units.
    labels : napari.layers.Labels
    radius : float
        In pixels of the labels.

    Returns
    -------
    int
        How many cells there are more.

    Raises
    ------
    ValueError
        If there are no points, or some lie outside, or they do not say on which plane of a stack they are.
    """
    if not len(points.data):
        raise ValueError(f"{points.name} holds no points yet: add one on each cell.")
    places = _to_data_of(labels, points, np.asarray(points.data))
    if np.isnan(places).any():
        raise ValueError(f"{points.name} is flat and {labels.name} is a stack: points that lie on planes are wanted.")
    found = discs(places, labels.data.shape, radius)
    at = tuple(np.round(places).astype(int).T)
    found[np.isin(found, found[at][labels.data[at] > 0])] = 0
    before = len(np.unique(labels.data))
    rewrite(labels, fill_in(labels.data, found))
    next_cell(labels)
    return len(np.unique(labels.data)) - before


def next_cell(labels: Labels) -> None:
    """Take the brush, with an id that no cell has."""
    labels.selected_label = int(labels.data.max(initial=0)) + 1
    labels.mode = "paint"


def fill_in(labels: NDArray[np.integer], predicted: NDArray[np.integer], region: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Keep what is annotated and take the rest from a prediction.

    Parameters
    ----------
    labels : (..., Y, X) int
        Drawn cells.
    predicted : int array of the same shape
        Cells found by a model.
    region : bool array of the same shape, optional
        The annotated region: cells that reach into it stay, all others are replaced, and nothing is
        added inside. Left out or empty: every drawn cell stays.

    Returns
    -------
    int32 array of the same shape
        Predicted cells that lie mostly on what stays are left out; of the others, what stays is cut off.
    """
    if region is None or not region.any():
        taken = labels > 0
    else:
        taken = region | np.isin(labels, np.unique(labels[region & (labels > 0)]))
    kept = np.where(taken, labels, np.minimum(labels, 0)).astype(np.int32)
    found = np.maximum(predicted, 0)
    if found.max(initial=0) > found.size:
        found = np.unique(found, return_inverse=True)[1].reshape(found.shape) + int(found.min() > 0)
    sizes = np.bincount(found.ravel())
    mostly_free = np.bincount(found[~taken], minlength=sizes.size) * 2 > sizes
    mostly_free[0] = False
    new = mostly_free[found] & ~taken
    ids = np.cumsum(mostly_free) * mostly_free + int(kept.max(initial=0))  # numbered on, without holes
    return np.where(new, ids[found], kept).astype(np.int32)


def rewrite(layer: Labels, wanted: NDArray[np.integer]) -> None:
    """Change the pixels of a label layer to `wanted`, as one step that napari's undo takes back."""
    if not np.can_cast(wanted.dtype, layer.data.dtype):
        layer.data = layer.data.astype(wanted.dtype)
    changed = np.nonzero(layer.data != wanted)
    layer.data_setitem(changed, wanted[changed])
    layer.refresh()


class LayerCombo(QComboBox):
    """A choice among the layers of a viewer; follows layers that come, go, move and are renamed.

    Parameters
    ----------
    viewer : napari.Viewer
    accept : callable
        Which layers to offer.
    extra : str
        An entry that stands for no layer (`layer` is None); "" = no such entry.
    extra_last : bool
        Put that entry last; else it is the first, and chosen at first.

    Attributes
    ----------
    changed : Qt signal
        Emits the layer (or None) when another is chosen, by the user or because the layer is gone.
    """

    changed = Signal(object)

    def __init__(self, viewer: ViewerModel, accept: Callable[[Layer], bool], extra: str = "", extra_last: bool = False) -> None:
        super().__init__()
        self._viewer, self._accept, self._extra, self._extra_last = viewer, accept, extra, extra_last
        self._offered: list[Layer | None] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setPlaceholderText("none yet")
        self._last: Layer | None = None
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self.follow)
        self.currentIndexChanged.connect(self._tell)
        self.follow()

    @property
    def layer(self) -> Any:
        """The chosen layer; None if there is none."""
        return self._offered[self.currentIndex()] if 0 <= self.currentIndex() < len(self._offered) else None

    @layer.setter
    def layer(self, layer: Layer | None) -> None:
        if layer in self._offered:
            self.setCurrentIndex(self._offered.index(layer))

    @property
    def layers(self) -> Sequence[Any]:
        """All layers that are offered."""
        return [layer for layer in self._offered if layer is not None]

    def follow(self, event: object = None) -> None:
        """Offer the layers that there are now, and keep the choice where it still exists."""
        chosen, kept = self.layer, self.layer is not None or not self._extra_last or len(self._offered) > 1
        self.blockSignals(True)
        self._offered = [layer for layer in self._viewer.layers if self._accept(layer)]
        if self._extra:
            self._offered.insert(len(self._offered) if self._extra_last else 0, None)
        self.clear()
        self.addItems([self._extra if layer is None else layer.name for layer in self._offered])
        self.setCurrentIndex(self._offered.index(chosen) if kept and chosen in self._offered else min(0, len(self._offered) - 1))
        self.blockSignals(False)
        self._tell()

    def _tell(self) -> None:
        if self.layer is not self._last:
            self._last = self.layer
            self.changed.emit(self._last)


def _channel_axis(layer: ImageLayer) -> int | None:
    """Find the axis that holds channels, by its label."""
    if layer.rgb or layer.ndim < 3:
        return None
    return next((i for i, label in enumerate(layer.axis_labels) if _LETTERS.get(label.lower()) == "C"), None)


def _notes(layer: Layer) -> dict[str, Any]:
    return layer.metadata.get(KEY, {})


def _by_id(viewer: ViewerModel, unique_id: Any) -> Any:
    return next((layer for layer in viewer.layers if unique_id is not None and layer.unique_id == unique_id), None)


def _ellipse(corners: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn the four corners around an ellipse into points on it."""
    a, b = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)[:, None]
    return np.mean(corners, axis=0) + np.cos(t) * a + np.sin(t) * b


def _to_data_of(target: Layer, source: Layer, points: NDArray[np.floating]) -> NDArray[np.floating]:
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


def _apply(affine: Callable[[Any], Any], points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Apply an affine map of one point to (N, D) points: it is known from the origin and D unit steps."""
    d = points.shape[1]
    origin = np.asarray(affine(np.zeros(d)))
    matrix = np.stack([np.asarray(affine(step)) - origin for step in np.eye(d)])
    return points @ matrix + origin
