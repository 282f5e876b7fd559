r"""From probabilities to cells: every pixel climbs to the top of its hill, and hills without a valley between them are one cell.

::

    probability of "inside",     __      ___
    smoothed                    /  \_/\_/   \       a shallow valley: one cell; a deep one: two
                               /    v  v     \
    hills                      111112223333333      where each pixel of the mask arrives by going up
    cells                      111112222222222      hills 2 and 3 are one: the lower top stands out by less than `valley`

Which way is up depends on a pixel and its neighbours alone, and the merging needs the hills and the passes between them
alone, not the pixels. So tiles are worked off one by one, in any order, in bounded memory, and give the same cells as the
whole plane: a way that leads out of its tile goes on in the neighbour (:class:`Hills`).
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.events import run_to_end
from napari_tally.core.tiles import Region, grown
from napari_tally.settings import CountingSettings

_FLAT = 1e-3
"""Differences of probability that mean nothing."""
_AT_ONCE = 100_000
"""Passes between two moments at which a caller may walk away."""
TRUNCATE = 4.0
"""Standard deviations after which the smoothing ends."""


def ring(settings: CountingSettings, zoom: float = 1.0) -> int:
    """Give the pixels that a tile has to know around itself: what the smoothing reaches, and a neighbour."""
    return int(TRUNCATE * settings.smoothing * zoom + 0.5) + 1


def find_instances(probabilities: NDArray[np.floating], settings: CountingSettings | None = None, zoom: float = 1.0) -> NDArray[np.int32]:
    """Label the cells of one plane.

    Parameters
    ----------
    probabilities : (classes, Y, X) float
        0 = background, 1 = inside a cell, 2 (where there is one) = rim of a cell.
    settings : CountingSettings, optional
        Lengths and areas are in pixels of images like those in training.
    zoom : float
        How many times larger cells are in this plane.

    Returns
    -------
    (Y, X) int32
        0 = background, cells numbered 1..n in the order of their tops, row by row.

    References
    ----------
    P. Soille: Morphological Image Analysis, 2nd ed., 2004, section 6.3.4 (the tops that stand out by h, "h-maxima").
    H. Edelsbrunner, J. Harer: Computational Topology, 2010, chapter VII (merging by persistence).
    """
    settings = settings or CountingSettings()
    shape = probabilities.shape[1], probabilities.shape[2]
    whole = slice(0, shape[0]), slice(0, shape[1])
    ids, tile = climb_tile(probabilities, whole, whole, shape, settings, zoom)
    hills = Hills(settings, zoom)
    hills.add(tile)
    return hills.cells()[ids]


def label_planes(probabilities: NDArray[np.floating], settings: CountingSettings | None = None, zoom: float = 1.0) -> NDArray[np.int32]:
    """Label the cells of each plane by itself.

    Parameters
    ----------
    probabilities : (P, classes, Y, X) float
    settings, zoom
        As for :func:`find_instances`.

    Returns
    -------
    (P, Y, X) int32
        0 = background; ids go on from plane to plane, so no id comes twice.
    """
    planes = [find_instances(plane, settings, zoom) for plane in probabilities]
    top = 0
    for labels in planes:
        n = int(labels.max(initial=0))
        labels[labels > 0] += top
        top += n
    return np.stack(planes)


@dataclass(frozen=True, eq=False)
class TileHills:
    """The hills of one tile, numbered 1..n there. Pixels of the plane are numbered row by row.

    Attributes
    ----------
    heights : (n,) float32
        Of the tops. A way that leads into another tile ends at the first pixel there, and counts as a hill until that tile is known.
    tops : (n,) int64
        Pixel of each top.
    areas : (n,) int64
        Pixels of each hill.
    leads : (n,) int64
        Pixel of another tile that the hill leads to, -1 = none.
    edge : (2, m) int64
        Pixels along the edge of the tile and the hill of each: neighbours will ask.
    passes : (2, k) int64, (k,) float32
        Where hills meet and how high. The second is a hill, or -1 - pixel of another tile.
    shares : (n + 1, types) float64, or None
        How much of each type of cells is in each hill, where there are several; row 0 is the background.
    """

    heights: NDArray[np.float32]
    tops: NDArray[np.int64]
    areas: NDArray[np.int64]
    leads: NDArray[np.int64]
    edge: NDArray[np.int64]
    passes: tuple[NDArray[np.int64], NDArray[np.float32]]
    shares: NDArray[np.float64] | None = None


def climb_tile(
    probabilities: NDArray[np.floating], known: Region, write: Region, shape: tuple[int, int], settings: CountingSettings, zoom: float = 1.0
) -> tuple[NDArray[np.int32], TileHills]:
    """Find the hills of a tile.

    Parameters
    ----------
    probabilities : (classes, h, w) float
        Of the rows and columns `known`: those of `write` and :func:`ring` pixels around, as far as the plane goes.
    known, write : (slice, slice)
        Rows and columns of the plane. Every pixel is written by one tile.
    shape : (Y, X)
        Of the plane.
    settings, zoom
        As for :func:`find_instances`.

    Returns
    -------
    int32, size of `write`
        0 = background, else the hill of the pixel.
    TileHills
    """
    height, mask = _height_and_mask(probabilities, known, write, shape, settings, zoom)
    h, w = height.shape  # `write` and one pixel around: of the neighbour tiles, or outside the mask
    values = np.where(mask, height, -np.inf).ravel()
    pixels = np.flatnonzero(mask)
    rows, columns = np.divmod(pixels, w)
    own = (rows > 0) & (rows < h - 1) & (columns > 0) & (columns < w - 1)
    index = np.full(h * w, -1, np.int32)  # place among `pixels`
    index[pixels] = np.arange(len(pixels))
    arrives = climb(values, pixels, index, own, w)

    is_end = np.zeros(len(pixels), bool)
    is_end[arrives[own]] = True
    ends = np.flatnonzero(is_end)  # the hills of this tile
    hill = (np.cumsum(is_end) - 1)[arrives[own]]
    numbers = np.zeros(h * w, np.int32)
    numbers[pixels[own]] = hill + 1
    plane_pixel = (rows + write[0].start - 1) * shape[1] + columns + write[1].start - 1
    edge = own & ((rows == 1) | (rows == h - 2) | (columns == 1) | (columns == w - 2))
    hills = TileHills(
        heights=values[pixels[ends]],
        tops=plane_pixel[ends],
        areas=np.bincount(hill, minlength=len(ends)),
        leads=np.where(own[ends], -1, plane_pixel[ends]),
        edge=np.stack([plane_pixel[edge], numbers[pixels[edge]]]).astype(np.int64),
        passes=_passes(values, numbers, pixels, index, plane_pixel, w),
    )
    return numbers.reshape(h, w)[1:-1, 1:-1].copy(), hills


def _height_and_mask(
    probabilities: NDArray[np.floating], known: Region, write: Region, shape: tuple[int, int], settings: CountingSettings, zoom: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Give the smoothed probability and the mask of `write` with one pixel around it; nothing beyond the plane."""
    p = np.nan_to_num(probabilities[:2].astype(np.float32, copy=False))  # a network gone wild says NaN
    inside = ndi.gaussian_filter(p[1], settings.smoothing * zoom, truncate=TRUNCATE)
    is_cell = (1 - p[0] > settings.edge_threshold) | (inside > settings.seed_threshold)
    height = np.full([part.stop - part.start + 2 for part in write], -np.inf, np.float32)
    mask = np.zeros(height.shape, bool)
    there = grown(write, 1, shape)
    here = tuple(slice(t.start - part.start + 1, t.stop - part.start + 1) for t, part in zip(there, write, strict=True))
    cut = tuple(slice(t.start - k.start, t.stop - k.start) for t, k in zip(there, known, strict=True))
    height[here], mask[here] = inside[cut], is_cell[cut]
    return height, mask


