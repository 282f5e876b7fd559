"""``napari-tally evaluate``: compare predicted with true label images."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tally.cli._parts import Commands
from napari_tally.core.words import number
from napari_tally.settings import TrainingSettings, fields_of, from_dict

if TYPE_CHECKING:
    from napari_tally.core.metrics import Evaluation
    from napari_tally.core.type_scores import TypeScores


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("evaluate", run, "Compare predicted with true label images. Cells of volumes are matched as bodies.")
    parser.add_argument("--predicted", type=Path, required=True, metavar="DIR", help="predicted label images")
    parser.add_argument("--truth", type=Path, required=True, metavar="DIR", help="true label images, matched by stem")
    text = (
        "types of cells to judge; the number of a true cell says its type, and so does that of a predicted one, unless the labels lie in a "
        "folder of results whose cells.csv says it"
    )
    parser.add_argument("--types", type=int, default=1, metavar="INT", help=text)
    usual, meta = TrainingSettings().ids_per_type, fields_of(TrainingSettings)["ids_per_type"][1]
    parser.add_argument("--ids-per-type", type=int, default=usual, metavar="INT", help=meta["tooltip"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.annotations import require_ids
    from napari_tally.core.files import whole_file
    from napari_tally.core.image_files import match_by_stem
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.metrics import evaluate
    from napari_tally.core.type_scores import TypeRule, read_types

    if arguments.json and not arguments.json.parent.is_dir():
        raise ValueError(f"{arguments.json}: there is no such folder; make it first.")
    settings = from_dict(TrainingSettings, {"types": arguments.types, "ids_per_type": arguments.ids_per_type})
    pairs = match_by_stem(arguments.truth, arguments.predicted)
    table = _table_of(arguments.predicted) if settings.types > 1 else None
    rule = TypeRule(settings.types, settings.ids_per_type, read_types(table) if table else None) if settings.types > 1 else None
    result = evaluate(
        ((truth.stem, require_ids(read_labels(truth), truth), require_ids(read_labels(found), found)) for truth, found in pairs), rule
    )
    print_evaluation(result)
    print()
    for name, value in result.scores.items():
        small = name in ("Rand error", "warping error")  # some pixels of millions
        print(f"{name:20}{value:7.3g}" if small else f"{name:20}{value:7.3f}")
    if rule and result.by_type:
        print()
        print_types(result.by_type)
        by_number = f"told by their numbers, {rule.ids_per_type} a type"
        print(f"Types of the predicted cells are {by_number if rule.predicted is None else f'from {table}'}.")
    if arguments.json:
        with whole_file(arguments.json) as partial:
            partial.write_text(json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8")


def _table_of(labels: Path) -> Path | None:
    """Give the table of cells of a folder of results, where these are its labels."""
    table = labels.absolute().parent / "cells.csv"
    return table if labels.absolute().name == "labels" and table.exists() else None


def print_types(scores: "TypeScores") -> None:
    """Print the table of classes, and below it how well the cells of each type are found at each IoU."""
    from napari_tally.core.matching import THRESHOLDS
    from napari_tally.core.type_scores import class_names

    names = class_names(len(scores.true_counts))
    print(f"{'class':12} {'IoU':>7} {'Dice':>7} {'true':>7} {'counted':>8} {'bias':>9}")
    counts = zip(scores.true_counts, scores.predicted_counts, scores.bias, strict=True)
    cells = ["", *(f" {true:7d} {found:8d} {_percent(bias):>9}" for true, found, bias in counts)]
    rows = zip(names, scores.pixels.iou, scores.pixels.dice, cells, strict=True)
    for name, iou, dice, of_cells in (*rows, ("mean", scores.pixels.mean_iou, scores.pixels.mean_dice, "")):
        print(f"{name:12} {iou:7.3f} {dice:7.3f}{of_cells}")
    print()
    print(f"{'':12} " + " ".join(f"{f'{score} {t}':>7}" for score in ("AP", "F1") for t in THRESHOLDS))
    for name, matchings in zip(names[1:], scores.matchings, strict=True):
        print(f"{name:12} " + " ".join(f"{value:7.3f}" for value in (*(m.ap for m in matchings), *(m.f1 for m in matchings))))


def _percent(bias: float) -> str:
    return f"{100 * bias:+.1f} %" if bias == bias else "-"  # of no true cell there is none


def print_evaluation(result: "Evaluation") -> None:
    """Print the table of matching scores and the counts."""
    print(f"{'IoU':>6} {'AP':>7} {'F1':>7} {'precision':>10} {'recall':>7} {'found':>6} {'false':>6} {'missed':>7}")
    for m in result.matchings:
        print(f"{m.threshold:6.1f} {m.ap:7.3f} {m.f1:7.3f} {m.precision:10.3f} {m.recall:7.3f} {m.tp:6d} {m.fp:6d} {m.fn:7d}")
    true, predicted = sum(result.true_counts), sum(result.predicted_counts)
    print(
        f"Counted {predicted} cells, true {true} ({_percent(result.bias)}), in {number(len(result.names), 'image')}; "
        f"mean absolute error {result.mae:.2f} cells an image."
    )
