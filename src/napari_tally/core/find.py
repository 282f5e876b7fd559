"""From an image and a model to labelled cells: the one path of window, command line, Python, batch and benchmarks.

::

    how large are the cells? ──▶ for every tile: probabilities ──▶ hills ──▶ which hills are one cell ──▶ labels
    only a model that has                        predict.py        instances.py
    not seen such images asks

Nothing but the hills is kept of a tile, so that a slide needs no more memory than a tile, if its labels go to a file.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.devices import choose_device
from napari_tally.core.events import mapped
from napari_tally.core.images import Image, normalise
from napari_tally.core.instances import Hills, climb_tile, find_instances, ring
from napari_tally.core.model_file import WELL_KNOWN, Model
from napari_tally.core.predict import Predictor, TileDone, part_done, predict_plane, require_channels, window_for
from napari_tally.core.rescale import rescale
from napari_tally.core.samples import scaled_shape
from napari_tally.core.tiles import Region, grown
from napari_tally.settings import CountingSettings, PredictionSettings

_SIDE = 1024
"""Pixels along a side, at most, of the middle of an image that tells how large its cells are."""
_FEW = 3


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
    """

    probabilities: NDArray[np.float32] | None
    labels: Any
    zoom: float
    cells: int


@dataclass(frozen=True, eq=False)
class Piece(TileDone):
    """News: a tile is done and written to the labels, its hills not yet joined to cells.

    Attributes
    ----------
    plane : int
    region : (slice, slice)
        Rows and columns.
    labels : int32, size of region
    """

    plane: int
    region: Region
    labels: NDArray[np.int32]


def find_cells(
    model: Model,
    image: Image,
    settings: PredictionSettings | None = None,
    counting: CountingSettings | None = None,
    out: Any = None,
    keep: bool | None = None,
    next_tile: Callable[[int, list[Region]], int] | None = None,
) -> Generator[TileDone, None, Prediction]:
    """Find the cells of an image.

    Parameters
    ----------
    model : Model
    image : Image
        Lazy images are read tile by tile.
    settings : PredictionSettings, optional
    counting : CountingSettings, optional
        Left out: those of the model.
    out : (P, Y, X) array of an integer type of at least 32 bits, optional
        Gets the labels; a zarr array, for example. Left out: they stay in memory.
    keep : bool, optional
        Whether to keep the probabilities in memory. Left out: of images that are in memory themselves.
    next_tile : callable, optional
        Gives the place, in a list of tiles of this plane that wait, of the one to come next. Left out: row by row. The order does
        not change the result.

    Yields
    ------
    TileDone
        A :class:`Piece` after each tile. Walking away after any of them is safe; `out` holds the hills of the tiles that are done.

    Raises
    ------
    ValueError
        If the model was trained on other channels, or the file cannot be read somewhere.
    """
    settings, counting = settings or PredictionSettings(), counting or model.counting
    require_channels(model, image)
    if model.any_size and not settings.diameter:
        diameter = yield from estimate_diameter(model, image, settings)
        settings = replace(settings, diameter=diameter)
    predictor = Predictor(model, image, settings)
    zoom = model.scale / predictor.scale
    planes, (height, width) = len(image.planes), image.shape[-2:]
    labels = np.zeros((planes, height, width), np.int32) if out is None else out
    keep = not image.is_lazy and out is None if keep is None else keep
    probabilities = np.empty((planes, model.settings.classes, height, width), np.float32) if keep else None
    tiles = predictor.tiles()
    total, done, cells = planes * len(tiles), 0, 0
    for p in range(planes):
        hills, waiting = Hills(counting, zoom), list(tiles)
        while waiting:
            tile = waiting.pop(next_tile(p, waiting) if next_tile else 0)
            known = grown(tile, ring(counting, zoom), (height, width))
            found = yield from mapped(predictor.tile(p, known), partial(part_done, done, total))
            if probabilities is not None:
                inner = (slice(t.start - k.start, t.stop - k.start) for t, k in zip(tile, known, strict=True))
                probabilities[p][:, *tile] = found[:, *inner]
            piece, tops = climb_tile(found, known, tile, (height, width), counting, zoom)
            piece[piece > 0] += hills.add(tops)
            labels[p, *tile] = piece
            done += 1
            yield Piece(done, total, p, tile, piece)
        cell_of = hills.cells()
        number = int(cell_of.max(initial=0))
        cell_of[cell_of > 0] += cells  # ids go on from plane to plane, so no id comes twice
        for tile in tiles:
            labels[p, *tile] = cell_of[labels[p, *tile]]
        cells += number
    return Prediction(probabilities, labels.reshape(image.shape) if out is None else out, zoom, cells)


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
    network = model.copy().network.to(choose_device(settings.device))
    window = window_for(model, image)
    height, width = image.shape[-2:]
    middle = (slice(max(0, n - _SIDE) // 2, max(0, n - _SIDE) // 2 + min(n, _SIDE)) for n in (height, width))
    picture = normalise(image.read(len(image.planes) // 2, (next(middle), next(middle))), window)
    if len(picture) < model.settings.channels:
        picture = np.repeat(picture, model.settings.channels, axis=0)  # grey is repeated
    sure, diameter = -1.0, best
    for scale in (1.0, 0.5):
        probabilities = yield from predict_plane(network, rescale(picture, scaled_shape(picture.shape, scale)), settings.tile)
        labels = find_instances(probabilities, model.counting, model.scale)
        cells = labels > 0
        areas = np.bincount(labels[cells])[1:]
        if areas.size >= _FEW and (sureness := float(probabilities.max(0)[cells].mean())) > sure:
            sure, diameter = sureness, float(np.sqrt(4 / np.pi * np.median(areas))) / scale
    low, high = WELL_KNOWN
    return diameter if not low <= diameter / best <= high else best