def climb(values: Any, pixels: Any, index: Any, own: Any, w: int, cells: Any = None) -> NDArray[np.intp]:
    """Go up from every pixel until no neighbour is higher or the tile ends; give the last pixel of the way as a place in `pixels`.

    Of equals the later in the row, or in the row below, counts as higher: a plateau has few tops, and no way runs in circles.

    Parameters
    ----------
    values : (h * w,) float32
        -infinity outside the mask, which leaves out the first and last rows, or `own` does.
    pixels : (n,) int
        Those of the mask, in order.
    index : (h * w,) int
        Places among `pixels`.
    own : (n,) bool
        Those that climb; at others a way ends.
    w : int
    cells : (h * w,) int, optional
        No way leaves its cell.
    """
    mine = pixels[own]
    highest, where = np.full(len(mine), -np.inf, np.float32), mine
    for down, right in product((-1, 0, 1), repeat=2):  # in the order of the pixels, so ">=" prefers the later
        step = down * w + right
        value = values[mine + step]
        if down and right:
            value = np.where(_beside(values, mine, down * w, right), value, -np.inf)
        if cells is not None:
            value = np.where(cells[mine + step] == cells[mine], value, -np.inf)
        higher = value >= highest
        highest, where = np.where(higher, value, highest), np.where(higher, mine + step, where)
    way = np.arange(len(pixels))
    way[own] = index[where]
    while not np.array_equal(further := way[way], way):
        way = further
    return way


