"""``napari-tally export``: the labels of a folder of results as other programs want them."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from napari_tally.cli._parts import Commands, add_split
from napari_tally.cli._results import say_others

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FORMATS = ("imagej", "geojson", "points", "labels")


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("export", run, "Write the cells of a folder of results as ImageJ ROIs, GeoJSON or points. Files are written anew.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder that 'predict' wrote, or a folder of label images")
    parser.add_argument("--format", nargs="+", choices=_FORMATS, default=["imagej"], help="what to write")
    parser.add_argument("--out", type=Path, metavar="DIR", help="gets a folder a format (default: RESULTS)")
    add_split(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.annotations import require_ids, split_pieces
    from napari_tally.core.export import Format, export
    from napari_tally.core.image_files import stated_sizes
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.record import recorded_images, recorded_labels

    assert set(_FORMATS) == set(get_args(Format))
    out = arguments.out or arguments.results
    found, others = recorded_labels(arguments.results)
    say_others(others)
    images = recorded_images(arguments.results)
    for stem, path in found.items():
        target = out / "labels" / f"{stem}.tif"
        there = target.exists() and target.samefile(path)
        formats: list[Format] = [kind for kind in arguments.format if not (kind == "labels" and there and not arguments.split)]
        labels = read_labels(path)
        if arguments.split:
            labels = split_pieces(labels, labels.shape[-3] if labels.ndim > 2 else 1)
        labels = require_ids(labels, path)
        slices = _slices(labels, filter(None, (path, images.get(stem)))) if "points" in formats else 1
        export(labels, stem, out, formats, stated_sizes(path, labels.shape[-2:])[0], slices)
    for kind in arguments.format:
        print(f"{kind}: {out / kind}")


def _slices(labels: "NDArray[np.integer]", files: "Iterable[Path]") -> int:
    """Give how many planes are one volume that cells go through, 1 = none. The first file that says what its planes are is believed."""
    from napari_tally.core.annotations import cells_go_through
    from napari_tally.core.image_files import stated_axes

    slices = labels.shape[-3] if labels.ndim > 2 else 1
    stated = ("".join(letter for letter in stated_axes(file)[0] if letter in "TZ") for file in files)
    is_series = next(filter(None, stated), "").endswith("T")
    return slices if not is_series and cells_go_through(labels, slices) else 1
