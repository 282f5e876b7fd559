"""``napari-tally evaluate``: compare predicted with true label images."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tally.cli._parts import Commands

if TYPE_CHECKING:
    from napari_tally.core.metrics import Evaluation


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("evaluate", run, "Compare predicted with true label images. Cells of volumes are matched as bodies.")
    parser.add_argument("--predicted", type=Path, required=True, metavar="DIR", help="predicted label images")
    parser.add_argument("--truth", type=Path, required=True, metavar="DIR", help="true label images, matched by stem")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.annotations import require_ids
    from napari_tally.core.images import match_by_stem
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.metrics import evaluate

    pairs = match_by_stem(arguments.truth, arguments.predicted)
    result = evaluate(
        (truth.stem, require_ids(read_labels(truth), truth), require_ids(read_labels(found), found)) for truth, found in pairs
    )
    print_evaluation(result)
    print()
    for name, value in result.scores.items():
        small = name in ("Rand error", "warping error")  # some pixels of millions
        print(f"{name:20}{value:7.3g}" if small else f"{name:20}{value:7.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result.as_dict(), indent=1) + "\n")


def print_evaluation(result: "Evaluation") -> None:
    """Print the table of matching scores and the counts."""
    print(f"{'IoU':>6} {'AP':>7} {'F1':>7} {'precision':>10} {'recall':>7} {'found':>6} {'false':>6} {'missed':>7}")
    for m in result.matchings:
        print(f"{m.threshold:6.1f} {m.ap:7.3f} {m.f1:7.3f} {m.precision:10.3f} {m.recall:7.3f} {m.tp:6d} {m.fp:6d} {m.fn:7d}")
    true, predicted = sum(result.true_counts), sum(result.predicted_counts)
    print(
        f"Counted {predicted} cells, true {true} ({100 * result.bias:+.1f} %), in {len(result.names)} images; "
        f"mean absolute error {result.mae:.2f} cells an image."
    )
