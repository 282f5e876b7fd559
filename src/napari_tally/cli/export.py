"""``napari-tally export``: the labels of a folder of results as other programs want them."""

import argparse
from pathlib import Path
from typing import get_args

from napari_tally.cli._parts import Commands, add_split
from napari_tally.cli._results import say_others

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
    from napari_tally.core.record import recorded_labels

    assert set(_FORMATS) == set(get_args(Format))
    out = arguments.out or arguments.results
    found, others = recorded_labels(arguments.results)
    say_others(others)
    for stem, path in found.items():
        target = out / "labels" / f"{stem}.tif"
        there = target.exists() and target.samefile(path)
        formats: list[Format] = [kind for kind in arguments.format if not (kind == "labels" and there and not arguments.split)]
        labels = read_labels(path)
        if arguments.split:
            labels = split_pieces(labels, labels.shape[-3] if labels.ndim > 2 else 1)
        export(require_ids(labels, path), stem, out, formats, stated_sizes(path, labels.shape[-2:])[0])
    for kind in arguments.format:
        print(f"{kind}: {out / kind}")
