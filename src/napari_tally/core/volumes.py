"""Prediction of volumes: a network for three dimensions sees a z-stack as one, and every cell has one number through all slices.

::

    image voxels ─▶ network voxels ─▶ probabilities, tile by tile ─▶ cells ─▶ labels in image voxels
                    smaller: cells    with their exact halo          bodies.py
                    of about 16 px    (predict.py)
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.events import beside, mapped, saying
from napari_tally.core.images import Image
from napari_tally.core.model_file import Model
from napari_tally.core.predict import Predictor, TileDone, part_done
from napari_tally.core.prediction import Prediction, VolumeMaps
from napari_tally.settings import CountingSettings, PredictionSettings


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
    window: NDArray[np.float32],
    out: Any = None,
    keep: bool = True,
    planes: Sequence[int] | None = None,
) -> Generator[TileDone, None, Prediction]:
    """Find the cells of the volumes of an image, one volume after the other.

    Parameters
    ----------
    model, image, settings, counting, out, keep, planes
        As for :func:`napari_tally.core.find.find_cells`, which comes here with a model for volumes.
    window : (C, 2) float32
        Intensities that become 0 and 1.

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
    labels = labels.reshape(image.shape) if out is None else out
    zoom = predictor.model_scale / predictor.scale
    return Prediction(probabilities, labels, zoom, cells, volumes=maps if keep else None, are_bodies=True)
