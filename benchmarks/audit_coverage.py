"""Does the 95 % interval of a corrected count hold the truth? Prints a Markdown table, and draws it with --figure.

    python benchmarks/audit_coverage.py --data DIR --cache DIR --figure docs/images/audit_coverage.png

DIR holds nuclei_pretrain and phase_pretrain as SET/images and SET/labels (or set NAPARI_TALLY_DATA). The images are predicted once; the
predicted labels are kept in --cache. Of nuclei_pretrain every sixth image is taken (98), of phase_pretrain all (31). The studies:

    own model        the shipped model for such images. It was trained on these very images, so it is as good as a model can be
    own, new images  `nuclei` on nuclei_dev, which it has never seen
    thresholds       `nuclei` with spoiled thresholds: misses half of the cells or merges them
    wrong model      `nuclei` on phase contrast; `phase` on nuclei
    nothing found    no cell is predicted anywhere
    ten images fail  `nuclei`, but of ten images of 98 every prediction is lost, or there are three for each

For every study and number of windows 1000 audits are drawn with different seeds and counted with the true labels. The widths are
means, in percent of the true count. "By hand" is counting without a model: with the same windows (they were drawn with the help of
the prediction), and with windows drawn at random without it.
"""

import argparse
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from napari_tally.core.audit import Audit, StudyImage, draw_audit
from napari_tally.core.corrected_count import Sample
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import list_images, read_image
from napari_tally.core.label_files import read_labels, write_labels
from napari_tally.core.model_file import find_model
from napari_tally.settings import AuditSettings, CountingSettings

_SPOILED = CountingSettings(seed_threshold=0.93, valley=0.6, smoothing=3.0, edge_threshold=0.8)
_WINDOWS = (8, 16, 32)


@dataclass(frozen=True)
class Study:
    """Images with true and predicted labels."""

    title: str
    folder: str
    model: str
    counting: CountingSettings | None = None
    every: int = 1
    change: Callable[[list[NDArray[np.integer]]], list[NDArray[np.integer]]] = list

    @property
    def key(self) -> str:
        return f"{self.folder}-{self.model}{'-spoiled' * (self.counting is not None)}"


def _nothing(labels: list[NDArray[np.integer]]) -> list[NDArray[np.integer]]:
    return [np.zeros_like(plane) for plane in labels]


def _ten_fail(labels: list[NDArray[np.integer]]) -> list[NDArray[np.integer]]:
    labels = list(labels)
    for k, i in enumerate(np.random.default_rng(0).permutation(len(labels))[:10]):
        rows = np.arange(labels[i].shape[0])[:, None]
        labels[i] = np.where(labels[i] > 0, 3 * labels[i] + rows % 3, 0) if k % 2 else np.zeros_like(labels[i])
    return labels


STUDIES = [
    Study("nuclei, own model", "nuclei_pretrain", "nuclei", every=6),
    Study("nuclei, own model, new images", "nuclei_dev", "nuclei"),
    Study("nuclei, spoiled thresholds", "nuclei_pretrain", "nuclei", _SPOILED, every=6),
    Study("nuclei, wrong model", "nuclei_pretrain", "phase", every=6),
    Study("nuclei, ten images fail", "nuclei_pretrain", "nuclei", every=6, change=_ten_fail),
    Study("nuclei, nothing found", "nuclei_pretrain", "nuclei", every=6, change=_nothing),
    Study("phase contrast, own model", "phase_pretrain", "phase"),
    Study("phase contrast, wrong model", "phase_pretrain", "nuclei"),
]


@dataclass(frozen=True)
class Row:
    """What 1000 audits of a study with so many windows gave."""

    title: str
    true: int
    predicted: int
    windows: int
    clicks: float
    below: float
    above: float
    bias: float
    width: float
    same: float
    simple: float
    half: float
    outlook: float

    @property
    def coverage(self) -> float:
        return 1 - self.below - self.above


