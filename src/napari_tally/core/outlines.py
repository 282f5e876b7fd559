"""The outline of a cell along the edges of its pixels, so that what is drawn from it is the cell again, to the pixel.

::

    0   1   2   3            corners of pixels, (y, x); pixel (0, 1) lies between the corners (0, 1) and (1, 2)
    ·   ┌───┐   ·
        │ ▒ │                outline (clockwise): (0, 1) (0, 2) (1, 2) (1, 3) (2, 3) (2, 1)
    ·   │   └───┐            a hole runs the other way round
        │ ▒   ▒ │
    ·   └───────┘

ImageJ and QuPath place corners like this; add -0.5 for coordinates where whole numbers are the centres of pixels, as in napari.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import points_in_poly, regionprops
from skimage.segmentation import relabel_sequential

Ring = NDArray[np.int64]
"""(N, 2) corners (y, x), not repeated at the end."""


def outlines(mask: NDArray[np.bool_]) -> tuple[list[Ring], list[Ring]]:
    """Trace the outlines and the holes of a mask.

    Parameters
    ----------
    mask : (Y, X) bool

    Returns
    -------
    (outlines, holes)
        Lists of rings. Every ring is simple: it meets no corner twice. Pixels that touch at a corner alone are separate pieces.
    """
    follow = _edges(np.pad(mask, 1))
    found: tuple[list[Ring], list[Ring]] = ([], [])
    while follow:
        walked, place = [next(iter(follow))], {next(iter(follow)): 0}
        while follow:
            ends = follow.get(walked[-1])
            if not ends:
                break
            corner = ends.pop()
            if not ends:
                del follow[walked[-1]]
            if corner in place:  # a ring is closed; of what was walked before it the rest is still open
                ring = walked[place[corner] :]
                del walked[place[corner] + 1 :]
                for passed in ring[1:]:
                    del place[passed]
                corners = np.array(ring)
                found[int(signed_area(corners) < 0)].append(_without_straight(corners))
            else:
                place[corner] = len(walked)
                walked.append(corner)
    return found


def cell_outlines(labels: NDArray[np.integer]) -> Iterator[tuple[int, list[Ring], list[Ring]]]:
    """Trace every cell of a plane.

    Parameters
    ----------
    labels : (Y, X) int
        0 or less = no cell.

    Yields
    ------
    (label, outlines, holes)
        See :func:`outlines`.
    """
    for number, cell in cells_of(labels):
        outer, holes = outlines(cell.image)
        yield number, [ring + cell.bbox[:2] for ring in outer], [ring + cell.bbox[:2] for ring in holes]


def pieces(outer: list[Ring], holes: list[Ring]) -> list[list[Ring]]:
    """Sort the rings of :func:`outlines` by pieces: an outline and its own holes. In a hole another piece may lie.

    Returns
    -------
    list of list of (N, 2) int arrays
        From the smallest piece on.
    """
    found = [[ring] for ring in sorted(outer, key=signed_area)]  # a hole belongs to the smallest piece around it
    ends = np.array([[*ring.min(axis=0), *-ring.max(axis=0)] for (ring,) in found])
    for hole in holes:
        near = np.flatnonzero((ends <= [*hole.min(axis=0), *-hole.max(axis=0)]).all(axis=1))
        found[next(i for i in near if _inside(hole, found[i][0]))].append(hole)
    return found


def _inside(hole: Ring, ring: Ring) -> bool:
    """Whether a hole lies in a ring: its first edge bounds the hole, and the pixels on both sides of it lie in the ring."""
    middle = (hole[0] + hole[1]) / 2
    across = (hole[1] - hole[0])[::-1] * (1, -1) / np.abs(hole[1] - hole[0]).max() / 4
    return bool(points_in_poly(np.array([middle + across, middle - across]), ring).all())


def cells_of(labels: NDArray[np.integer]) -> Iterator[tuple[int, Any]]:
    """Give every cell of a plane in the order of the ids: its id, and what scikit-image knows of it."""
    labels, ids = np.maximum(labels, 0), None
    if labels.max(initial=0) > labels.size:  # regionprops walks through all ids up to the highest
        labels, _, ids = relabel_sequential(labels)
    for cell in regionprops(labels):
        yield int(cell.label if ids is None else ids[cell.label]), cell


def signed_area(ring: NDArray[np.number]) -> float:
    """Give the area inside a ring of (y, x), positive where it runs clockwise as seen on the screen (shoelace formula)."""
    y, x = ring[:, 0].astype(float), ring[:, 1].astype(float)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _edges(mask: NDArray[np.bool_]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Give corner -> corners, for the edges between the mask and the rest, with the mask on the right hand; `mask` is padded by 1."""
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}
    inside = mask[1:-1, 1:-1]
    for other, (y0, x0), (y1, x1) in (
        (mask[:-2, 1:-1], (0, 0), (0, 1)),  # along the top to the right, and so on around the pixel
        (mask[1:-1, 2:], (0, 1), (1, 1)),
        (mask[2:, 1:-1], (1, 1), (1, 0)),
        (mask[1:-1, :-2], (1, 0), (0, 0)),
    ):
        for y, x in np.argwhere(inside & ~other).tolist():
            follow.setdefault((y + y0, x + x0), []).append((y + y1, x + x1))
    return follow


def _without_straight(ring: Ring) -> Ring:
    """Leave out the corners at which a ring goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[(before != after).any(axis=1)]
