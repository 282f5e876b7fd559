r"""From probabilities to cells: hills of the probability, told apart by the valleys between them, flood the mask.

::

    probability of "inside",     __      ___
    smoothed                    /  \_/\_/   \       a shallow valley: one cell; a deep one: two
                               /             \
    seeds (hills above 0.4)     ##########          connected components of what stands out by `valley`
    mask (above 0.55)          ##############       where cells are
    labels                     11111111111111       seeds flood the mask, best pixels first
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.morphology import reconstruction
from skimage.segmentation import relabel_sequential, watershed

from napari_tally.settings import CountingSettings

_EIGHT = np.ones((3, 3), bool)
_FLAT = 1e-3
"""Differences of probability that mean nothing."""


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
        0 = background, cells numbered 1..n.

    References
    ----------
    P. Soille: Morphological Image Analysis, 2nd ed., 2004, section 6.3.4 (h-maxima by reconstruction) and chapter 9 (watershed).
    """
    settings = settings or CountingSettings()
    probabilities = np.nan_to_num(probabilities.astype(np.float32))  # a network gone wild says NaN, and reconstruction would not end
    inside, cell = ndi.gaussian_filter(probabilities[1], settings.smoothing * zoom), 1 - probabilities[0]
    stands_out = inside - reconstruction(inside - np.float32(settings.valley), inside)
    hills, _ = ndi.label((stands_out > _FLAT) & (inside > settings.seed_threshold))  # 4-connected: cells that touch at a corner stay apart
    high = np.zeros(hills.max(initial=0) + 1, bool)
    high[hills[stands_out > settings.valley - _FLAT]] = True
    high[0] = False
    seeds = np.where(high[hills], hills, 0)
    labels = watershed(-inside, seeds, mask=(cell > settings.edge_threshold) | (seeds > 0), connectivity=_EIGHT)
    keep = np.bincount(labels.ravel()) >= settings.min_area * zoom**2
    keep[0] = False
    return relabel_sequential(np.where(keep[labels], labels, 0))[0].astype(np.int32)


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
