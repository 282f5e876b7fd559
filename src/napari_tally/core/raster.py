"""Which pixels a polygon covers, row by row: the time goes with the pixels and the corners, not with their product.

On each row an edge is crossed at one x, and between each two crossings lies the inside. A row through a corner is ambiguous, so every row
is asked twice, as it is just above and just below; both count, so that an edge belongs to the polygon wherever it lies::

    ·  ·  ·  ·  ·
    ·  ┌─────┐  ·     just above this row nothing is crossed, just below it two edges are
    ·  │  ·  │  ·
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def polygon_pixels(corners: NDArray[np.floating], shape: tuple[int, int]) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Give the pixels whose centres lie in a polygon, or on its edge.

    Parameters
    ----------
    corners : (N, 2) float
        As (y, x) in pixels; whole numbers are the centres of pixels. Where the line crosses itself, what is inside twice is outside.
    shape : (int, int)
        Height and width of the picture.

    Returns
    -------
    rows, columns : slice
        What the polygon spans of the picture.
    inside : (rows, columns) bool
        Of a rectangle along the axes a single True, for all of it.
    """
    top, left = np.clip(np.ceil(corners.min(axis=0)), 0, shape).astype(int)
    bottom, right = np.clip(np.floor(corners.max(axis=0)) + 1, (top, left), shape).astype(int)
    rows, columns = slice(top, bottom), slice(left, right)
    if _is_box(corners):
        return rows, columns, np.array(True)
    steps = np.zeros((bottom - top, right - left + 1), np.int16)
    for side in (np.ceil, lambda y: np.floor(y) + 1):
        row, x = _crossings(corners, side, top, bottom)
        starts, ends = np.ceil(x[::2]).astype(int), np.floor(x[1::2]).astype(int) + 1
        for places, step in ((starts, 1), (ends, -1)):
            np.add.at(steps, (row[::2] - top, np.clip(places - left, 0, right - left)), step)
    return rows, columns, np.cumsum(steps, axis=1, out=steps)[:, :-1] > 0


def _is_box(corners: NDArray[np.floating]) -> bool:
    """Whether a polygon is a rectangle along the axes."""
    along = corners == np.roll(corners, -1, axis=0)
    return len(corners) == 4 and bool((along.sum(axis=1) == 1).all() and (along != np.roll(along, -1, axis=0)).all())


def _crossings(
    corners: NDArray[np.floating], first_row: Callable[[Any], Any], top: int, bottom: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Give row and x where edges are crossed, in order: an even number on each row."""
    one, other = corners, np.roll(corners, -1, axis=0)
    first, last = (np.clip(first_row(end(one[:, 0], other[:, 0])), top, bottom).astype(int) for end in (np.minimum, np.maximum))
    edge = np.repeat(np.arange(len(corners)), last - first)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    slope = (other[edge, 1] - one[edge, 1]) / (other[edge, 0] - one[edge, 0])  # an edge along a row is crossed by none
    x = one[edge, 1] + slope * (row - one[edge, 0])
    order = np.lexsort((x, row))
    return row[order], x[order]
