"""What the layers of a viewer mean: an image for the core, and which layers belong to it.

Layers of four kinds belong to an image. What a layer is stands in its metadata, by ids that survive renaming::

    layer.metadata["napari_tally"] = {"role": "annotation", "image": id, "region": id}     Labels, drawn
                                     {"role": "prediction", "image": id}                   Labels, found by a model; also "found": what
                                                                                           gave them, "corrected": how often they were
                                                                                           mended by hand
                                     {"role": "probability", "image": id}                  Image
                                     {"role": "aid", "image": id}                          only to look at: preview, weight map
                                     {"role": "region"}                                    Shapes, the region of an annotation

Each note also has a number, the newer the higher, and names the layer that it is of: napari gives a duplicate of a layer the same
metadata, and a duplicate is a layer of the user, whatever it was made of.
"""

from itertools import count
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Shapes

from napari_tally.core.image_files import stated_sizes
from napari_tally.core.images import Image, as_image
from napari_tally.core.lazy import missing_chunks, open_ome_zarr
from napari_tally.widgets._geometry import as_array, axes_of, full_size, is_zarr, label_shape, pixel_size, placement, z_size

KEY = "napari_tally"
Role = Literal["annotation", "prediction", "probability", "aid", "region"]
_NUMBERS = count()
"""Tell which of two layers of an image is the newer one."""
_BLENDED = ("additive", "minimum", "multiplicative")


def image_from_layer(layer: ImageLayer) -> Image:
    """Read an image layer: its full resolution, its channels and its pixel size.

    Parameters
    ----------
    layer : napari.layers.Image
        (Y, X), colour, or planes before them. An axis labelled ``c`` or ``channel`` holds channels; ``t`` or ``time`` is time, ``z``
        are slices. Where the axes have no labels, the file of the layer says what they are.

    Returns
    -------
    Image
        With a pixel size where the last two axes of the layer have units of length, and so for the distance of slices; of a layer
        without units and scale, as napari opens many files, that which its file states. Pixels of a dask or zarr layer stay where
        they are.

    Raises
    ------
    ValueError
        If the values are no real, finite numbers.
    """
    size, steps = sizes_of(layer)
    return as_image(as_array(full_size(layer)), axes=axes_of(layer), name=layer.name, pixel_size=size, steps=steps)


def sizes_of(layer: ImageLayer) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """Give the pixel size of an image and the steps of its other axes in um: as the layer says, else as its file does."""
    size, distance = pixel_size(layer), z_size(layer)
    if not (size or distance or np.any(layer.scale != 1)) and layer.source.path:
        height, width = label_shape(layer)[-2:]
        return stated_sizes(layer.source.path, (height, width))
    return size, {"Z": distance} if distance else {}


def what_is_odd(layer: ImageLayer) -> str:
    """Say what is odd about the file of a large image: chunks that are missing; "" = nothing, or not known. It may take a while."""
    data = full_size(layer)
    if is_zarr(data):
        return missing_chunks(data)
    path = Path(layer.source.path or "")
    if path.suffix != ".zarr" or not path.is_dir():
        return ""
    try:
        return open_ome_zarr(path).note
    except ValueError:  # something else that a reader knows
        return ""


def belong(layer: Layer, role: Role, image: ImageLayer, region: Shapes | None = None) -> None:
    """Note in the metadata of `layer` what it is, and of which image; from now on it, and its region, go where the image goes."""
    layer.metadata.pop(KEY, None)
    add_notes(layer, role=role, image=image.unique_id, number=next(_NUMBERS))
    if region is not None:
        add_notes(layer, region=region.unique_id)
        add_notes(region, role="region")
        _FOLLOWING[region] = _Following(region, image)
    _FOLLOWING[layer] = _Following(layer, image)


def lay_on(layer: Layer, image: ImageLayer) -> None:
    """Move and scale a layer so that it lies on the pixels of an image."""
    for name, value in placement(image, layer.ndim).items():
        if name != "axis_labels":
            setattr(layer, name, value)


class _Following:
    """Keeps a layer on the pixels of its image, wherever that is moved or scaled, and called after it."""

    def __init__(self, layer: Layer, image: ImageLayer) -> None:
        self._layer, self._name = ref(layer), image.name
        for name in ("scale", "translate", "rotate", "shear", "affine", "units"):
            image.events[name].connect(self._move)  # weakly: this lives as long as the layer
        image.events.name.connect(self._rename)

    def _move(self, event: Any) -> None:
        if (layer := self._layer()) is not None:
            lay_on(layer, event.source)

    def _rename(self, event: Any) -> None:
        layer, before, self._name = self._layer(), self._name, event.source.name
        if layer is not None and layer.name.startswith(before):
            layer.name = self._name + layer.name.removeprefix(before)


