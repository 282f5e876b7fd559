"""Resampling of planes and volumes, whole or piece by piece with the same result to the bit.

::

    output pixel i  =  sum over input pixels j of  weight(i, j) input(j)        each axis by itself

The weights are a triangle around the place of the output pixel in the input: linear interpolation where the picture grows, an
average over what becomes one pixel where it shrinks. A piece of the output needs a piece of the input, and takes the same sums.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_tally.core.images import Image
from napari_tally.core.intensity import normalise


def rescale(plane: NDArray[np.floating], shape: Sequence[int]) -> NDArray[np.float32]:
    """Resample (C, [Z,] Y, X) to (C, *shape) float32, linearly, averaged where it shrinks."""
    return rescale_piece(plane, plane.shape[1:], shape, tuple(slice(0, n) for n in shape))


def needed(source: Sequence[int], target: Sequence[int], piece: Sequence[slice]) -> tuple[slice, ...]:
    """Give the rows and columns of the source that a piece of the target is made of."""
    return tuple(_needed(*axis) for axis in zip(source, target, piece, strict=True))


def rescale_piece(known: NDArray[np.floating], source: Sequence[int], target: Sequence[int], piece: Sequence[slice]) -> NDArray[np.float32]:
    """Resample a piece of a plane or volume.

    Parameters
    ----------
    known : (C, [d,] h, w) float
        The rows and columns of the source that :func:`needed` names.
    source, target : ([Z,] Y, X)
        Sizes of the whole plane before and after, in pixels.
    piece : sequence of slice
        Rows and columns of the target.

    Returns
    -------
    (C, *size of piece) float32
    """
    result = known.astype(np.float32, copy=False)
    for axis in range(len(source)):
        if source[axis] != target[axis]:
            part = _weights(source[axis], target[axis])[piece[axis], _needed(source[axis], target[axis], piece[axis])]
            moved = np.moveaxis(result, axis + 1, 0)  # (n, C, m)
            mixed = part @ np.ascontiguousarray(moved).reshape(len(moved), -1)
            result = np.moveaxis(mixed.reshape(-1, *moved.shape[1:]), 0, axis + 1)
    return np.ascontiguousarray(result)


def read_scaled(
    image: Image, plane: int, window: NDArray[np.float32], shape: tuple[int, ...], grid: tuple[int, ...], piece: Sequence[slice]
) -> NDArray[np.float32]:
    """Read a piece of a plane or volume, normalised and resampled.

    Parameters
    ----------
    image : Image
    plane : int
        Which plane; which volume where there are three axes.
    window : (C, 2) float32
    shape, grid : ([Z,] Y, X)
        Sizes before and after.
    piece : sequence of slice
        Of what comes out.

    Returns
    -------
    (C, *size of piece) float32
    """
    raw = needed(shape, grid, piece)
    if len(shape) == 2:
        return rescale_piece(normalise(image.read(plane, (raw[0], raw[1])), window), shape, grid, piece)
    slices = []
    for z in range(plane * shape[0] + raw[0].start, plane * shape[0] + raw[0].stop):  # slice by slice: a large one is smaller then
        slices.append(rescale_piece(normalise(image.read(z, (raw[1], raw[2])), window), shape[1:], grid[1:], piece[1:]))
    stack = np.stack(slices, axis=1)
    seen = stack.shape[2:]
    return rescale_piece(stack, (shape[0], *seen), (grid[0], *seen), (piece[0], slice(0, seen[0]), slice(0, seen[1])))


def scaled_shape(shape: Sequence[int], scale: float) -> tuple[int, int]:
    """Give the size in network pixels of a plane of `shape` image pixels."""
    return max(1, round(shape[-2] * scale)), max(1, round(shape[-1] * scale))


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
