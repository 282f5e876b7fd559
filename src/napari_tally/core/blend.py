"""Networks that look at all of a tile at once: windows that belong to the plane, blended where they meet.

::

    weight 1  ─────────────╲   ╱─────────────╲   ╱──────────
                            ╳                 ╳
           0  ─────────────╱   ╲─────────────╱   ╲──────────
                           ├───┤             ├───┤
                         _RAMP px, around each multiple of _STRIDE px from the corner of the plane

What attention over windows, instance normalisation or a resize to the tile gives for a pixel depends on the whole tile, so no halo makes
tiles exact. Here the windows are fixed by the plane alone: the result is approximate where two of them meet, without a jump, and the same
whatever tiles it is asked for. Each axis is solved by itself; windows are their product.
"""

from collections.abc import Callable, Generator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.events import mapped, part_of
from napari_tally.core.tiles import Region

_STRIDE, _RAMP = 384, 64
"""In network pixels. A window with its context takes about a second on two cores."""


def windows(n: int, wanted: slice) -> list[tuple[slice, NDArray[np.float32]]]:
    """Give the windows that touch some pixels of one axis.

    Parameters
    ----------
    n : int
        Size of the plane along this axis in pixels.
    wanted : slice

    Returns
    -------
    list of (slice, float32 array)
        What a window writes, and its weight there. Over all windows the weights of a pixel sum to 1.
    """
    found, last = [], -(-n // _STRIDE) - 1
    for k in range(last + 1):
        start, stop = k * _STRIDE - _RAMP // 2 * (k > 0), n if k == last else min(n, (k + 1) * _STRIDE + _RAMP // 2)
        if start < wanted.stop and stop > wanted.start:
            x = np.arange(start, stop, dtype=np.float32)
            rise = _rise(x - k * _STRIDE) if k > 0 else 1.0
            fall = 1 - _rise(x - (k + 1) * _STRIDE) if k < last else 1.0
            found.append((slice(start, stop), np.broadcast_to(np.float32(rise * fall), x.shape)))
    return found


def _rise(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip((x + 0.5) / _RAMP + 0.5, 0, 1)


def blended(
    shape: tuple[int, int], region: Region, look: Callable[[Region], Generator[float, None, NDArray[np.float32]]]
) -> Generator[float, None, NDArray[np.float32]]:
    """Give the probabilities of a region of a plane of `shape` pixels.

    Parameters
    ----------
    shape : (Y, X)
    region : (slice, slice)
    look : callable
        Gives those of a window: (classes, *size of window) float32.

    Yields
    ------
    float
        The fraction that is done.
    """
    rows, columns = (windows(n, part) for n, part in zip(shape, region, strict=True))
    total: NDArray[np.float32] | None = None
    for n, ((down, y), (across, x)) in enumerate(product(rows, columns)):
        found = yield from mapped(look((down, across)), part_of(len(rows) * len(columns), n))
        if total is None:
            total = np.zeros((len(found), *(part.stop - part.start for part in region)), np.float32)
        there, here = zip(*(_common(part, window) for part, window in zip(region, (down, across), strict=True)), strict=True)
        total[:, *there] += (found * y[:, None] * x)[:, *here]
    assert total is not None
    return total


def _common(part: slice, window: slice) -> tuple[slice, slice]:
    """Give the pixels that both have, as places in each of them."""
    start, stop = max(part.start, window.start), min(part.stop, window.stop)
    return slice(start - part.start, stop - part.start), slice(start - window.start, stop - window.start)
