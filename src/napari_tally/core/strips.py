"""The U-Net over a large picture, strip by strip of each layer: no more work than at once, less memory, and a pause every moment.

::

    level 0     ══╤══╤══╤══  conv conv, strip after strip; a strip reads two rows of its neighbours ─ skip ─▶ ══╤══╤══╤══ classes
    level 1        ═╤═╤═╤═   the same on the pooled rows                                              ─▶ ═╤═╤═╤═
    ...

Tiling the picture would repeat the whole receptive margin (about 100 px) around each tile. Tiling each layer repeats two rows.
The result is that of the network on the whole picture, to rounding. In a volume the strips are slabs of slices.
"""

from collections.abc import Generator
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from napari_tally.core.events import mapped, part_of
from napari_tally.core.unet import UNet

_STRIP_PIXELS = 2**19
"""Pixels at full resolution of a strip: a fraction of a second on two cores. Of a volume a quarter, for each costs more."""
_REACH = 2
"""Rows that two 3x3 convolutions look at to each side."""
_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def bytes_per_pixel(network: UNet) -> int:
    """Estimate the memory that :func:`classify` takes, in bytes per pixel of the picture."""
    head: Any = network.head
    floats = 3 * head.in_channels  # skips of all levels (a geometric series), and the map that goes up
    if type(network) is not UNet:
        floats *= 5  # nothing is in strips
    return 4 * (floats + network.channels + 2 * network.classes)


def classify(network: UNet, picture: Tensor, strip_pixels: int = 0) -> Generator[float, None, Tensor]:
    """Compute the probabilities of each class.

    Parameters
    ----------
    network : UNet
        In evaluation mode, on the device of the picture.
    picture : (1, C, [Z,] Y, X) float tensor
        Z, Y and X are sizes that the network takes.
    strip_pixels : int
        About so many pixels of the picture are a strip; 0 = chosen.

    Yields
    ------
    float
        After each strip, the fraction that is done. Walking away is safe.

    Returns
    -------
    (classes, [Z',] Y', X') float32 tensor
    """
    if type(network) is not UNet or network.padding != "same":  # a relative, or layers that shrink: such a tile is seen at once
        yield 0.0
        with torch.inference_mode():
            return network(picture).float().softmax(dim=1)[0]
    row = prod(picture.shape[3:])  # of a volume: a slice
    least, usual = (16, _STRIP_PIXELS) if network.dimensions == 2 else (8, _STRIP_PIXELS // 4)
    rows = max(least, (strip_pixels or usual) // row // 2 * 2)
    x = picture.contiguous(memory_format=_FORMATS[network.dimensions])  # rows lie together, so that a strip is no copy
    depth, skips = network.depth, []
    part = partial(part_of, 2 * depth + 1)  # each level at each side costs about the same
    for level in range(depth):
        skip, x = yield from mapped(_contract(network, level, x, rows), part(level))  # (1, w, Y / 2^level, ...), half of it
        skips.append(skip)
    x, _ = yield from mapped(_contract(network, depth, x, rows), part(depth))
    for level in reversed(range(depth)):
        x = yield from mapped(_expand(network, level, skips.pop(), x, rows), part(2 * depth - level))
    return x[0]


def _contract(network: UNet, level: int, x: Tensor, rows: int) -> Generator[float, None, tuple[Tensor, Tensor]]:
    """Run the convolutions of a level of the contracting path; give the map and the pooled map (at the bottom the map itself)."""
    height, skip, pooled = x.shape[2], None, None
    half = network.factors[level][0] if level < network.depth else 0
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above, below = max(0, first - _REACH), min(height, last + _REACH)
        with torch.inference_mode():
            y = network.down[level](x[:, :, above:below])[:, :, first - above : last - above]
            skip = _room(skip, y, height)
            skip[:, :, first:last] = y
            if half:
                y = network.pool(y, level)
                pooled = _room(pooled, y, height // half)
                pooled[:, :, first // half : last // half] = y
        yield last / height
    assert skip is not None
    return skip, skip if pooled is None else pooled


def _expand(network: UNet, level: int, skip: Tensor, x: Tensor, rows: int) -> Generator[float, None, Tensor]:
    """Go up to a level of the expansive path; at the top, to probabilities."""
    height, half, result = skip.shape[2], network.factors[level][0], None
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above, below = max(0, first - _REACH), min(height, last + _REACH)  # even: rows and heights are
        over, under = max(0, above // half - 1), min(height // half, below // half + 1)  # linear interpolation looks at a neighbour
        with torch.inference_mode():
            risen = network.up[level](x[:, :, over:under])[:, :, above - half * over : below - half * over]
            y = network.merge[level](torch.cat([skip[:, :, above:below], risen], dim=1))[:, :, first - above : last - above]
            if level == 0:
                y = network.head(y).float().softmax(dim=1)
            result = _room(result, y, height)
            result[:, :, first:last] = y
        yield last / height
    assert result is not None
    return result


def _room(existing: Tensor | None, like: Tensor, height: int) -> Tensor:
    """Give the map that strips like this one are written into."""
    if existing is not None:
        return existing
    shape = 1, like.shape[1], height, *like.shape[3:]
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_FORMATS[like.ndim - 2])
