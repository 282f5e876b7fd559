"""Is an image like those that the model was trained on? A small fingerprint of these, and a plain warning where it is not.

An image is eight numbers, measured on its middle as the network sees it, none of which depends on exposure, gain or zoom::

    certainty    how far from 1/2 the probability of "cell" is, where it is not plainly background
    sharpness    fine against coarse structure (log ratio of two band-passes)
    brightness   median, between the dark and the bright end
    contrast     cells against the rest
    share        of the pixels that cells cover (log)
    size         median diameter of a cell in pixels of the network (log)
    variety      of the areas (standard deviation of the log)
    solidity     area / convex hull, median of the cells

The fingerprint holds these numbers for the training images. A new image is judged by its distance to the nearest of them, so that of a
model that knows several kinds of images each is compared with its own. One unit of each number is about what images of one kind differ by;
the units were chosen on nuclei and phase contrast (`benchmarks/fingerprint.py` measures what comes of them).
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import regionprops
from skimage.segmentation import relabel_sequential

from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.images import Image
from napari_tally.core.intensity import normalise
from napari_tally.core.model_file import Model
from napari_tally.core.predict import TileDone, looking, looking_at, seen_by, window_for
from napari_tally.core.prediction import Prediction
from napari_tally.core.rescale import rescale
from napari_tally.core.tiles import middle
from napari_tally.settings import CountingSettings, Device, PredictionSettings

KEY = "range"
"""Where the fingerprint stands in the record of a model."""
_SIDE = 1024
"""Pixels along a side, at most, of the middle of an image that is measured."""
_KEPT_OUT = 512
"""The same, where the probabilities were not kept and must be computed again."""
_FEW = 3
"""Fewer cells say nothing of size and shape."""
_MOST = 256
"""Training images that a fingerprint keeps at most."""
_SHAPES = 60
"""Cells, at most, whose shape is measured."""
_SLACK = 1.25
"""An image may be so many times as far from the training images as all but 1 % of these are from each other."""
_LEAST = 4.0
"""... and so far in any case."""
_WORTH_A_WORD = 0.5
"""So many units beyond all training images a number must be to be named."""
_ALONE = 6.0
"""Of one training image little is known, so other images may be so far from it."""

# name: (one unit, what to say where it is low, where it is high)
_NUMBERS: dict[str, tuple[float, str, str]] = {
    "certainty": (0.03, "the model is unsure of what is a cell", ""),
    "sharpness": (0.20, "the image is less sharp", "the image is sharper or noisier"),
    "brightness": (0.10, "the image is mostly darker", "the image is mostly brighter"),
    "contrast": (0.15, "cells are darker against their surroundings", "cells are brighter against their surroundings"),
    "share": (1.00, "", "cells cover far more of the image"),
    "size": (0.20, "cells are smaller", "cells are larger"),
    "variety": (0.20, "cells are more alike in size", "cells differ more in size"),
    "solidity": (0.02, "the shapes found are more ragged or bent", "the shapes found are rounder"),
}
NAMES = tuple(_NUMBERS)
UNITS = np.array([number[0] for number in _NUMBERS.values()])


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What the images were like that a model was trained on.

    Attributes
    ----------
    points : (N, 8) float array
        The numbers of each image in the order of :data:`NAMES`; NaN where there were too few cells to say.
    limit : float
        The largest distance that is not worth a warning.
    """

    points: NDArray[np.float64]
    limit: float

    def as_dict(self) -> dict[str, Any]:
        """Give JSON values, rounded."""
        points = [[None if np.isnan(v) else round(float(v), 3) for v in point] for point in self.points]
        return {
            "numbers": list(NAMES),
            "points": points,
            "limit": round(self.limit, 3),
        }


