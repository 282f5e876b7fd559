"""What is held out of training, so that the numbers tell the truth.

A model that starts from nothing needs all the time it can get. One part is held out for three quarters of it: of three
images with cells or more a whole image, of one or two a block at the end of what is annotated, behind a guard band whose
labels nobody uses::

    ┌───────────────┬───────┬─────────┐
    │   training    │ guard │ held out│      labels only: the pixels stay, so that
    │               │       │ a quarter      training sees its context as always
    └───────────────┴───────┴─────────┘

A model that starts from a trained one learns quickly, so every cell can judge. There are two folds, each judged by a
model that has learned from the other; then both models are averaged, and that one learns from everything::

    share of the budget   0        0.3       0.6            1
                          ├─────────┼─────────┼─────────────┤
                          │ learn A │ learn B │ average,    │      A and B: half of the images each,
                          │ judge B │ judge A │ learn A + B │      of fewer than four the halves of every plane
                          └─────────┴─────────┴─────────────┘

Of a volume the blocks are slabs along the longest of its axes. Pictures of background alone are learned from, but they
cannot judge by themselves. Of what is held out a few windows judge, those that hold most cells.
"""

import math
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.samples import Plane

HOLD_OUT_UNTIL = 0.75
"""Share of the budget for which a model from nothing does not see what is held out."""
_FOLD = 0.3
"""Share of the budget that each of two folds gets."""
_FEWEST = 3
"""Cells that each side must have, and an image that is held out whole."""
_LARGEST = 512
"""Largest side in pixels of a window to judge by, and the most pixels of a volume their square: the user can stop only between two."""
_FEW = 5
"""Most windows to judge by."""


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of the training.

    Attributes
    ----------
    training, held_out : list of Plane
    end : float
        Share of the budget that is used when it ends.
    begin : {"start", "go on", "average"}
        The weights that it begins with: those of the start model, those of the phase before, or the average of the phases before.
    """

    training: list[Plane]
    held_out: list[Plane]
    end: float
    begin: Literal["start", "go on", "average"] = "start"


def plan_phases(planes: Sequence[Plane], guard: int, from_trained: bool, seen: Collection[int] = ()) -> list[Phase]:
    """Decide what is held out, and when.

    Parameters
    ----------
    planes : sequence of Plane
        What is annotated.
    guard : int
        Width of the guard band in pixels: the receptive margin.
    from_trained : bool
        Whether the training starts from a trained model.
    seen : collection of int
        Which images the start model was trained on. They cannot judge, so they are never held out.

    Returns
    -------
    list of Phase
        The last one learns from everything.
    """
    new = [plane for plane in planes if plane.image not in seen]
    old = [plane for plane in planes if plane.image in seen]
    if from_trained:
        a, b = two_folds(new, guard)
        if a and b:
            return [
                Phase(old + a, b, _FOLD),
                Phase(old + b, a, 2 * _FOLD),
                Phase(list(planes), [], 1.0, "average"),
            ]
    else:
        training, held_out = hold_out(new, guard)
        if held_out:
            return [Phase(training, held_out, HOLD_OUT_UNTIL), Phase(list(planes), [], 1.0, "go on")]
    return [Phase(list(planes), [], 1.0)]


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
    images = _by_image(planes)
    drawn = {image: _cells(own) for image, own in images.items()}
    if (middle := held_out_whole(drawn)) is not None:
        training, held_out = [plane for plane in planes if plane.image != middle], images[middle]
    elif images:
        largest = images[max(drawn, key=drawn.__getitem__)]
        parts = {id(plane): _split_block(plane, guard, 0.75, _spans_of(largest, plane)) for plane in largest}
        training = [parts[id(plane)][0] if id(plane) in parts else plane for plane in planes]
        held_out = [held for _, held in parts.values()]
    else:
        return [], []
    training, held_out = _annotated(training), _annotated(held_out)
    return (training, held_out) if min(_cells(training), _cells(held_out)) >= _FEWEST else (list(planes), [])


def held_out_whole(cells: Mapping[int, int]) -> int | None:
    """Choose the image to hold out whole, by the cells in each: neither the emptiest nor the fullest; None = a part of one will do."""
    order = sorted((image for image in cells if cells[image]), key=cells.__getitem__)
    middle = order[len(order) // 2] if len(order) >= 3 else None
    return middle if middle is not None and cells[middle] >= _FEWEST else None


def are_folds_whole(cells: Iterable[int]) -> bool:
    """Whether images with so many cells each make two folds of whole images."""
    return sum(n >= _FEWEST for n in cells) >= 4


def two_folds(planes: Sequence[Plane], guard: int) -> tuple[list[Plane], list[Plane]]:
    """Split annotated planes into two folds with about as many cells.

    Parameters
    ----------
    planes, guard
        As for :func:`hold_out`.

    Returns
    -------
    a, b : list of Plane
        From four images with 3 cells on whole images, else the two halves of every plane. Both are empty where one
        would have fewer than 3 cells.
    """
    images = _by_image(planes)
    if are_folds_whole([_cells(own) for own in images.values()]):
        a: list[Plane] = []
        b: list[Plane] = []
        for image in sorted(images, key=lambda image: _cells(images[image]), reverse=True):
            (a if _cells(a) <= _cells(b) else b).extend(images[image])
    else:
        halves = [_split_block(plane, guard, 0.5, _spans_of(planes, plane)) for planes in images.values() for plane in planes]
        a, b = _annotated(half for half, _ in halves), _annotated(half for _, half in halves)
    return (a, b) if min(_cells(a), _cells(b)) >= _FEWEST else ([], [])


def _by_image(planes: Sequence[Plane]) -> dict[int, list[Plane]]:
    images: dict[int, list[Plane]] = {}
    for plane in planes:
        images.setdefault(plane.image, []).append(plane)
    return images


def _annotated(planes: "Sequence[Plane] | Generator[Plane]") -> list[Plane]:
    return [plane for plane in planes if (plane.labels != NOT_ANNOTATED).any()]


def _cells(planes: Sequence[Plane]) -> int:
    return sum(len(np.unique(plane.labels[plane.labels > 0])) for plane in planes)


def _split_block(plane: Plane, guard: int, share: float, spans: Sequence[slice]) -> tuple[Plane, Plane]:
    """Cut a box in two along its longer axis, `share` of it before the cut; cells on a cut belong to neither side."""
    labels, steps = plane.labels, [plane.aspect, 1.0, 1.0][-plane.labels.ndim :]
    axis = int(np.argmax([(span.stop - 1 - span.start) * step for span, step in zip(spans, steps, strict=True)]))
    stop = spans[axis].stop
    side = stop - spans[axis].start
    start = stop - round(side * (1 - share))
    end = start - min(round(guard / steps[axis]), side // 8)
    along = np.broadcast_to(np.expand_dims(np.arange(labels.shape[axis]), [a for a in range(labels.ndim) if a != axis]), labels.shape)

    return replace(plane, labels=_only(labels, along < end)), replace(plane, labels=_only(labels, along >= start))


def _only(labels: NDArray[np.int32], inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Forget what is drawn outside, and the cells that reach across."""
    cut = np.intersect1d(labels[inside], labels[~inside])
    return np.where(inside & ~np.isin(labels, cut[cut > 0]), labels, NOT_ANNOTATED).astype(np.int32)


