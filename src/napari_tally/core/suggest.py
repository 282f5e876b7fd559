"""Which image to annotate next: the ones of which the model is unsure, and that are unlike what it knows and unlike each other.

::

    score = how unsure the model is of its cells          in units of core/range.py, above the surest image
          + how far the image is from the nearest of those that are annotated, or suggested before it

One after the other is chosen (greedy), so that ten suggestions are not ten times the same well.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.find import find_cells
from napari_tally.core.images import Image
from napari_tally.core.model_file import Model
from napari_tally.core.predict import TileDone
from napari_tally.core.range import NAMES, UNITS, Fingerprint, distance, fingerprint_of, measure, middle_of, words_of

_SIDE = 512
"""Pixels along a side, at most, of the middle of an image that is looked at."""
_CERTAINTY = NAMES.index("certainty")


@dataclass(frozen=True)
class Suggestion:
    """An image to annotate.

    Attributes
    ----------
    name : str
    place : int
        Where it stands among the images given, from 0 on.
    score : float
        The higher, the sooner.
    certainty : float
        How far the probability is from 1/2 where it is not plainly background, 0 to 1.
    distance : float
        To the nearest image that is annotated or suggested before it; NaN where there is none.
    reason : str
        Why, in words.
    """

    name: str
    place: int
    score: float
    certainty: float
    distance: float
    reason: str


def look_at(model: Model, image: Image) -> Generator[TileDone, None, NDArray[np.float64]]:
    """Predict the middle of an image and give its numbers (8,), see :mod:`napari_tally.core.range`."""
    if model.settings.dimensions == 3:
        raise ValueError("Images are put in order by models for planes only, and this one is for volumes.")
    middle = middle_of(image, _SIDE)
    found = yield from find_cells(model, middle, keep=True)
    return measure(model, middle, found)


def suggest(model: Model, names: Sequence[str], points: Sequence[NDArray[np.float64]], number: int = 10) -> list[Suggestion]:
    """Put images in the order in which to annotate them.

    Parameters
    ----------
    model : Model
        The fingerprint of its training images stands for what is annotated already.
    names : sequence of str
        Of the images.
    points : sequence of (8,) floats
        From :func:`look_at`, in the same order.
    number : int
        How many to suggest at most.

    Returns
    -------
    list of Suggestion
        The first is the most useful.
    """
    start = fingerprint_of(model)
    known = np.empty((0, len(NAMES))) if start is None else start.points
    all_points = np.asarray(points, float).reshape(-1, len(NAMES))
    certainty = all_points[:, _CERTAINTY]
    unsure = (certainty.max(initial=0) - certainty) / UNITS[_CERTAINTY]
    left = list(range(len(all_points)))
    chosen: list[Suggestion] = []
    while left and len(chosen) < number:
        far = {i: distance(Fingerprint(known, 0.0), all_points[i]) if len(known) else float("nan") for i in left}
        scores = {i: float(unsure[i] + np.nan_to_num(far[i])) for i in left}
        best = max(left, key=lambda i: scores[i])
        reason = _reason(float(unsure[best]), far[best], known, all_points[best], float(np.median(certainty)))
        chosen.append(Suggestion(names[best], best, scores[best], float(certainty[best]), far[best], reason))
        left.remove(best)
        known = np.vstack([known, all_points[best]])
    return chosen


def _reason(unsure: float, far: float, known: NDArray[np.float64], point: NDArray[np.float64], usual: float) -> str:
    """Say what speaks for an image: what weighs more comes first."""
    certainty, plain = point[_CERTAINTY], point.copy()
    plain[_CERTAINTY] = np.nan  # it has its own sentence
    others, parts = words_of(known, plain), []
    if certainty < usual:
        parts.append((unsure, f"the model is unsure of its cells ({certainty:.2f}, half of the images are above {usual:.2f})"))
    if np.nan_to_num(far) > 1:
        parts.append((far, "it is unlike what is annotated or suggested so far" + (f": {', '.join(others)}" if others else "")))
    return "; ".join(text for _, text in sorted(parts, reverse=True)) or "much like what is known already: little is to be gained"
