r"""Which cells to look at first: signs of a mistake in the probabilities and in the shape, and the fault that they speak of.

::

    probability of "inside",      __                       __    ___                    ____________
    smoothed                     /  \_/\               ___/  \_/   \___                 threshold of a cell
                                /      \              /    |        \                ....______........
    labels                     11111111111           1111111222222222              11111111
    fault                      two cells?            part of a cell?                not a cell?
    sign                       a valley that was     a border that hardly           little probability: doubt
                               not deep enough       is a valley

Size and shape add to it, against the population: large and dented speak for two cells, small for a part of one.
"""

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.instances import climb, highest_passes, root
from napari_tally.settings import CountingSettings

Fault = Literal["two cells?", "part of a cell?", "not a cell?", "cut by the image border"]
FAULTS: tuple[Fault, ...] = ("two cells?", "part of a cell?", "not a cell?", "cut by the image border")
SIGNS = ("doubt", "valley_inside", "open_border", "small", "large", "dent")
"""Small and large follow from the area and the population (:func:`rank_suspects`); the others are measured cell by cell."""

SEEN = SIGNS[:3]
"""Signs that are in the probabilities."""

_Weights = dict[Fault, tuple[tuple[float, ...], float]]
# Learned by `python benchmarks/suspects.py --learn`: 6,924 cells that the nuclei model found in 196 images of BBBC038 (CC0) and 2,060 that
# the phase model found in 31 of Usiigaci (MIT), 1,739 of them wrong. For each fault the weights of the SIGNS and the offset of a
# logistic regression, weights below 0 not allowed.
_WEIGHTS: _Weights = {
    "two cells?": ((0.00, 3.32, 0.30, 0.00, 0.92, 0.00), -4.11),
    "part of a cell?": ((1.71, 0.00, 4.81, 0.70, 0.00, 0.42), -4.89),
    "not a cell?": ((26.25, 0.40, 0.00, 0.79, 1.18, 0.00), -7.49),
}
_OF_SHAPE: _Weights = {
    "two cells?": ((0.00, 0.00, 0.00, 0.00, 1.82, 3.31), -3.64),
    "part of a cell?": ((0.00, 0.00, 0.00, 0.73, 0.00, 1.12), -3.53),
    "not a cell?": ((0.00, 0.00, 0.00, 1.21, 1.31, 5.07), -3.92),
}
"""The same where there are no probabilities: learned on the same cells from size and shape alone."""
_OPEN = 3.0
"""A border whose valley is so many times deeper than the setting says nothing."""
_MOST = 3.0
"""Doublings of the size that count at most."""


class _Passes(NamedTuple):
    """Regions a < b that touch, and the highest level on which one gets from one to the other."""

    a: NDArray[np.intp]
    b: NDArray[np.intp]
    level: NDArray[np.float32]


