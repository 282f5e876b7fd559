"""Scores of pixels and of pairs of pixels: overlap of areas, Rand and information scores, warping error.

Truth below 0 is not annotated and left out. All but the warping error are worked out from the table of what the pieces of two label images
share (:mod:`napari_tally.core.overlap`). What is pooled over images is said where it is.

References
----------
I. Arganda-Carreras et al.: Crowdsourcing the creation of image segmentation algorithms for connectomics. Frontiers in
Neuroanatomy 2015 (Rand and information scores). V. Jain et al.: Boundary learning by optimization with topological constraints.
CVPR 2010 (warping error). Both were the scores of the ISBI 2012 challenge.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.overlap import Overlap


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixels by true class (row) and predicted class (column); those of several images can be added."""

    counts: NDArray[np.int64]

    def __add__(self, other: "Confusion") -> "Confusion":
        """Give both together."""
        return Confusion(self.counts + other.counts)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN where a class is neither there nor predicted."""
        both = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - both
        return np.where(union > 0, both / np.maximum(union, 1), np.nan)

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 |A and B| / (|A| + |B|) of each class; NaN where a class is neither there nor predicted."""
        return 2 * self.iou / (1 + self.iou)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are there or predicted."""
        return float(np.nanmean(self.iou)) if self.counts.any() else float("nan")

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that are there or predicted."""
        return float(np.nanmean(self.dice)) if self.counts.any() else float("nan")


def confusion(
    shared: Overlap, of_true: NDArray[np.integer] | None = None, of_predicted: NDArray[np.integer] | None = None, classes: int = 2
) -> Confusion:
    """Count pixels by true and predicted class.

    Parameters
    ----------
    shared : Overlap
    of_true, of_predicted : (n + 1,) int, optional
        The class of the background (entry 0) and of each cell, from 0 on. Left out: 0 and 1.
    classes : int
    """
    met = shared.table.tocoo()
    row, column = (np.minimum(place, 1) if of is None else of[place] for place, of in ((met.row, of_true), (met.col, of_predicted)))
    counts = np.bincount(row.astype(np.int64) * classes + column, met.data, minlength=classes**2)
    return Confusion(counts.astype(np.int64).reshape(classes, classes))


@dataclass(frozen=True)
class Partition:
    """How well two ways to cut an image into pieces agree, as F-score (1 = the same) and its two parts.

    Attributes
    ----------
    rand, rand_split, rand_merge : float
        Foreground-restricted Rand F-score: of pairs of pixels in one piece. `split` falls where cells are broken or not wholly found,
        `merge` where they are merged.
    information, information_split, information_merge : float
        The same with mutual information instead of pairs.
    """

    rand: float
    rand_split: float
    rand_merge: float
    information: float
    information_split: float
    information_merge: float


def partition(shared: Overlap) -> Partition:
    """Compare two label images within the true cells.

    Pixels that belong to no true cell are left out. In true cells, each pixel where nothing is predicted is a piece of its own::

        truth        1 1 1 1 1 2 2 2 2 2
        predicted    . 3 3 3 . . 4 4 4 .      a rim too thin: the pieces are 1 3 1 1 3 1
                                              all that is background as one piece would merge the two cells

    Outlines that are too thin so count as split, never as merged. Where nothing is predicted, all is split and nothing merged: `rand` and
    `rand_split` are 0, `rand_merge` and `information_merge` 1. `information_split` is then H / log2(n), for n pixels in true cells
    and the entropy H of their sizes, and `information` 2 H / (H + log2(n)): above 0 where there is more than one cell.

    Notes
    -----
    The paper draws the two pixels of a pair with replacement; here, as in scikit-image, they are two different ones, so that a pixel alone
    adds no pair. Where the paper would divide by 0 the score is 1. Of one true cell the information scores say little: it holds 0 bits, so
    `information` is 0 unless the cell is found whole and in one piece.

    References
    ----------
    Arganda-Carreras et al. 2015, equations 1 to 6. That unlabelled pixels are pieces of their own is how the programs of the challenge
    (Trainable Weka Segmentation in Fiji) and those of SNEMI3D count.
    """
    inside = shared.cells  # of the true cells, what lies under predicted ones
    both, true, found = inside.data, shared.of_true, inside.sum(0)
    alone = int(true.sum() - inside.sum())
    in_both, in_truth, in_prediction = _entropy(both, alone), _entropy(true), _entropy(found, alone)
    known = in_truth + in_prediction - in_both
    return Partition(
        rand=_share(2 * _pairs(both), _pairs(true) + _pairs(found)),
        rand_split=_share(_pairs(both), _pairs(true)),
        rand_merge=_share(_pairs(both), _pairs(found)),
        information=_share(2 * known, in_truth + in_prediction),
        information_split=_share(known, in_prediction),
        information_merge=_share(known, in_truth),
    )


def rand_error(shared: Overlap) -> float:
    """Give the share of all pairs of annotated pixels that lie in one piece in one image and in two in the other (1 - Rand index).

    The background is a piece like the cells.
    """
    both, true, found = (_pairs(sizes) for sizes in (shared.table.data, shared.table.sum(1), shared.table.sum(0)))
    every = _pairs(np.array([shared.table.sum()]))
    return _share(true + found - 2 * both, every) if every else 0.0


