"""From the probabilities of a volume to cells that are bodies: what :mod:`~napari_tally.core.instances` does, in three dimensions.

Every voxel climbs to the top of its hill among its 26 neighbours, and hills without a valley between them are one cell. Lengths are
measured in widths of a pixel: across slices that are far apart, less is smoothed.
"""

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.instances import TRUNCATE, Hills, TileHills, highest_passes
from napari_tally.settings import CountingSettings

_NEIGHBOURS = np.array(list(product((-1, 0, 1), repeat=3)))
"""In the order of the voxels, and so that the n-th from the end is the way back of the n-th."""


def find_bodies(
    probabilities: NDArray[np.floating],
    settings: CountingSettings | None = None,
    zoom: float = 1.0,
    z_zoom: float = 1.0,
    aspect: float = 1.0,
) -> NDArray[np.int32]:
    """Label the cells of one volume.

    Parameters
    ----------
    probabilities : (classes, Z, Y, X) float
        0 = background, 1 = inside a cell, 2 (where there is one) = rim of a cell.
    settings : CountingSettings, optional
        Lengths are in pixels of images like those in training, the smallest cell in their voxels.
    zoom, z_zoom : float
        How many times larger cells are in this volume, along y and x, and across slices.
    aspect : float
        How many times as thick as wide a voxel of this volume is.

    Returns
    -------
    (Z, Y, X) int32
        0 = background, cells numbered 1..n in the order of their tops, slice by slice.
    """
    s = settings or CountingSettings()
    p = np.nan_to_num(probabilities[:2].astype(np.float32, copy=False))  # a network gone wild says NaN
    sd = s.smoothing * zoom
    height = ndi.gaussian_filter(p[1], (sd / aspect, sd, sd), truncate=TRUNCATE)
    height[(1 - p[0] <= s.edge_threshold) & (height <= s.seed_threshold)] = -np.inf
    values = np.pad(height, 1, constant_values=-np.inf)
    steps = _NEIGHBOURS @ [values.shape[1] * values.shape[2], values.shape[2], 1]
    values = values.ravel()
    voxels = np.flatnonzero(values > -np.inf)
    index = np.full(values.size, -1, np.int32)  # place among `voxels`
    index[voxels] = np.arange(len(voxels))
    ends, hill = np.unique(_climb(values, voxels, index, steps), return_inverse=True)  # hills 0..n-1
    hills = Hills(replace(s, min_area=s.min_area * zoom**2 * z_zoom))
    hills.add(
        TileHills(
            heights=values[voxels[ends]],
            tops=voxels[ends],
            areas=np.bincount(hill, minlength=len(ends)),
            leads=np.full(len(ends), -1),
            edge=np.zeros((2, 0), np.int64),
            passes=_passes(values, voxels, index, hill, steps),
        )
    )
    labels = np.zeros([n + 2 for n in height.shape], np.int32)
    labels.ravel()[voxels] = hills.cells()[hill + 1]
    return labels[1:-1, 1:-1, 1:-1].copy()


def _climb(
    values: NDArray[np.float32], voxels: NDArray[np.intp], index: NDArray[np.int32], steps: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Go up from every voxel until no neighbour is higher; of equals the later counts as higher. Give the last voxel as a place."""
    highest, where = np.full(len(voxels), -np.inf, np.float32), voxels
    for step in steps:
        value = values[voxels + step]
        higher = value >= highest
        highest, where = np.where(higher, value, highest), np.where(higher, voxels + step, where)
    way = index[where]
    while not np.array_equal(further := way[way], way):
        way = further
    return way


def _passes(
    values: NDArray[np.float32],
    voxels: NDArray[np.intp],
    index: NDArray[np.int32],
    hill: NDArray[np.intp],
    steps: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find where two hills meet, and the highest pass between them: (2, k) hills from 1 on, (k,) heights."""
    pairs, heights = [np.zeros((2, 0), np.int64)], [np.zeros(0, np.float32)]
    for step in steps[len(steps) // 2 + 1 :]:
        there = index[voxels + step]
        here = np.flatnonzero(there >= 0)
        here = here[hill[here] != hill[there[here]]]
        pairs.append(np.stack([hill[here] + 1, hill[there[here]] + 1]))
        heights.append(np.minimum(values[voxels[here]], values[voxels[here] + step]))
    return highest_passes(np.concatenate(pairs, axis=1), np.concatenate(heights))