def measure(model: Model, image: Image, found: Prediction, window: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """Give the eight numbers of an image, (8,) float; NaN where there are too few cells to say.

    Parameters
    ----------
    model : Model
    image : Image
    found : Prediction
        What this model found in it, with the probabilities.
    window : (C, 2) float32, optional
        That of the image, where it is known.
    """
    assert found.probabilities is not None
    p = len(image.planes) // 2
    rows, columns = middle(image.shape, _SIDE)
    window = window_for(model, image) if window is None else window
    grey = normalise(seen_by(model, image).read(p, (rows, columns)), window).mean(axis=0)
    cell = 1 - np.asarray(found.probabilities[p][0, rows, columns], np.float32)
    labels = np.asarray(found.labels).reshape(-1, *image.shape[-2:])[p][rows, columns]
    inside, maybe, scale = cell > 0.5, cell > 0.1, model.scale / found.zoom
    numbers = dict.fromkeys(NAMES, float("nan"))
    numbers["certainty"] = float(np.abs(2 * cell[maybe] - 1).mean()) if maybe.any() else 1.0
    numbers["share"] = float(np.log(inside.mean() + 0.002))
    cells = regionprops(relabel_sequential(np.maximum(labels, 0))[0])  # those of a middle may have high ids, which it would walk through
    if len(cells) >= _FEW:
        seen = rescale(grey[None], (max(8, round(grey.shape[0] * scale)), max(8, round(grey.shape[1] * scale))))[0]
        fine, medium, coarse = (ndi.gaussian_filter(seen, sigma) for sigma in (0.7, 1.4, 2.8))
        coarser = ndi.gaussian_filter(seen, 5.6)
        areas = np.array([found.area for found in cells], float)
        numbers["sharpness"] = float(np.log(((fine - medium).std() + 1e-3) / ((coarse - coarser).std() + 1e-3)))
        numbers["brightness"] = float(np.median(grey))
        numbers["contrast"] = float(grey[inside].mean() - grey[~inside].mean()) if inside.any() and not inside.all() else 0.0
        numbers["size"] = float(np.log(np.sqrt(4 / np.pi * np.median(areas)) * scale))
        numbers["variety"] = float(np.log(areas).std())
        chosen = cells[:: -(-len(cells) // _SHAPES)]
        numbers["solidity"] = float(np.median([found.solidity for found in chosen]))
    return np.array(list(numbers.values()))


def fingerprint(points: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> Fingerprint:
    """Make the fingerprint of training images from their numbers.

    Parameters
    ----------
    points : (N, 8) floats
        From :func:`measure`; at least one. Of more than 256 so many are kept.
    """
    known = np.asarray(points, float)
    apart = [distance(Fingerprint(np.delete(known, i, axis=0), 0.0), point) for i, point in enumerate(known)] if len(known) > 1 else []
    limit = max(_LEAST, _SLACK * float(np.percentile(apart, 99))) if apart else _ALONE
    if len(known) > _MOST:
        known = known[np.sort(np.random.default_rng(0).choice(len(known), _MOST, replace=False))]
    return Fingerprint(known, limit)


def distance(known: Fingerprint, point: NDArray[np.float64]) -> float:
    """Give how far a point (8,) is from the nearest training image, in units.

    A model that is surer, or a share of cells that is smaller, than in training is no difference: so it is in an empty well.
    An image with cells is compared with training images that have cells, for all else is unknown of an empty one.
    """
    point, points = point.copy(), known.points
    size = NAMES.index("size")
    with_cells = ~np.isnan(points[:, size])
    if not np.isnan(point[size]) and with_cells.any():
        points = points[with_cells]
    for name, limit in (("certainty", np.nanmax), ("share", np.nanmin)):
        i = NAMES.index(name)
        bound = limit(points[:, i])
        point[i] = min(point[i], bound) if name == "certainty" else max(point[i], bound)
    apart = np.nan_to_num((point - points) / UNITS)
    return float(np.sqrt((apart**2).sum(axis=1)).min())


def fingerprint_of(model: Model) -> Fingerprint | None:
    """Give the fingerprint in the record of a model; None where there is none, or one of another version."""
    stored = model.record.get(KEY)
    if not isinstance(stored, dict) or stored.get("numbers") != list(NAMES):
        return None
    try:  # the record comes with the file
        points = np.array([[float("nan") if v is None else v for v in point] for point in stored["points"]], float).reshape(-1, len(NAMES))
        return Fingerprint(points, float(stored["limit"])) if len(points) else None
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def judging(
    model: Model, image: Image, found: Prediction, settings: PredictionSettings | None = None, counting: CountingSettings | None = None
) -> Generator[TileDone, None, str]:
    """Say so where an image shows nothing, or is unlike those that the model was trained on; "" where it is like them.

    Parameters
    ----------
    model : Model
    image : Image
    found : Prediction
        What this model found in it.
    settings, counting : optional
        How it was found: of a large image the middle is looked at once more.
    """
    if not found.cells and not image.is_lazy and (value := image.planes.min()) == image.planes.max():
        return f"All pixels of this image have one value, {value}: there is nothing to see in it."
    known = fingerprint_of(model)
    if known is None:
        return ""
    model = looking_at(model, image, settings)
    if found.probabilities is None:  # of a slide they are not kept: look at its middle once more
        image = middle_of(image, _KEPT_OUT)
        how = replace(settings or PredictionSettings(), channels="", diameter=np.nan_to_num(model.diameter) * found.zoom)
        found = yield from find_cells(model, image, how, counting, keep=True)
    point = measure(model, image, found, (yield from looking(model, image)))
    far = distance(known, point)
    if far <= known.limit:
        return ""
    why = "".join(f"; {word}" for word in words_of(known.points, point) or ["none of them has this mix of brightness, contrast and shapes"])
    return (
        f"This image is unlike those that the model was trained on (distance {far:.1f}, usual are up to {known.limit:.1f}){why}. "
        "Look at the cells before you trust the count. To mend it, annotate an image like this one and train on."
    )


def words_of(known: NDArray[np.float64], point: NDArray[np.float64]) -> list[str]:
    """Say in which numbers a point (8,) lies outside those of all known images (N, 8), in at most three phrases, the largest first."""
    beyond = np.zeros(len(NAMES))
    for i in range(len(NAMES)):
        told = known[~np.isnan(known[:, i]), i]
        if len(told) and not np.isnan(point[i]):
            beyond[i] = (point[i] - np.clip(point[i], told.min(), told.max())) / UNITS[i]
    chosen = [int(i) for i in np.argsort(-np.abs(beyond)) if abs(beyond[i]) > _WORTH_A_WORD][:3]
    words = [str(_NUMBERS[NAMES[i]][1 if beyond[i] < 0 else 2]) for i in chosen]
    return [word for word in words if word]


def fingerprint_images(model: Model, images: Iterable[Image], side: int = _SIDE, device: Device = "auto") -> Fingerprint:
    """Predict images (of each the middle, at most `side` pixels wide) and make their fingerprint."""
    how = PredictionSettings(device=device)
    return fingerprint(
        [measure(model, middle, run_to_end(find_cells(model, middle, how))) for middle in (middle_of(image, side) for image in images)]
    )


def middle_of(image: Image, side: int) -> Image:
    """Cut the middle out of the middle plane."""
    return replace(image, planes=image.read(len(image.planes) // 2, middle(image.shape, side))[None], leading=())
