"""Is it better to annotate the images that `napari-tally next` names, or any? Prints a Markdown table.

    python benchmarks/next_image.py --data DIR --sets nuclei_dev phase_pretrain --splits 3 --random 3 --train 4 --steps 60

DIR holds SET/images and SET/labels (or set NAPARI_TALLY_DATA). Each split sorts the images of a set at random into a pool and a test, of
half of them each (at most --most in each). From the pool, --train images are chosen by `next` with the start model, and --random times at
random; the start is trained on each choice for the same steps with the same seed, and counts the test. So both are tested on the same
images, and those that were hard are not taken out of the test by being chosen.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import napari_tally as nt
from napari_tally.core.annotations import require_labels
from napari_tally.core.events import run_to_end
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.label_files import read_labels
from napari_tally.core.metrics import evaluate
from napari_tally.core.model_file import Model, find_model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.suggest import look_at, suggest
from napari_tally.core.train import train
from napari_tally.settings import TrainingSettings


def main() -> None:
    """Train and test for every split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--sets", nargs="+", default=["nuclei_dev"])
    parser.add_argument("--start", default="nuclei")
    parser.add_argument("--train", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--random", type=int, default=3)
    parser.add_argument("--most", type=int, default=1000, help="images of the pool, and of the test, at most")
    parser.add_argument("--largest", type=int, default=10**9, help="leave out images of more pixels")
    arguments = parser.parse_args()
    start = find_model(arguments.start)
    print("| set | split | pool / test | start alone: AP@0.5 (count bias) | chosen by `next` | chosen at random: mean, worst to best |")
    print("|---|---|---|---|---|---|", flush=True)
    gains = []
    for name in arguments.sets:
        pairs = [pair for pair in read(arguments.data / name) if pair.labels.size <= arguments.largest]
        for split in range(arguments.splits):
            order = np.random.default_rng(split).permutation(len(pairs))
            half = min(len(pairs) // 2, arguments.most)
            pool, test = ([pairs[i] for i in part] for part in (order[:half], order[half : 2 * half]))
            points = [run_to_end(look_at(start, pair.image)) for pair in pool]
            named = [found.place for found in suggest(start, [pair.image.name for pair in pool], points, arguments.train)]
            before, chosen = score(start, test), score(trained(start, [pool[i] for i in named], arguments.steps), test)
            others = []
            for seed in range(arguments.random):
                any_of = np.random.default_rng(100 * split + seed).permutation(half)[: arguments.train]
                others.append(score(trained(start, [pool[i] for i in any_of], arguments.steps), test))
            ap, bias = np.array(others).T
            gains.append(chosen[0] - ap.mean())
            random = f"{ap.mean():.3f}, {ap.min():.3f} to {ap.max():.3f} ({100 * bias.mean():+.1f} %)"
            print(f"| {name} | {split} | {half} / {len(test)} | {_say(*before)} | {_say(*chosen)} | {random} |", flush=True)
    error = np.std(gains, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("nan")
    print(f"\nMean difference, chosen by `next` minus at random: {np.mean(gains):+.3f} (standard error {error:.3f}, {len(gains)} splits)")


def read(folder: Path) -> list[TrainingPair]:
    """Read a set."""
    pairs = []
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels"):
        image = read_image(image_path)
        pairs.append(TrainingPair(image, require_labels(read_labels(labels_path), image)))
    return pairs


def trained(start: Model, pairs: Sequence[TrainingPair], steps: int) -> Model:
    """Train on some images, and keep what comes of it."""
    plan = plan_training(pairs, TrainingSettings(steps=steps, insist=True), start)
    model = new_model(plan, start)
    run_to_end(train(model, pairs, plan))
    return model


def score(model: Model, test: Sequence[TrainingPair]) -> tuple[float, float]:
    """Give the average precision at an IoU of 0.5 and the bias of the count, pooled over the test."""
    result = evaluate((pair.image.name, pair.labels, nt.predict(pair.image, model).labels) for pair in test)
    return result.matchings[0].ap, result.bias


def _say(ap: float, bias: float) -> str:
    return f"{ap:.3f} ({100 * bias:+.1f} %)"


if __name__ == "__main__":
    main()
