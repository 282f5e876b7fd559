"""``napari-tally count``: count label images that there are already, by any rule. No model is needed."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tally.cli._parts import Commands, add_split
from napari_tally.cli._results import add_rules, rules_from
from napari_tally.core.words import number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_tally.core.images import Image


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
    import numpy as np

    from napari_tally.core.annotations import require_labels, split_pieces
    from napari_tally.core.counting import pixel_remark
    from napari_tally.core.image_files import list_images, match_by_stem, read_image
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.prediction import Prediction
    from napari_tally.core.record import RunRecord
    from napari_tally.core.results import Results, few

    choice = rules_from(arguments)
    pairs = match_by_stem(arguments.labels, arguments.images)
    without = sorted(set(list_images(arguments.images)) - {path.stem for path, _ in pairs})
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ValueError(f"{arguments.out} is a file; --out wants a folder.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, record, failed = Results(choice.rules), RunRecord.of_labels(choice.rules), 0
    for labels_path, image_path in pairs:
        try:
            image = read_image(image_path)
            remark, image = pixel_remark(image, choice.rules), image.calibrated(choice.rules.pixel_size)
            drawn = read_labels(labels_path)
            drawn = require_labels(split_pieces(drawn, image.slices) if arguments.split and drawn.shape == image.shape else drawn, image)
            labels = np.maximum(drawn, 0)  # not annotated is no cell
            counts = results.add(labels, image, choice.regions(image_path), choice.group(image_path))
            found = Prediction(None, labels, 1.0, int(counts["found"].sum()))
            kept = _keep(labels_path, labels, image, arguments.out, anew=arguments.split or bool((drawn < 0).any()))
            record.add(image, image_path, found, kept, (image.note, remark))
        except ValueError as error:
            if len(pairs) == 1:
                raise
            print(f"napari-tally: passed over: {error}", file=sys.stderr)
            results.pass_over(image_path, str(error))
            record.pass_over(image_path, str(error))
            failed += 1
    tables = results.tables()
    if not len(results):
        raise ValueError("None of the images could be counted.")
    results.write(arguments.out)
    record.write(arguments.out)
    if without:
        print(f"Note: {len(without)} of {len(without) + len(pairs)} images have no labels and are not counted: {few(without)}.")
    n, of = int(tables["counts"]["count"].sum()), len(tables["cells"])
    print(f"{number(n, 'cell')} in {number(len(results), 'image')}" + (f", of {of} found" if of != n else "") + ".")
    print(f"Rule: {tables['counts']['rule'].iloc[0]}. The tables are in {arguments.out}.")
    return 2 if failed else 0


def _keep(path: Path, labels: "NDArray[np.integer]", image: "Image", out: Path, anew: bool) -> str:
    """Copy labels into the folder of results, so that it is whole, unless they lie there already; give their place in it."""
    from napari_tally.core.label_files import write_labels

    place = out / "labels" / path.name
    if anew or path.resolve() != place.resolve():
        if path.resolve() == place.with_suffix(".tif").resolve():
            raise ValueError(f"{path}: these labels would be replaced by what counts of them. Choose another folder for --out.")
        place = place.with_suffix(".tif")
        place.parent.mkdir(exist_ok=True)
        write_labels(place, labels, image.pixel_size)
    return f"labels/{place.name}"
