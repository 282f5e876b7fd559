"""Which network and loss suit these images? Each is trained for the same time on the same folds, and tested on what it has not seen.

::

    images     a b c d e f           fold 1    train on b d e f (what is not in the fold), test on a c
    folds      1 2 1 2 2 1 ...       fold 2    ...

Every finished run goes into a JSON file at once; a run that is in the file is not repeated.
"""

import json
import time
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from napari_tally.core.architectures import ARCHITECTURES
from napari_tally.core.events import mapped, run_to_end
from napari_tally.core.files import require_file, whole_file
from napari_tally.core.find import find_cells
from napari_tally.core.matching import THRESHOLDS, average_precision
from napari_tally.core.metrics import evaluate
from napari_tally.core.plan import dimensions_for, new_model, plan_training
from napari_tally.core.samples import TrainingPair, data_fingerprint
from napari_tally.core.train import Finished, Step, train
from napari_tally.settings import PredictionSettings, TrainingSettings, to_dict


@dataclass(frozen=True)
class Run:
    """One training and its test; all but the first four entries are what came of it.

    Attributes
    ----------
    architecture, loss : str
    fold, seed : int
    counts : list of (TP, FP, FN)
        At IoU 0.5, 0.6, ..., 0.9, over the test images.
    true, predicted : int
        Cells.
    steps : int
    seconds : float
        Of training.
    parameters : int
    seconds_per_megapixel : float
        Of prediction.
    """

    architecture: str
    loss: str
    fold: int
    seed: int
    counts: tuple[tuple[int, int, int], ...]
    true: int
    predicted: int
    steps: int
    seconds: float
    parameters: int
    seconds_per_megapixel: float


@dataclass(frozen=True)
class Progress:
    """News: `fraction` of run `number` of `total` is done."""

    number: int
    total: int
    architecture: str
    loss: str
    fold: int
    fraction: float


@dataclass(frozen=True)
class Note:
    """News: what to know of the comparison before it starts, in plain words."""

    text: str


@dataclass(frozen=True)
class Row:
    """What is known of one architecture with one loss, over all its runs."""

    architecture: str
    loss: str
    runs: int
    ap: tuple[float, ...]
    spread: float
    f1: float
    bias: float
    steps: float
    seconds: float
    parameters: int
    seconds_per_megapixel: float


def folds_of(pairs: Sequence[TrainingPair], folds: int) -> list[list[int]]:
    """Deal images into folds with about as many cells each.

    Raises
    ------
    ValueError
        If there are fewer images with cells than folds.
    """
    cells = [len(np.unique(pair.labels[pair.labels > 0])) for pair in pairs]
    if sum(n > 0 for n in cells) < folds:
        raise ValueError(f"{folds} folds want {folds} images with cells or more; there are {sum(n > 0 for n in cells)}.")
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for i in sorted(range(len(pairs)), key=lambda i: -cells[i]):
        min(dealt, key=lambda fold: (sum(cells[k] for k in fold), len(fold))).append(i)
    return dealt


def one_kind(
    pairs: Sequence[TrainingPair], architectures: Sequence[str], settings: TrainingSettings
) -> tuple[TrainingSettings, Note | None]:
    """Decide between planes and volumes for all networks together: bodies and profiles are not to be found alike, nor counted together.

    Returns
    -------
    TrainingSettings
        With the dimensions resolved: volumes only where every network would learn them.
    Note or None
        What was decided, where there was a choice.
    """
    kinds = {name: dimensions_for(pairs, _with(settings, architecture=name)) for name in architectures}
    in_3d = set(kinds.values()) == {3}
    resolved = replace(settings, dimensions="3-D" if in_3d else "2-D")
    if settings.dimensions != "auto" or 3 not in kinds.values():
        return resolved, None
    if in_3d:
        return resolved, Note("Cells go through the slices, so they are learned and counted as bodies in volumes (3-D).")
    flat = ", ".join(ARCHITECTURES[name].title for name, kind in kinds.items() if kind == 2)
    be = "is" if list(kinds.values()).count(2) == 1 else "are"
    alike = "all networks learn, and are judged by, the profiles in each slice (2-D)"
    return resolved, Note(f"Cells go through the slices, but {flat} {be} for planes only: {alike}.")


def _with(settings: TrainingSettings, **wishes: object) -> TrainingSettings:
    return TrainingSettings(**(to_dict(settings) | wishes))


