"""Predict and count images of the viewer on a worker thread: the work behind *Predict and count*.

::

    find      layers, a model ──▶ Progress, Filling (labels of a slide as they come), Results after each image
    decide    other thresholds ──▶ Results: probabilities are kept, the network does not run again
    mended    labels that were mended by hand ──▶ one result
"""

import shutil
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
from napari.layers import Image as ImageLayer
from numpy.typing import NDArray

from napari_tally.core.cell_types import types_of_cells, with_types
from napari_tally.core.counting import measure_cells, measuring_cells, planes_remark
from napari_tally.core.events import beside, mapped, paced, saying
from napari_tally.core.images import Image
from napari_tally.core.label_files import fingerprint_labels
from napari_tally.core.lazy import LabelsZarr
from napari_tally.settings import CountingSettings, PredictionSettings
from napari_tally.widgets._gaze import Gaze
from napari_tally.widgets._layers import image_from_layer, what_is_odd

if TYPE_CHECKING:
    from napari_tally.core.model_file import Model
    from napari_tally.core.predict import TileDone
    from napari_tally.core.prediction import Prediction


_SHOWN_TILE = 2048
"""Pixels along a side of the tiles of a large image: small enough to see the first one soon."""

_MANY = 500
"""More cells than this and their shapes are measured when they are saved, not at every change of a threshold."""


@dataclass(frozen=True)
class Run:
    """What gave a prediction."""

    model: "Model"
    name: str
    source: str
    settings: PredictionSettings
    pixel_size: float = 0.0
    """In um, as it was stated then; 0 = as the layers say. Models that know the size of their pixels look at an image by it."""
    began: float = field(default_factory=time.monotonic)
    """When, on the clock that only goes forward."""


@dataclass(frozen=True, eq=False)
class Counted:
    """What was found in an image.

    Attributes
    ----------
    layer : napari.layers.Image
    image : Image
        What the layer held.
    found : Prediction
        Probabilities and labels.
    counting : CountingSettings
        The thresholds that gave the labels.
    diameter : float
        Median diameter of the training cells in pixels.
    cells : pandas.DataFrame
        One row a cell; see :mod:`napari_tally.core.counting`. As measured: the rules are applied in `_results.py`.
    run : Run
        The model, what it is called, and how it was run.
    remark : str
        Whether the image is unlike those that the model was trained on; "" = it is not, or that is not known.
    is_mended : bool
        Cells were mended by hand since.
    planes : tuple of int, or None
        The planes of a stack that were looked at (of volumes their first slices); None = all.
    """

    layer: ImageLayer
    image: Image
    found: "Prediction"
    counting: CountingSettings
    diameter: float
    cells: pd.DataFrame
    run: Run
    remark: str = ""
    is_mended: bool = False
    as_found: str = ""
    """Fingerprint of the labels as the model gave them, of those in memory; see :func:`mended`."""
    planes: tuple[int, ...] | None = None

    @property
    def goes_by_size(self) -> bool:
        """Whether other cells might have been found, had the layer had another pixel size."""
        return self.found.are_bodies or bool(self.run.model.pixel_size and not self.run.pixel_size)

    @property
    def remarks(self) -> tuple[str, str, str]:
        """What the user should know of the image: what is odd about the file, about its slices, about the picture; "" = nothing."""
        planes = planes_remark(self.image, self.found.are_bodies) if self.planes is None else ""
        return self.image.note, planes, self.remark

    def only(self, table: pd.DataFrame) -> pd.DataFrame:
        """Leave out what a table says of planes that nobody looked at."""
        return table if self.planes is None else table[table["plane"].isin(self.planes)].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Filling:
    """News: the labels of a large image or a stack fill, tile by tile, in the order in which the user looks."""

    layer: ImageLayer
    labels: Any


@dataclass(frozen=True)
class Progress:
    """News: this fraction of the work is done."""

    fraction: float
    doing: str


@dataclass(frozen=True, eq=False)
class Results:
    """News: the images that are counted by now."""

    counted: tuple[Counted, ...]


def find(
    run: Run, layers: Sequence[ImageLayer], counting: CountingSettings, gaze: "Gaze", only: Mapping[ImageLayer, int] | None = None
) -> Generator[Progress | Filling | Results, None, list[str]]:
    """Predict and count images on the worker thread; give the reasons for those that could not be used, if others could.

    With `only`, of each image one plane alone.
    """
    from napari_tally.core.find import find_cells
    from napari_tally.core.predict import looking_at, require_channels

    counted: list[Counted] = []
    refused: list[str] = []
    for n, layer in enumerate(layers):
        yield Progress(n / len(layers), f"{_which(n, len(layers))}reading")
        try:
            image = image_from_layer(layer)
            planes = None if only is None else [only[layer]]
            out: Any = None
            how, shown = run.settings, None
            require_channels(looking_at(run.model, image, how), image)  # before there is a layer to fill
            if image.is_lazy:
                odd = yield from saying(beside(what_is_odd, layer), Progress(n / len(layers), f"{_which(n, len(layers))}reading"))
                image = replace(image, note=odd)
                folder = Path(mkdtemp(prefix="napari-tally-"))
                out = LabelsZarr(folder / "labels.zarr", image.shape)
                weakref.finalize(out.array, shutil.rmtree, folder, ignore_errors=True)  # when its layer is gone
                how = how if how.tile else replace(how, tile=_SHOWN_TILE)
            elif image.leading and only is None:
                out = np.zeros((len(image.planes), *image.shape[-2:]), np.int32)
            if out is not None:
                shown = to_show(out, image)
                yield Filling(layer, shown)
            looks = {"next_tile": partial(gaze.nearest, layer), "next_plane": partial(gaze.nearest_plane, layer)}
            stated = image.calibrated(run.pixel_size)
            work = find_cells(run.model, stated, how, counting, out=out, keep=not image.is_lazy, planes=planes, **looks)
            found = yield from _fill_in(work, partial(_progress, n, len(layers)), layer, shown)
            if isinstance(out, np.ndarray):
                found = replace(found, labels=shown)
            counted.append((yield from mapped(_count(layer, image, found, counting, run, planes), partial(_progress, n, len(layers)))))
        except ValueError as error:
            refused.append(str(error))
            continue
        yield Results(tuple(counted))
    if refused and not counted:
        raise ValueError(refused[0])
    return refused


