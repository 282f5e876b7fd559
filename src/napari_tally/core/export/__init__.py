"""Label images as other programs want them: one file an image and format, written anew, whole or not at all.

::

    imagej    imagej/STEM.zip         ROI Manager of ImageJ and Fiji                  imagej.py
    geojson   geojson/STEM.geojson    QuPath (drag it onto the image), many others    geojson.py
    points    points/STEM.csv         centroids, a Points layer for napari            points.py
    labels    labels/STEM.tif         a number a cell

Models for other programs are in :mod:`.onnx` and :mod:`.bioimageio`; both need the extra ``[zoo]``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.export.geojson import to_geojson
from napari_tally.core.export.imagej import to_imagej
from napari_tally.core.export.points import to_points
from napari_tally.core.files import fitting_name, whole_file
from napari_tally.core.label_files import write_labels

Format = Literal["imagej", "geojson", "points", "labels"]
FORMATS: dict[Format, str] = {
    "imagej": "ImageJ ROIs (zip, for Fiji's ROI Manager)",
    "geojson": "GeoJSON (for QuPath)",
    "points": "Centroids (CSV, a Points layer for napari)",
    "labels": "Label image (TIFF)",
}
_SUFFIXES: dict[Format, str] = {"imagej": ".zip", "geojson": ".geojson", "points": ".csv", "labels": ".tif"}


def export(
    labels: NDArray[np.integer],
    name: str,
    folder: str | Path,
    formats: Iterable[Format],
    pixel_size: tuple[float, float] | None = None,
    slices: int = 1,
) -> list[Path]:
    """Write a label image in other formats.

    Parameters
    ----------
    labels : (..., Y, X) int
        0 or less = no cell. Leading axes are planes.
    name : str
        Names the files.
    folder : str or Path
        Gets a folder a format.
    formats : iterable of str
        Of :data:`FORMATS`.
    pixel_size : tuple of float, optional
        Height and width of a pixel in um, for the label image.
    slices : int
        Planes that are one volume, where cells go through them: there each has one centroid. ROIs and GeoJSON have an outline a slice.

    Returns
    -------
    list of Path
        The files.
    """
    written = []
    stack = np.maximum(labels, 0).reshape(-1, *labels.shape[-2:])
    for kind in formats:
        path = Path(folder) / kind / file_name(name, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "labels":
            write_labels(path, np.maximum(labels, 0), pixel_size)
        else:
            outlines = to_imagej if kind == "imagej" else to_geojson
            content = to_points(stack, name, slices) if kind == "points" else outlines(stack, name)
            with whole_file(path) as partial:
                partial.write_bytes(content)
        written.append(path)
    return written


def file_name(name: str, kind: Format) -> str:
    """Name the file of an image in a format."""
    return fitting_name(name, _SUFFIXES[kind])
