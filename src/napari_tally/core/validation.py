"""What is held out of training, so that the curve tells the truth; and what it is good for: scores and thresholds.

From several planes one whole plane is held out; from one or two planes a block at the end of the
largest, behind a guard band whose labels nobody uses::

    ┌───────────────┬───────┬─────────┐
    │   training    │ guard │ held out│      labels only: the pixels stay, so that
    │               │       │ a quarter      training sees its context as always
    └───────────────┴───────┴─────────┘
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.events import run_to_end
from napari_tally.core.instances import find_instances
from napari_tally.core.metrics import Matching, iou_matrix, match
from napari_tally.core.predict import predict_plane
from napari_tally.core.samples import Plane, class_map
from napari_tally.core.unet import UNet
from napari_tally.settings import CountingSettings

_SEEDS = (0.8, 0.7, 0.6, 0.5, 0.9)
_SMALLEST = (0.0, 0.05, 0.1, 0.15)
"""Smallest seed, as a share of the median area of a cell."""
_CLEARLY = 0.05
_LARGEST = 768
"""Largest side in pixels of a plane to judge by: the user can stop only between two."""
_IOUS = (0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Score:
    """How well a network does on annotated planes.

    Attributes
    ----------
    loss : float
        Cross-entropy a pixel, without weights.
    f1 : float
        Of cells matched at IoU 0.5.
    true_count, predicted_count : int
        Cells in the annotated part.
    """

    loss: float
    f1: float
    true_count: int
    predicted_count: int


def hold_out(planes: Sequence[Plane], guard: int) -> tuple[list[Plane], Plane | None]:
    """Split annotated planes into those to train on and one to validate on.

    Parameters
    ----------
    planes : sequence of Plane
    guard : int
        Width of the guard band in pixels: the receptive margin. In small planes it is at most an
        eighth of the side.

    Returns
    -------
    training : list of Plane
        Planes or parts of planes.
    held_out : Plane or None
        None if there are too few cells (at least 4 must remain on each side).
    """
    counts = [len(np.unique(plane.labels[plane.labels > 0])) for plane in planes]
    if len(planes) >= 3:
        order = np.argsort(counts, kind="stable")
        middle = int(order[len(order) // 2])  # neither the emptiest nor the fullest
        rest = [plane for i, plane in enumerate(planes) if i != middle]
        return (rest, planes[middle]) if counts[middle] and any(c for i, c in enumerate(counts) if i != middle) else (list(planes), None)
    largest = int(np.argmax(counts))
    training, held_out = _split_block(planes[largest], guard)
    if min(len(np.unique(part.labels[part.labels > 0])) for part in (training, held_out)) < 4:
        return list(planes), None
    return [training if i == largest else plane for i, plane in enumerate(planes)], held_out


def _split_block(plane: Plane, guard: int) -> tuple[Plane, Plane]:
    """Hold out the last quarter along the longer axis."""
    axis = int(np.argmax(plane.labels.shape))
    side = plane.labels.shape[axis]
    guard = min(guard, side // 8)
    start = side - side // 4
    along = np.arange(side).reshape((-1, 1) if axis == 0 else (1, -1))
    labels = plane.labels
    training = replace(plane, labels=np.where(along < start - guard, labels, NOT_ANNOTATED).astype(np.int32))
    held_out = replace(plane, labels=np.where(along >= start, labels, NOT_ANNOTATED).astype(np.int32))
    return training, held_out


@dataclass(frozen=True)
class Fitting:
    """News: so many of the thresholds are tried."""

    done: int
    total: int


def score(network: UNet, planes: Sequence[Plane], counting: CountingSettings, scale: float = 1.0) -> Score:
    """Compare what the network gives with what is annotated.

    Parameters
    ----------
    network : UNet
        In evaluation mode.
    planes : sequence of Plane
        Only their annotated pixels count; predicted cells that lie mostly where nothing is annotated are left out.
    counting : CountingSettings
        Areas in image pixels.
    scale : float
        Network pixels per image pixel.
    """
    losses, maps = [], _probabilities(network, planes)
    for plane, probabilities in zip(planes, maps, strict=True):
        classes = class_map(plane.labels, network.classes)
        right = np.take_along_axis(probabilities, np.maximum(classes, 0)[None], axis=0)[0]
        losses.append(-np.log(np.maximum(right[classes != NOT_ANNOTATED], 1e-7)))
    found = _match(planes, maps, _in_network_pixels(counting, scale))[0]
    return Score(float(np.concatenate(losses).mean()), found.f1, found.tp + found.fn, found.tp + found.fp)


def fit_counting(
    network: UNet, planes: Sequence[Plane], counting: CountingSettings, scale: float = 1.0
) -> Generator[Fitting, None, CountingSettings]:
    """Choose the seeds that fit the drawn cells best; `counting` stays unless others are clearly better.

    A few images do not decide between thresholds that are nearly as good, so those given stay unless
    the average precision (mean over IoU 0.5 to 0.8) rises by more than 0.05.

    Parameters
    ----------
    network, planes, counting, scale
        As for :func:`score`.

    Yields
    ------
    Fitting
        Often enough to stop within a second.

    Returns
    -------
    CountingSettings
        With another seed threshold and smallest seed, if that is clearly better, and the smallest cell at half the area of the
        smallest drawn cells (1st percentile); `counting` where fewer than 10 cells are drawn.
    """
    areas = np.concatenate([np.bincount(plane.labels[plane.labels > 0])[1:] for plane in planes]) / scale**2
    areas = areas[areas > 0]
    if areas.size < 10:
        return counting
    given = replace(counting, min_area=float(np.floor(np.percentile(areas, 1) / 2)))
    choices = [given]
    choices += [replace(given, seed_threshold=t, min_seed=float(round(f * np.median(areas)))) for t in _SEEDS for f in _SMALLEST]
    found = np.zeros((len(choices), len(_IOUS), 3), int)
    for p, plane in enumerate(planes):
        maps = _probabilities(network, [plane])
        for c, choice in enumerate(choices):
            found[c] += [(m.tp, m.fp, m.fn) for m in _match([plane], maps, _in_network_pixels(choice, scale))]
            yield Fitting(p * len(choices) + c + 1, len(planes) * len(choices))
    quality = np.mean(found[..., 0] / np.maximum(found.sum(-1), 1), axis=1)  # AP, over the IoU thresholds
    best = int(np.argmax(quality))
    return choices[best] if quality[best] > quality[0] + _CLEARLY else given


def window(plane: Plane) -> Plane:
    """Cut a plane to what is annotated, and to the middle of that where it is large."""
    rows, columns = (np.flatnonzero((plane.labels != NOT_ANNOTATED).any(axis)) for axis in (1, 0))
    spans = []
    for known in (rows, columns):
        start, stop = int(known[0]), int(known[-1]) + 1
        cut = max(0, stop - start - _LARGEST)
        spans.append(slice(start + cut // 2, stop - (cut - cut // 2)))
    y, x = spans
    return replace(plane, picture=plane.picture[:, y, x], labels=plane.labels[y, x], border=plane.border[y, x])


def labels_of(network: UNet, plane: Plane, counting: CountingSettings, scale: float = 1.0) -> NDArray[np.int32]:
    """Give the label image that the network finds on a plane, in network pixels."""
    return find_instances(_probabilities(network, [plane])[0], _in_network_pixels(counting, scale))


def _probabilities(network: UNet, planes: Sequence[Plane]) -> list[NDArray[np.float32]]:
    return [run_to_end(predict_plane(network, plane.picture)) for plane in planes]


def _match(planes: Sequence[Plane], maps: Sequence[NDArray[np.float32]], counting: CountingSettings) -> tuple[Matching, ...]:
    """Match cells inside what is annotated, at IoU 0.5 to 0.8, pooled over the planes."""
    sums = np.zeros((len(_IOUS), 3), int)
    for plane, probabilities in zip(planes, maps, strict=True):
        known = plane.labels != NOT_ANNOTATED
        labels = find_instances(probabilities, counting)
        inside = np.bincount(labels[known], minlength=labels.max() + 1) * 2 > np.bincount(labels.ravel())
        inside[0] = False
        iou = iou_matrix(np.maximum(plane.labels, 0), np.where(inside[labels] & known, labels, 0))
        sums += [(m.tp, m.fp, m.fn) for m in (match(iou, t) for t in _IOUS)]
    return tuple(Matching(t, *map(int, row)) for t, row in zip(_IOUS, sums, strict=True))


def _in_network_pixels(counting: CountingSettings, scale: float) -> CountingSettings:
    return replace(counting, min_seed=counting.min_seed * scale**2, min_area=counting.min_area * scale**2)
