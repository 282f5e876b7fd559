"""How well predicted cells fit true cells."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from napari_tally.core.annotations import NOT_ANNOTATED, cells_go_through, what_can_be_judged
from napari_tally.core.matching import THRESHOLDS, Matching, match
from napari_tally.core.overlap import Overlap, overlap
from napari_tally.core.pixel_metrics import Confusion, confusion, partition, rand_error, warping_error
from napari_tally.core.type_scores import TypeRule, TypeScores


def iou_matrix(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.float64]:
    """Intersection over union of every true cell with every predicted cell, as a full matrix.

    For images with some thousands of cells at most; :attr:`Overlap.iou` holds the pairs that meet alone.

    Parameters
    ----------
    truth, predicted : int arrays of one shape
        0 or less = no cell. Ids need not be consecutive.

    Returns
    -------
    (n_true, n_predicted) float
        In the order of the sorted ids.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return overlap(np.maximum(truth, 0), predicted).iou.toarray()


@dataclass(frozen=True)
class Mistakes:
    """What is wrong with predicted cells, in the words of whoever corrects them.

    Attributes
    ----------
    splits : int
        True cells that lie broken into pieces: more than half of two or more predicted cells lie in one.
    merges : int
        Predicted cells that lie over more than half of two or more true cells.
    misses : int
        True cells of which predicted cells cover less than half.
    """

    splits: int = 0
    merges: int = 0
    misses: int = 0

    def __add__(self, other: "Mistakes") -> "Mistakes":
        """Give both together."""
        return Mistakes(self.splits + other.splits, self.merges + other.merges, self.misses + other.misses)


