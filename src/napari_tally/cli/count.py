"""``napari-tally count``: count label images that there are already, by any rule. No model is needed."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands, add_split
from napari_tally.cli._results import add_rules, rules_from, tell
from napari_tally.core.words import number


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("count", run, "Count the cells of label images, for example corrected ones, and write the tables.")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the images")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="their label images, matched by stem")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the tables and a copy of the labels")
    add_split(parser)
    add_rules(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from napari_tally.core.count_labels import LabelBatch
    from napari_tally.core.image_files import list_images, match_by_stem
    from napari_tally.core.results import few

    choice = rules_from(arguments)
    pairs = match_by_stem(arguments.labels, arguments.images)
    without = sorted(set(list_images(arguments.images)) - {path.stem for path, _ in pairs})
    batch = LabelBatch(arguments.out, choice.rules, choice.regions, choice.group, arguments.split)
    told = tell(batch.run(pairs), "counting")
    if not len(told.results):
        raise ValueError("None of the images could be counted.")
    if without:
        print(f"Note: {len(without)} of {len(without) + len(pairs)} images have no labels and are not counted: {few(without)}.")
    tables = told.results.tables()
    n, of = int(tables["counts"]["count"].sum()), len(tables["cells"])
    print(f"{number(n, 'cell')} in {number(len(told.results), 'image')}" + (f", of {of} found" if of != n else "") + ".")
    print(f"Rule: {tables['counts']['rule'].iloc[0]}. The tables are in {arguments.out}.")
    return 2 if told.bad else 0
