"""Overlap-tile: which piece of a plane is written by which tile, and what the network has to read for it. Pure integers.

::

          halo   write   halo
        ├─────┼────────┼─────┤            to write some pixels the network reads `halo` more at each side
      ┆     ┆     ┆     ┆     ┆           and begins and ends on its own grid, every `step` pixels
       ├──┼────────┼─────┤                at the edge of the plane it reads no more than `border` pixels beyond, mirrored
          0

The network commutes only with shifts by multiples of its `step` (2^depth), so every tile begins on that grid; and an output
pixel sees at most `margin` pixels to each side. So with halo >= margin every pixel that is written is what the network gives
on the whole plane with its mirrored border. Each axis is solved by itself; tiles are their product.
"""

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, ...]
"""Rows and columns; of a volume slices, rows and columns."""


def plan_tiles(shape: Sequence[int], stride: Sequence[int]) -> list[Region]:
    """Cover a plane of (Y, X) pixels, or a volume, with tiles of at most `stride`; every pixel is in exactly one."""
    axes = [[slice(start, min(n, start + side)) for start in range(0, n, side)] for n, side in zip(shape, stride, strict=True)]
    return list(product(*axes))


def best_stride(shape: Sequence[int], halo: int | Sequence[int], pixels: float) -> tuple[int, ...]:
    """Choose the size of tiles so that none reads more than `pixels` and all together read as little as possible.

    Parameters
    ----------
    shape : ([Z,] Y, X)
        Of the plane or volume.
    halo : int or sequence of int
        Pixels that a tile reads around what it writes, along all axes or along each.
    pixels : float
        Where even the halo is more than that, tiles are as large as the halo.
    """
    halos = [halo] * len(shape) if isinstance(halo, int) else halo
    best, least = tuple(min(n, 2 * h or 1) for n, h in zip(shape, halos, strict=True)), float("inf")
    *others, last = ([*range(1, -(-n // 64) + 1)] for n in shape)  # into how many tiles each axis may be cut
    for first_counts in product(*others):
        for across in last:
            counts = *first_counts, across
            stride = tuple(-(-n // count) for n, count in zip(shape, counts, strict=True))
            # Of two tiles each has one neighbour; the first of three or more that has two reads most.
            reads = (side + h * min(2, count - 1) for side, h, count in zip(stride, halos, counts, strict=True))
            if prod(reads) <= pixels:
                work = prod(n + 2 * h * (count - 1) for n, h, count in zip(shape, halos, counts, strict=True))
                if work < least:
                    best, least = stride, work
                break  # narrower ones would only cost more
    return best


def reading(write: slice, n: int, halo: int, step: int, border: int) -> tuple[int, int]:
    """Give the first pixel that the network reads to write `write`, and the one behind the last (one axis).

    Parameters
    ----------
    write : slice
        Pixels 0 <= start < stop <= n.
    n : int
        Size of the plane.
    halo, step, border : int
        See above; all multiples of `step`.
    """
    first = write.start // step * step - halo
    last = -(-write.stop // step) * step + halo
    return max(first, -border), min(last, -(-n // step) * step + border)


def mirror(index: NDArray[np.integer], n: int) -> NDArray[np.integer]:
    """Fold indices back into 0..n-1: ... 2 1 | 0 1 2 ... n-1 | n-2 n-3 ..., any number of times."""
    if n == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * n - 2)
    return np.minimum(index, 2 * n - 2 - index)


def halved(region: Region) -> tuple[Region, Region]:
    """Cut a region across its :func:`longest` side."""
    axis = longest(region)
    part = region[axis]
    middle = (part.start + part.stop) // 2
    first, second = ((*region[:axis], half, *region[axis + 1 :]) for half in (slice(part.start, middle), slice(middle, part.stop)))
    return first, second


def longest(region: Region) -> int:
    """Give the axis along which a region is longest; of equals the first."""
    return int(np.argmax([part.stop - part.start for part in region]))


def grown(region: Region, by: int, shape: tuple[int, ...]) -> Region:
    """Give a region with `by` pixels around it, as far as the plane goes."""
    return tuple(slice(max(0, part.start - by), min(n, part.stop + by)) for part, n in zip(region, shape, strict=True))


def around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Give the rows and columns of a plane around what is marked, with so many pixels at each side, as far as the plane goes."""
    spans = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, int(s[0]) - margin), min(n, int(s[-1]) + 1 + margin)) for s, n in zip(spans, mask.shape, strict=True))
    return rows, columns


def middle(shape: Sequence[int], side: int) -> tuple[slice, slice]:
    """Give the rows and columns in the middle of a plane (..., Y, X), so many pixels wide at most."""
    rows, columns = (slice(max(0, n - side) // 2, max(0, n - side) // 2 + min(n, side)) for n in shape[-2:])
    return rows, columns
