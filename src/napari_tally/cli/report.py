"""``napari-tally report``: one page of a folder of results."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("report", run, "Write one HTML page: counts, outlines on the images, plots, settings, and a paragraph for the paper.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder that 'predict' or 'count' wrote")
    parser.add_argument(
        "--audit", type=Path, metavar="STUDY", help="the folder of an audit of these results, for the interval of the count"
    )
    parser.add_argument("--title", default="", help="heading of the page (default: the name of the folder)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.audit_file import read_audit
    from napari_tally.core.record import changed_labels, read_record
    from napari_tally.core.report import say_changed, write_report

    audit = None
    if arguments.audit:
        audit = read_audit(arguments.audit / "audit.json")
        counted = {entry["name"]: entry["labels_fingerprint"] for entry in read_record(arguments.results).content["images"]}
        other = [image.name for image in audit.images if counted.get(image.name) != image.labels_fingerprint]
        if other:
            raise ValueError(f"{arguments.audit}: this audit is of other labels than these results ({other[0]}). Draw one of these.")
        if not audit.total().known:
            raise ValueError(f"{arguments.audit}: too few windows are counted by hand to give an interval. Count some more.")
    page = write_report(arguments.results, arguments.title, audit)
    if changed := changed_labels(arguments.results):
        print(f"Note: {say_changed(changed)}")
    print(f"The report is in {page}.")
