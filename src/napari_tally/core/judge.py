"""What was held out, predicted: how good that is, whether training helped, and which thresholds fit."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_tally.core.annotations import NOT_ANNOTATED, what_can_be_judged
from napari_tally.core.bodies import find_bodies
from napari_tally.core.cell_types import together
from napari_tally.core.events import run_to_end
from napari_tally.core.instances import find_instances
from napari_tally.core.matching import average_precision, match
from napari_tally.core.metrics import Mistakes, mistakes
from napari_tally.core.overlap import overlap
from napari_tally.core.predict import predict_plane
from napari_tally.core.samples import Plane, class_map
from napari_tally.core.unet import UNet
from napari_tally.settings import LARGEST_MIN_AREA, CountingSettings

_VALLEYS = (0.1, 0.2, 0.35)
_SMOOTHINGS = (1.0, 1.5, 2.0, 3.0)
"""In network pixels."""
_AFTERWARDS = {"edge_threshold": (0.4, 0.5, 0.6), "seed_threshold": (0.3, 0.5, 0.6, 0.7)}
"""One after the other, with the valley and smoothing that are chosen."""
_CLEARLY = 0.03
_IOUS = (0.5, 0.6, 0.7, 0.8)
_CHANCE = 4.0
"""Two cells that are right by chance: each counts twice in what decides, in the average precision and in the count."""


@dataclass(frozen=True)
class Score:
    """How well a network does on annotated planes.

    Attributes
    ----------
    loss : float
        Cross-entropy a pixel, without weights; 0 where the class of no pixel is known.
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

    @property
    def worth(self) -> float:
        """What decides between models and between thresholds: :attr:`quality`, less the share by which the count is off.

        Average precision alone likes a model that merges what it is unsure of: outlines are better, and cells are gone.
        """
        return _worth(self.ap, self.true_count, self.predicted_count)


@dataclass(frozen=True)
class Comparison:
    """News: the start model and the trained one on the same cells, which neither has seen.

    The trained one had learned from the other half of what is annotated, for a third of the time, so the final
    model is rather better than these numbers say.

    Attributes
    ----------
    step : int
    before, after : Score
    is_broad : bool
        The start knows cells of any size. Who gives that up must have more reason than chance: that the trained model gets more than two
        cells more right.
    """

    step: int
    before: Score
    after: Score
    is_broad: bool = False

    @property
    def gain(self) -> float:
        """By how much training made it better; below 0 = worse."""
        return self.after.worth - self.before.worth

    @property
    def helped(self) -> bool:
        """Whether training made it better, or at least no worse; of a broad start, better by more than chance."""
        return self.gain * self.after.true_count > _CHANCE if self.is_broad else self.gain >= 0

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
        if not self.after.true_count:
            return "None of the drawn cells lies whole in what was held out, so nothing says whether training helped."
        cells = f"{self.after.true_count} held-out cells"
        if self.gain == 0:
            return f"Training changed nothing, on {cells}."
        if self.gain > 0 and not self.helped:
            return f"Training brought no more than chance may, on {cells}. With more cells drawn it may tell."
        if not self.helped and self.after.quality > self.before.quality:
            return f"Training made the outlines better and the count worse, on {cells}."
        if self.helped and self.after.quality < self.before.quality:
            return f"Training made the count better and the outlines worse, on {cells}."
        return f"Training helped, on {cells}." if self.helped else f"Training made it worse, on {cells}."


