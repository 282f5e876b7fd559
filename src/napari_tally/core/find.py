"""From an image and a model to labelled cells: the one path of window, command line, Python, batch and benchmarks.

::

    how large are the cells? ──▶ for every tile: probabilities ──▶ hills ──▶ which hills are one cell ──▶ labels
    only a model that has                        predict.py        instances.py
    not seen such images asks

Nothing but the hills is kept of a tile, so that a slide needs no more memory than a tile, if its labels go to a file.
A model for volumes goes another way from here on: :mod:`~napari_tally.core.volumes`.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.cell_types import decide, shares, together
from napari_tally.core.devices import choose_device
from napari_tally.core.events import beside, is_out_of_memory, mapped, paced, saying
from napari_tally.core.images import Image
from napari_tally.core.instances import Hills, TileHills, climb_tile, find_instances, ring
from napari_tally.core.intensity import normalise
from napari_tally.core.model_file import Model
from napari_tally.core.predict import (
    Predictor,
    TileDone,
    looking,
    looking_at,
    part_done,
    predict_plane,
    require_channels,
    seen_by,
    to_channels,
)
from napari_tally.core.prediction import Prediction
from napari_tally.core.rescale import rescale, scaled_shape
from napari_tally.core.tiles import Region, grown, halved, middle
from napari_tally.core.volumes import find_in_volumes
from napari_tally.settings import CountingSettings, PredictionSettings

_SIDE = 1024
"""Pixels along a side, at most, of the middle of an image that tells how large its cells are."""
_ALONG = 4
"""Parts along a side, at most, among which another is looked for where the middle shows no cells."""
_SCALES = 0.5 ** (np.arange(4) / 2)
"""At which cells are measured: 1 and down, by the square root of two."""
_AGREES = 4 / 3
"""By so much cells may come out larger or smaller than the model knows them."""
_FEW = 3
"""Cells that tell a size."""
_SMALLEST = 64
"""Pixels along a side: tiles are not halved further where the memory is short."""
_NETWORK = 0.95
"""The part of the work on a tile that is the network's."""

TileResult = tuple[NDArray[np.int32], TileHills, NDArray[np.float32] | None]
"""The hills of the pixels of a tile, what there is to know of them, and the probabilities; None from elsewhere."""


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

    plane: int = 0
    region: Region = (slice(0), slice(0))
    labels: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))


