"""What is held out of training, so that the numbers tell the truth; and what it is good for: scores and thresholds.

A model that starts from nothing needs all the time it can get. One part is held out for three quarters of it: of three
images or more a whole image, of one or two a block at the end of what is annotated, behind a guard band whose labels
nobody uses::

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
"""

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.annotations import NOT_ANNOTATED
from napari_tally.core.cell_types import together
from napari_tally.core.events import run_to_end
from napari_tally.core.instances import find_instances
from napari_tally.core.metrics import Mistakes, iou_matrix, match, mistakes
from napari_tally.core.predict import predict_plane
from napari_tally.core.samples import Plane, class_map
from napari_tally.core.unet import UNet
from napari_tally.settings import CountingSettings

HOLD_OUT_UNTIL = 0.75
"""Share of the budget for which a model from nothing does not see what is held out."""
_FOLD = 0.3
"""Share of the budget that each of two folds gets."""
_FEWEST = 3
"""Cells that each side must have."""
_VALLEYS = (0.1, 0.2, 0.35)
_SMOOTHINGS = (1.0, 1.5, 2.0, 3.0)
"""In network pixels."""
_EDGES = (0.4, 0.5, 0.6)
_CLEARLY = 0.03
_LARGEST = 512
"""Largest side in pixels of a plane to judge by: the user can stop only between two."""
_FEW = 5
"""Most planes to judge by."""
_IOUS = (0.5, 0.6, 0.7, 0.8)


# ------------------------------------------------------------------ what is held out


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