def _beside(values: Any, pixels: Any, vertical: int, horizontal: int) -> Any:
    """Whether a diagonal step leads past a pixel of the mask: cells that touch at a corner only stay apart."""
    return (values[pixels + vertical] > -np.inf) | (values[pixels + horizontal] > -np.inf)


def _passes(values: Any, numbers: Any, pixels: Any, index: Any, plane_pixel: Any, w: int) -> tuple[Any, Any]:
    """Find where hills meet; of each two hills of this tile the highest pass is enough."""
    ones, others = [], []
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        step = down * w + right
        # Both ends inside the mask and of different hills; 0 = of another tile, named by its pixel. (Two of other tiles are equal.)
        one = pixels[: np.searchsorted(pixels, values.size - step)]
        one = one[(index[one + step] >= 0) & (numbers[one] != numbers[one + step])]
        if down and right:
            one = one[_beside(values, one, down * w, right)]
        ones.append(one)
        others.append(one + step)
    a, b = np.concatenate(ones), np.concatenate(others)
    height = np.minimum(values[a], values[b])
    first, second = numbers[a].astype(np.int64), numbers[b].astype(np.int64)
    within = (first > 0) & (second > 0)
    (low, high), top = highest_passes(np.stack([first, second])[:, within], height[within])
    mine = np.maximum(first, second)[~within]
    theirs = plane_pixel[index[np.where(first > 0, b, a)[~within]]]
    pairs = np.stack([np.concatenate([low, mine]), np.concatenate([high, -1 - theirs])])
    return pairs, np.concatenate([top, height[~within]])