def mistakes(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Mistakes:
    """Count splits, merges and misses.

    Parameters
    ----------
    truth, predicted : int arrays of one shape
        0 or less = no cell.

    Examples
    --------
    >>> mistakes(np.array([1, 1, 1, 1, 0, 2, 2, 3, 3, 0, 4]), np.array([1, 1, 2, 2, 0, 3, 3, 3, 3, 0, 0]))
    Mistakes(splits=1, merges=1, misses=1)
    """
    shared = overlap(np.maximum(truth, 0), predicted)
    met = shared.cells.tocoo()
    pieces = np.bincount(met.row[met.data > shared.of_predicted[met.col] / 2])
    merged = np.bincount(met.col[met.data > shared.of_true[met.row] / 2])
    return Mistakes(
        splits=int((pieces > 1).sum()),
        merges=int((merged > 1).sum()),
        misses=int((shared.cells.sum(1) < shared.of_true / 2).sum()),
    )


def panoptic_quality(iou: NDArray[np.floating] | csr_array) -> tuple[float, int, int, int]:
    """Give what panoptic quality is made of: the sum of IoU over the matched pairs, and TP, FP and FN, a pair matching above IoU 0.5.

    Panoptic quality is sum / (TP + FP / 2 + FN / 2).

    Parameters
    ----------
    iou : (n_true, n_predicted) float array, or csr_array of the pairs that meet

    References
    ----------
    A. Kirillov et al., CVPR 2019, equation 1.
    """
    met = csr_array(iou).data
    good = met[met > 0.5]  # then no cell fits two
    return float(good.sum()), good.size, iou.shape[1] - good.size, iou.shape[0] - good.size


def seg(shared: Overlap) -> NDArray[np.float64]:
    """Give the IoU of every true cell with the predicted one that covers more than half of it, 0 where there is none.

    Their mean over all cells is the score SEG of the Cell Tracking Challenge.

    References
    ----------
    V. Ulman et al., Nature Methods 2017. M. Maska et al., Bioinformatics 2014.
    """
    met = shared.cells.tocoo()
    covers = met.data > shared.of_true[met.row] / 2  # one of them at most
    iou = np.zeros(shared.of_true.size)
    iou[met.row[covers]] = shared.iou.data[covers]
    return iou


@dataclass(frozen=True)
class Evaluation:
    """Matching pooled over images, counts an image, and further scores.

    Attributes
    ----------
    names, true_counts, predicted_counts
        One entry an image.
    matchings
        At each IoU threshold, over all images.
    scores : dict
        What it is -> value; see :func:`evaluate`.
    by_type : TypeScores, optional
        Where types of cells are told apart.
    """

    names: tuple[str, ...]
    true_counts: tuple[int, ...]
    predicted_counts: tuple[int, ...]
    matchings: tuple[Matching, ...]
    scores: dict[str, float] = field(default_factory=dict)
    by_type: TypeScores | None = None

    @property
    def mae(self) -> float:
        """Mean absolute error of the count, cells an image."""
        return float(np.mean(np.abs(np.subtract(self.predicted_counts, self.true_counts))))

    @property
    def bias(self) -> float:
        """(predicted - true) / true of the total count; NaN where the truth is empty."""
        true = sum(self.true_counts)
        return (sum(self.predicted_counts) - true) / true if true else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON values; a bias that does not exist is null."""
        return {
            "matching": [m.as_dict() for m in self.matchings],
            "true_count": sum(self.true_counts),
            "predicted_count": sum(self.predicted_counts),
            "bias": None if self.bias != self.bias else self.bias,
            "mae": self.mae,
            "scores": {name: None if value != value else value for name, value in self.scores.items()},
            **({"types": self.by_type.as_dict()} if self.by_type else {}),
            "images": [
                {"image": name, "true": true, "predicted": predicted}
                for name, true, predicted in zip(self.names, self.true_counts, self.predicted_counts, strict=True)
            ],
        }


def _set_apart(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], bodies: bool | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Make the ids of cells differ from plane to plane, of bodies from volume to volume: a drawing may begin at 1 in each."""
    if truth.ndim < 3:
        return truth, predicted
    shape = truth.shape
    if bodies is None:  # those that were cut here and there are bodies still, and wrong
        bodies = cells_go_through(predicted if predicted.any() else truth, shape[-3])
    together = shape[-3:] if bodies else shape[-2:]  # within these ids count

    def numbered(labels: NDArray[np.integer]) -> NDArray[np.integer]:
        parts = labels.reshape(-1, math.prod(together)).astype(np.int64)
        first = np.arange(len(parts))[:, None] * (int(parts.max(initial=0)) + 1)
        return np.where(parts > 0, parts + first, 0).reshape(shape)

    return numbered(truth), numbered(predicted)


def evaluate(
    triples: Iterable[tuple[str, NDArray[np.integer], NDArray[np.integer]]], rule: TypeRule | None = None, bodies: bool | None = None
) -> Evaluation:
    """Compare predicted with true label images.

    Parameters
    ----------
    triples : iterable of (name, truth, predicted)
        Label images, of one shape each pair, 0 = background; -1 in the truth = not annotated, and not judged. In a stack ids count within a
        plane; of bodies within a volume.
    rule : TypeRule, optional
        How to know the types of cells; left out: they are all of one.
    bodies : bool, optional
        Whether cells go through planes. Left out: seen from the predicted ones (the true ones, where none were predicted).

    Returns
    -------
    Evaluation
        Matchings at IoU 0.5, 0.6, 0.7, 0.8, 0.9, true and false positives summed over the images. Scores: panoptic quality and SEG over
        the cells of all images; pixel IoU and Dice of the cells, mean IoU of cells and background over the pixels of all images; Rand
        and information scores, Rand error and warping error as the mean over images with cells. These match cells whatever their types.
    """
    names, true, predicted = [], [], []
    by_type: TypeScores | None = None
    pixels, pairs_of_pixels = Confusion(np.zeros((2, 2), np.int64)), []
    pq, covered = np.zeros(4), []
    sums = np.zeros((len(THRESHOLDS), 3), int)
    for name, true_labels, found in triples:
        if true_labels.shape != found.shape:
            raise ValueError(f"{name}: the true labels have the shape {true_labels.shape}, the predicted ones {found.shape}.")
        judged = what_can_be_judged(true_labels, found)
        t, p = _set_apart(*judged, bodies)
        if (unknown := true_labels == NOT_ANNOTATED).any():
            t = np.where(unknown, NOT_ANNOTATED, t)
        shared = overlap(t, p)
        iou = shared.iou
        names.append(name)
        true.append(iou.shape[0])
        predicted.append(iou.shape[1])
        sums += [(m.tp, m.fp, m.fn) for m in (match(iou, threshold) for threshold in THRESHOLDS)]
        pq += panoptic_quality(iou)
        covered.append(seg(shared))
        pixels += confusion(shared)
        if rule:
            numbers = (ids % (int(a.max(initial=0)) + 1) for ids, a in zip((shared.true_ids, shared.predicted_ids), judged, strict=True))
            of_image = rule.scores(name, shared, *numbers)  # the numbers before those of other planes were set apart
            by_type = by_type + of_image if by_type else of_image
        if iou.shape[0]:
            within = partition(shared)
            pairs_of_pixels.append((within.rand, within.information, rand_error(shared), _warping(t, p)))
    cells = np.concatenate(covered) if covered else np.empty(0)
    means = np.mean(pairs_of_pixels, axis=0) if pairs_of_pixels else np.full(4, np.nan)
    scores = {
        "panoptic quality": pq[0] / (pq[1] + pq[2] / 2 + pq[3] / 2) if pq[1:].any() else 1.0,
        "SEG": cells.mean() if cells.size else np.nan,
        "pixel IoU": pixels.iou[1],
        "mean IoU": pixels.mean_iou,
        "Dice": pixels.dice[1],
        **dict(zip(("Rand score", "information score", "Rand error", "warping error"), means, strict=True)),
    }
    pooled = tuple(Matching(t, *map(int, row)) for t, row in zip(THRESHOLDS, sums, strict=True))
    return Evaluation(tuple(names), tuple(true), tuple(predicted), pooled, {k: float(v) for k, v in scores.items()}, by_type)


def _warping(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Give the mean over the planes."""
    planes = (a.reshape(-1, *a.shape[-2:]) for a in (truth, predicted))
    return float(np.mean([warping_error(t, p) for t, p in zip(*planes, strict=True)]))