def main() -> None:
    """Audit everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--cache", type=Path, required=True, help="keeps the predicted labels")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--windows", type=int, nargs="+", default=_WINDOWS)
    parser.add_argument("--figure", type=Path, help="also draw the table, as PNG")
    parser.add_argument("--only-cached", action="store_true", help="pass over what would have to be predicted")
    arguments = parser.parse_args()
    print("| study | true | predicted | windows | clicks | **coverage** | truth below / above | bias | width ", end="")
    print("| by hand, same windows | by hand, random windows | coverage of half the images | ten more: width expected / measured |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for study in STUDIES:
        folder = arguments.cache / study.key
        if arguments.only_cached and not folder.is_dir():
            continue
        paths = list(list_images(arguments.data / study.folder / "images").values())[:: study.every]
        found = study.change([_predicted(study, path, folder) for path in paths])
        truth = [read_labels(arguments.data / study.folder / "labels" / f"{path.stem}.tif") for path in paths]
        for n in arguments.windows:
            images = [StudyImage(path.stem, cells, image=read_image(path)) for path, cells in zip(paths, found, strict=True)]
            rows.append(measure(study.title, images, truth, n, arguments.draws))
            print(_line(rows[-1]), flush=True)
    if arguments.figure:
        draw(rows, arguments.figure)


def _predicted(study: Study, path: Path, folder: Path) -> NDArray[np.integer]:
    kept = folder / f"{path.stem}.tif"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_labels(kept, run_to_end(find_cells(find_model(study.model), read_image(path), None, study.counting)).labels)
    return read_labels(kept)


def measure(title: str, images: list[StudyImage], truth: list[NDArray[np.integer]], n: int, draws: int) -> Row:
    """Draw audits of a study, count them with the true labels, and compare with the truth."""
    planned = draw_audit(images, AuditSettings(windows=n))
    hand = true_counts(planned, truth)
    true, half = hand.sum(), planned.windows["image"].to_numpy() % 2 == 0
    predicted, strata = planned.windows["predicted"].to_numpy(), planned.windows["stratum"].to_numpy()
    rng, values = np.random.default_rng(1), []
    for seed in range(draws):
        order = np.array(planned.redrawn(seed).order)
        sample = Sample(predicted, strata, order[:n], hand[order[:n]])
        total, part = sample.total(), sample.part(half)
        alone = Sample(predicted, strata, order[:n], hand[order[:n]], weight=0.0).total()
        anywhere = rng.permutation(len(hand))[:n]
        simple = Sample(predicted, np.zeros(len(hand), int), anywhere, hand[anywhere], weight=0.0).total()
        later = Sample(predicted, strata, order[: n + 10], hand[order[: n + 10]]).total()
        inside = part.low <= hand[half].sum() <= part.high if np.isfinite(part.low) else np.nan
        widths = [2 * each.margin / true for each in (total, alone, simple)]
        ratio = sample.expected_margin(order[n : n + 10]), later.margin
        values.append([total.clicks, true < total.low, true > total.high, total.corrected / true - 1, *widths, inside, *ratio])
    clicks, below, above, bias, width, same, simple_width, inside_half, expected, measured = np.nanmean(np.array(values, float), axis=0)
    return Row(
        title, int(true), int(predicted.sum()), n, clicks, below, above, bias, width, same, simple_width, inside_half, expected / measured
    )


def true_counts(audit: Audit, truth: Iterable[NDArray[np.integer]]) -> NDArray[np.float64]:
    """Count the true cells of every window."""
    edges, counts = audit.windows, np.zeros(len(audit.windows))
    for i, labels in enumerate(truth):
        y, x = np.nonzero(labels > 0)
        _, cell, area = np.unique(labels[y, x], return_inverse=True, return_counts=True)
        y, x = np.bincount(cell, y) / area + 0.5, np.bincount(cell, x) / area + 0.5
        for w in np.flatnonzero(edges["image"] == i):
            top, left, bottom, right = edges.loc[w, ["top", "left", "bottom", "right"]]
            counts[w] = ((top <= y) & (y < bottom) & (left <= x) & (x < right)).sum()
    return counts


def _line(row: Row) -> str:
    numbers = [f"{row.true}", f"{row.predicted}", f"{row.windows}", f"{row.clicks:.0f}", f"**{100 * row.coverage:.1f} %**"]
    numbers += [f"{100 * row.below:.1f} / {100 * row.above:.1f} %", f"{100 * row.bias:+.1f} %"]
    numbers += [f"{100 * width:.0f} %" for width in (row.width, row.same, row.simple)]
    return f"| {row.title} | {' | '.join(numbers)} | {100 * row.half:.1f} % | {row.outlook:.2f} |"


def draw(rows: list[Row], path: Path) -> None:
    """Draw coverage and width, a line for every study and number of windows; twice as large, then reduced, so that it is smooth."""
    left, line, wide, z = 330, 22, 330, 2
    width, height = left + 2 * wide + 60, line * (len(rows) + 3)
    picture = Pillow.new("RGB", (z * width, z * height), "white")
    pen = ImageDraw.Draw(picture)

    def text(x: float, y: float, words: str, anchor: str = "lm", colour: str = "black") -> None:
        pen.text((z * x, z * y), words, fill=colour, anchor=anchor, font_size=z * 13)

    def at(value: float, low: float, high: float, panel: int) -> float:
        return left + panel * (wide + 40) + wide * float(np.clip((value - low) / (high - low), 0, 1))

    bar = [at(0.93, 0.85, 1, 0), 1.5 * line, at(0.97, 0.85, 1, 0), height - line]
    pen.rectangle([z * x for x in bar], fill="#d9efd9")
    text(at(0.925, 0.85, 1, 0), 0.8 * line, "intervals that hold the truth (95 % promised)", "mm")
    text(at(0.0, 0, 1.6, 1), 0.8 * line, "width of the interval / true count:")
    text(at(0.98, 0, 1.6, 1), 0.8 * line, "corrected", colour="#1f6fb4")
    text(at(1.3, 0, 1.6, 1), 0.8 * line, "by hand", colour="#999999")
    for tick in (0.85, 0.9, 0.95, 1.0):
        text(at(tick, 0.85, 1, 0), height - 0.5 * line, f"{100 * tick:.0f} %", "mm")
    for tick in (0, 0.5, 1.0, 1.5):
        text(at(tick, 0, 1.6, 1), height - 0.5 * line, f"{100 * tick:.0f} %", "mm")
    for i, row in enumerate(rows):
        y = line * (i + 2)
        if i == 0 or rows[i - 1].title != row.title:
            text(10, y, row.title)
            pen.line([z * 10, z * (y - line / 2), z * (width - 10), z * (y - line / 2)], fill="#dddddd", width=z)
        text(left - 20, y, f"{row.windows} windows", "rm")
        x, r = at(row.coverage, 0.85, 1, 0), 4
        pen.ellipse([z * (x - r), z * (y - r), z * (x + r), z * (y + r)], fill="#1f6fb4" if row.windows >= 16 else "#9ec3e3")
        zero = at(0, 0, 1.6, 1)
        pen.rectangle([z * zero, z * (y - 1), z * at(row.simple, 0, 1.6, 1), z * (y + 4)], fill="#cccccc")
        pen.rectangle([z * zero, z * (y - 5), z * at(row.width, 0, 1.6, 1), z * (y + 1)], fill="#1f6fb4")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((width, height), Pillow.Resampling.LANCZOS).save(path, optimize=True)


if __name__ == "__main__":
    main()
