"""What is held out of training, so that the curve tells the truth.

From several planes one whole plane is held out; from one or two planes a block at the end of the
largest, behind a guard band whose labels nobody uses::

    ┌───────────────┬───────┬─────────┐
    │   training    │ guard │ held out│      labels only: the pixels stay, so that
    │               │       │ a quarter      training sees its context as always
    └───────────────┴───────┴─────────┘
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.events import run_to_end
from napari_tally.core.instances import find_instances
from napari_tally.core.metrics import iou_matrix, match
from napari_tally.core.predict import predict_plane
from napari_tally.core.samples import Plane, class_map
from napari_tally.core.unet import UNet
from napari_tally.settings import CountingSettings


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


def score(network: UNet, planes: Sequence[Plane], counting: CountingSettings) -> Score:
    """Compare what the network gives with what is annotated.

    Parameters
    ----------
    network : UNet
        In evaluation mode.
    planes : sequence of Plane
        Only their annotated pixels count; predicted cells that lie mostly where nothing is annotated are left out.
    counting : CountingSettings
    """
    losses, tp, fp, fn = [], 0, 0, 0
    for plane in planes:
        probabilities = run_to_end(predict_plane(network, plane.picture))
        classes = class_map(plane.labels, network.classes)
        known = classes != NOT_ANNOTATED
        right = np.take_along_axis(probabilities, np.maximum(classes, 0)[None], axis=0)[0]
        losses.append(-np.log(np.maximum(right[known], 1e-7)))
        labels = find_instances(probabilities, counting)
        inside = np.bincount(labels[known], minlength=labels.max() + 1) * 2 > np.bincount(labels.ravel())
        inside[0] = False
        found = match(iou_matrix(np.maximum(plane.labels, 0), np.where(inside[labels] & known, labels, 0)), 0.5)
        tp, fp, fn = tp + found.tp, fp + found.fp, fn + found.fn
    f1 = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
    return Score(float(np.concatenate(losses).mean()), f1, tp + fn, tp + fp)


def labels_of(network: UNet, plane: Plane, counting: CountingSettings) -> NDArray[np.int32]:
    """Give the label image that the network finds on a plane, in network pixels."""
    return find_instances(run_to_end(predict_plane(network, plane.picture)), counting)
