"""How well does a model trained from nothing on five images count? Prints a Markdown table.

    python benchmarks/from_scratch.py --data DIR --sets nuclei_dev phase_pretrain --minutes 2 --seeds 0 1 2

DIR holds the sets as SET/images and SET/labels (or set NAPARI_TALLY_DATA). Of nuclei_dev the
fluorescence images are used: grey, with a dark background. The five training images are chosen by
`napari_tally.demo_data.real_split`'s rule (k-means over brightness, colour and cell size); all other images are the
test, and no setting was chosen on them.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from napari_tally.core.annotations import require_labels
from napari_tally.core.events import run_to_end
from napari_tally.core.images import match_by_stem, read_image, read_labels
from napari_tally.core.instances import label_planes
from napari_tally.core.metrics import evaluate
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.predict import predict
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Finished, train
from napari_tally.demo_data import HANDFUL, spread
from napari_tally.settings import TrainingSettings


def main() -> None:
    """Train and test once for each set and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--sets", nargs="+", default=["nuclei_dev", "phase_pretrain"])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    print("| set | seed | AP@0.5 | 0.6 | 0.7 | 0.8 | 0.9 | F1@0.5 | true | counted | bias | MAE | steps | s/MP |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.sets:
        pairs = _read(arguments.data / name, only_fluorescence=name.startswith("nuclei"))
        chosen = spread(pairs, HANDFUL)
        training = [pairs[i] for i in chosen]
        test = [pair for i, pair in enumerate(pairs) if i not in chosen]
        for seed in arguments.seeds:
            _run(f"{name}: {len(training)} / {len(test)}", training, test, TrainingSettings(minutes=arguments.minutes, seed=seed))


def _run(title: str, training: list[TrainingPair], test: list[TrainingPair], settings: TrainingSettings) -> None:
    plan = plan_training(training, settings)
    model = new_model(plan)
    for event in train(model, training, plan):
        finished = event
    assert isinstance(finished, Finished)
    began = time.perf_counter()
    found = [label_planes(run_to_end(predict(model, pair.image)), model.counting).reshape(pair.image.shape) for pair in test]
    seconds = time.perf_counter() - began
    megapixels = sum(pair.labels.size for pair in test) / 1e6
    result = evaluate((pair.image.name, pair.labels, labels) for pair, labels in zip(test, found, strict=True))
    ap = " | ".join(f"{m.ap:.3f}" for m in result.matchings)
    print(
        f"| {title} | {settings.seed} | {ap} | {result.matchings[0].f1:.3f} | {sum(result.true_counts)} | {sum(result.predicted_counts)} "
        f"| {100 * result.bias:+.1f} % | {result.mae:.1f} | {finished.step} | {seconds / megapixels:.2f} |",
        flush=True,
    )


def _read(folder: Path, only_fluorescence: bool) -> list[TrainingPair]:
    pairs = []
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels"):
        image = read_image(image_path)
        if only_fluorescence and (image.channels > 1 or np.median(image.planes) > 0.3 * np.iinfo(image.planes.dtype).max):
            continue
        pairs.append(TrainingPair(image, require_labels(read_labels(labels_path), image)))
    return pairs


if __name__ == "__main__":
    main()
