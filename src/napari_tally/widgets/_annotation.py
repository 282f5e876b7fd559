"""What is drawn in a viewer: the layers of an annotation, its region, and the ways cells come into it."""

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Points, Shapes
from numpy.typing import NDArray

from napari_tally.core.edit import take_over
from napari_tally.core.points import discs
from napari_tally.core.raster import polygon_pixels
from napari_tally.widgets._geometry import channels_to_front, ellipse, label_shape, placement, shown_plane, to_data_of
from napari_tally.widgets._layers import annotation_of, belong, found_of, image_of, lay_on, region_of


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
        If the labels do not fit the image, cannot be painted, or could not lie on it.
    """
    channels_to_front(viewer, image)
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
    for layer in (labels, region):  # they may be older, with another pixel size
        lay_on(layer, image)
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
        outline = to_data_of(labels, shapes, ellipse(vertices) if kind == "ellipse" else np.asarray(vertices))
        rows, columns, inside = polygon_pixels(outline[:, -2:], mask.shape[-2:])
        leading = outline[:, :-2]
        spans = [
            range(n) if np.isnan(along).any() else range(max(0, round(along.min())), min(n - 1, round(along.max())) + 1)
            for n, along in zip(mask.shape[:-2], leading.T, strict=True)
        ]
        which = np.zeros(mask.shape[:-2], bool)
        which[np.ix_(*spans)] = True
        for p in np.flatnonzero(which):
            planes[p, rows, columns] |= inside
    return mask


def next_cell(labels: Labels) -> None:
    """Take the brush, with an id that no cell has."""
    labels.selected_label = int(labels.data.max(initial=0)) + 1
    labels.mode = "paint"


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
    found.visible, annotation.visible = False, True
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
    found, _ = found_of(labels)
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
    places = to_data_of(labels, points, np.asarray(points.data))
    if np.isnan(places).any():
        raise ValueError(f"{points.name} is flat and {labels.name} is a stack: points that lie on planes are wanted.")
    found = discs(places, labels.data.shape, radius)
    at = tuple(np.round(places).astype(int).T)
    found[np.isin(found, found[at][labels.data[at] > 0])] = 0
    before = len(np.unique(labels.data))
    rewrite(labels, fill_in(labels.data, found))
    next_cell(labels)
    return len(np.unique(labels.data)) - before


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
