"""From an image and a model to labelled cells: the one path of window, command line, Python and benchmarks.

::

    how large are the cells? ──▶ probabilities ──▶ labels
    only a model that has         predict.py       instances.py
    not seen such images asks
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.devices import choose_device
from napari_tally.core.images import Image, normalise
from napari_tally.core.instances import find_instances, label_planes
from napari_tally.core.model_file import WELL_KNOWN, Model
from napari_tally.core.predict import TileDone, predict, predict_plane, require_channels, to_network, window_for, working_scale
from napari_tally.core.samples import scaled_shape
from napari_tally.settings import CountingSettings, PredictionSettings

_SIDE = 1024
"""Pixels along a side, at most, of the middle of an image that tells how large its cells are."""
_FEW = 3


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model finds in an image.

    Attributes
    ----------
    probabilities : (P, classes, Y, X) float32
        Class 0 = background, 1 = inside of a cell, 2 (if any) = rim of a cell.
    labels : int32 array of the shape of the image (without channels)
        0 = background, cells are numbered from 1.
    zoom : float
        How many times larger cells are taken to be here, in pixels, than in the training images.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int32]
    zoom: float


def find_cells(
    model: Model, image: Image, settings: PredictionSettings | None = None, counting: CountingSettings | None = None
) -> Generator[TileDone, None, Prediction]:
    """Find the cells of an image.

    Parameters
    ----------
    model : Model
        Its network must not be trained meanwhile.
    image : Image
    settings : PredictionSettings, optional
    counting : CountingSettings, optional
        Left out: those of the model.

    Yields
    ------
    TileDone
        Walking away after any of them is safe.

    Raises
    ------
    ValueError
        If the model was trained on other channels, or a tile does not fit the network.
    """
    settings = settings or PredictionSettings()
    require_channels(model, image)
    if model.any_size and not settings.diameter:
        diameter = yield from estimate_diameter(model, image, settings)
        settings = replace(settings, diameter=diameter)
    probabilities = yield from predict(model, image, settings)
    zoom = model.scale / working_scale(model, image, settings)
    labels = label_planes(probabilities, counting or model.counting, zoom)
    return Prediction(probabilities, labels.reshape(image.shape), zoom)


def estimate_diameter(model: Model, image: Image, settings: PredictionSettings) -> Generator[TileDone, None, float]:
    """Estimate how large the cells of an image are.

    The model looks at the middle of the image in full and in half size. Where it is surer of what it finds (the mean of the highest
    probability over the pixels of cells), the cells are measured.

    Returns
    -------
    float
        Diameter in pixels, to be used as :attr:`PredictionSettings.diameter`: that which the model knows best, unless the cells are
        much larger or smaller.
    """
    best = model.diameter * model.scale
    network = model.network.to(choose_device(settings.device)).eval()
    window = window_for(model, image)
    plane = image.planes[len(image.planes) // 2]
    corner = [max(0, (n - _SIDE) // 2) for n in plane.shape[1:]]
    middle = normalise(plane[:, corner[0] : corner[0] + _SIDE, corner[1] : corner[1] + _SIDE], window)
    sure, diameter = -1.0, best
    try:
        for scale in (1.0, 0.5):
            picture = to_network(model, middle, scaled_shape(middle.shape, scale))
            probabilities = yield from predict_plane(network, picture, settings.tile)
            labels = find_instances(probabilities, model.counting, model.scale)
            cells = labels > 0
            areas = np.bincount(labels[cells])[1:]
            if areas.size >= _FEW and (sureness := float(probabilities.max(0)[cells].mean())) > sure:
                sure, diameter = sureness, float(np.sqrt(4 / np.pi * np.median(areas))) / scale
    finally:
        model.network.to("cpu")
    low, high = WELL_KNOWN
    return diameter if not low <= diameter / best <= high else best
