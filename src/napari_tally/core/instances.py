"""From probabilities to cells: seeds are found, then grown back to the cell's edge.

::

    probability of a cell   ..:-=####=-:-=###=-..      two touching cells
    seeds (above 0.7)             ####    ###          connected components
    mask (above 0.55)           ########=#####         where cells are
    labels                      111111112222222        seeds flood the mask, best pixels first
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.segmentation import relabel_sequential, watershed

from napari_tally.settings import CountingSettings

_EIGHT = np.ones((3, 3), bool)


def find_instances(probabilities: NDArray[np.floating], settings: CountingSettings | None = None) -> NDArray[np.int32]:
    """Label the cells of one plane.

    Parameters
    ----------
    probabilities : (classes, Y, X) float
        0 = background, 1 = inside a cell, 2 (where there is one) = rim of a cell.
    settings : CountingSettings, optional

    Returns
    -------
    (Y, X) int32
        0 = background, cells numbered 1..n.
    """
    settings = settings or CountingSettings()
    inside, cell = probabilities[1], 1 - probabilities[0]
    seeds, _ = ndi.label(inside > settings.seed_threshold)  # 4-connected: cells that touch at a corner stay apart
    mask = (cell > settings.edge_threshold) | (seeds > 0)
    labels = watershed(-inside, _drop_fragments(seeds, mask, settings.min_seed), mask=mask, connectivity=_EIGHT)
    keep = np.bincount(labels.ravel()) >= settings.min_area
    keep[0] = False
    return relabel_sequential(np.where(keep[labels], labels, 0))[0].astype(np.int32)


def _drop_fragments(seeds: NDArray[np.integer], mask: NDArray[np.bool_], share: float) -> NDArray[np.integer]:
    """Drop seeds that are small beside the largest one of their clump (connected piece of the mask).

    The measure is relative, so it fits small cells and large ones in one image: a cell alone in its clump stays.
    """
    clumps, n = ndi.label(mask, _EIGHT)
    areas = np.bincount(seeds.ravel())
    clump_of = np.zeros(areas.size, int)
    clump_of[seeds.ravel()] = clumps.ravel()
    largest = np.zeros(n + 1)
    np.maximum.at(largest, clump_of[1:], areas[1:])
    keep = areas >= share * largest[clump_of]
    keep[0] = False
    return np.where(keep[seeds], seeds, 0)


def label_planes(probabilities: NDArray[np.floating], settings: CountingSettings | None = None) -> NDArray[np.int32]:
    """Label the cells of each plane by itself.

    Parameters
    ----------
    probabilities : (P, classes, Y, X) float
    settings : CountingSettings, optional

    Returns
    -------
    (P, Y, X) int32
        0 = background; ids go on from plane to plane, so no id comes twice.
    """
    planes = [find_instances(plane, settings) for plane in probabilities]
    top = 0
    for labels in planes:
        n = int(labels.max(initial=0))
        labels[labels > 0] += top
        top += n
    return np.stack(planes)
