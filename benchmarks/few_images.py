"""How well does a model count after a few images and minutes? Prints a Markdown table, mean (and range) over the seeds.

    python benchmarks/few_images.py --data DIR --sets fluorescence stain --train 5 --minutes 2 --seeds 3 --starts none nuclei

DIR holds nuclei_dev, phase_dev and phase_pretrain as SET/images and SET/labels (or set NAPARI_TALLY_DATA). The sets:

    fluorescence     of nuclei_dev, grey on a dark background
    stain            the others of nuclei_dev: stained tissue and brightfield
    phase_dev        phase contrast; only `none` and `nuclei` have never seen such images
    phase_pretrain   more of the same, for those two alone

Starts: `none` = random weights, a shipped model's name, or a file. Each is also measured without any training (0 minutes);
`--minutes` without a number measures only that. `--json FILE` keeps every run; `--draw PICTURE FILE...` draws such files with matplotlib,
and runs nothing.
The training images are chosen by `demo_data.spread` (k-means over brightness, colour and cell size, one image a group; the seed
of the run), all other images are the test. AP, F1, SEG and counts are pooled over the test images.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import napari_tally as nt
from napari_tally.core import budget
from napari_tally.core.annotations import require_labels
from napari_tally.core.image_files import match_by_stem, read_image
from napari_tally.core.images import Image
from napari_tally.core.label_files import read_labels
from napari_tally.core.metrics import Mistakes, evaluate, mistakes
from napari_tally.core.model_file import Model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair
from napari_tally.core.start import choose_start
from napari_tally.core.train import Finished, train
from napari_tally.demo_data import spread
from napari_tally.settings import AugmentationSettings, TrainingSettings

COLUMNS = ["AP@0.5", "AP@0.6", "AP@0.7", "AP@0.8", "AP@0.9", "F1", "SEG", "count bias", "splits", "merges"]
"""Count bias, splits and merges in percent of the true cells."""
_PERCENT = COLUMNS[7:]


def main() -> None:
    """Train and test for every combination."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--sets", nargs="+", default=["fluorescence", "stain"])
    parser.add_argument("--train", type=int, nargs="+", default=[5])
    parser.add_argument("--minutes", type=float, nargs="*", default=[2.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", nargs="+", default=["none", "nuclei"])
    parser.add_argument("--steps", type=int, default=0, help="so many steps instead of minutes")
    parser.add_argument("--learning-rate", type=float, default=0.0)
    parser.add_argument("--border-weight", type=float, default=10.0)
    parser.add_argument("--elastic-sd", type=float, default=10.0)
    parser.add_argument("--no-batch-norm", action="store_true", help="only with --starts none")
    parser.add_argument("--fixed-scale", action="store_true", help="without the plan's rule for the size of cells; only with --starts none")
    parser.add_argument("--processor-time", action="store_true", help="minutes that the processor works for this, not those of the clock")
    parser.add_argument("--json", type=Path, help="also write every run here")
    parser.add_argument("--draw", type=Path, nargs="+", metavar=("PICTURE", "JSON"), help="draw what --json wrote")
    arguments = parser.parse_args()
    if arguments.draw:
        draw([run for path in arguments.draw[1:] for run in json.loads(path.read_text())], arguments.draw[0])
        return
    if arguments.processor_time:
        count_processor_time(sys.modules[__name__])
    print(f"| set | trained / tested on | start | minutes | steps | {' | '.join(COLUMNS)} | start kept |")
    print("|---|---|---|---|---|" + "---|" * len(COLUMNS) + "---|")
    runs = []
    for name in arguments.sets:
        pairs = list(read_set(arguments.data, name))
        for k in arguments.train:
            for start in arguments.starts:
                for minutes in [*([0.0] if start != "none" else []), *arguments.minutes]:
                    found = [_run(name, pairs, k, start, minutes, seed, arguments) for seed in range(arguments.seeds)]
                    runs += found
                    print(_row(found), flush=True)
                    if arguments.json:
                        arguments.json.write_text(json.dumps(runs, indent=1))


def count_processor_time(*modules: Any) -> None:
    """Let training, and these modules, go by the seconds that the processor works for this process: other work takes nothing away."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    for module in (budget, sys.modules[__name__], *modules):
        module.time = clock


def _run(name: str, pairs: list[TrainingPair], k: int, start: str, minutes: float, seed: int, arguments: Any) -> dict[str, Any]:
    chosen = spread(pairs, k, seed)
    training = [pairs[i] for i in chosen]
    test = [pair for i, pair in enumerate(pairs) if i not in chosen]
    wish = {"learning_rate": arguments.learning_rate, "border_weight": arguments.border_weight, "seed": seed}
    settings = TrainingSettings(minutes=minutes or 1.0, steps=arguments.steps, **wish)
    begin = choose_start(start, training, settings)
    plan = plan_training(training, settings, begin)
    if arguments.no_batch_norm and begin is None:
        plan = replace(plan, network=replace(plan.network, batch_norm=False))
    if arguments.fixed_scale and begin is None:
        plan = replace(plan, scale=1.0, scales=(1.0,) * len(training))
    model, finished = begin, None
    if minutes or model is None:
        model = new_model(plan, begin)
        for event in train(model, training, plan, AugmentationSettings(elastic_sd=arguments.elastic_sd)):
            finished = event
        assert isinstance(finished, Finished)
    return {
        "set": name,
        "train": len(training),
        "test": len(test),
        "start": begin.record.get("name", start) if begin else start,
        "minutes": minutes,
        "seed": seed,
        "steps": finished.step if finished else 0,
        "kept": bool(finished and finished.start_kept),
        "comparison": finished.comparison.rows() if finished and finished.comparison else None,
        **measure(model, test),
    }


def measure(model: Model, test: list[TrainingPair]) -> dict[str, float]:
    """Predict the test images; give the columns of the table and the seconds a megapixel."""
    began = time.perf_counter()
    found = [nt.predict(pair.image, model).labels for pair in test]
    seconds = time.perf_counter() - began
    result = evaluate((pair.image.name, pair.labels, labels) for pair, labels in zip(test, found, strict=True))
    wrong = sum((mistakes(pair.labels, labels) for pair, labels in zip(test, found, strict=True)), Mistakes())
    true = sum(result.true_counts)
    values = [
        *(m.ap for m in result.matchings),
        result.matchings[0].f1,
        result.scores["SEG"],
        result.bias,
        wrong.splits / true,
        wrong.merges / true,
    ]
    return {**dict(zip(COLUMNS, values, strict=True)), "s/MP": seconds / (sum(pair.labels.size for pair in test) / 1e6)}


def _row(runs: list[dict[str, Any]]) -> str:
    first = runs[0]
    cells = []
    for column in COLUMNS:
        values = np.array([run[column] for run in runs]) * (100 if column in _PERCENT else 1)
        form, unit = ("{:+.1f}" if column == "count bias" else "{:.1f}", " %") if column in _PERCENT else ("{:.3f}", "")
        spread_text = f" ({form.format(values.min())} to {form.format(values.max())})" if len(runs) > 1 else ""
        cells.append(form.format(values.mean()) + unit + spread_text)
    steps = round(float(np.mean([run["steps"] for run in runs])))
    kept = sum(run["kept"] for run in runs)
    head = f"| {first['set']} | {first['train']} / {first['test']} | {first['start']} | {first['minutes']:g} | {steps} | "
    return head + " | ".join(cells) + f" | {kept} of {len(runs)} |"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw AP against the IoU that is asked for, a panel for each set: the mean of the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ious = [0.5, 0.6, 0.7, 0.8, 0.9]
    sets = list(dict.fromkeys(run["set"] for run in runs))
    figure, panels = plt.subplots(1, len(sets), figsize=(4 * len(sets), 3.6), sharey=True, squeeze=False, layout="constrained")
    colours = {"none": "tab:grey", "nuclei": "tab:blue", "phase": "tab:orange"}
    for panel, name in zip(panels[0], sets, strict=True):
        for start, minutes in dict.fromkeys((run["start"], run["minutes"]) for run in runs if run["set"] == name):
            own = [run for run in runs if (run["set"], run["start"], run["minutes"]) == (name, start, minutes)]
            aps = np.array([[run[f"AP@{iou}"] for iou in ious] for run in own])  # (seeds, IoU)
            text = f"{'random weights' if start == 'none' else start}, {f'{minutes:g} min' if minutes else 'untrained'}"
            line = {"color": colours.get(start, "tab:green"), "linestyle": "-" if minutes else ":"}
            panel.plot(ious, aps.mean(0), label=text, marker="o", markersize=3, **line)
            panel.fill_between(ious, aps.min(0), aps.max(0), color=line["color"], alpha=0.15, linewidth=0)
        title = f"{name} ({own[0]['train']} image{'s' * (own[0]['train'] > 1)})"
        panel.set(title=title, xlabel="IoU that is asked for", ylim=(0, 1), xticks=ious)
        panel.legend(fontsize="small")
    panels[0][0].set_ylabel("average precision")
    figure.savefig(path, dpi=110)


def is_dark(image: Image) -> bool:
    """Whether it is grey on a dark background, as fluorescence is."""
    return bool(image.channels == 1 and np.median(image.planes) <= 0.3 * np.iinfo(image.planes.dtype).max)


def read_set(data: Path, name: str) -> Iterator[TrainingPair]:
    """Read the images of a set with their labels."""
    folder = data / ("nuclei_dev" if name in ("fluorescence", "stain") else name)
    for image_path, labels_path in match_by_stem(folder / "images", folder / "labels"):
        image = read_image(image_path)
        dark = is_dark(image)
        if (name == "fluorescence" and not dark) or (name == "stain" and dark):
            continue
        yield TrainingPair(image, require_labels(read_labels(labels_path), image))


if __name__ == "__main__":
    main()