_FOLLOWING: "WeakKeyDictionary[Layer, _Following]" = WeakKeyDictionary()


def uncover(viewer: ViewerModel, image: ImageLayer) -> None:
    """Show an image, and hide the other images that lie over it with all that belongs to them: who draws must see what he draws on.

    Channels that are shown together, which napari blends, stay.
    """
    if not image.visible:  # napari draws a dark square where the brush was if it is asked again
        image.visible = True
    if viewer.canvas.grid.enabled:
        return
    for layer in list(viewer.layers)[viewer.layers.index(image) + 1 :]:
        other = layer if is_source(layer) else image_of(viewer, layer)
        if other is None or other is image or not _overlap(layer, image):
            continue
        if other is not layer or str(layer.blending) not in _BLENDED:
            layer.visible = False


def _overlap(one: Layer, other: Layer) -> bool:
    """Whether two layers share a place of the canvas."""
    (a_low, a_high), (b_low, b_high) = one.extent.world[:, -2:], other.extent.world[:, -2:]
    return bool(np.all((a_low < b_high) & (b_low < a_high)))


def layers_of(viewer: ViewerModel, role: Role, image: ImageLayer) -> list[Any]:
    """Find the layers of an image that have this role, the newest last, in whatever order they lie."""
    return sorted((layer for layer in viewer.layers if is_a(layer, role, image)), key=lambda layer: notes_of(layer).get("number", 0))


def is_a(layer: Layer, role: Role, image: ImageLayer) -> bool:
    """Whether a layer has this role for this image."""
    return {"role": role, "image": image.unique_id}.items() <= notes_of(layer).items()


def found_of(layer: Layer) -> tuple[Any, Any]:
    """Give the prediction that the cells of a layer are of, and the thresholds that gave them; None where they are not known."""
    return notes_of(layer).get("found") or (None, None)


def is_corrected(layer: Layer) -> bool:
    """Whether somebody has mended cells of this prediction by hand; then it must not be made anew."""
    return bool(notes_of(layer).get("corrected"))


def fits(layer: Layer, image: ImageLayer) -> bool:
    """Whether a layer holds cells of the shape of an image, and belongs to no other image."""
    if not isinstance(layer, Labels) or layer.data.shape != label_shape(image):
        return False
    return notes_of(layer).get("image") in (None, image.unique_id) and notes_of(layer).get("role") != "aid"


def cells_on(viewer: ViewerModel, image: ImageLayer) -> Labels | None:
    """Find the cells of an image; see :func:`cells_by_image`."""
    return cells_by_image(viewer).get(image)


def cells_by_image(viewer: ViewerModel) -> dict[ImageLayer, Labels]:
    """Find the cells of all images: of each its newest prediction, else labels of another origin that are its own.

    At once, for each of the labels has to be held against every image.
    """
    foreign = {image_under(viewer, layer): layer for layer in viewer.layers if isinstance(layer, Labels) and "role" not in notes_of(layer)}
    of_each = {image: (layers_of(viewer, "prediction", image) or [foreign.get(image)])[-1] for image in viewer.layers if is_source(image)}
    return {image: labels for image, labels in of_each.items() if labels is not None and "outdated" not in notes_of(labels)}


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
    return _by_id(viewer, notes_of(labels).get("region"))


def image_of(viewer: ViewerModel, layer: Layer) -> ImageLayer | None:
    """Find the image layer that an annotation, a prediction or a probability map belongs to."""
    return _by_id(viewer, notes_of(layer).get("image"))


def labels_for_image(viewer: ViewerModel, image: ImageLayer) -> list[Labels]:
    """Find the Labels layers of the shape of an image: its annotation first, its predictions last."""
    rank = {"annotation": 0, "prediction": 2}
    return sorted((layer for layer in viewer.layers if fits(layer, image)), key=lambda layer: rank.get(notes_of(layer).get("role", ""), 1))


def is_source(layer: Layer) -> bool:
    """Whether a layer is an image to work on, and no probability map of ours."""
    return isinstance(layer, ImageLayer) and KEY not in layer.metadata


def notes_of(layer: Layer) -> dict[str, Any]:
    """Give what is noted of a layer; nothing of one that only has the notes of the layer that it is a duplicate of."""
    notes: dict[str, Any] = layer.metadata.get(KEY, {})
    return notes if notes.get("layer") == layer.unique_id else {}


def add_notes(layer: Layer, **notes: Any) -> None:
    """Note something more of a layer."""
    layer.metadata[KEY] = notes_of(layer) | notes | {"layer": layer.unique_id}


def _by_id(viewer: ViewerModel, unique_id: Any) -> Any:
    return None if unique_id is None else next((layer for layer in viewer.layers if layer.unique_id == unique_id), None)