def compare(
    pairs: Sequence[TrainingPair],
    architectures: Sequence[str],
    losses: Sequence[str],
    settings: TrainingSettings,
    file: Path,
    folds: int = 2,
    seeds: int = 1,
) -> Generator[Note | Progress | Run, None, list[Run]]:
    """Train and test every combination, from random weights.

    Every network is built, and every fold planned, before the first training: what cannot be is said at once.

    Parameters
    ----------
    pairs : sequence of TrainingPair
    architectures, losses : sequence of str
    settings : TrainingSettings
        Minutes or steps of each training, and all else; the seed is the first one, and the dimensions are resolved for all together.
    file : Path
        JSON with the finished runs, read first and written after each.
    folds, seeds : int

    Yields
    ------
    Note, Progress or Run
        A run when it is done. Walking away is safe: the next call goes on with the run that was not finished.

    Returns
    -------
    list of Run
        All that were asked for, also those that were in the file.

    Raises
    ------
    ValueError
        If the file holds runs with other images, labels or settings, or one of the networks cannot be built or trained with these.
    """
    settings, note = one_kind(pairs, architectures, settings)
    dealt = folds_of(pairs, folds)
    base = {name: value for name, value in to_dict(settings).items() if name not in ("architecture", "loss", "seed", "device")}
    images = [pair.image.fingerprint for pair in pairs]
    made_with: dict[str, object] = {"images": sorted(images), "data": data_fingerprint(pairs, images), "folds": folds, "settings": base}
    done = _read(file, made_with)
    wanted = list(product(architectures, losses, range(folds), range(settings.seed, settings.seed + seeds)))
    left = [key for key in wanted if key not in done]
    others = [[pair for i, pair in enumerate(pairs) if i not in test] for test in dealt]  # what each fold trains on
    for architecture, fold in dict.fromkeys((architecture, fold) for architecture, _, fold, _ in left):
        plan_training(others[fold], _with(settings, architecture=architecture))
    if note and left:
        yield note
    for number, (architecture, loss, fold, seed) in enumerate(wanted, start=1):
        if (architecture, loss, fold, seed) in done:
            continue
        chosen = _with(settings, architecture=architecture, loss=loss, seed=seed)
        work = _run(others[fold], [pairs[i] for i in dealt[fold]], chosen, fold)
        run = yield from mapped(work, partial(Progress, number, len(wanted), architecture, loss, fold))
        done[architecture, loss, fold, seed] = run
        _write(file, made_with, done)
        yield run
    return [done[key] for key in wanted]


def _run(
    training: list[TrainingPair],
    test: list[TrainingPair],
    settings: TrainingSettings,
    fold: int,
) -> Generator[float, None, Run]:
    plan = plan_training(training, settings)
    model = new_model(plan)
    finished: Finished | None = None
    yield 0.0
    for event in train(model, training, plan):
        if isinstance(event, Step):
            yield event.fraction
        elif isinstance(event, Finished):
            finished = event
    assert finished
    began = time.perf_counter()
    found = [run_to_end(find_cells(model, pair.image, PredictionSettings(device=settings.device))).labels for pair in test]
    seconds = time.perf_counter() - began
    triples = ((pair.image.name, pair.labels, labels) for pair, labels in zip(test, found, strict=True))
    scores = evaluate(triples, bodies=model.settings.dimensions == 3)
    return Run(
        settings.architecture,
        settings.loss,
        fold,
        settings.seed,
        tuple((m.tp, m.fp, m.fn) for m in scores.matchings),
        sum(scores.true_counts),
        sum(scores.predicted_counts),
        finished.step,
        round(finished.seconds, 1),
        sum(p.numel() for p in model.network.parameters()),
        round(seconds / sum(pair.labels.size for pair in test) * 1e6, 2),
    )