@dataclass(frozen=True, eq=False)
class Judged:
    """Held-out planes and what a network that has not seen them says of them.

    Attributes
    ----------
    planes : list of Plane
        Only their annotated pixels count; predicted cells that lie mostly where nothing is annotated are left out.
    maps : list of (2 or 3, [Z,] Y, X) float32
        Probabilities of background, inside and (if the network has it) rim; all kinds of cells together.
    scale : float
        Network pixels per image pixel.
    z_scale : float
        Of volumes, network voxels per slice.
    """

    planes: list[Plane]
    maps: list[NDArray[np.float32]]
    scale: float = 1.0
    z_scale: float = 1.0

    @property
    def density(self) -> float:
        """Network pixels that one of the image becomes."""
        return self.scale**2 * self.z_scale

    def found(self, counting: CountingSettings) -> tuple[NDArray[np.int64], Mistakes]:
        """Give TP, FP, FN at each IoU (n, 3), and the mistakes, with these thresholds."""
        sums, wrong = np.zeros((len(_IOUS), 3), int), Mistakes()
        for plane, probabilities in zip(self.planes, self.maps, strict=True):
            labels = _instances(probabilities, counting, self.scale, self.z_scale, plane.aspect)
            truth, predicted = what_can_be_judged(plane.labels, labels)
            iou = overlap(truth, predicted).iou
            sums += [(m.tp, m.fp, m.fn) for m in (match(iou, t) for t in _IOUS)]
            wrong += mistakes(truth, predicted)
        return sums, wrong

    def loss(self) -> NDArray[np.float32]:
        """Give -log p of the true class for every pixel whose class is known."""
        losses = []
        for plane, probabilities in zip(self.planes, self.maps, strict=True):
            classes = class_map(plane.labels, len(probabilities), plane.is_flat)
            right = np.take_along_axis(probabilities, np.maximum(classes, 0)[None], axis=0)[0]
            losses.append(-np.log(np.maximum(right[classes != NOT_ANNOTATED], 1e-7)))
        return np.concatenate(losses)


def _instances(
    probabilities: NDArray[np.float32], counting: CountingSettings, scale: float, z_scale: float, aspect: float
) -> NDArray[np.int32]:
    """Give the label image of a plane or volume in network pixels."""
    if probabilities.ndim == 4:
        return find_bodies(probabilities, counting, scale, z_scale, aspect)
    return find_instances(probabilities, counting, scale)


def judge(network: UNet, planes: Sequence[Plane], scale: float = 1.0, z_scale: float = 1.0) -> Judged:
    """Predict planes with a network in evaluation mode."""
    maps = (run_to_end(predict_plane(network, plane.picture)) for plane in planes)
    return Judged(list(planes), [together(probabilities, network.types) for probabilities in maps], scale, z_scale)


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
    losses = np.concatenate([fold.loss() for fold in judged])
    return Score(
        loss=float(losses.mean()) if losses.size else 0.0,
        f1=2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
        ap=tuple(average_precision(sums).tolist()),
        true_count=tp + fn,
        predicted_count=tp + fp,
        mistakes=wrong,
    )


def _worth(ap: Sequence[float] | NDArray[np.floating], true: int, predicted: int) -> float:
    """Give :attr:`Score.worth`."""
    return float(np.mean(ap)) - abs(predicted - true) / max(1, true)


def labels_of(network: UNet, plane: Plane, counting: CountingSettings, scale: float = 1.0, z_scale: float = 1.0) -> NDArray[np.int32]:
    """Give the label image that the network finds on a plane, in network pixels."""
    return _instances(judge(network, [plane]).maps[0], counting, scale, z_scale, plane.aspect)


@dataclass(frozen=True)
class Fitting:
    """News: so many of the thresholds are tried."""

    done: int
    total: int


