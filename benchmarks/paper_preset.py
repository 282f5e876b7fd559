"""The network and optimiser of 2015 (preset `paper`) on five images: its curve. Prints a Markdown table.

    python benchmarks/paper_preset.py --data DIR --steps 200 --every 25

DIR holds nuclei_dev as SET/images and SET/labels (or set NAPARI_TALLY_DATA). Random weights; training images as in
benchmarks/few_images.py, fluorescence; tested on the first `--test` of the others. The loss is the mean since the row before, the time
that of the training alone.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from few_images import measure, read_set

from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.train import Step, train
from napari_tally.demo_data import spread
from napari_tally.settings import TrainingSettings


def main() -> None:
    """Train, and test on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--test", type=int, default=6)
    parser.add_argument("--patch", type=int, default=0, help="0 = 572, as in the paper")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pairs = list(read_set(arguments.data, "fluorescence"))
    chosen = spread(pairs, 5, arguments.seed)
    training = [pairs[i] for i in chosen]
    test = [pair for i, pair in enumerate(pairs) if i not in chosen][: arguments.test]
    settings = TrainingSettings(preset="paper", steps=arguments.steps, patch=arguments.patch, seed=arguments.seed)
    plan = plan_training(training, settings)
    model = new_model(plan)
    print("| steps | minutes | loss | AP@0.5 | F1 | count bias |")
    print("|---|---|---|---|---|---|", flush=True)
    losses: list[float] = []
    spent, since = 0.0, time.perf_counter()
    for event in train(model, training, plan):
        if not isinstance(event, Step):
            continue
        losses.append(event.loss)
        if event.step % arguments.every == 0:
            spent += time.perf_counter() - since
            found = measure(model, test)
            texts = f"{np.mean(losses):.3f}", f"{found['AP@0.5']:.3f}", f"{found['F1']:.3f}", f"{100 * found['count bias']:+.0f} %"
            print(f"| {event.step} | {spent / 60:.1f} | {' | '.join(texts)} |", flush=True)
            losses, since = [], time.perf_counter()


if __name__ == "__main__":
    main()
