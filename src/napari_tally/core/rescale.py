"""Resampling of planes, whole or piece by piece with the same result to the bit.

::

    output pixel i  =  sum over input pixels j of  weight(i, j) input(j)        each axis by itself

The weights are a triangle around the place of the output pixel in the input: linear interpolation where the picture grows, an
average over what becomes one pixel where it shrinks. A piece of the output needs a piece of the input, and takes the same sums.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def rescale(plane: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resample (C, Y, X) to (C, *shape) float32, linearly, averaged where it shrinks."""
    whole = slice(0, shape[0]), slice(0, shape[1])
    return rescale_piece(plane, (plane.shape[1], plane.shape[2]), shape, whole)


def needed(source: tuple[int, int], target: tuple[int, int], piece: tuple[slice, slice]) -> tuple[slice, slice]:
    """Give the rows and columns of the source that a piece of the target is made of."""
    rows, columns = (_needed(*axis) for axis in zip(source, target, piece, strict=True))
    return rows, columns


def rescale_piece(
    known: NDArray[np.floating], source: tuple[int, int], target: tuple[int, int], piece: tuple[slice, slice]
) -> NDArray[np.float32]:
    """Resample a piece of a plane.

    Parameters
    ----------
    known : (C, h, w) float
        The rows and columns of the source that :func:`needed` names.
    source, target : (Y, X)
        Sizes of the whole plane before and after, in pixels.
    piece : (slice, slice)
        Rows and columns of the target.

    Returns
    -------
    (C, *size of piece) float32
    """
    result = known.astype(np.float32, copy=False)
    for axis in (0, 1):
        if source[axis] != target[axis]:
            part = _weights(source[axis], target[axis])[piece[axis], _needed(source[axis], target[axis], piece[axis])]
            moved = np.moveaxis(result, axis + 1, 0)  # (n, C, m)
            mixed = part @ np.ascontiguousarray(moved).reshape(len(moved), -1)
            result = np.moveaxis(mixed.reshape(-1, *moved.shape[1:]), 0, axis + 1)
    return np.ascontiguousarray(result)


def _needed(source: int, target: int, piece: slice) -> slice:
    if source == target:
        return piece
    columns = _weights(source, target)[piece].indices
    return slice(int(columns.min()), int(columns.max()) + 1)


@lru_cache(maxsize=8)
def _weights(source: int, target: int) -> sparse.csr_array:
    """Give the weights, (target, source) float32; beyond the border the last pixel goes on."""
    factor = source / target
    reach = max(1.0, factor)  # half of the base of the triangle, in source pixels
    place = (np.arange(target) + 0.5) * factor - 0.5
    first = np.floor(place - reach).astype(np.int64) + 1
    j = first[:, None] + np.arange(int(np.ceil(2 * reach)))  # (target, neighbours)
    weight = np.maximum(0.0, 1 - np.abs(j - place[:, None]) / reach)
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(target), j.shape[1])
    matrix = sparse.coo_array((weight.ravel(), (rows, j.clip(0, source - 1).ravel())), (target, source)).tocsr()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)
