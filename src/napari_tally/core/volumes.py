"""Prediction of volumes: a network for three dimensions sees a z-stack as one, and every cell has one number through all slices.

::

    image voxels ─▶ network voxels ─▶ probabilities, tile by tile ─▶ cells ─▶ labels in image voxels
                    smaller: cells    with their exact halo          bodies.py
                    of about 16 px    (predict.py)

Cells are told apart in the voxels of the network, of which there are few, and drawn in those of the image: where the interpolated
probability says "cell", with the number of the nearest one.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import expand_labels

from napari_tally.core.bodies import find_bodies
from napari_tally.core.events import beside, mapped, saying
from napari_tally.core.images import Image
from napari_tally.core.model_file import Model
from napari_tally.core.predict import Predictor, TileDone, part_done
from napari_tally.core.rescale import needed, rescale_piece
from napari_tally.core.samples import rescale_labels
from napari_tally.settings import CountingSettings, PredictionSettings

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


def which_volumes(image: Image, planes: Sequence[int] | None = None) -> list[int]:
    """Give the numbers of the volumes that these planes are slices of; left out: of all."""
    return sorted({p // image.slices for p in (range(len(image.planes)) if planes is None else planes)})


def map_volume(predictor: Predictor, model: Model, v: int) -> Generator[TileDone, None, VolumeMaps]:
    """Run the network over one volume, tile by tile."""
    probabilities = np.empty((model.settings.classes, *predictor.grid), np.float32)
    tiles = predictor.network_tiles()
    for n, tile in enumerate(tiles):
        probabilities[:, *tile] = yield from mapped(predictor.network_tile(v, tile), partial(part_done, n, len(tiles)))
        yield TileDone(n + 1, len(tiles))
    zoom = predictor.model_scale  # thresholds are in pixels of the training images
    return VolumeMaps(probabilities, tuple(predictor.shape), zoom, model.z_scale, model.aspect)


def find_in_volumes(
    model: Model,
    image: Image,
    settings: PredictionSettings,
    counting: CountingSettings,
    out: Any = None,
    keep: bool = True,
    planes: Sequence[int] | None = None,
    window: NDArray[np.float32] | None = None,
) -> Generator[TileDone, None, "Found"]:
    """Find the cells of the volumes of an image, one volume after the other.

    Parameters
    ----------
    model, image, settings, counting, out, keep, planes
        As for :func:`napari_tally.core.find.find_cells`, which comes here with a model for volumes.
    window : (C, 2) float32, optional
        Intensities that become 0 and 1; left out: measured, or those of the model.

    Raises
    ------
    ValueError
        If the image is no z-stack, or has other channels than the model knows.
    """
    predictor = Predictor(model, image, settings, window)
    chosen, n = which_volumes(image, planes), image.slices
    plane_shape = image.shape[-2:]
    labels = np.zeros((len(image.planes), *plane_shape), np.int32) if out is None else out
    probabilities = None
    if keep:
        probabilities = np.zeros((len(image.planes), model.settings.classes, *plane_shape), np.float32)
        probabilities[:, 0] = 1
    maps, cells = {}, 0
    for number, v in enumerate(chosen):
        found = yield from mapped(map_volume(predictor, model, v), partial(part_done, number, len(chosen)))
        of_volume = yield from saying(beside(found.labels, counting), TileDone(number + 1, len(chosen), "telling cells apart"))
        for z, plane in enumerate(of_volume):
            labels[v * n + z, slice(None), slice(None)] = np.where(plane > 0, plane + cells, 0)
            if probabilities is not None:
                probabilities[v * n + z] = found.slab(z, z + 1)[:, 0]
        cells += int(of_volume.max(initial=0))
        if keep:
            maps[v] = found
        yield TileDone(number + 1, len(chosen))
    return Found(probabilities, labels, predictor.model_scale / predictor.scale, cells, maps)


@dataclass(frozen=True, eq=False)
class Found:
    """What :func:`find_in_volumes` gives; see :class:`napari_tally.core.find.Prediction`."""

    probabilities: NDArray[np.float32] | None
    labels: Any
    zoom: float
    cells: int
    volumes: dict[int, VolumeMaps]


def label_volumes(volumes: dict[int, VolumeMaps], counting: CountingSettings, shape: Sequence[int]) -> NDArray[np.int32]:
    """Tell the cells apart anew: (..., Y, X) int32 of `shape`; ids go on from volume to volume."""
    labels = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]), np.int32)
    top = 0
    for v, maps in sorted(volumes.items()):
        found = maps.labels(counting)
        labels[v * len(found) : (v + 1) * len(found)] = np.where(found > 0, found + top, 0)
        top += int(found.max(initial=0))
    return labels.reshape(shape)
