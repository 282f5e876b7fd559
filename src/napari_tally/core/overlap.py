"""How many pixels true and predicted cells share: the one table from which scores of cells and of pairs of pixels are worked out.

::

                  background   cell 4   cell 7   cell 9      predicted
    background            31       12        .       40
    cell 1                 9      200        .        .
    cell 2                 .        .      180        5
    true

A slide has tens of thousands of cells and each meets a few others, so only the pairs that meet are kept.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

_BAND = 2**22
"""Pixels that are looked up at a time."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """The pixels that every true piece shares with every predicted one.

    Attributes
    ----------
    true_ids, predicted_ids : (n + 1,) int64
        Sorted; entry 0 is 0, the background, whether there is any or not.
    table : csr_array of int64, (n_true + 1, n_predicted + 1)
        In the order of the ids; pairs that do not meet are not stored.
    """

    true_ids: NDArray[np.int64]
    predicted_ids: NDArray[np.int64]
    table: csr_array

    @cached_property
    def cells(self) -> csr_array:
        """The table without the background: (n_true, n_predicted)."""
        return self.table[1:, 1:]

    @cached_property
    def of_true(self) -> NDArray[np.int64]:
        """The pixels of every true cell: (n_true,)."""
        return self.table.sum(1)[1:]

    @cached_property
    def of_predicted(self) -> NDArray[np.int64]:
        """The pixels of every predicted cell: (n_predicted,)."""
        return self.table.sum(0)[1:]

    @cached_property
    def iou(self) -> csr_array:
        """Intersection over union of the cells that meet: (n_true, n_predicted) float."""
        met = self.cells.tocoo()
        union = self.of_true[met.row] + self.of_predicted[met.col] - met.data
        return csr_array((met.data / union, self.cells.indices, self.cells.indptr), shape=self.cells.shape)


def overlap(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Overlap:
    """Count the pixels that the pieces of two label images share.

    Parameters
    ----------
    truth, predicted : int arrays of one shape
        0 = background; truth below 0 = not annotated, and left out. Ids need not be consecutive.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> shared = overlap(np.array([3, 3, 3, 0, -1]), np.array([0, 8, 8, 8, 8]))
    >>> shared.table.toarray()
    array([[0, 1],
           [1, 2]])
    >>> shared.iou.toarray()
    array([[0.5]])
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"The truth has the shape {truth.shape} and the prediction {predicted.shape}; they must be equal.")
    truth, predicted = truth.reshape(-1), predicted.reshape(-1)
    true_ids, predicted_ids = _ids(truth), _ids(predicted)
    shape, background = (true_ids.size, predicted_ids.size), 0
    table = csr_array(shape, dtype=np.int64)
    for first in range(0, truth.size, _BAND):
        t, p = truth[first : first + _BAND], predicted[first : first + _BAND]
        known = t >= 0
        somewhere = known & ((t > 0) | (p > 0))
        background += int(known.sum() - somewhere.sum())
        rows = np.searchsorted(true_ids, t[somewhere])
        columns = np.searchsorted(predicted_ids, np.maximum(p[somewhere], 0))
        table = table + coo_array((np.ones(rows.size, np.int64), (rows, columns)), shape=shape).tocsr()
    if background:
        table = table + coo_array(([background], ([0], [0])), shape=shape).tocsr()
    return Overlap(true_ids, predicted_ids, table)


def _ids(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Give 0 and the ids above it, sorted."""
    bands = (np.unique(labels[first : first + _BAND]).astype(np.int64) for first in range(0, labels.size, _BAND))
    ids = np.unique(np.concatenate([np.zeros(1, np.int64), *bands]))
    return ids[ids >= 0]
