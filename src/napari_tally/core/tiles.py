"""Overlap-tile: which piece of the image gives which piece of the output. Pure integers.

::

          halo  stride   halo
        ├─────┼────────┼─────┤            a tile reads stride + 2 halo pixels (mirrored beyond the
              │ written│                  image) and writes the stride in its middle
       ├──┼────────┼─────┤                a tile at the edge reads no more than `border` pixels beyond
          0                       image, tiled from 0 in steps of the stride

The network commutes only with shifts by multiples of its `step` (2^depth), so stride and halo are
multiples of it; and an output pixel sees at most `margin` pixels to each side, so with
halo >= margin every pixel that is written is what the network gives on the whole image with its mirrored border.
Each axis is solved by itself; tiles are their product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """One tile. `read` may reach beyond the image (mirror there), `write` never does.

    Attributes
    ----------
    read : ((start, stop), (start, stop))
        Rows and columns of the image that the network sees.
    write : (slice, slice)
        Rows and columns of the output that the tile fills.
    """

    read: tuple[tuple[int, int], tuple[int, int]]
    write: tuple[slice, slice]


def plan_tiles(
    shape: tuple[int, int], stride: tuple[int, int], halo: int, side: tuple[int, int], border: int | None = None, step: int = 1
) -> list[Tile]:
    """Cover an image with tiles; every pixel is written by exactly one.

    Parameters
    ----------
    shape : (Y, X)
        Size of the image in pixels.
    stride : (int, int)
        Height and width of what a tile writes, in pixels; multiples of the network's step.
    halo : int
        Pixels a tile reads above and left of what it writes.
    side : (int, int)
        Height and width of what a tile reads; at least stride + 2 * halo.
    border : int, optional
        Most pixels that a tile reads beyond the image, a multiple of `step`; left out: as many as the halo asks for.
    step : int
        Grid of the network: the image is taken to end on it.
    """

    def along(n: int, stride: int, side: int) -> Iterator[tuple[tuple[int, int], slice]]:
        for start in range(0, n, stride):
            first, stop = start - halo, start - halo + side
            if border is not None:
                first, stop = max(first, -border), min(stop, -(-n // step) * step + border)
            yield (first, stop), slice(start, min(n, start + stride))

    axes = [along(*axis) for axis in zip(shape, stride, side, strict=True)]
    return [Tile((ry, rx), (wy, wx)) for (ry, wy), (rx, wx) in product(*axes)]


def read_mirrored(plane: NDArray[np.generic], tile: Tile) -> NDArray[np.generic]:
    """Cut what `tile` reads out of (C, Y, X), mirrored beyond the border without repeating the edge pixel."""
    rows, columns = (mirror(np.arange(*span), n) for span, n in zip(tile.read, plane.shape[1:], strict=True))
    return plane[:, rows[:, None], columns[None, :]]


def mirror(index: NDArray[np.integer], n: int) -> NDArray[np.integer]:
    """Fold indices back into 0..n-1: ... 2 1 | 0 1 2 ... n-1 | n-2 n-3 ..., any number of times."""
    if n == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * n - 2)
    return np.minimum(index, 2 * n - 2 - index)