def measure_signs(
    probabilities: NDArray[np.floating] | None, labels: NDArray[np.integer], settings: CountingSettings | None = None, zoom: float = 1.0
) -> pd.DataFrame:
    """Measure the signs of a mistake of every cell of one plane.

    Parameters
    ----------
    probabilities : (classes, Y, X) float, or None
        0 = background, 1 = inside a cell. None: only size and shape are judged.
    labels : (Y, X) int
        0 or less = no cell.
    settings : CountingSettings, optional
        Those that made the labels.
    zoom : float
        As for :func:`napari_tally.core.instances.find_instances`.

    Returns
    -------
    pandas.DataFrame
        One row a cell, in the order of the ids:

        - label; y, x: centroid in pixels; area_px; touches_border;
        - doubt: 1 - mean probability that the pixels belong to a cell, 0..1;
        - valley_inside: depth of the deepest valley between two hills of the cell, in units of the depth that tells two cells
          apart, 0..1;
        - open_border: how shallow the valley between this cell and a neighbour is; 1 = none, 0 = three times as deep as needed, or
          no neighbour touches;
        - dent: 1 - area / area of the ellipse with the same second moments; 0 = an ellipse.
    """
    settings = settings or CountingSettings()
    drawn = np.flatnonzero(labels > 0)  # most pixels are background, and need no arithmetic
    ids, owner = np.unique(labels.ravel()[drawn], return_inverse=True)
    owner, n = owner + 1, ids.size + 1
    cells = np.zeros(labels.shape, np.intp)
    cells.ravel()[drawn] = owner
    area = np.bincount(owner, minlength=n).astype(float)
    pixels = np.maximum(area, 1)
    y, x = np.divmod(drawn, labels.shape[1])
    mean_y, mean_x = (np.bincount(owner, along, n) / pixels for along in (y, x))
    dy, dx = y - mean_y[owner], x - mean_x[owner]
    yy, xx, xy = (np.bincount(owner, product, n) / pixels for product in (dy * dy, dx * dx, dy * dx))
    moments = (yy + 1 / 12) * (xx + 1 / 12) - xy**2  # a pixel is a square, not a point
    at_border = np.zeros(n, bool)
    for side in (cells[0], cells[-1], cells[:, 0], cells[:, -1]) if cells.size else ():
        at_border[side] = True
    table = pd.DataFrame(
        {
            "label": np.append(0, ids),
            "y": mean_y,
            "x": mean_x,
            "area_px": area.astype(int),
            "touches_border": at_border,
            "doubt": 0.0,
            "valley_inside": 0.0,
            "open_border": 0.0,
            "dent": np.clip(1 - pixels / (4 * np.pi * np.sqrt(np.maximum(moments, 1e-6))), 0, 1),
        }
    )
    if probabilities is not None and drawn.size:
        probabilities = np.nan_to_num(np.asarray(probabilities, np.float32))
        inside = ndi.gaussian_filter(probabilities[1], settings.smoothing * zoom)
        table["doubt"] = np.clip(np.bincount(owner, probabilities[0].ravel()[drawn], n) / pixels, 0, 1)
        table["valley_inside"] = np.clip(_valley_inside(inside, cells, n) / settings.valley, 0, 1)
        table["open_border"] = np.clip(1 - _valley_to_neighbour(inside, cells, n) / (_OPEN * settings.valley), 0, 1)
    return table[1:].reset_index(drop=True)


def measure_planes(
    probabilities: NDArray[np.floating] | None, labels: NDArray[np.integer], settings: CountingSettings | None = None, zoom: float = 1.0
) -> pd.DataFrame:
    """Measure the signs of every plane, see :func:`measure_signs`.

    Parameters
    ----------
    probabilities : (P, classes, Y, X) float, or None
    labels : (..., Y, X) int
        P planes.
    settings, zoom
        As for :func:`measure_signs`.

    Returns
    -------
    pandas.DataFrame
        With a first column `plane`.
    """
    tables = []
    for p, plane in enumerate(labels.reshape(-1, *labels.shape[-2:])):
        table = measure_signs(None if probabilities is None else probabilities[p], plane, settings, zoom)
        table.insert(0, "plane", p)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def usual_area(areas: NDArray[np.number]) -> float:
    """Give the area in pixels of the usual cell: half of all that cells cover lies in larger ones. NaN without cells.

    Not the median: where a model finds many small crumbs, the median would be that of the crumbs.
    """
    ordered = np.sort(np.asarray(areas, float))
    if not ordered.size:
        return float("nan")
    covered = np.cumsum(ordered)
    return float(ordered[np.searchsorted(covered, covered[-1] / 2)])


def rank_suspects(signs: pd.DataFrame, usual: float | None = None) -> pd.DataFrame:
    """Score every cell and name its most likely fault.

    Parameters
    ----------
    signs : pandas.DataFrame
        From :func:`measure_signs` or :func:`measure_planes`: of one image, or of images of like cells.
    usual : float, optional
        Area in pixels of the usual cell; left out, :func:`usual_area` of these.

    Returns
    -------
    pandas.DataFrame
        `signs` with the columns `score` (0..1, the chance that something is wrong) and `fault` (words), the most suspicious first.
        The weights were learned by ``benchmarks/suspects.py`` on other images, so the order says more than the number.
    """
    chances = fault_chances(signs, usual)
    likeliest = chances.to_numpy().argmax(axis=1) if len(chances) else np.zeros(0, int)
    fault = np.array(FAULTS, object)[likeliest]
    fault[signs["touches_border"].to_numpy(bool) & (fault != "two cells?")] = "cut by the image border"
    ranked = signs.assign(score=1 - (1 - chances.to_numpy()).prod(axis=1), fault=fault)
    return ranked.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def fault_chances(signs: pd.DataFrame, usual: float | None = None) -> pd.DataFrame:
    """Give the chance of each fault: a logistic function of the weighted signs. One column a fault, one row a cell."""
    values = weigh_signs(signs, usual)
    known = _WEIGHTS if signs[list(SEEN)].to_numpy().any() else _OF_SHAPE
    return pd.DataFrame({fault: 1 / (1 + np.exp(-(values @ np.array(weights) + offset))) for fault, (weights, offset) in known.items()})


