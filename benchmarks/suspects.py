"""How many mistakes are among the cells that are named first? Prints Markdown tables.

    python benchmarks/suspects.py --data DIR --cache FOLDER
    python benchmarks/suspects.py --data DIR --cache FOLDER --learn

DIR holds nuclei_dev and phase_dev (with --learn: nuclei_pretrain and phase_pretrain) as SET/images and
SET/labels, or set NAPARI_TALLY_DATA. FOLDER keeps what the models found, so that a second run takes seconds.

A cell that was found is wrong if no true cell has an IoU of 0.5 with it (false positive, piece of a split), or if it lies over more
than half of two or more true cells (merge). The list runs over all images of a set. Random order finds a tenth of the mistakes in the
first tenth of the list; no order can find more than `possible`, where more than a tenth of the cells are wrong. The last column is
the simplest other order: by the mean probability that the pixels belong to a cell.

--learn fits the weights in core/suspects.py: for each fault a logistic regression (L2, weights not below 0) on every third image of
nuclei_pretrain and on phase_pretrain; both sets weigh the same. The models have learned from these images; their mistakes there are
fewer, but of the same kinds.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize

import napari_tally as nt
from napari_tally.core.annotations import require_labels
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.label_files import read_labels
from napari_tally.core.metrics import iou_matrix
from napari_tally.core.prediction import Prediction
from napari_tally.core.samples import TrainingPair, cell_diameter
from napari_tally.core.suspects import FAULTS, SEEN, SIGNS, measure_planes, rank_suspects, weigh_signs
from napari_tally.settings import PredictionSettings

FIRST = 0.1


def main() -> None:
    """Measure, or learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--learn", action="store_true")
    arguments = parser.parse_args()
    if arguments.learn:
        nuclei = _found(arguments.data / "nuclei_pretrain", "nuclei", arguments.cache, every=3)
        _learn([nuclei, _found(arguments.data / "phase_pretrain", "phase", arguments.cache)])
        return
    nuclei = _found(arguments.data / "nuclei_dev", "nuclei", arguments.cache)
    columns = ["images", "model", "cells found", "wrong", "wrong in the first tenth", "of all mistakes", "times random", "possible"]
    print(f"| {' | '.join(columns)} | least probable first |\n|" + "---|" * (len(columns) + 1))
    _row("nuclei_dev", "nuclei", nuclei)
    _row("– fluorescence", "nuclei", nuclei[nuclei["dark"]])
    _row("– stain and brightfield", "nuclei", nuclei[~nuclei["dark"]])
    phase = arguments.data / "phase_dev"
    _row("phase_dev", "phase", _found(phase, "phase", arguments.cache))
    stated = _found(phase, "phase", arguments.cache, diameter=True)
    _row("phase_dev, cell diameter stated", "phase", stated)
    print("\n| true fault | as a share of the mistakes | named " + " | named ".join(FAULTS) + " |\n|---|---|" + "---|" * len(FAULTS))
    wrong = _in_order(nuclei).query("kind != ''")
    for kind in FAULTS[:3]:
        of_kind = wrong[wrong["kind"] == kind]
        named = " | ".join(f"{(of_kind['fault'] == fault).mean():.0%}" for fault in FAULTS)
        print(f"| {kind.rstrip('?')} (nuclei_dev) | {len(of_kind) / len(wrong):.0%} | {named} |")


def _row(title: str, model: str, found: pd.DataFrame) -> None:
    wrong = (_in_order(found)["kind"] != "").to_numpy()
    doubtful = (found.sort_values("doubt", ascending=False)["kind"] != "").to_numpy()
    first = round(FIRST * wrong.size)
    hits = int(wrong[:first].sum())
    share = hits / wrong.sum()
    print(
        f"| {title} | {model} | {wrong.size} | {wrong.sum()} ({wrong.mean():.0%}) | {hits} of {first} | {share:.0%} | "
        f"{share / FIRST:.2f} | {min(first, wrong.sum()) / wrong.sum() / FIRST:.2f} | {doubtful[:first].sum() / wrong.sum() / FIRST:.2f} |",
        flush=True,
    )