def plan_phases(planes: Sequence[Plane], guard: int, from_trained: bool, seen: Collection[str] = ()) -> list[Phase]:
    """Decide what is held out, and when.

    Parameters
    ----------
    planes : sequence of Plane
        What is annotated.
    guard : int
        Width of the guard band in pixels: the receptive margin.
    from_trained : bool
        Whether the training starts from a trained model.
    seen : collection of str
        Images that the start model was trained on. They cannot judge, so they are never held out.

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
    order = sorted(images, key=lambda image: sum(map(_count, images[image])))
    if len(images) >= 3:
        middle = order[len(order) // 2]  # neither the emptiest nor the fullest
        training, held_out = [plane for plane in planes if plane.image != middle], images[middle]
    elif images:
        parts = {id(plane): _split_block(plane, guard, 0.75) for plane in images[order[-1]]}
        training = [parts[id(plane)][0] if id(plane) in parts else plane for plane in planes]
        held_out = [held for _, held in parts.values()]
    else:
        return [], []
    training, held_out = _annotated(training), _annotated(held_out)
    if min(sum(map(_count, training)), sum(map(_count, held_out))) < _FEWEST:
        return list(planes), []
    return training, held_out


def two_folds(planes: Sequence[Plane], guard: int) -> tuple[list[Plane], list[Plane]]:
    """Split annotated planes into two folds with about as many cells.

    Parameters
    ----------
    planes, guard
        As for :func:`hold_out`.

    Returns
    -------
    a, b : list of Plane
        From four images on whole images, else the two halves of every plane. Both are empty where one would
        have fewer than 3 cells.
    """
    images = _by_image(planes)
    if len(images) >= 4:
        a: list[Plane] = []
        b: list[Plane] = []
        for image in sorted(images, key=lambda image: sum(map(_count, images[image])), reverse=True):
            smaller = a if sum(map(_count, a)) <= sum(map(_count, b)) else b
            smaller.extend(images[image])
    else:
        halves = [_split_block(plane, guard, 0.5) for plane in planes]
        a, b = _annotated(half for half, _ in halves), _annotated(half for _, half in halves)
    return (a, b) if min(sum(map(_count, a)), sum(map(_count, b))) >= _FEWEST else ([], [])


def _by_image(planes: Sequence[Plane]) -> dict[str, list[Plane]]:
    images: dict[str, list[Plane]] = {}
    for plane in planes:
        images.setdefault(plane.image, []).append(plane)
    return images


def _annotated(planes: "Sequence[Plane] | Generator[Plane]") -> list[Plane]:
    return [plane for plane in planes if (plane.labels != NOT_ANNOTATED).any()]


def _count(plane: Plane) -> int:
    return len(np.unique(plane.labels[plane.labels > 0]))


def _split_block(plane: Plane, guard: int, share: float) -> tuple[Plane, Plane]:
    """Cut what is annotated in two along its longer axis, `share` of it before the cut; cells on a cut belong to neither side."""
    labels = plane.labels
    spans = [np.flatnonzero((labels != NOT_ANNOTATED).any(axis))[[0, -1]] for axis in (1, 0)]
    axis = int(np.argmax([last - first for first, last in spans]))
    stop = int(spans[axis][1]) + 1
    side = stop - int(spans[axis][0])
    start = stop - round(side * (1 - share))
    end = start - min(guard, side // 8)
    along = np.broadcast_to(np.arange(labels.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1)), labels.shape)

    def part(inside: NDArray[np.bool_]) -> Plane:
        cut = np.intersect1d(labels[inside], labels[~inside])
        known = inside & ~np.isin(labels, cut[cut > 0])
        return replace(plane, labels=np.where(known, labels, NOT_ANNOTATED).astype(np.int32))

    return part(along < end), part(along >= start)


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


# ------------------------------------------------------------------ scores


@dataclass(frozen=True)
class Score:
    """How well a network does on annotated planes.

    Attributes
    ----------
    loss : float
        Cross-entropy a pixel, without weights.
    f1 : float
        Of cells matched at IoU 0.5.
    ap : tuple of float
        Average precision TP / (TP + FP + FN) at IoU 0.5, 0.6, 0.7 and 0.8.
    true_count, predicted_count : int
        Cells in the annotated part.
    mistakes : Mistakes
    """

    loss: float
    f1: float
    ap: tuple[float, ...]
    true_count: int
    predicted_count: int
    mistakes: Mistakes = field(default_factory=Mistakes)

    @property
    def quality(self) -> float:
        """Mean of the average precisions: one number to compare by."""
        return float(np.mean(self.ap))

    @property
    def bias(self) -> float:
        """(predicted - true) / true of the count."""
        return (self.predicted_count - self.true_count) / max(1, self.true_count)


@dataclass(frozen=True)
class Comparison:
    """News: the start model and the trained one on the same cells, which neither has seen.

    The trained one had learned from the other half of what is annotated, for a third of the time, so the final
    model is rather better than these numbers say.
    """

    step: int
    before: Score
    after: Score

    @property
    def helped(self) -> bool:
        """Whether training made it better, or at least no worse."""
        return self.after.quality >= self.before.quality

    def rows(self) -> list[tuple[str, str, str]]:
        """Give what a table shows: (what, before, after). F1 at IoU 0.5, average precision as the mean over IoU 0.5 to 0.8."""
        count = f"Counted, of {self.after.true_count}"
        measures: list[tuple[str, Callable[[Score], str]]] = [
            ("Agreement F1", lambda s: f"{s.f1:.2f}"),
            ("Average precision", lambda s: f"{s.quality:.2f}"),
            (count, lambda s: f"{s.predicted_count} ({s.bias:+.0%})"),
            ("Cells broken", lambda s: str(s.mistakes.splits)),
            ("Cells merged", lambda s: str(s.mistakes.merges)),
            ("Cells missed", lambda s: str(s.mistakes.misses)),
        ]
        return [(what, say(self.before), say(self.after)) for what, say in measures]

    @property
    def verdict(self) -> str:
        """Say it in a sentence."""
        cells = f"{self.after.true_count} held-out cells"
        if self.after.quality == self.before.quality:
            return f"Training changed nothing, on {cells}."
        return f"Training helped, on {cells}." if self.helped else f"Training made it worse, on {cells}."


@dataclass(frozen=True, eq=False)
class Judged:
    """Held-out planes and what a network that has not seen them says of them.

    Attributes
    ----------
    planes : list of Plane
        Only their annotated pixels count; predicted cells that lie mostly where nothing is annotated are left out.
    maps : list of (2 or 3, Y, X) float32
        Probabilities of background, inside and (if the network has it) rim; all kinds of cells together.
    scale : float
        Network pixels per image pixel.
    """

    planes: list[Plane]
    maps: list[NDArray[np.float32]]
    scale: float = 1.0

    def found(self, counting: CountingSettings) -> tuple[NDArray[np.int64], Mistakes]:
        """Give TP, FP, FN at each IoU (n, 3), and the mistakes, with these thresholds."""
        sums, wrong = np.zeros((len(_IOUS), 3), int), Mistakes()
        for plane, probabilities in zip(self.planes, self.maps, strict=True):
            known = plane.labels != NOT_ANNOTATED
            labels = find_instances(probabilities, counting, self.scale)
            inside = np.bincount(labels[known], minlength=labels.max() + 1) * 2 > np.bincount(labels.ravel())
            inside[0] = False
            truth, predicted = np.maximum(plane.labels, 0), np.where(inside[labels] & known, labels, 0)
            iou = iou_matrix(truth, predicted)
            sums += [(m.tp, m.fp, m.fn) for m in (match(iou, t) for t in _IOUS)]
            wrong += mistakes(truth, predicted)
        return sums, wrong

    def loss(self) -> NDArray[np.float32]:
        """Give -log p of the true class for every annotated pixel."""
        losses = []
        for plane, probabilities in zip(self.planes, self.maps, strict=True):
            classes = class_map(plane.labels, len(probabilities))
            right = np.take_along_axis(probabilities, np.maximum(classes, 0)[None], axis=0)[0]
            losses.append(-np.log(np.maximum(right[classes != NOT_ANNOTATED], 1e-7)))
        return np.concatenate(losses)


def judge(network: UNet, planes: Sequence[Plane], scale: float = 1.0) -> Judged:
    """Predict planes with a network in evaluation mode."""
    maps = (run_to_end(predict_plane(network, plane.picture)) for plane in planes)
    return Judged(list(planes), [together(probabilities, network.types) for probabilities in maps], scale)


def score(judged: Sequence[Judged], countings: Sequence[CountingSettings]) -> Score:
    """Compare what was predicted with what is annotated, over all folds.

    Parameters
    ----------
    judged : sequence of Judged
        One for each fold.
    countings : sequence of CountingSettings
        The thresholds of each; areas in image pixels.
    """
    sums, wrong = np.zeros((len(_IOUS), 3), int), Mistakes()
    for fold, counting in zip(judged, countings, strict=True):
        more, also_wrong = fold.found(counting)
        sums, wrong = sums + more, wrong + also_wrong
    tp, fp, fn = (int(n) for n in sums[0])
    return Score(
        loss=float(np.concatenate([fold.loss() for fold in judged]).mean()),
        f1=2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
        ap=tuple(_average_precision(sums).tolist()),
        true_count=tp + fn,
        predicted_count=tp + fp,
        mistakes=wrong,
    )


def _average_precision(sums: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give TP / (TP + FP + FN) for (..., 3); 1 where there is nothing to find and nothing was found."""
    return np.where(sums.sum(-1), sums[..., 0] / np.maximum(sums.sum(-1), 1), 1.0)


