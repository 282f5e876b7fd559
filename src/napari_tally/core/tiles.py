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

from itertools import product

import numpy as np
from numpy.typing import NDArray

Region = tuple[slice, slice]
"""Rows and columns."""


def plan_tiles(shape: tuple[int, int], stride: tuple[int, int]) -> list[Region]:
    """Cover a plane of (Y, X) pixels with tiles of at most `stride`; every pixel is in exactly one."""
    axes = [[slice(start, min(n, start + side)) for start in range(0, n, side)] for n, side in zip(shape, stride, strict=True)]
    return list(product(*axes))


def best_stride(shape: tuple[int, int], halo: int, pixels: float) -> tuple[int, int]:
    """Choose the size of tiles so that none reads more than `pixels` and all together read as little as possible.

    Parameters
    ----------
    shape : (Y, X)
        Of the plane.
    halo : int
        Pixels that a tile reads around what it writes.
    pixels : float
        Where even the halo is more than that, tiles are as large as the halo.
    """
    best, least = (min(shape[0], 2 * halo or 1), min(shape[1], 2 * halo or 1)), float("inf")
    for down in range(1, -(-shape[0] // 64) + 1):
        for across in range(1, -(-shape[1] // 64) + 1):
            stride = -(-shape[0] // down), -(-shape[1] // across)
            # Of two tiles each has one neighbour; the first of three or more that has two reads most.
            reads = [side + halo * min(2, n - 1) for side, n in zip(stride, (down, across), strict=True)]
            if reads[0] * reads[1] <= pixels:
                work = (shape[0] + 2 * halo * (down - 1)) * (shape[1] + 2 * halo * (across - 1))
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
    """Cut a region across its longer side."""
    rows, columns = region
    if columns.stop - columns.start > rows.stop - rows.start:
        middle = (columns.start + columns.stop) // 2
        return (rows, slice(columns.start, middle)), (rows, slice(middle, columns.stop))
    middle = (rows.start + rows.stop) // 2
    return (slice(rows.start, middle), columns), (slice(middle, rows.stop), columns)


def grown(region: Region, by: int, shape: tuple[int, ...]) -> Region:
    """Give a region with `by` pixels around it, as far as the plane goes."""
    rows, columns = (slice(max(0, part.start - by), min(n, part.stop + by)) for part, n in zip(region, shape, strict=True))
    return rows, columns
