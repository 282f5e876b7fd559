r"""Where cells may have been missed: structure in the image outside the predicted cells.

::

    grey values            __/\__/\_____/\___           steepness: gradient of the image, smoothed a little, by its own range
    predicted cells          11  22                     of grey values (as the network sees it)
    what is left over      ______________/\___          the steepness outside cells and their rims, summed over blocks

It does not say what is a cell, and need not: it says where to look more often (:mod:`napari_tally.core.audit`).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.images import Image
from napari_tally.core.intensity import intensity_window, normalise
from napari_tally.settings import NormalisationSettings

BLOCK = 4
"""Pixels along a side of a block."""
_SMOOTH = 2.0
"""Standard deviation in pixels of the Gaussian whose gradient is taken."""
_RIM = 3
"""Pixels around a predicted cell that belong to it."""
_STRIP = 512
"""Rows that are worked on at a time; a multiple of a block."""


def left_over(image: Image, labels: NDArray[np.integer]) -> NDArray[np.float32]:
    """Sum the steepness outside the predicted cells over blocks of pixels.

    Parameters
    ----------
    image : Image
        Read strip by strip.
    labels : (P, Y, X) int
        0 or less = no cell.

    Returns
    -------
    (P, Y / 4, X / 4) float32, rounded up
        From 0 on. One unit is a change by the whole range of the image over a pixel.

    Raises
    ------
    ValueError
        If image and labels differ in shape, or the file cannot be read.
    """
    if image.shape[-2:] != labels.shape[-2:] or len(image.planes) != len(labels):
        raise ValueError(f"{image.name}: the image has the shape {image.shape}, its labels {labels.shape}. Choose those of this image.")
    window = intensity_window(image, NormalisationSettings())
    height, width = labels.shape[-2:]
    blocks = np.zeros((len(labels), -(-height // BLOCK), -(-width // BLOCK)), np.float32)
    around = int(4 * _SMOOTH + 0.5) + 1
    for p, plane in enumerate(labels):
        for top in range(0, height, _STRIP):
            rows = slice(max(0, top - around), min(height, top + _STRIP + around))
            grey = normalise(image.read(p, (rows, slice(0, width))), window).mean(axis=0)
            steep = ndi.gaussian_gradient_magnitude(grey, _SMOOTH)
            steep[ndi.binary_dilation(plane[rows] > 0, iterations=_RIM)] = 0
            steep = steep[top - rows.start :][: min(_STRIP, height - top)]
            by_rows = np.add.reduceat(steep, np.arange(0, len(steep), BLOCK), axis=0)
            strip = blocks[p, top // BLOCK :][: len(by_rows)]
            strip[:] = np.add.reduceat(by_rows, np.arange(0, width, BLOCK), axis=1)
    return blocks


def sum_over(blocks: NDArray[np.float32], rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sum blocks of a plane over windows.

    Parameters
    ----------
    blocks : (Y / 4, X / 4) float
    rows, columns : (n + 1,), (m + 1,) int
        Edges of the windows in pixels, the last that of the plane; they are rounded to blocks.

    Returns
    -------
    (n, m) float
    """
    upto = np.pad(blocks.astype(float).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    corners = [np.append(np.rint(edges[:-1] / BLOCK).astype(int), n - 1) for edges, n in zip((rows, columns), upto.shape, strict=True)]
    at = upto[np.ix_(*corners)]
    return np.diff(np.diff(at, axis=0), axis=1)
