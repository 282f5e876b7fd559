r"""From probabilities to cells: every pixel climbs to the top of its hill, and hills without a valley between them are one cell.

::

    probability of "inside",     __      ___
    smoothed                    /  \_/\_/   \       a shallow valley: one cell; a deep one: two
                               /    v  v     \
    hills                      111112223333333      where each pixel of the mask arrives by going up
    cells                      111112222222222      hills 2 and 3 are one: the lower top stands out by less than `valley`

Which way is up depends on a pixel and its four neighbours alone, and the merging needs the hills and the passes between them
alone, not the pixels. So tiles are worked off one by one, in any order, in bounded memory, and give the same cells as the
whole plane: a pixel whose way leads out of its tile goes on in the neighbour (:class:`Hills`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.settings import CountingSettings

_FLAT = 1e-3
"""Differences of probability that mean nothing."""
_TRUNCATE = 4.0
"""Standard deviations after which the smoothing ends."""


def ring(settings: CountingSettings, zoom: float = 1.0) -> int:
    """Give the pixels that a tile has to know around itself: what the smoothing reaches, and a neighbour."""
    return int(_TRUNCATE * settings.smoothing * zoom + 0.5) + 1


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
    hills = Hills(probabilities.shape[1:], settings or CountingSettings(), zoom)
    whole = slice(0, probabilities.shape[1]), slice(0, probabilities.shape[2])
    ids = hills.add(probabilities, whole, whole)
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


@dataclass
class Hills:
    """The hills of one plane, gathered tile by tile.

    ::

        tile ──add──▶ numbers of hills, provisional        all tiles added: cells() ──▶ which number is which cell
                      + tops, passes, ways into
                        the neighbours are noted

    Parameters
    ----------
    shape : (Y, X)
        Of the plane.
    settings : CountingSettings
    zoom : float
        As for :func:`find_instances`.
    """

    shape: tuple[int, ...]
    settings: CountingSettings
    zoom: float = 1.0
    _count: int = 0
    # One array a tile in each list. Pixels of the plane are numbered row by row.
    _heights: list[NDArray[np.float32]] = field(default_factory=list)
    _tops: list[NDArray[np.int64]] = field(default_factory=list)
    _areas: list[NDArray[np.int64]] = field(default_factory=list)
    _passes: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = field(default_factory=list)
    _ways: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)  # hill, the pixel of another tile it leads to
    _edges: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)  # pixel at the edge of a tile, its hill

    def add(self, probabilities: NDArray[np.floating], known: Sequence[slice], write: Sequence[slice]) -> NDArray[np.int32]:
        """Take a tile.

        Parameters
        ----------
        probabilities : (classes, h, w) float
            Of the rows and columns `known`: those of `write` and :func:`ring` pixels around, as far as the plane goes.
        known, write : (slice, slice)
            Rows and columns of the plane. Every pixel is written by one tile.

        Returns
        -------
        int32, shape of `write`
            0 = background; the hill of each pixel, to be looked up in what :meth:`cells` gives.
        """
        height, inside_mask = self._height_and_mask(probabilities, known, write)
        h, w = height.shape  # `write` and one pixel around: of the neighbour tiles, or -inf
        values = np.where(inside_mask, height, -np.inf).ravel()
        pixels = np.flatnonzero(inside_mask)
        rows, columns = np.divmod(pixels, w)
        own = (rows > 0) & (rows < h - 1) & (columns > 0) & (columns < w - 1)
        index = np.full(h * w, -1, np.int32)  # place among `pixels`
        index[pixels] = np.arange(len(pixels))
        arrives = _climb(values, pixels, index, own, w)

        is_end = np.zeros(len(pixels), bool)
        is_end[arrives[own]] = True
        ends = np.flatnonzero(is_end)  # the hills of this tile
        hill = (np.cumsum(is_end) - 1)[arrives[own]]
        plane_pixel = (rows + write[0].start - 1) * self.shape[1] + columns + write[1].start - 1
        foreign = ~own[ends]
        first = self._count + 1
        numbers = np.zeros(h * w, np.int32)
        numbers[pixels[own]] = hill + first
        self._count += len(ends)
        self._heights.append(values[pixels[ends]])
        self._tops.append(plane_pixel[ends])
        self._areas.append(np.bincount(hill, minlength=len(ends)))
        self._ways.append((np.flatnonzero(foreign) + first, plane_pixel[ends[foreign]]))
        self._note_edges(numbers.reshape(h, w), plane_pixel, rows, columns, own)
        self._note_passes(values, numbers, pixels, index, plane_pixel, own, w)
        return numbers.reshape(h, w)[1:-1, 1:-1].copy()

    def _height_and_mask(self, probabilities: NDArray[np.floating], known: Sequence[slice], write: Sequence[slice]) -> tuple[Any, Any]:
        """Give the smoothed probability and the mask of `write` with one pixel around it; nothing beyond the plane."""
        s = self.settings
        p = np.nan_to_num(probabilities[:2].astype(np.float32, copy=False))  # a network gone wild says NaN
        inside = ndi.gaussian_filter(p[1], s.smoothing * self.zoom, truncate=_TRUNCATE)
        mask = (1 - p[0] > s.edge_threshold) | (inside > s.seed_threshold)
        height = np.full([w.stop - w.start + 2 for w in write], -np.inf, np.float32)
        full = np.zeros(height.shape, bool)
        there = tuple(slice(max(0, w.start - 1), min(n, w.stop + 1)) for w, n in zip(write, self.shape, strict=True))
        here = tuple(slice(t.start - w.start + 1, t.stop - w.start + 1) for t, w in zip(there, write, strict=True))
        part = tuple(slice(t.start - k.start, t.stop - k.start) for t, k in zip(there, known, strict=True))
        height[here], full[here] = inside[part], mask[part]
        return height, full

    def _note_edges(self, numbers: Any, plane_pixel: Any, rows: Any, columns: Any, own: Any) -> None:
        """Remember the hills along the edges of the tile: neighbours will ask for them."""
        h, w = numbers.shape
        edge = own & ((rows == 1) | (rows == h - 2) | (columns == 1) | (columns == w - 2))
        self._edges.append((plane_pixel[edge], numbers[rows[edge], columns[edge]].astype(np.int64)))

    def _note_passes(self, values: Any, numbers: Any, pixels: Any, index: Any, plane_pixel: Any, own: Any, w: int) -> None:
        """Remember where hills meet, and how high the pass is; of each two hills of this tile the highest is enough."""
        ones, others = [], []
        for step in (1, w):
            # Both ends inside the mask, of different hills, at least one of them ours; the other may lie in the tile at any side.
            one = pixels[: np.searchsorted(pixels, values.size - step)]
            meet = (index[one + step] >= 0) & (numbers[one] != numbers[one + step])
            ones.append(one[meet])
            others.append(one[meet] + step)
        a, b = np.concatenate(ones), np.concatenate(others)
        height = np.minimum(values[a], values[b])
        first, second = numbers[a].astype(np.int64), numbers[b].astype(np.int64)  # 0 = of another tile: named by its pixel
        within = (first > 0) & (second > 0)
        low, high, top = np.minimum(first, second)[within], np.maximum(first, second)[within], height[within]
        order = np.lexsort((-top, high, low))
        low, high, top = low[order], high[order], top[order]
        once = np.ones(len(low), bool)
        once[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        across = (first > 0) != (second > 0)
        mine = np.where(first > 0, first, second)[across]
        theirs = plane_pixel[index[np.where(first > 0, b, a)[across]]]
        self._passes.append(
            (np.concatenate([low[once], mine]), np.concatenate([high[once], -1 - theirs]), np.concatenate([top[once], height[across]]))
        )

    def cells(self) -> NDArray[np.int32]:
        """Say which cell each hill belongs to, once all tiles are there.

        Returns
        -------
        (hills + 1,) int32
            0 = no cell; cells are numbered from 1 in the order of their tops, row by row, however the plane was tiled.
        """
        s = self.settings
        heights, tops, areas = (np.concatenate([np.zeros(1, part[0].dtype), *part]) if part else np.zeros(1) for part in self._lists())
        at, hill_at = (np.concatenate(part) for part in zip(*self._edges, strict=True))
        order = np.argsort(at)
        at, hill_at = at[order], hill_at[order]

        def hill_of(pixel: NDArray[np.int64]) -> NDArray[np.int64]:
            """Give the hill of a pixel at the edge of a tile; 0 = outside the mask there."""
            if not at.size:
                return np.zeros(len(pixel), np.int64)
            place = np.minimum(np.searchsorted(at, pixel), at.size - 1)
            return np.where(at[place] == pixel, hill_at[place], 0)

        low, high, passes = (np.concatenate(part) for part in zip(*self._passes, strict=True))
        high = np.where(high < 0, hill_of(-1 - high), high)
        ways, leads = (np.concatenate(part) for part in zip(*self._ways, strict=True))

        parent = list(range(len(heights)))
        height, top = heights.tolist(), tops.tolist()

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        def join(i: int, j: int) -> None:
            """Put the lower hill to the higher; of two equals the one with the later top wins, as in climbing."""
            if (height[i], top[i]) > (height[j], top[j]):
                i, j = j, i
            parent[i] = j

        for i, j in zip(ways.tolist(), hill_of(leads).tolist(), strict=True):
            if j and (a := root(i)) != (b := root(j)):
                join(a, b)
        order = np.lexsort((high, low, -passes))
        for i, j, pass_height in zip(low[order].tolist(), high[order].tolist(), passes[order].tolist(), strict=True):
            if not j or (a := root(i)) == (b := root(j)):
                continue
            lower = min(height[a], height[b])
            if lower - pass_height < s.valley - _FLAT or lower <= s.seed_threshold:
                join(a, b)

        roots = np.array([root(i) for i in range(len(parent))])
        area = np.bincount(roots, weights=areas, minlength=len(roots))
        kept = (heights > s.seed_threshold) & (area >= s.min_area * self.zoom**2) & (roots == np.arange(len(roots)))
        kept[0] = False
        cell = np.zeros(len(roots), np.int32)
        cells = np.flatnonzero(kept)
        cell[cells[np.argsort(tops[cells])]] = np.arange(1, len(cells) + 1)
        return cell[roots]

    def _lists(self) -> tuple[list[Any], list[Any], list[Any]]:
        return self._heights, self._tops, self._areas


def _climb(values: Any, pixels: Any, index: Any, own: Any, w: int) -> NDArray[np.intp]:
    """Go up from every pixel until no neighbour is higher or the tile ends; give the last pixel of the way as a place in `pixels`.

    Of equals the later in the row, or in the row below, counts as higher: a plateau has few tops, and no way runs in circles.
    """
    mine = pixels[own]
    highest, where = np.full(len(mine), -np.inf, np.float32), mine
    for step in (-w, -1, 0, 1, w):  # in the order of the pixels, so ">=" prefers the later
        value = values[mine + step]
        higher = value >= highest
        highest, where = np.where(higher, value, highest), np.where(higher, mine + step, where)
    way = np.arange(len(pixels))
    way[own] = index[where]
    while not np.array_equal(further := way[way], way):
        way = further
    return way
