"""Nuclei in three dimensions: train on one volume, test on another, slice by slice against as a volume. Prints a Markdown table.

    python benchmarks/volumes.py --data DIR --steps 200

DIR holds nuclei_3d as SET/images and SET/labels (or set NAPARI_TALLY_DATA). Planes have no third dimension, so what is found slice by
slice is stitched: a profile goes on in the next slice where it overlaps most, from IoU 0.25 on. All are matched as bodies. AP is the
mean over IoU 0.5 to 0.8. `--steps` trains for so many steps, the same work on any machine; `--minutes` for so long. `--json FILE` keeps
finished rows and goes on from there.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.annotations import require_labels
from napari_tally.core.events import run_to_end
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import read_image
from napari_tally.core.label_files import read_labels
from napari_tally.core.metrics import evaluate, iou_matrix
from napari_tally.core.model_file import find_model
from napari_tally.core.plan import new_model, plan_training
from napari_tally.core.samples import TrainingPair, cell_diameter
from napari_tally.core.start import choose_start
from napari_tally.core.train import train
from napari_tally.settings import PredictionSettings, TrainingSettings

DISTANCE = 2.2
"""Slices every 0.28 um, pixels of 0.127 um."""
ROWS = {
    "`nuclei` as it comes, told the size, slice by slice": ("nuclei", "2-D", False),
    "`nuclei`, trained slice by slice": ("nuclei", "2-D", True),
    "`nuclei` made three-dimensional, trained on the volume": ("nuclei", "3-D", True),
    "random weights, trained on the volume": ("none", "3-D", True),
}
_STITCH = 0.25


def main() -> None:
    """Train and test each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NAPARI_TALLY_DATA"), required="NAPARI_TALLY_DATA" not in os.environ)
    parser.add_argument("--train", default="1135_mini")
    parser.add_argument("--test", default="1136_mini", help='"" = train on one half of the volume, along x, and test on the other')
    parser.add_argument("--distance", type=float, default=DISTANCE, help="how far slices are apart, in widths of a pixel")
    parser.add_argument("--rows", nargs="+", type=int, default=list(range(len(ROWS))))
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fixed", action="store_true", help="train from random weights on voxels as they are: without the plan's rules for sizes"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    wish = {"steps": arguments.steps, "minutes": arguments.minutes, "seed": arguments.seed, "slice_distance": arguments.distance}
    fixed = arguments.fixed
    known, test = (read_pair(arguments.data / "nuclei_3d", name) for name in (arguments.train, arguments.test or arguments.train))
    if not arguments.test:
        known, test = half(known, 0), half(known, 1)
    print("| how | AP | AP@0.5 | F1 | found | true | count bias | steps | s to train | s to predict |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in [list(ROWS)[i] for i in arguments.rows]:
        run = next((run for run in done if (run["name"], run["wish"], run.get("fixed", False)) == (name, wish, fixed)), None)
        if run is None:
            run = {"name": name, "wish": wish, "fixed": fixed, **measure(*ROWS[name], known, test, wish, fixed)}
            done.append(run)
            if arguments.json:
                arguments.json.write_text(json.dumps(done, indent=1))
        quality = f"{run['ap']:.2f} | {run['ap50']:.2f} | {run['f1']:.2f} | {run['found']} | {run['true']} | {run['bias']:+.0%}"
        numbers = f"{quality} | {run['steps']} | {run['train_s']:.0f} | {run['predict_s']:.0f}"
        print(f"| {name} | {numbers} |", flush=True)


def read_pair(folder: Path, name: str) -> TrainingPair:
    """Read a volume and its labels."""
    image = read_image(folder / "images" / f"{name}.tif")
    return TrainingPair(image, require_labels(read_labels(folder / "labels" / f"{name}.tif"), image))


def half(pair: TrainingPair, which: int) -> TrainingPair:
    """Cut a volume in two along x; cells on the cut are cut too, in both."""
    x = pair.labels.shape[-1] // 2
    part = slice(0, x) if which == 0 else slice(x, None)
    return TrainingPair(replace(pair.image, planes=pair.image.planes[..., part]), pair.labels[..., part].copy())


def measure(
    start: str, dimensions: str, trains: bool, known: TrainingPair, test: TrainingPair, wish: dict[str, Any], fixed: bool
) -> dict[str, Any]:
    """Train on one volume, and find the cells of another."""
    began, model = time.perf_counter(), None
    if trains:
        settings = TrainingSettings(dimensions=dimensions, **wish | ({"slice_distance": 1.0} if fixed else {}))  # type: ignore[arg-type]
        begin = choose_start(start, [known], settings)
        plan = plan_training([known], settings, begin)
        if fixed and begin is None:
            plan = replace(plan, scale=1.0, scales=(1.0,), z_scale=1.0, network=replace(plan.network, flat=0))
        model = new_model(plan, begin)
        run_to_end(train(model, [known], plan))
    model = model or find_model(start)
    trained = time.perf_counter()
    size = PredictionSettings(diameter=0 if trains else cell_diameter([known]))
    found = run_to_end(find_cells(model, test.image, size))
    predicted = time.perf_counter()
    labels = found.labels if found.are_bodies else stitched(found.labels)
    result = evaluate([("test", test.labels, labels)])
    return {
        "ap": float(np.mean([m.ap for m in result.matchings[:4]])),
        "ap50": result.matchings[0].ap,
        "f1": result.matchings[0].f1,
        "found": result.predicted_counts[0],
        "true": result.true_counts[0],
        "bias": result.bias,
        "steps": model.record.get("steps", 0) if trains else 0,
        "train_s": trained - began if trains else 0.0,
        "predict_s": predicted - trained,
    }


def stitched(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give each profile the number of the one in the slice above that it overlaps most."""
    result, top = labels.copy(), int(labels.max(initial=0))
    for above, below in zip(result, result[1:], strict=False):
        ids, cells = np.unique(above[above > 0]), np.unique(below[below > 0])
        if not (ids.size and cells.size):
            continue
        iou = iou_matrix(above, below)
        number = np.arange(top + 1)
        best = iou.argmax(1)
        for i in np.argsort(-iou.max(1)):
            if iou[i, best[i]] >= _STITCH and number[cells[best[i]]] == cells[best[i]]:
                number[cells[best[i]]] = ids[i]
        below[:] = number[below]
    return result


if __name__ == "__main__":
    main()