def fit_counting(
    judged: Sequence[Judged], counting: CountingSettings, any_size: bool = False, learned: bool = False
) -> Generator[Fitting, None, list[CountingSettings]]:
    """Choose the thresholds that fit the drawn cells best; those of `counting` stay unless others are clearly better.

    A few images do not decide between thresholds that are nearly as good, so those given stay unless
    :attr:`Score.worth` rises by more than 0.03, and by more than two of the cells make.

    Parameters
    ----------
    judged : sequence of Judged
        One for each fold.
    counting : CountingSettings
        Lengths and areas in image pixels.
    any_size : bool
        The size of cells will be estimated at prediction, so the smallest one is not bound to those drawn.
    learned : bool
        The network has learned these very cells. It breaks them less than others, so they may ask for deeper valleys and more
        smoothing, but not for less (AP@0.5 0.65 instead of 0.60, and -11 instead of +6 % in the count, in docs/benchmarks.md).

    Yields
    ------
    Fitting
        Often enough to stop within a second.

    Returns
    -------
    list of CountingSettings
        First those that fit all folds together; then, for each fold, those that fit the others: they have not seen the cells
        that they are to be judged by (with a single fold, `counting`). With another valley, smoothing, edge and seed, if that is
        clearly better, and the smallest cell at half the area of the smallest drawn cells (1st percentile); `counting` where
        fewer than 10 cells are drawn.
    """
    scale = judged[0].scale
    areas = [_areas(fold) for fold in judged]
    few = sum(map(len, areas)) < 10
    enough = counting if few or any_size else replace(counting, min_area=_smallest(np.concatenate(areas)))
    smoothings, least = [round(s / scale, 2) for s in _SMOOTHINGS], (counting.valley, round(counting.smoothing, 2)) if learned else (0, 0)
    tried = [(v, s) for v in _VALLEYS for s in smoothings if v >= least[0] and s >= least[1]]
    first = [enough, *(replace(enough, valley=v, smoothing=s) for v, s in tried)]
    total = len(judged) * (len(first) + len(judged) * sum(map(len, _AFTERWARDS.values())))
    found: dict[tuple[int, CountingSettings], NDArray[np.int64]] = {}

    def best(folds: list[int], choices: list[CountingSettings]) -> CountingSettings:
        """Give the first choice, or one that is clearly better on these folds."""
        sums = [sum((found[f, choice] for f in folds), np.zeros((len(_IOUS), 3), int)) for choice in choices]
        worth = [_worth(average_precision(s), s[0, 0] + s[0, 2], s[0, 0] + s[0, 1]) for s in sums]  # of TP, FP, FN at the first IoU
        winner, cells = int(np.argmax(worth)), int(sums[0][0, 0] + sums[0][0, 2])
        return choices[winner if worth[winner] > worth[0] + max(_CLEARLY, _CHANCE / max(1, cells)) else 0]

    def measure(f: int, choice: CountingSettings) -> Fitting:
        if (f, choice) not in found:
            found[f, choice] = judged[f].found(choice)[0]
        return Fitting(min(total, len(found)), total)

    everything = list(range(len(judged)))
    for f in everything:
        for choice in first:
            yield measure(f, choice)
    result = []
    for folds in (everything, *([f for f in everything if f != held] for held in everything)):
        own = np.concatenate([areas[f] for f in folds]) if folds else np.empty(0)
        if own.size < 10:
            result.append(counting)
            continue
        chosen = best(folds, first)
        for threshold, values in _AFTERWARDS.items():
            choices = [chosen, *(replace(chosen, **{threshold: value}) for value in values)]
            for f in folds:
                for choice in choices:
                    yield measure(f, choice)
            chosen = best(folds, choices)
        result.append(chosen if any_size else replace(chosen, min_area=_smallest(own)))
    return result


def choose_counting(
    judged: Sequence[Judged], counting: CountingSettings, any_size: bool = False
) -> Generator[Fitting, None, tuple[CountingSettings, Score]]:
    """Fit the thresholds, but keep those given where fitted ones do worse on the cells that they were not fitted to.

    Parameters
    ----------
    judged, counting, any_size
        As for :func:`fit_counting`.

    Returns
    -------
    CountingSettings
    Score
        Of thresholds that had not seen the cells that they are judged by.
    """
    fitted, *others = yield from fit_counting(judged, counting, any_size)
    honest, plain = score(judged, others), score(judged, [counting] * len(judged))
    return (counting, plain) if plain.worth > honest.worth else (fitted, honest)


def _areas(judged: Judged) -> NDArray[np.float64]:
    """Give the areas in image pixels of the cells that are drawn whole: none of their neighbours is a pixel of which nothing is known."""
    found = []
    for plane in judged.planes:
        areas = np.bincount(plane.labels[plane.labels > 0])
        areas[np.unique(plane.labels[ndi.binary_dilation(plane.labels == NOT_ANNOTATED) & (plane.labels > 0)])] = 0
        found.append(areas[areas > 0] / judged.density)
    return np.concatenate(found)


def _smallest(areas: NDArray[np.float64]) -> float:
    return min(LARGEST_MIN_AREA, float(np.floor(np.percentile(areas, 1) / 2)))
