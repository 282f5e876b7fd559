"""What a model found in an image, and how its cells are told apart anew with other thresholds: no model is asked again.

Of planes the probabilities are kept in pixels of the image. Of a volume they stay in the voxels of the network, of which there are few;
its cells are told apart there and drawn in those of the image: where the interpolated probability says "cell", with the number of the
nearest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import expand_labels

from napari_tally.core.bodies import find_bodies
from napari_tally.core.cell_types import together
from napari_tally.core.instances import label_planes
from napari_tally.core.rescale import needed, rescale_piece
from napari_tally.core.samples import rescale_labels
from napari_tally.settings import CountingSettings

_SLAB = 8
"""Slices that are drawn at once."""
_REACH = 2.0
"""Voxels of the network from a cell that may still be drawn as part of it."""


@dataclass(frozen=True, eq=False)
class VolumeMaps:
    """What a network says of a volume.

    Attributes
    ----------
    probabilities : (classes, *grid) float32
        In voxels of the network.
    shape : (Z, Y, X)
        Of the volume in the image.
    zoom, z_zoom : float
        How many times larger cells are in voxels of the network than in the training images, along y and x, and across slices.
    aspect : float
        How many times as thick as wide a voxel of the network is.
    """

    probabilities: NDArray[np.float32]
    shape: tuple[int, ...]
    zoom: float
    z_zoom: float
    aspect: float

    def slab(self, first: int, last: int, classes: slice = slice(None)) -> NDArray[np.float32]:
        """Give the probabilities of slices of the image: (classes, slices, Y, X)."""
        grid = self.probabilities.shape[1:]
        piece = slice(first, last), slice(0, self.shape[1]), slice(0, self.shape[2])
        return rescale_piece(self.probabilities[classes, *needed(grid, self.shape, piece)], grid, self.shape, piece)

    def labels(self, counting: CountingSettings) -> NDArray[np.int32]:
        """Tell the cells apart: (Z, Y, X) int32, 0 = background, numbered from 1."""
        found = find_bodies(self.probabilities, counting, self.zoom, self.z_zoom, self.aspect)
        if found.shape == self.shape:
            return found
        near = expand_labels(found, _REACH, spacing=(self.aspect, 1, 1))
        labels = np.empty(self.shape, np.int32)
        nearest = rescale_labels(np.arange(len(near), dtype=np.int32)[:, None, None], (self.shape[0], 1, 1)).ravel()
        for first in range(0, self.shape[0], _SLAB):
            last = min(first + _SLAB, self.shape[0])
            background, inside = self.slab(first, last, slice(0, 2))
            is_cell = (1 - background > counting.edge_threshold) | (inside > counting.seed_threshold)
            drawn = rescale_labels(near[nearest[first:last]], (last - first, *self.shape[1:]))
            labels[first:last] = np.where(is_cell, drawn, 0)
        ids, places = np.unique(labels, return_inverse=True)  # a cell may be too small to be drawn
        return (places.reshape(self.shape) + (ids[0] > 0)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model finds in an image.

    Attributes
    ----------
    probabilities : (P, classes, Y, X) float32, or None
        Class 0 = background, 1 = inside of a cell, 2 (if any) = rim of a cell. None where they were not to be kept.
    labels : int32 array of the shape of the image (without channels)
        0 = background, cells are numbered from 1. What was given as `out`, if anything.
    zoom : float
        How many times larger cells are taken to be here, in pixels, than in the training images.
    cells : int
        How many.
    types : (cells + 1,) uint8, or None
        The type of each cell, from 1 on, where the model tells several apart; entry 0 is the background.
    n_types : int
        How many types the model knows.
    volumes : dict of int to VolumeMaps, or None
        What a model for volumes says of each volume, where it was to be kept.
    are_bodies : bool
        Cells go through slices: the model is one for volumes.
    """

    probabilities: NDArray[np.float32] | None
    labels: Any
    zoom: float
    cells: int
    types: NDArray[np.uint8] | None = None
    n_types: int = 1
    volumes: dict[int, VolumeMaps] | None = None
    are_bodies: bool = False

    @property
    def kinds(self) -> tuple[NDArray[np.uint8] | None, int, bool]:
        """Give what tables of cells ask beside the labels: types, n_types, are_bodies."""
        return self.types, self.n_types, self.are_bodies

    def labelled(self, counting: CountingSettings) -> NDArray[np.int32]:
        """Find the cells anew in the probabilities that were kept, with other thresholds; labels as in :attr:`labels`."""
        if self.volumes is not None:
            return label_volumes(self.volumes, counting, self.labels.shape)
        assert self.probabilities is not None
        return label_planes(together(self.probabilities, self.n_types), counting, self.zoom).reshape(self.labels.shape)


def label_volumes(volumes: dict[int, VolumeMaps], counting: CountingSettings, shape: Sequence[int]) -> NDArray[np.int32]:
    """Tell the cells apart anew: (..., Y, X) int32 of `shape`; ids go on from volume to volume."""
    labels = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), np.int32)
    top = 0
    for v, maps in sorted(volumes.items()):
        found = maps.labels(counting)
        labels[v * len(found) : (v + 1) * len(found)] = np.where(found > 0, found + top, 0)
        top += int(found.max(initial=0))
    return labels.reshape(shape)
