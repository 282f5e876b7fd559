"""Centroids as CSV: the format of napari's Points layers, so the file can be dropped into the window."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.outlines import cells_of


def to_points(stack: NDArray[np.integer], name: str = "", slices: int = 1) -> bytes:
    """Write the centroids of a stack (P, Y, X), in pixels whose centres are whole numbers; of several planes axis-0 is the plane.

    Of every `slices` planes, a cell is one body and has one centroid; 1 = it has one in each plane.
    """
    axes = 2 + (len(stack) > 1)
    lines = [",".join(["index", *(f"axis-{i}" for i in range(axes))])]
    for first in range(0, len(stack), slices):
        for z, y, x in _centroids(stack[first : first + slices]):
            place = [first + z, y, x][-axes:]
            lines.append(",".join([str(len(lines) - 1), *(f"{v:.6g}" for v in place)]))
    return ("\n".join(lines) + "\n").encode()


def _centroids(volume: NDArray[np.integer]) -> Iterator[tuple[float, float, float]]:
    """Give z, y, x of the cells of some slices, in the order of the ids."""
    if len(volume) == 1:
        yield from ((0.0, *cell.centroid) for _, cell in cells_of(volume[0]))
        return
    voxels = np.nonzero(volume > 0)
    _, cell, sizes = np.unique(volume[voxels], return_inverse=True, return_counts=True)
    yield from zip(*(np.bincount(cell, axis, len(sizes)) / sizes for axis in voxels), strict=True)
