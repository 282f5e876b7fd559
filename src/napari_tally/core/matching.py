"""True and predicted cells matched one to one: how many were found, and the scores that follow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Matching:
    """Cells found and not found at one IoU threshold, over any number of images."""

    threshold: float
    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the predicted cells that are true; 1 where nothing is predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 1.0

    @property
    def recall(self) -> float:
        """Share of the true cells that are found; 1 where there are none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 1.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0

    @property
    def ap(self) -> float:
        """See :func:`average_precision`."""
        return float(average_precision(np.array([self.tp, self.fp, self.fn])))

    def as_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON values."""
        return {
            "iou": self.threshold,
            "ap": self.ap,
            "f1": self.f1,
            "precision": self.precision,
            "recall": self.recall,
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
        }


def average_precision(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give average precision as the field uses it: TP / (TP + FP + FN).

    Parameters
    ----------
    counts : (..., 3) int
        TP, FP, FN.

    Returns
    -------
    (...) float, 0..1
        1 where there is nothing to find and nothing was found.
    """
    total = counts.sum(-1)
    return np.where(total, counts[..., 0] / np.maximum(total, 1), 1.0)


def match(iou: NDArray[np.floating] | csr_array, threshold: float) -> Matching:
    """Match true and predicted cells one to one so that as many pairs as possible reach the threshold.

    Parameters
    ----------
    iou : (n_true, n_predicted) float array, or csr_array of the pairs that meet
    threshold : float
        Above 0.

    Notes
    -----
    Only how many pairs there are is wanted, not which. So it is a matching of greatest size in the graph of the pairs that are good enough
    (Hopcroft and Karp 1973); it takes time and memory for these pairs alone, however many cells hang together.
    """
    partners = maximum_bipartite_matching(csr_array(iou >= threshold), perm_type="column")
    tp = int((partners >= 0).sum())
    return Matching(threshold, tp, iou.shape[1] - tp, iou.shape[0] - tp)