def _pairs(sizes: NDArray[np.number]) -> float:
    """Count the ordered pairs of different pixels within pieces of these sizes."""
    n = sizes.astype(float)
    return float((n * (n - 1)).sum())


def _entropy(sizes: NDArray[np.number], alone: int = 0) -> float:
    """Give the entropy in bits of pieces of these sizes, and of so many pixels more that are pieces of their own."""
    n = max(1, int(sizes.sum()) + alone)
    p = sizes[sizes > 0] / n
    return float(alone / n * np.log2(n) - (p * np.log2(p)).sum())


def _share(part: float, whole: float) -> float:
    """Give part / whole; 1 where there is nothing to share."""
    return part / whole if whole > 1e-12 else 1.0


def warping_error(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Share of pixels that stay wrong when the true cells are bent towards the predicted ones without tearing or joining anything.

    Shifted outlines are forgiven; splits, merges, holes, false and missed cells are not. The true mask is changed, pixel by pixel, at
    simple points (whose change leaves the topology as it is, cells 4-connected and background 8-connected) until none is left where
    the two masks differ. They are visited first in, first out, row by row at first; a pixel that could not be changed is visited
    again when a neighbour was. Of each pixel one byte says which neighbours are cell, so a visit is to look this byte up.

    Parameters
    ----------
    truth, predicted : (Y, X) int
        Label images; where two cells touch, the touching pixels count as background.

    References
    ----------
    V. Jain et al., CVPR 2010, section 2. G. Bertrand, Pattern Recognition Letters 1994 (simple points).
    """
    wanted, known = np.pad(_apart(predicted), 1), np.pad(truth >= 0, 1)
    mask = np.pad(_apart(truth), 1)
    wrong = (mask != wanted) & known
    steps = [(k // 3 - 1) * mask.shape[1] + k % 3 - 1 for k in _RING]  # from a pixel to its neighbours, the picture being one row
    around, state = _neighbours(mask, steps), bytearray(np.where(wrong, _WAITS, _RIGHT).astype(np.uint8))
    queue = deque(np.flatnonzero(wrong).tolist())
    left = len(queue)
    seen_from = [(step, 1 << (7 - k)) for k, step in enumerate(steps)]  # for a neighbour, the pixel lies on the other side
    while queue:
        pixel = queue.popleft()
        if not _SIMPLE[around[pixel]]:
            state[pixel] = _STUCK
            continue
        state[pixel] = _RIGHT
        left -= 1
        for step, bit in seen_from:
            neighbour = pixel + step
            around[neighbour] ^= bit
            if state[neighbour] == _STUCK:
                state[neighbour] = _WAITS
                queue.append(neighbour)
    return left / max(1, int(known.sum()))


_RIGHT, _WAITS, _STUCK = range(3)
"""What a pixel is: as wanted (or not asked for), in the queue, or wrong with nothing new around it."""
_RING = (0, 1, 2, 3, 5, 6, 7, 8)
"""The 8 neighbours of a pixel in its 3x3 square; of those, number k lies opposite number 7 - k."""


def _neighbours(mask: NDArray[np.bool_], steps: list[int]) -> bytearray:
    """Give for each pixel which neighbours are cell, one bit each; of the outermost pixels, which nobody visits, it means nothing."""
    flat = mask.ravel().view(np.uint8)
    around = np.zeros(flat.size, np.uint8)
    first, last = mask.shape[1] + 1, flat.size - mask.shape[1] - 1
    for k, step in enumerate(steps):
        around[first:last] |= flat[first + step : last + step] << k
    return bytearray(around)


def _apart(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Give the mask of the cells, cut where two of them touch."""
    cells = labels > 0
    apart = cells.copy()
    but_first, but_last, every = np.s_[1:], np.s_[:-1], np.s_[:]
    for one, other in (
        ((but_last, every), (but_first, every)),
        ((every, but_last), (every, but_first)),
        ((but_last, but_last), (but_first, but_first)),
        ((but_last, but_first), (but_first, but_last)),
    ):
        touch = cells[one] & cells[other] & (labels[one] != labels[other])
        apart[one] &= ~touch
        apart[other] &= ~touch
    return apart


def _simple_points() -> bytes:
    """For each choice of cells among the 8 neighbours, one bit each: 1 where changing the middle leaves the topology as it is.

    So it is where exactly one 4-connected piece of cell among the 8 neighbours touches the middle, and exactly one 8-connected piece
    of background.
    """
    four = ndi.generate_binary_structure(2, 1)
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    simple = []
    for code in range(256):
        around = np.zeros((3, 3), bool)
        around[ring] = (code >> np.arange(8)) & 1
        cells, _ = ndi.label(around, four)
        _, n = ndi.label(~around & ring, np.ones((3, 3)))
        simple.append(len(set(cells[four & ring]) - {0}) == 1 and n == 1)
    return bytes(simple)


_SIMPLE = _simple_points()