def find_cells(
    model: Model,
    image: Image,
    settings: PredictionSettings | None = None,
    counting: CountingSettings | None = None,
    out: Any = None,
    keep: bool | None = None,
    next_tile: Callable[[int, list[Region]], int] | None = None,
    next_plane: Callable[[list[int]], int] | None = None,
    runner: Any = None,
    planes: Sequence[int] | None = None,
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
        Whether to keep the probabilities in memory. Left out: of images that are in memory themselves. Never with a runner.
    next_tile : callable, optional
        Gives the place, in a list of tiles of this plane that wait, of the one to come next. Left out: row by row. The order does
        not change the result.
    next_plane : callable, optional
        Gives the place, in a list of planes that wait, of the one to come next. Left out: one after the other. It does not change the
        result either.
    runner : optional
        Computes the tiles elsewhere; see :mod:`napari_tally.core.cluster`.
    planes : sequence of int, optional
        Look at these alone; the others have no cells then.

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
    model = looking_at(model, image, settings)
    require_channels(model, image)
    window = yield from looking(model, image)
    if model.settings.dimensions == 3:
        if runner:
            raise ValueError("A model for volumes is computed in one piece, on this machine. Leave out the workers and the scheduler.")
        keep = not image.is_lazy and out is None if keep is None else keep
        return (yield from find_in_volumes(model, image, settings, counting, window, out, keep, planes))
    if model.any_size and not settings.diameter:
        diameter = yield from estimate_diameter(model, image, settings, window)
        settings = replace(settings, diameter=diameter)
    work = TileWork(Predictor(model, image, settings, window), counting)
    planes, shape = list(range(len(image.planes)) if planes is None else planes), work.shape
    labels: Any = np.zeros((len(image.planes), *shape), np.int32) if out is None else out
    probabilities = None
    if runner is None and (not image.is_lazy and out is None if keep is None else keep):
        probabilities = np.zeros((len(image.planes), model.settings.classes, *shape), np.float32)
        probabilities[:, 0] = 1  # planes that are not looked at are background
    filling = _Filling(work, labels, probabilities, len(planes), runner)
    while planes:
        yield from filling.plane(planes.pop(next_plane(planes) if next_plane else 0), next_tile)
    types = yield from filling.number()
    n_types = model.settings.types
    labels = labels.reshape(image.shape) if out is None else out
    return Prediction(probabilities, labels, work.zoom, len(types) - 1, types if n_types > 1 else None, n_types)


class _Filling:
    """The labels of an image while they fill: hills tile by tile, cells plane by plane, and in the end ids that go on.

    Parameters
    ----------
    work : TileWork
    labels : (P, Y, X) array of ints
    probabilities : (P, classes, Y, X) float32 array, or None
    planes : int
        How many are to be filled.
    runner : optional
        Computes the tiles elsewhere.
    """

    def __init__(self, work: "TileWork", labels: Any, probabilities: NDArray[np.float32] | None, planes: int, runner: Any) -> None:
        self._work, self._labels, self._probabilities, self._planes, self._runner = work, labels, probabilities, planes, runner
        self._tiles = work.predictor.tiles()
        self._types: dict[int, NDArray[np.uint8]] = {}  # of the cells of each plane
        self._shifts: dict[int, int] = {}  # from the ids within a plane to those in the image

    @property
    def _total(self) -> int:
        """Tiles of all planes."""
        return self._planes * len(self._tiles)

    def plane(self, p: int, next_tile: Callable[[int, list[Region]], int] | None) -> Generator[TileDone, None, None]:
        """Fill a plane."""
        hills = Hills(self._work.counting, self._work.zoom)
        of_type: dict[int, NDArray[np.float64]] = {}  # how much of each type is in the hills, by the number of the first one
        waiting, done = list(range(len(self._tiles))), 0
        results = self._runner.run(self._work, p, self._tiles) if self._runner else None
        while waiting:
            before = len(self._types) * len(self._tiles) + done
            if results:
                n, (piece, top, found) = yield from mapped(next_of(results), partial(part_done, before, self._total))
                waiting.remove(n)
            else:
                n = waiting.pop(next_tile(p, [self._tiles[n] for n in waiting]) if next_tile else 0)
                try:
                    piece, top, found = yield from mapped(self._work.run(p, self._tiles[n]), partial(part_done, before, self._total))
                except (MemoryError, RuntimeError) as error:  # the network halves its part by itself, but the rest needs memory too
                    if not is_out_of_memory(error) or max(part.stop - part.start for part in self._tiles[n]) < _SMALLEST:
                        raise
                    self._tiles[n], other = halved(self._tiles[n])
                    self._tiles.append(other)
                    waiting[:0] = n, len(self._tiles) - 1
                    continue
            tile, done = self._tiles[n], done + 1
            if self._probabilities is not None and found is not None:
                self._probabilities[p][:, *tile] = found
            first = hills.add(top)
            piece = piece + first * (piece > 0)
            self._labels[p, *tile] = piece
            if top.shares is not None:
                of_type[first] = top.shares
            yield Piece(before + 1, self._total, plane=p, region=tile, labels=piece)
        yield from self._join(p, hills, of_type)

    def _join(self, p: int, hills: Hills, of_type: dict[int, NDArray[np.float64]]) -> Generator[TileDone, None, None]:
        """Make cells of the hills of a plane; their ids go on from those of the planes before it that are filled."""
        joining = TileDone((len(self._types) + 1) * len(self._tiles), self._total, "joining cells")
        cell_of = yield from saying(paced(hills.joining()), joining)
        sums = np.zeros((int(cell_of.max(initial=0)) + 1, self._work.predictor.types))
        for first, own in of_type.items():
            np.add.at(sums, cell_of[first + np.arange(1, len(own))], own[1:])
        self._types[p] = decide(sums)[1:]
        self._shifts[p] = sum(len(own) for q, own in self._types.items() if q < p)
        cell_of[cell_of > 0] += self._shifts[p]
        for tile in self._tiles:
            self._labels[p, *tile] = cell_of[self._labels[p, *tile]]
            yield joining

    def number(self) -> Generator[TileDone, None, NDArray[np.uint8]]:
        """Let ids go on from plane to plane, in their order, so that no id comes twice; give the type of each cell, 0 of id 0."""
        cells = 0
        for p in sorted(self._types):
            for tile in self._tiles if cells != self._shifts[p] else ():
                piece = self._labels[p, *tile]
                self._labels[p, *tile] = piece + np.asarray(cells - self._shifts[p]).astype(piece.dtype) * (piece > 0)
                yield TileDone(self._total, self._total, "numbering cells")
            cells += len(self._types[p])
        return np.concatenate([np.zeros(1, np.uint8), *(self._types[p] for p in sorted(self._types))])


@dataclass(frozen=True, eq=False)
class TileWork:
    """What is to be done with each tile, here or on another machine."""

    predictor: Predictor
    counting: CountingSettings

    @property
    def zoom(self) -> float:
        """How many times larger cells are taken to be than in the training images."""
        return self.predictor.model_scale / self.predictor.scale

    @property
    def shape(self) -> tuple[int, int]:
        """Size of a plane in pixels."""
        return self.predictor.image.shape[-2], self.predictor.image.shape[-1]

    def run(self, plane: int, tile: Region) -> Generator[float, None, TileResult]:
        """Give the hills of the pixels of a tile (numbered 1..n), what there is to know of them, and the probabilities."""
        known = grown(tile, ring(self.counting, self.zoom), self.shape)
        found = yield from mapped(self.predictor.tile(plane, known), lambda done: _NETWORK * done)
        types = self.predictor.types
        climbing = beside(climb_tile, together(found, types), known, tile, self.shape, self.counting, self.zoom)
        piece, top = yield from saying(climbing, _NETWORK)
        inner = tuple(slice(t.start - k.start, t.stop - k.start) for t, k in zip(tile, known, strict=True))
        if types > 1:
            top = replace(top, shares=shares(found[:, *inner], piece, types))
        return piece, top, found[:, *inner]


def next_of(results: Iterator[tuple[int, TileResult] | None]) -> Generator[float, None, tuple[int, TileResult]]:
    """Wait for the next tile that is computed elsewhere; None means that there is none yet."""
    while (result := next(results)) is None:
        yield 0.0
    return result


def estimate_diameter(
    model: Model, image: Image, settings: PredictionSettings, window: NDArray[np.float32]
) -> Generator[TileDone, None, float]:
    """Estimate how large the cells of an image are, seen through an intensity window (C, 2).

    The model looks at the middle of the image, or where that shows no cells at the part with most contrast, at four scales, and cells are
    measured at each. A scale agrees with itself where the cells that are found come out about as large as those the model knows. Of the
    scales that agree the longest run in a row is believed (where the network sees a cell much too large, pieces of it may by chance be as
    large as a cell; but hardly at two scales), and of this run the coarsest, where cells are least broken. Where none agrees, that which
    is nearest. There cells are about as large as they should be, so a second look with the model's own thresholds tells whether it is to
    be a step more or less.

    Returns
    -------
    float
        Diameter in pixels, to be used as :attr:`PredictionSettings.diameter`; that which the model knows best where fewer than 3 cells
        are found at every scale.
    """
    best, types = model.diameter * model.scale, model.settings.types
    network = model.copy().network.to(choose_device(settings.device))
    image, plane = seen_by(model, image), len(image.planes) // 2

    def look(picture: NDArray[np.float32], scale: float, counting: CountingSettings) -> Generator[TileDone, None, float]:
        """Give the typical diameter of what is found at a scale, in pixels of the image; NaN where that is too little."""
        part = picture[:, *middle(picture.shape, int(_SIDE / max(1.0, scale)))]  # what is enlarged would take long
        probabilities = yield from predict_plane(network, rescale(part, scaled_shape(part.shape, scale)), settings.tile)
        labels = find_instances(together(probabilities, types), counting, model.scale)
        areas = np.bincount(labels[labels > 0])[1:]
        return float(np.sqrt(4 / np.pi * np.median(areas)) / scale) if areas.size >= _FEW else math.nan

    def measure(part: tuple[slice, slice]) -> Generator[TileDone, None, tuple[NDArray[np.float32], list[float]]]:
        """Look at a part at every scale; give it as the network sees it, and the diameters."""
        picture = to_channels(normalise(image.read(plane, part), window), model.settings.channels)
        measured = []
        for scale in _SCALES:  # not with the model's own thresholds: what suits cells of the right size joins those that are seen too small
            measured.append((yield from look(picture, scale, CountingSettings())))
        return picture, measured

    picture, measured = yield from measure(middle(image.shape, _SIDE))
    if np.isnan(measured).all() and max(image.shape[-2:]) > _SIDE:
        livelier = yield from saying(beside(_liveliest, image, plane, window), TileDone(0, 1, "looking for cells"))
        picture, measured = yield from measure(livelier)
    steps = _steps(believed(measured, best) / best)
    again = yield from look(picture, 2 ** (-steps / 4), model.counting)
    if not math.isnan(again):
        steps = min(max(_steps(again / best), steps - 1), steps + 1)
    return best * 2 ** (steps / 4)


def _liveliest(image: Image, plane: int, window: NDArray[np.float32]) -> tuple[slice, slice]:
    """Find the part of a plane, as large as its middle that is looked at, with most contrast; of a large plane among a few."""
    starts = [np.linspace(0, max(0, n - _SIDE), min(_ALONG, math.ceil(n / _SIDE))).round().astype(int) for n in image.shape[-2:]]
    parts = [(slice(int(y), int(y) + _SIDE), slice(int(x), int(x) + _SIDE)) for y, x in product(*starts)]
    return max(parts, key=lambda part: float(normalise(image.read(plane, part)[:, ::4, ::4], window).std()))


def _steps(ratio: float) -> int:
    """Give a ratio in steps of 19 %, so that an image and a part of it are mostly seen at the same scale."""
    return round(4 * math.log2(ratio))


def believed(measured: Sequence[float], best: float) -> float:
    """Choose between the diameters that were measured at each of the scales; see :func:`estimate_diameter`.

    Parameters
    ----------
    measured : sequence of float
        Pixels of the image, one for each scale from 1 down by factors of the square root of two; NaN where there are too few cells.
    best : float
        The diameter in network pixels that the model knows best.
    """
    ratios = np.array(measured) * _SCALES[: len(measured)] / best
    if np.isnan(ratios).all():
        return best
    agrees = np.abs(np.log(ratios)) <= math.log(_AGREES)  # NaN does not
    if not agrees.any():
        return measured[int(np.nanargmin(np.abs(np.log(ratios))))]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], agrees, [False]])))
    runs = edges.reshape(-1, 2)  # first, and one behind the last
    longest = runs[np.argmax((runs[:, 1] - runs[:, 0]) + runs[:, 1] / 100)]  # of two as long the coarser
    return measured[longest[1] - 1]