def _spans_of(planes: Sequence[Plane], plane: Plane) -> list[slice]:
    """Give the box of what is annotated in all planes of one size: those of a stack show the same cells, so they are cut in one place."""
    boxes = [_annotated_spans(other) for other in planes if other.labels.shape == plane.labels.shape]
    return [slice(min(span.start for span in spans), max(span.stop for span in spans)) for spans in zip(*boxes, strict=True)]


def to_judge_by(planes: Sequence[Plane]) -> list[Plane]:
    """Choose a few windows: judging must not cost the training its time.

    The one that holds most cells of each of a few planes, evenly chosen; where fewer planes are there, further ones that hold cells.
    """
    chosen = np.unique(np.linspace(0, len(planes) - 1, min(_FEW, len(planes))).round().astype(int))
    cut = [_cut_out(planes[i]) for i in chosen]
    windows, rest = [window for window, _ in cut], [left for _, left in cut]
    held = [_cells([left]) for left in rest]
    while any(held) and len(windows) < _FEW:
        fullest = int(np.argmax(held))
        window, rest[fullest] = _cut_out(rest[fullest])
        held[fullest] = _cells([rest[fullest]])
        if not _cells([window]):  # the cells that are left are larger than a window
            break
        windows.append(window)
    return windows


def _cut_out(plane: Plane) -> tuple[Plane, Plane]:
    """Give the window of a plane that holds most cells, and the plane without it; cells on its edge belong to neither."""
    spans = _annotated_spans(plane)
    largest = [_LARGEST] * 2
    if len(spans) == 3:
        slices = min(spans[0].stop - spans[0].start, round(_LARGEST ** (2 / 3) / plane.aspect))
        largest = [slices, *[int((_LARGEST**2 / slices) ** 0.5)] * 2]
    part = _densest(plane.labels, spans, largest)
    inside = np.zeros(plane.labels.shape, bool)
    inside[part] = True
    window = replace(plane, picture=plane.picture[:, *part], labels=_only(plane.labels, inside)[part], border=plane.border[part])
    return window, replace(plane, labels=_only(plane.labels, ~inside))


def _densest(labels: NDArray[np.int32], spans: Sequence[slice], largest: Sequence[int]) -> tuple[slice, ...]:
    """Find the window within a box, at most so large, that holds most cells whole; of equals the one nearest to the middle."""
    boxes = [box for box in ndi.find_objects(np.maximum(labels, 0)) if box]
    places: list[list[slice]] = []
    holds: list[NDArray[np.float32]] = []
    for axis, (span, most) in enumerate(zip(spans, largest, strict=True)):
        side = min(most, span.stop - span.start)
        free = span.stop - span.start - side
        first = span.start + np.linspace(0, free, 2 * math.ceil(2 * free / side) + 1).round().astype(int)  # three quarters overlap
        first = first[np.argsort(np.abs(first - span.start - free / 2), kind="stable")]  # from the middle on
        begin, end = (np.array([getattr(box[axis], which) for box in boxes], int) for which in ("start", "stop"))
        places.append([slice(int(at), int(at) + side) for at in first])
        holds.append(((begin >= first[:, None]) & (end <= first[:, None] + side)).astype(np.float32))  # (places, cells)
    axes = "zyx"[-len(spans) :]
    cells = np.einsum(f"{','.join(f'{axis}n' for axis in axes)}->{axes}", *holds, optimize=True)
    best = np.unravel_index(int(np.argmax(cells)), cells.shape)  # the first of equals
    return tuple(own[place] for own, place in zip(places, best, strict=True))


def _annotated_spans(plane: Plane) -> list[slice]:
    """Give the box of what is annotated."""
    known, axes = plane.labels != NOT_ANNOTATED, range(plane.labels.ndim)
    ends = (np.flatnonzero(known.any(tuple(a for a in axes if a != axis)))[[0, -1]] for axis in axes)
    return [slice(int(first), int(last) + 1) for first, last in ends]
