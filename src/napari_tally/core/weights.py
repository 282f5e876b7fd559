"""The border weight map of the U-Net paper: gaps between touching cells weigh most.

Ronneberger et al. 2015, equation 2::

    w(x) = w_c(x) + w0 * exp( -(d1(x) + d2(x))^2 / (2 sigma^2) )

d1 and d2 are the distances from pixel x to the nearest and the second nearest cell, and w_c
balances the frequencies of the classes.

A distance transform for each cell would cost pixels times cells. Here the number of cells does not
matter. One transform gives d1 and the nearest cell; d2 is the way to anything that is not that cell,
one axis after the other::

    column x+k:   .            each pixel notes the nearest cell of its column (2, at distance a)
                  3  ─┐b       and the nearest one that is another cell (3, at distance b);
                  .   │
                  2 ─┐│
                  .  a│
    row y:     ───x───┘┘──     then d2(x)^2 = min over k of  k^2 + (b^2 if the first is x's own cell else a^2)

Cells farther away than `reach` add less than 1e-5 to w and are not looked for, so |k| <= reach.

In a volume, each cell has its transform after all, but only in the box that it reaches. Distances are in widths of a pixel in
every direction, however far apart the slices are.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

_NEGLIGIBLE = 1e-5
"""Largest error of the border term, in units of weight."""
_AT_ONCE = 2**18
"""Pixels worked on at once, in strips: bounds the memory for large images."""


def border_weights(labels: NDArray[np.integer], w0: float = 10.0, sigma: float = 5.0, aspect: float = 1.0) -> NDArray[np.float32]:
    """Compute the border term of equation 2 of the U-Net paper.

    Parameters
    ----------
    labels : ([Z,] Y, X) int
        Label image, 0 = background. Negative values (not annotated) count as background.
    w0 : float
        Weight of a gap of no width (paper: 10).
    sigma : float
        Reach of the weight in pixels (paper: 5).
    aspect : float
        How many times as thick as wide a voxel is.

    Returns
    -------
    ([Z,] Y, X) float32
        w0 * exp(-(d1 + d2)^2 / (2 sigma^2)), at every pixel; d1 = 0 inside a cell. It is zero
        where there are fewer than two cells. Off by at most 1e-5.

    References
    ----------
    Ronneberger et al., MICCAI 2015, equation 2.
    """
    labels = np.where(labels > 0, labels, 0)
    weights = np.zeros(labels.shape, np.float32)
    if w0 <= _NEGLIGIBLE:
        return weights
    reach = int(np.ceil(sigma * np.sqrt(2 * np.log(w0 / _NEGLIGIBLE))))
    if labels.ndim == 3:
        d1, d2 = _two_nearest_bodies(labels, reach, (aspect, 1.0, 1.0))
        return (w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))).astype(np.float32)
    strip = max(2 * reach, _AT_ONCE // labels.shape[1])
    for top in range(0, len(labels), strip):
        above = min(top, reach)
        d1, d2 = _two_nearest(labels[top - above : top + strip + reach], reach)
        weights[top : top + strip] = (w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)))[above : above + strip]
    return weights


def _two_nearest_bodies(
    labels: NDArray[np.integer], reach: int, spacing: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure the distances (Z, Y, X) to the nearest and to the second nearest cell; infinite beyond `reach`."""
    d1, d2 = np.full((2, *labels.shape), np.inf, np.float32)
    numbers = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) if labels.max(initial=0) > labels.size else labels
    for cell, box in enumerate(ndi.find_objects(numbers), start=1):
        if box is None:
            continue
        window = tuple(
            slice(max(0, part.start - int(reach / step)), part.stop + int(reach / step)) for part, step in zip(box, spacing, strict=True)
        )
        away = ndi.distance_transform_edt(numbers[window] != cell, sampling=spacing).astype(np.float32)
        nearest, second = d1[window], d2[window]
        np.minimum(second, np.maximum(nearest, away), out=second)
        np.minimum(nearest, away, out=nearest)
    return d1, d2


def _two_nearest(labels: NDArray[np.integer], reach: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Measure the distances (Y, X) to the nearest and to the second nearest cell; infinite beyond `reach`."""
    if not labels.any():
        return (np.full(labels.shape, np.inf, np.float32),) * 2
    d1, nearest = ndi.distance_transform_edt(labels == 0, return_indices=True)
    own = labels[tuple(nearest)]
    far = reach + 1
    up_cell, up, up_other = _last_above(labels, far)
    down_cell, down, down_other = (a[::-1] for a in _last_above(labels[::-1], far))
    cell = np.where(up < down, up_cell, down_cell)  # the nearest of the column
    a = np.minimum(up, down) ** 2
    b = np.minimum(np.where(up_cell != cell, up, up_other), np.where(down_cell != cell, down, down_other)) ** 2
    cell, a, b = (np.pad(x, ((0, 0), (reach, reach)), constant_values=fill) for x, fill in ((cell, 0), (a, far**2), (b, far**2)))
    squared = np.full(labels.shape, far**2, a.dtype)
    for k in range(2 * reach + 1):
        column = slice(k, k + labels.shape[1])
        way = np.maximum(a[:, column], (cell[:, column] == own) * b[:, column])  # b >= a: b where it is x's own cell, else a
        way += a.dtype.type((k - reach) ** 2)
        np.minimum(squared, way, out=squared)
    return d1.astype(np.float32), np.where(squared < far**2, np.sqrt(squared, dtype=np.float32), np.inf)


def _last_above(
    labels: NDArray[np.integer], far: int
) -> tuple[NDArray[np.integer], NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
    """Look up each column from each pixel on: the cell that is met first, how far it is, and how far the first other cell is."""
    rows = np.arange(len(labels), dtype=np.int32)[:, None]
    last = _running_maximum(np.where(labels > 0, rows, -1))  # -1 = none
    cell = np.take_along_axis(labels, np.maximum(last, 0), axis=0)  # 0 where there is none: row 0 is background then
    other = np.full_like(last, -1)
    changes = (labels[1:] > 0) & (cell[:-1] != labels[1:])  # here begins a cell, and the one met before was another
    other[1:] = np.where(changes, last[:-1], -1)
    small = np.min_scalar_type(2 * far**2)  # of squared distances: what follows waits for memory
    away = [np.where(row >= 0, np.minimum(rows - row, far), far).astype(small) for row in (last, _running_maximum(other))]
    return cell, away[0], away[1]


def _running_maximum(a: NDArray[np.integer]) -> NDArray[np.integer]:
    """Do what ``np.maximum.accumulate(a, axis=0)`` does, in place and ten times faster."""
    for above, row in pairwise(a):
        np.maximum(above, row, out=row)
    return a


def class_weights(classes: NDArray[np.integer], n_classes: int, balance: float = 1.0) -> NDArray[np.float32]:
    """Compute the class balancing weights w_c of equation 2.

    Parameters
    ----------
    classes : int array of any shape
        Class of each pixel; negative = not annotated, left out.
    n_classes : int
        Number of classes.
    balance : float, 0 to 1
        1 gives each class the same sum of weights, 0 gives each pixel the weight 1; between them
        the weights are those of full balance to the power of `balance`.

    Returns
    -------
    (n_classes,) float32
        Weight of a pixel of each class; their mean over the annotated pixels is 1. A class without
        pixels has weight 0.
    """
    counts = np.bincount(classes[classes >= 0].ravel(), minlength=n_classes).astype(float)
    present = counts > 0
    if not present.any():
        return np.ones(n_classes, np.float32)
    weights = np.zeros(n_classes)
    weights[present] = (counts.sum() / counts[present]) ** balance
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)
