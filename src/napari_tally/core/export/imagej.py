"""ROIs for the ROI Manager of ImageJ and Fiji.

An area selection of ImageJ has its corners at corners of pixels (0, 0 = the top left corner of the top left pixel), and a pixel belongs to
it if its centre lies inside. So an outline along pixel edges, in whole numbers and without any half pixel added, is the cell again. A
cell with holes or in several pieces becomes a composite selection.
"""

import io
import zipfile

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi

from napari_tally.core.outlines import Ring, cell_outlines

_MOVE, _LINE, _CLOSE = 0, 1, 4
"""Segments of a path, as java.awt.geom.PathIterator numbers them."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every file inside: the same cells give the same bytes."""


def to_imagej(stack: NDArray[np.integer], name: str = "") -> bytes:
    """Write the cells of a stack (P, Y, X) as a zip of ROIs; `name` is not needed, the cells are called by their ids."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for p, plane in enumerate(stack):
            for cell, outer, holes in cell_outlines(plane):
                title = f"{cell:05d}" if len(stack) == 1 else f"{p + 1:04d}-{cell:05d}"
                roi = _roi([*outer, *holes], title, p if len(stack) > 1 else None)
                archive.writestr(zipfile.ZipInfo(f"{title}.roi", _EPOCH), roi.tobytes())
    return content.getvalue()


def _roi(rings: list[Ring], title: str, plane: int | None) -> ImagejRoi:
    corners = np.concatenate(rings)
    roi = ImagejRoi.frompoints(rings[0][:, ::-1].astype(np.int32), name=title, position=plane)
    (roi.top, roi.left), (roi.bottom, roi.right) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    roi.roitype = ROI_TYPE.TRACED
    if len(rings) > 1:
        path: list[float] = []
        for ring in rings:
            path += [v for i, (y, x) in enumerate(ring) for v in (_LINE if i else _MOVE, float(x), float(y))] + [_CLOSE]
        roi.roitype, roi.integer_coordinates, roi.n_coordinates = ROI_TYPE.RECT, None, 0
        roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    return roi