def highest_passes(pairs: NDArray[np.integer], heights: NDArray[np.floating]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of passes between hills, (2, n) and (n,), keep the highest between each two: (2, k) pairs, the lower number first, and (k,)."""
    low, high = np.sort(pairs, axis=0)
    order = np.lexsort((-heights, high, low))
    pairs, heights = np.stack([low, high])[:, order], heights[order]
    once = np.ones(len(heights), bool)
    once[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    return pairs[:, once], heights[once]


def root(parent: list[int], i: int) -> int:
    """Follow the chain of parents to its end, and shorten it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@dataclass
class Hills:
    """The hills of one plane, gathered tile by tile.

    Parameters
    ----------
    settings : CountingSettings
    zoom : float
        As for :func:`find_instances`.
    """

    settings: CountingSettings
    zoom: float = 1.0
    _tiles: list[tuple[int, TileHills]] = field(default_factory=list)
    _count: int = 0

    def add(self, tile: TileHills) -> int:
        """Take a tile; give the number that its hills are counted on from: hill i of the tile is hill i + that of the plane."""
        before = self._count
        self._tiles.append((before, tile))
        self._count += len(tile.heights)
        return before

    def cells(self) -> NDArray[np.int32]:
        """Say which cell each hill belongs to, once all tiles are there.

        Returns
        -------
        (hills + 1,) int32
            0 = no cell; cells are numbered from 1 in the order of their tops, row by row, however the plane was tiled.
        """
        return run_to_end(self.joining())

    def joining(self) -> Generator[float, None, NDArray[np.int32]]:
        """Compute :meth:`cells`; yield the fraction that is done."""
        s = self.settings
        heights, tops, areas, leads = (
            np.concatenate([[nothing], *(getattr(tile, name) for _, tile in self._tiles)])
            for name, nothing in (("heights", -np.inf), ("tops", -1), ("areas", 0), ("leads", -1))
        )
        edge = np.concatenate([tile.edge + [[0], [before]] for before, tile in self._tiles], axis=1)
        edge = edge[:, np.argsort(edge[0])]

        def hill_of(pixel: NDArray[np.int64]) -> NDArray[np.int64]:
            """Give the hill of a pixel at the edge of a tile; 0 = outside the mask there."""
            if not edge.size:
                return np.zeros(len(pixel), np.int64)
            place = np.minimum(np.searchsorted(edge[0], pixel), edge.shape[1] - 1)
            return np.where(edge[0, place] == pixel, edge[1, place], 0)

        pairs = np.concatenate([tile.passes[0] + np.where(tile.passes[0] > 0, before, 0) for before, tile in self._tiles], axis=1)
        passes = np.concatenate([tile.passes[1] for _, tile in self._tiles])
        first, second = pairs[0], np.where(pairs[1] < 0, hill_of(-1 - pairs[1]), pairs[1])

        parent = list(range(len(heights)))
        height, top = heights.tolist(), tops.tolist()

        def join(i: int, j: int) -> None:
            """Put the lower hill to the higher; of two equals the later top counts as higher, as in climbing."""
            if (height[i], top[i]) > (height[j], top[j]):
                i, j = j, i
            parent[i] = j

        ways = np.flatnonzero(leads >= 0)
        for n, (i, j) in enumerate(zip(ways.tolist(), hill_of(leads[ways]).tolist(), strict=True)):
            if n % _AT_ONCE == 0 and n:
                yield 0.1
            if j and (a := root(parent, i)) != (b := root(parent, j)):
                join(a, b)
        # From the highest pass down; among equals by where the tops are, for the numbers of hills depend on the tiling.
        top_of = tops[[root(parent, i) for i in range(len(parent))]]
        ends = np.sort([top_of[first], top_of[second]], axis=0)
        order = np.lexsort((ends[1], ends[0], -passes))
        ranked = zip(first[order].tolist(), second[order].tolist(), passes[order].tolist(), strict=True)
        for n, (i, j, pass_height) in enumerate(ranked):
            if n % _AT_ONCE == 0 and n:
                yield 0.2 + 0.7 * n / len(order)
            if not j or (a := root(parent, i)) == (b := root(parent, j)):
                continue
            lower = min(height[a], height[b])
            if lower - pass_height < s.valley - _FLAT or lower <= s.seed_threshold:
                join(a, b)

        roots = np.array([root(parent, i) for i in range(len(parent))])
        area = np.bincount(roots, weights=areas, minlength=len(roots))
        kept = (heights > s.seed_threshold) & (area >= s.min_area * self.zoom**2) & (roots == np.arange(len(roots)))
        kept[0] = False
        cell = np.zeros(len(roots), np.int32)
        cells = np.flatnonzero(kept)
        cell[cells[np.argsort(tops[cells])]] = np.arange(1, len(cells) + 1)
        return cell[roots]
