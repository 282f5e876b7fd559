"""What is held out of training, so that the curve tells the truth; and what it is good for: scores and thresholds.

From three images on one whole image is held out; from one or two a block at the end of what is
annotated in the fuller one, behind a guard band whose labels nobody uses::

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

_SEEDS = (0.7, 0.6, 0.8, 0.5)
_SMALLEST = (0.15, 0.05, 0.3)
_CLEARLY = 0.1
_LARGEST = 512
"""Largest side in pixels of a plane to judge by: the user can stop only between two."""
_FEW = 5
"""Most planes to judge by."""
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


def hold_out(planes: Sequence[Plane], guard: int) -> tuple[list[Plane], list[Plane]]:
    """Split annotated planes into those to train on and those to validate on.

    Parameters
    ----------
    planes : sequence of Plane
        Planes of one stack show the same cells, so they stay together.
    guard : int
        Width of the guard band in pixels: the receptive margin. In small planes it is at most an
        eighth of what is annotated.

    Returns
    -------
    training, held_out : list of Plane
        Planes or parts of planes. Nothing is held out where fewer than 3 cells would remain on a side.
    """
    images: dict[str, list[Plane]] = {}
    for plane in planes:
        images.setdefault(plane.image, []).append(plane)
    order = sorted(images, key=lambda image: sum(map(_count, images[image])))
    if len(images) >= 3:
        middle = order[len(order) // 2]  # neither the emptiest nor the fullest
        training, held_out = [plane for plane in planes if plane.image != middle], images[middle]
    else:
        parts = {id(plane): _split_block(plane, guard) for plane in images[order[-1]]}
        training = [parts[id(plane)][0] if id(plane) in parts else plane for plane in planes]
        held_out = [held for _, held in parts.values()]
    training, held_out = ([plane for plane in some if (plane.labels != NOT_ANNOTATED).any()] for some in (training, held_out))
    if min(sum(map(_count, training)), sum(map(_count, held_out))) < 3:
        return list(planes), []
    return training, held_out


def _count(plane: Plane) -> int:
    return len(np.unique(plane.labels[plane.labels > 0]))


def _split_block(plane: Plane, guard: int) -> tuple[Plane, Plane]:
    """Hold out the last quarter of what is annotated, along its longer axis; cells on a cut belong to neither side."""
    labels = plane.labels
    spans = [np.flatnonzero((labels != NOT_ANNOTATED).any(axis))[[0, -1]] for axis in (1, 0)]
    axis = int(np.argmax([last - first for first, last in spans]))
    stop = int(spans[axis][1]) + 1
    side = stop - int(spans[axis][0])
    start = stop - side // 4
    end = start - min(guard, side // 8)
    along = np.broadcast_to(np.arange(labels.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1)), labels.shape)

    def part(inside: NDArray[np.bool_]) -> Plane:
        cut = np.intersect1d(labels[inside], labels[~inside])
        known = inside & ~np.isin(labels, cut[cut > 0])
        return replace(plane, labels=np.where(known, labels, NOT_ANNOTATED).astype(np.int32))

    return part(along < end), part(along >= start)


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
    the average precision (mean over IoU 0.5 to 0.8) rises by more than 0.1.

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
    choices += [replace(given, seed_threshold=t, min_seed=share) for t in _SEEDS for share in _SMALLEST]
    found = np.zeros((len(choices), len(_IOUS), 3), int)
    for p, plane in enumerate(planes):
        maps = _probabilities(network, [plane])
        for c, choice in enumerate(choices):
            found[c] += [(m.tp, m.fp, m.fn) for m in _match([plane], maps, _in_network_pixels(choice, scale))]
            yield Fitting(p * len(choices) + c + 1, len(planes) * len(choices))
    quality = np.mean(found[..., 0] / np.maximum(found.sum(-1), 1), axis=1)  # AP, over the IoU thresholds
    best = int(np.argmax(quality))
    return choices[best] if quality[best] > quality[0] + _CLEARLY else given


def to_judge_by(planes: Sequence[Plane]) -> list[Plane]:
    """Choose a few planes, evenly, and cut each to the middle of what is annotated: judging must not cost the training its time."""
    chosen = np.unique(np.linspace(0, len(planes) - 1, min(_FEW, len(planes))).round().astype(int))
    return [_window(planes[i]) for i in chosen]


def _window(plane: Plane) -> Plane:
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
    return replace(counting, min_area=counting.min_area * scale**2)