def weigh_signs(signs: pd.DataFrame, usual: float | None = None) -> NDArray[np.float64]:
    """Give the :data:`SIGNS`, one column each, one row a cell; small and large in doublings of the usual area, 3 at most."""
    area = signs["area_px"].to_numpy(float)
    doublings = np.log2(np.maximum(area, 1) / (usual_area(area) if usual is None else usual))
    sized = signs.assign(small=np.clip(-doublings, 0, _MOST), large=np.clip(doublings, 0, _MOST))
    return sized[list(SIGNS)].to_numpy(float)


def _valley_to_neighbour(height: NDArray[np.float32], cells: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Give for each cell the depth of the shallowest valley between it and a cell that it touches; infinite if none does."""
    peak = _highest(height, cells, n)
    a, b, level = _passes(height, cells)
    depth = np.minimum(peak[a], peak[b]) - level
    shallowest = np.full(n, np.inf)
    for cell in (a, b):
        np.minimum.at(shallowest, cell, depth)
    return shallowest


def _valley_inside(height: NDArray[np.float32], cells: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Give for each cell the depth of its second hill: how far one must go down from it to get to a higher one; 0 with one hill.

    The hills are joined from the highest pass down, as by a falling flood, and at each pass the lower one ends (the dynamics of a
    hill: P. Soille, Morphological Image Analysis, 2nd ed., 2004, section 6.3.5).
    """
    hills = _hills(height, cells)
    count = int(hills.max(initial=0)) + 1
    owner = np.zeros(count, np.intp)
    owner[hills] = cells
    top = _highest(height, hills, count)
    a, b, level = _passes(height, hills)
    within = owner[a] == owner[b]
    order = np.argsort(-level[within], kind="stable")
    leader = list(range(count))  # of each hill, the highest that it has been joined to
    deepest = np.zeros(n)
    for i, j, pass_level in zip(*(along[within][order].tolist() for along in (a, b, level)), strict=True):
        i, j = root(leader, i), root(leader, j)
        if i != j:
            lower, higher = (i, j) if top[i] < top[j] else (j, i)
            deepest[owner[i]] = max(deepest[owner[i]], top[lower] - pass_level)
            leader[lower] = higher
    return deepest


def _hills(height: NDArray[np.float32], cells: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number the hills of each cell from 1: every pixel belongs to the top that it climbs to within its cell."""
    owner = np.pad(cells, 1)
    drawn = np.flatnonzero(owner)
    values = np.where(owner, np.pad(height, 1), np.float32(-np.inf)).ravel()
    index = np.zeros(owner.size, np.intp)
    index[drawn] = np.arange(len(drawn))
    tops = climb(values, drawn, index, np.ones(len(drawn), bool), owner.shape[1], owner.ravel())
    hills = np.zeros(owner.shape, np.intp)
    hills.ravel()[drawn] = np.unique(tops, return_inverse=True)[1] + 1
    return hills[1:-1, 1:-1]


def _highest(height: NDArray[np.float32], regions: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Give the highest level of each region 0..n-1."""
    top = np.full(n, -np.inf)
    np.maximum.at(top, regions.ravel(), height.ravel())
    return top


def _passes(height: NDArray[np.float32], regions: NDArray[np.intp]) -> _Passes:
    """Find the regions that touch (8-connected) and the highest pass between them; 0 is no region."""
    pairs, levels = [], []
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ):
        a, b = regions[one], regions[other]
        meet = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.stack([a[meet], b[meet]]))
        levels.append(np.minimum(height[one][meet], height[other][meet]))
    (a, b), level = highest_passes(np.concatenate(pairs, axis=1), np.concatenate(levels))
    return _Passes(a, b, level)
