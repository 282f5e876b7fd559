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
    the two masks differ.

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
    queue = deque(zip(*np.nonzero(wrong), strict=True))
    waiting = wrong.copy()
    while queue:
        y, x = queue.popleft()
        waiting[y, x] = False
        code = int((mask[y - 1 : y + 2, x - 1 : x + 2].ravel() * _BITS).sum())
        if not _SIMPLE[code]:
            continue
        mask[y, x] = wanted[y, x]
        wrong[y, x] = False
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                n = y + dy, x + dx
                if wrong[n] and not waiting[n]:
                    waiting[n] = True
                    queue.append(n)
    return float(wrong.sum() / max(1, known.sum()))


def _apart(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Give the mask of the cells, cut where two of them touch."""
    cells = np.maximum(labels, 0, dtype=np.int64)  # one more than the highest must be a number too
    top = cells.max(initial=0) + 1
    highest = ndi.maximum_filter(cells, 3, mode="nearest")
    lowest = ndi.minimum_filter(np.where(cells > 0, cells, top), 3, mode="nearest")
    return (cells > 0) & (highest == cells) & (lowest == cells)


_BITS = 2 ** np.arange(9)


def _simple_points() -> NDArray[np.bool_]:
    """For every 3x3 neighbourhood: whether changing its middle leaves the topology as it is.

    So it is where exactly one 4-connected piece of cell among the 8 neighbours touches the middle, and exactly one 8-connected piece
    of background.
    """
    four = ndi.generate_binary_structure(2, 1)
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    simple = np.zeros(512, bool)
    for code in range(512):
        around = ((code >> np.arange(9)) & 1).astype(bool).reshape(3, 3)
        cells, _ = ndi.label(around & ring, four)
        background, n = ndi.label(~around & ring, np.ones((3, 3)))
        simple[code] = len(set(cells[four & ring]) - {0}) == 1 and n == 1
    return simple


_SIMPLE = _simple_points()