def _fill_in(
    work: "Generator[TileDone, None, Prediction]", progress: Any, layer: ImageLayer, shown: Any
) -> "Generator[Progress | Filling, None, Prediction]":
    """Hand on the progress, and say so when a tile of a large image is there."""
    from napari_tally.core.find import Piece

    while True:
        try:
            event = next(work)
        except StopIteration as end:
            result: Prediction = end.value
            return result
        if shown is not None and isinstance(event, Piece):
            yield Filling(layer, shown)
        yield progress(event)


def _progress(n: int, images: int, tile: "TileDone") -> Progress:
    """Turn news of one image into news of all images."""
    doing = tile.doing or f"tile {min(int(tile.done) + 1, tile.total)} of {tile.total}"
    return Progress((n + tile.done / tile.total) / images, _which(n, images) + doing)


def _which(n: int, images: int) -> str:
    return f"image {n + 1} of {images}, " if images > 1 else ""


def _count(
    layer: ImageLayer, image: Image, found: "Prediction", counting: CountingSettings, run: Run, planes: Sequence[int] | None = None
) -> "Generator[TileDone, None, Counted]":
    from napari_tally.core.predict import TileDone, aside
    from napari_tally.core.range import judging

    measuring = measuring_cells(found.labels, image, shapes=found.cells <= _MANY, are_bodies=found.are_bodies)
    cells = with_types((yield from aside(1, "measuring cells", measuring)), found.types, found.n_types)
    if planes is not None and found.are_bodies:
        planes = sorted({p - p % image.slices for p in planes})
    comparing = judging(run.model, image.calibrated(run.pixel_size), found, run.settings, counting)
    remark = yield from saying(comparing, TileDone(1, 1, "comparing with the training images"))
    told = None if planes is None else tuple(planes)
    as_found = yield from saying(beside(_print_of, found.labels), TileDone(1, 1, "measuring cells"))
    return Counted(layer, image, found, counting, run.model.diameter, cells, run, remark, planes=told, as_found=as_found)


def _print_of(labels: Any) -> str:
    """Give the fingerprint of labels in memory; those in files cannot be mended."""
    return fingerprint_labels(labels) if isinstance(labels, np.ndarray) else ""


def decide(stale: Sequence[Counted], counting: CountingSettings) -> Generator[Results, None, None]:
    """Find the cells anew with other thresholds, on the worker thread."""
    counted: list[Counted] = []
    for old in stale:
        assert old.found.probabilities is not None
        probabilities, n = old.found.probabilities, old.found.n_types
        finding = beside(old.found.labelled, counting)
        labels = yield from saying(finding, Results(tuple(counted)))
        types = types_of_cells(probabilities, labels.reshape(-1, *labels.shape[-2:]), n) if n > 1 else None
        number = int(labels.max(initial=0))
        found = replace(old.found, labels=labels, types=types, cells=number)
        measuring = measuring_cells(found.labels, old.image, shapes=number <= _MANY, are_bodies=found.are_bodies)
        cells = with_types((yield from saying(paced(measuring), Results(tuple(counted)))), types, n)
        as_found = yield from saying(beside(_print_of, labels), Results(tuple(counted)))
        counted.append(replace(old, found=found, counting=counting, cells=cells, is_mended=False, as_found=as_found))
        yield Results(tuple(counted))


def mended(known: Counted, labels: NDArray[np.integer]) -> Counted:
    """Count what was mended by hand in the labels; where all of it was undone, they are as they were found."""
    found, n = known.found, known.found.n_types
    types = None
    if n > 1 and found.probabilities is not None:
        types = types_of_cells(found.probabilities, labels.reshape(-1, *labels.shape[-2:]), n)
    number = len(np.unique(labels[labels > 0]))
    cells = with_types(measure_cells(labels, known.image, shapes=number <= _MANY, are_bodies=found.are_bodies), types, n)
    found = replace(found, labels=labels, types=types, cells=number)
    return replace(known, found=found, cells=cells, is_mended=_print_of(labels) != known.as_found)


def mend(known: Sequence[tuple[Counted, NDArray[np.integer]]]) -> Generator[None, None, list[Counted]]:
    """Count what was mended by hand, on the worker thread; the labels are copies, for the user goes on."""
    counted = []
    for one, labels in known:
        counted.append((yield from beside(mended, one, labels)))
    return counted


def to_show(labels: Any, image: Image) -> Any:
    """Give labels in the shape of the image, as a layer takes them; they stay where they are."""
    if not isinstance(labels, LabelsZarr):
        return labels if labels.shape == image.shape else labels.reshape(image.shape)
    if labels.array.ndim == len(image.shape):
        return labels.array
    return da.from_array(labels.array, chunks=labels.array.chunks, name=False).reshape(image.shape)
