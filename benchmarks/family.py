"""Every architecture and every loss on a few images: how well and how fast. Prints a Markdown table.

    python benchmarks/family.py --data DIR --sets fluorescence phase --minutes 2 --seeds 3

DIR holds nuclei_dev, phase_dev as SET/images and SET/labels (or set NAPARI_TALLY_DATA). Each network starts from random weights, is
trained on `--train` images and tested on the others: fluorescence images of nuclei_dev (the choice of benchmarks/few_images.py), and
phase_dev, trained on one. Architectures are trained with the default loss, losses with the default architecture. AP is the mean over
IoU 0.5 to 0.8. `--steps N` trains for N steps instead of minutes: the same work for all, and so comparable on a busy machine; the
seconds are then those of that machine at that hour. `--processor-time` counts the seconds that the processor worked for this process in
place of those of the clock, so that other work on the machine takes nothing away. `--json FILE` keeps finished runs and goes on from there.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import few_images
import numpy as np
from few_images import measure, read_set

from napari_tally.core.architectures import ARCHITECTURES
from napari_tally.core.losses import LOSSES
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.train import Finished, train
from napari_tally.demo_data import spread
from napari_tally.settings import TrainingSettings, from_dict

SETS = {"fluorescence": ("fluorescence", 5), "phase": ("phase_dev", 1)}
"""Name -> name in benchmarks/few_images.py, and images to train on."""
COLUMNS = ["AP", "AP@0.5", "F1", "count bias", "steps", "seconds", "parameters", "s/MP"]


def main() -> None:
    """Train and test each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--architectures", nargs="*", default=[name for name in ARCHITECTURES if name != "unet-bilinear"])
    parser.add_argument("--losses", nargs="*", default=list(LOSSES))
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--patch", type=int, default=0)
    parser.add_argument("--base-width", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.processor_time:
        few_images.count_processor_time(sys.modules[__name__])
    runs: list[dict[str, Any]] = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    every = dict.fromkeys([(name, "cross-entropy") for name in arguments.architectures] + [("unet", loss) for loss in arguments.losses])
    print(f"| set | architecture | loss | {' | '.join(COLUMNS)} |")
    print("|" + "---|" * (3 + len(COLUMNS)))
    for name in arguments.sets:
        pairs = list(read_set(arguments.data, SETS[name][0]))
        for architecture, loss in every:
            own = []
            for seed in range(arguments.seeds):
                wish = {key: getattr(arguments, key) for key in ("minutes", "steps", "patch", "base_width")}
                wish |= {"architecture": architecture, "loss": loss, "seed": seed}
                run = next((run for run in runs if run["set"] == name and run["wish"] == wish), None)
                if run is None:
                    run = {"set": name, "wish": wish, **_run(pairs, SETS[name][1], wish)}
                    runs.append(run)
                    if arguments.json:
                        arguments.json.write_text(json.dumps(runs, indent=1))
                own.append(run)
            print(f"| {name} | {architecture} | {loss} | {' | '.join(_cell(column, own) for column in COLUMNS)} |", flush=True)


def _run(pairs: list[TrainingPair], k: int, wish: dict[str, Any]) -> dict[str, float]:
    chosen = spread(pairs, k, wish["seed"])
    training = [pairs[i] for i in chosen]
    plan = plan_training(training, from_dict(TrainingSettings, wish))
    model = new_model(plan)
    began, finished = time.perf_counter(), None
    for event in train(model, training, plan):
        finished = event
    assert isinstance(finished, Finished)
    seconds = time.perf_counter() - began
    found = measure(model, [pair for i, pair in enumerate(pairs) if i not in chosen])
    return {
        "AP": float(np.mean([found[f"AP@{iou}"] for iou in (0.5, 0.6, 0.7, 0.8)])),
        **{column: found[column] for column in ("AP@0.5", "F1", "count bias", "s/MP")},
        "steps": finished.step,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in model.network.parameters()),
    }


def _cell(column: str, runs: list[dict[str, Any]]) -> str:
    values = np.array([run[column] for run in runs])
    form = {"count bias": "{:+.0%}", "steps": "{:.0f}", "seconds": "{:.0f}", "s/MP": "{:.2f}"}.get(column, "{:.3f}")
    if column == "parameters":
        return f"{values[0] / 1e6:.2f} M"
    spread_text = f" ({form.format(values.min())} to {form.format(values.max())})" if len(values) > 1 and column in COLUMNS[:4] else ""
    return form.format(values.mean()) + spread_text


if __name__ == "__main__":
    main()