def _in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Rank the cells of each image against its own population, then all by score."""
    ranked = pd.concat([rank_suspects(of_image) for _, of_image in found.groupby("image")])
    return ranked.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _found(folder: Path, model_name: str, cache: Path, every: int = 1, diameter: bool = False) -> pd.DataFrame:
    """Give the signs of all cells that a model finds, and what is true of each; predictions come from the cache where it has them."""
    tables = []
    for stem, dark, truth, found in _predictions(folder, model_name, cache, every, diameter):
        signs = measure_planes(found.probabilities, found.labels, nt.find_model(model_name).counting, found.zoom)
        tables.append(signs.assign(image=stem, dark=dark, kind=_kinds(truth, found.labels)))
    return pd.concat(tables, ignore_index=True)


def _predictions(folder: Path, model_name: str, cache: Path, every: int, diameter: bool) -> Iterator[tuple]:
    model = nt.find_model(model_name)
    there = cache / f"{folder.name}-{model_name}{'-diameter' * diameter}"
    there.mkdir(parents=True, exist_ok=True)
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels")[::every]:
        image = read_image(image_path)
        truth = require_labels(read_labels(labels_path), image)
        file = there / f"{image_path.stem}.npz"
        if not file.exists():
            own = cell_diameter([TrainingPair(image, truth)]) if diameter else 0.0
            found = run_to_end(find_cells(model, image, PredictionSettings(diameter=own)))
            with file.with_suffix(".part").open("wb") as part:
                np.savez(part, probabilities=found.probabilities.astype(np.float16), labels=found.labels, zoom=found.zoom)
            file.with_suffix(".part").replace(file)
        with np.load(file) as kept:
            found = Prediction(kept["probabilities"].astype(np.float32), kept["labels"], float(kept["zoom"]), int(kept["labels"].max()))
        dark = image.channels == 1 and np.median(image.planes) <= 0.3 * np.iinfo(image.planes.dtype).max
        if found.labels.any():
            yield image_path.stem, dark, truth, found


def _kinds(truth: NDArray[np.integer], labels: NDArray[np.integer]) -> list[str]:
    """Name what is wrong with each cell that was found, in the order of the ids; "" = nothing."""
    iou = iou_matrix(truth, labels)
    of_true, of_found = (np.unique(image[image > 0], return_counts=True)[1] for image in (truth, labels))
    shared = iou / (1 + iou) * (of_true[:, None] + of_found)
    merged = (shared > of_true[:, None] / 2).sum(0) > 1
    matched = (iou >= 0.5).any(0)
    inside_one = (shared > of_found / 2).any(0)
    return [
        FAULTS[0] if m else "" if good else FAULTS[1] if inside else FAULTS[2]
        for m, good, inside in zip(merged, matched, inside_one, strict=True)
    ]


def _learn(sets: Sequence[pd.DataFrame]) -> None:
    """Fit one logistic regression a fault, with probabilities and without, and print its numbers as they stand in the source."""
    most, images = max(map(len, sets)), [of_image for found in sets for _, of_image in found.groupby("image", sort=False)]
    values = np.concatenate([weigh_signs(of_image) for of_image in images])
    kinds = np.concatenate([of_image["kind"] for of_image in images])
    weights = np.concatenate([np.full(len(found), most / len(found)) for found in sets])
    print(f"{len(images)} images, {len(kinds)} cells, {(kinds != '').sum()} of them wrong")
    for signs in (values, np.where(np.isin(SIGNS, SEEN), 0, values)):
        for fault in FAULTS[:3]:
            slopes, offset = _logistic(signs, (kinds == fault).astype(float), weights)
            print(f'    "{fault}": (({", ".join(f"{w:.2f}" for w in slopes)}), {offset:.2f}),  # {", ".join(SIGNS)}')


def _logistic(values: NDArray[np.float64], true: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    mean = np.average(values, axis=0, weights=weights)
    spread = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights)) + 1e-9
    scaled = np.column_stack([np.ones(len(values)), (values - mean) / spread])

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = scaled @ line
        shrink = np.append(0, line[1:])
        miss = weights * (1 / (1 + np.exp(-odds)) - true)
        return (weights * (np.logaddexp(0, odds) - true * odds)).sum() + (shrink**2).sum() / 2, scaled.T @ miss + shrink

    bounds = [(None, None)] + [(0, None)] * values.shape[1]
    fitted = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds).x
    slopes = fitted[1:] / spread
    return slopes, float(fitted[0] - slopes @ mean)


if __name__ == "__main__":
    main()