def rows(runs: Sequence[Run]) -> list[Row]:
    """Pool the folds of each architecture and loss, the best average precision (mean over the IoU) first.

    The spread is that between seeds, each over all folds: largest minus smallest. Of a comparison that was stopped, seeds with fewer folds
    than others are left out: folds are not equally hard.
    """
    table = []
    for architecture, loss in dict.fromkeys((run.architecture, run.loss) for run in runs):
        own = [run for run in runs if (run.architecture, run.loss) == (architecture, loss)]
        folds = Counter(run.seed for run in own)
        own = [run for run in own if folds[run.seed] == max(folds.values())]
        sums = np.array([run.counts for run in own]).sum(0)
        per_seed = ([run.counts for run in own if run.seed == seed] for seed in {run.seed for run in own})
        by_seed = [float(average_precision(np.array(counts).sum(0)).mean()) for counts in per_seed]
        true = sum(run.true for run in own)
        tp, fp, fn = sums[0]
        table.append(
            Row(
                architecture,
                loss,
                len(own),
                tuple(average_precision(sums).tolist()),
                max(by_seed) - min(by_seed),
                float(2 * tp / max(1, 2 * tp + fp + fn)),
                (sum(run.predicted for run in own) - true) / max(1, true),
                float(np.mean([run.steps for run in own])),
                float(np.mean([run.seconds for run in own])),
                own[0].parameters,
                float(np.median([run.seconds_per_megapixel for run in own])),
            )
        )
    return sorted(table, key=lambda row: -float(np.mean(row.ap)))


def plot(table: Sequence[Row]) -> str:
    """Draw the table: average precision over IoU, a line for each row. Gives SVG, which every browser shows."""
    width, height, left, top = 640, 360, 60, 20
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito, 2008
    dashes = ("", "6 3", "2 3")

    def x(iou: float) -> float:
        return left + (iou - THRESHOLDS[0]) / (THRESHOLDS[-1] - THRESHOLDS[0]) * (width - left - 20)

    def y(ap: float) -> float:
        return top + (1 - ap) * (height - top - 50)

    parts = [f'<text x="{left - 8}" y="{y(v) + 4:.0f}" text-anchor="end">{v:.1f}</text>' for v in (0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    parts += [f'<path d="M{left} {y(v):.0f}H{width - 20}" stroke="#ddd"/>' for v in (0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    parts += [f'<text x="{x(v):.0f}" y="{height - 32}" text-anchor="middle">{v:.1f}</text>' for v in THRESHOLDS]
    parts.append(f'<text x="{(left + width) // 2}" y="{height - 12}" text-anchor="middle">IoU that a found cell must reach</text>')
    parts.append(f'<text transform="translate(16 {height // 2}) rotate(-90)" text-anchor="middle">average precision</text>')
    for n, row in enumerate(table):
        line = " ".join(f"{x(t):.1f},{y(ap):.1f}" for t, ap in zip(THRESHOLDS, row.ap, strict=True))
        look = f'stroke="{colours[n % len(colours)]}" stroke-dasharray="{dashes[n // len(colours) % len(dashes)]}"'
        parts.append(f'<polyline points="{line}" fill="none" stroke-width="2" {look}/>')
        at = height + 16 + 18 * n
        parts.append(f'<path d="M{left} {at - 4}h30" stroke-width="2" {look}/>')
        parts.append(f'<text x="{left + 40}" y="{at}">{row.architecture}, {row.loss}: {np.mean(row.ap):.3f}</text>')
    whole = height + 20 + 18 * len(table)
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {whole}" font-family="sans-serif" font-size="12">'
    return f'{head}\n<rect width="{width}" height="{whole}" fill="white"/>\n{body}\n</svg>\n'


def done_so_far(file: Path, architectures: Sequence[str], losses: Sequence[str], seeds: Collection[int]) -> list[Run]:
    """Give the runs of some networks, losses and seeds that a file holds."""
    runs = _runs_in(file)[1]
    return [run for run in runs if run.architecture in architectures and run.loss in losses and run.seed in seeds]


def _read(file: Path, made_with: dict[str, object]) -> dict[tuple[str, str, int, int], Run]:
    if not file.exists():
        return {}
    made, runs = _runs_in(file)
    if made != made_with:
        raise ValueError(
            f"{file}: the runs in it were made with other images, labels, folds or settings. Choose another file, or delete it."
        )
    return {(run.architecture, run.loss, run.fold, run.seed): run for run in runs}


def _runs_in(file: Path) -> tuple[object, list[Run]]:
    """Read what the runs of a file were made with, and the runs."""
    try:
        require_file(file)
        content = json.loads(file.read_text())
        return content["made_with"], [Run(**run | {"counts": tuple(map(tuple, run["counts"]))}) for run in content["runs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: this is no list of runs ({error}). Choose another file.") from error


def _write(file: Path, made_with: dict[str, object], done: dict[tuple[str, str, int, int], Run]) -> None:
    with whole_file(file) as partial:
        partial.write_text(json.dumps({"made_with": made_with, "runs": [asdict(run) for run in done.values()]}, indent=1) + "\n")
