"""Centroids as CSV: the format of napari's Points layers, so the file can be dropped into the window."""

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.outlines import cells_of


def to_points(stack: NDArray[np.integer], name: str = "") -> bytes:
    """Write the centroids of a stack (P, Y, X), in pixels whose centres are whole numbers; of several planes axis-0 is the plane."""
    axes = 2 + (len(stack) > 1)
    lines = [",".join(["index", *(f"axis-{i}" for i in range(axes))])]
    for p, plane in enumerate(stack):
        for _, cell in cells_of(plane):
            place = [float(p), *cell.centroid][-axes:]
            lines.append(",".join([str(len(lines) - 1), *(f"{v:.6g}" for v in place)]))
    return ("\n".join(lines) + "\n").encode()
