"""``napari-tally demo``: the whole path on sample data."""

import argparse
import time
from pathlib import Path

from napari_tally.cli._parts import Commands
from napari_tally.cli.evaluate import print_evaluation
from napari_tally.cli.predict import predict_files
from napari_tally.cli.train import fit
from napari_tally.settings import BatchSettings, PredictionSettings, TrainingSettings, from_dict


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("demo", run, "Train on sample data for about a minute, then count cells in images the model has not seen.")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where the results go")
    parser.add_argument("--minutes", type=float, default=0.75, help="training time")
    parser.add_argument("--data", type=Path, metavar="DIR", help="real images: DIR/images and DIR/labels, matched by stem")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.batch import Batch
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.metrics import evaluate
    from napari_tally.core.overlay import contact_sheet
    from napari_tally.core.start import choose_start
    from napari_tally.demo_data import real_split, simulated_split

    began = time.perf_counter()
    out: Path = arguments.out
    settings = from_dict(TrainingSettings, {"minutes": arguments.minutes})
    (out / "labels").mkdir(parents=True, exist_ok=True)
    training, test = real_split(arguments.data) if arguments.data else simulated_split(out / "data")
    model = fit(training, settings, out / "model.safetensors", choose_start("auto", training, settings))
    batch = Batch(model, str(out / "model.safetensors"), out, PredictionSettings(), model.counting, files=BatchSettings(anew=True))
    predict_files([path for path, _ in test], batch)
    triples = [(path.stem, truth, read_labels(out / "labels" / f"{path.stem}.tif")) for path, truth in test]
    result = evaluate(triples)
    contact_sheet([(path, t, p) for (path, _), (_, t, p) in zip(test, triples, strict=True)], out / "overlay.png")
    print()
    print(f"{'image':32} {'true':>6} {'counted':>8}")
    for name, true, predicted in list(zip(result.names, result.true_counts, result.predicted_counts, strict=True))[:12]:
        print(f"{name[:32]:32} {true:6d} {predicted:8d}")
    if len(test) > 12:
        print(f"... and {len(test) - 12} more, see counts.csv")
    print()
    print_evaluation(result)
    seconds = time.perf_counter() - began
    print(f"\nDone in {seconds:.0f} s. Look at {out / 'overlay.png'}; beside it are the model, labels, counts.csv and cells.csv.")