def labels_of(network: UNet, plane: Plane, counting: CountingSettings, scale: float = 1.0) -> NDArray[np.int32]:
    """Give the label image that the network finds on a plane, in network pixels."""
    return find_instances(judge(network, [plane]).maps[0], counting, scale)


# ------------------------------------------------------------------ thresholds


@dataclass(frozen=True)
class Fitting:
    """News: so many of the thresholds are tried."""

    done: int
    total: int


def fit_counting(
    judged: Sequence[Judged], counting: CountingSettings, any_size: bool = False
) -> Generator[Fitting, None, list[CountingSettings]]:
    """Choose the thresholds that fit the drawn cells best; those of `counting` stay unless others are clearly better.

    A few images do not decide between thresholds that are nearly as good, so those given stay unless
    the average precision (mean over IoU 0.5 to 0.8) rises by more than 0.03.

    Parameters
    ----------
    judged : sequence of Judged
        One for each fold.
    counting : CountingSettings
        Lengths and areas in image pixels.
    any_size : bool
        The size of cells will be estimated at prediction, so the smallest one is not bound to those drawn.

    Yields
    ------
    Fitting
        Often enough to stop within a second.

    Returns
    -------
    list of CountingSettings
        First those that fit all folds together; then, for each fold, those that fit the others: they have not seen the cells
        that they are to be judged by (with a single fold, `counting`). With another valley, smoothing and edge, if that is
        clearly better, and the smallest cell at half the area of the smallest drawn cells (1st percentile); `counting` where
        fewer than 10 cells are drawn.
    """
    scale = judged[0].scale
    areas = [_areas(fold) for fold in judged]
    few = sum(map(len, areas)) < 10
    enough = counting if few or any_size else replace(counting, min_area=_smallest(np.concatenate(areas)))
    seeds = [enough, *(replace(enough, valley=v, smoothing=round(s / scale, 2)) for v in _VALLEYS for s in _SMOOTHINGS)]
    total = len(judged) * (len(seeds) + len(judged) * len(_EDGES))
    found: dict[tuple[int, CountingSettings], NDArray[np.int64]] = {}

    def best(folds: list[int], choices: list[CountingSettings]) -> CountingSettings:
        """Give the first choice, or one that is clearly better on these folds."""
        quality = [_average_precision(sum((found[f, choice] for f in folds), np.zeros((len(_IOUS), 3), int))).mean() for choice in choices]
        winner = int(np.argmax(quality))
        return choices[winner if quality[winner] > quality[0] + _CLEARLY else 0]

    def measure(f: int, choice: CountingSettings) -> Fitting:
        if (f, choice) not in found:
            found[f, choice] = judged[f].found(choice)[0]
        return Fitting(min(total, len(found)), total)

    everything = list(range(len(judged)))
    for f in everything:
        for choice in seeds:
            yield measure(f, choice)
    result = []
    for folds in (everything, *([f for f in everything if f != held] for held in everything)):
        own = np.concatenate([areas[f] for f in folds]) if folds else np.empty(0)
        if own.size < 10:
            result.append(counting)
            continue
        chosen = best(folds, seeds)
        edges = [chosen, *(replace(chosen, edge_threshold=e) for e in _EDGES)]
        for f in folds:
            for choice in edges:
                yield measure(f, choice)
        result.append(best(folds, edges) if any_size else replace(best(folds, edges), min_area=_smallest(own)))
    return result


def _areas(judged: Judged) -> NDArray[np.float64]:
    """Give the areas of the drawn cells in image pixels."""
    areas = np.concatenate([np.bincount(plane.labels[plane.labels > 0])[1:] for plane in judged.planes]) / judged.scale**2
    return areas[areas > 0]


def _smallest(areas: NDArray[np.float64]) -> float:
    return float(np.floor(np.percentile(areas, 1) / 2))
