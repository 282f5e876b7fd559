"""Regions drawn in a Shapes layer, as the engine counts in them."""

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer, Shapes

from napari_tally.core.regions import Region
from napari_tally.widgets._geometry import ellipse, label_shape, to_data_of
from napari_tally.widgets._layers import notes_of


def is_regions(layer: Layer) -> bool:
    """Whether a layer can hold regions: shapes of the user, and not those that mark what is annotated."""
    return isinstance(layer, Shapes) and not notes_of(layer)


def regions_from_shapes(shapes: Shapes, image: ImageLayer) -> list[Region]:
    """Turn the shapes of a layer into regions of an image.

    Parameters
    ----------
    shapes : napari.layers.Shapes
        Rectangles, ellipses and polygons; lines and paths have no inside. Names stand in the feature ``name``; without it, regions are
        numbered. A shape in a layer of flat shapes lies on all planes, else on its own.
    image : napari.layers.Image
        Both layers may have their own scale, translation and units.

    Returns
    -------
    list of Region
    """
    names = shapes.features["name"].tolist() if "name" in shapes.features else [None] * len(shapes.data)
    leading = label_shape(image)[:-2]
    found: list[Region] = []
    for vertices, kind, name in zip(shapes.data, shapes.shape_type, names, strict=True):
        if kind in ("line", "path"):
            continue
        outline = to_data_of(image, shapes, ellipse(vertices) if kind == "ellipse" else np.asarray(vertices))
        at = outline[0, -2 - len(leading) : -2]
        known = bool(leading) and not np.isnan(at).any()
        plane = int(np.ravel_multi_index(tuple(np.round(at).astype(int)), leading, mode="clip")) if known else None
        title = str(name) if name is not None and str(name) not in ("", "nan", "None") else f"region {len(found) + 1}"
        found.append(Region(title, (outline[:, -2:].astype(float),), plane=plane))
    return found
