"""``napari-tally report``: one page of a folder of results."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("report", run, "Write one HTML page: counts, outlines on the images, plots, settings, and a paragraph for the paper.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder that 'predict' wrote")
    parser.add_argument(
        "--audit", type=Path, metavar="STUDY", help="the folder of an audit of these results, for the interval of the count"
    )
    parser.add_argument("--title", default="", help="heading of the page (default: the name of the folder)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.audit import read_audit
    from napari_tally.core.report import write_report

    checked = (
        read_audit(arguments.audit / "audit.json" if arguments.audit.is_dir() else arguments.audit).total() if arguments.audit else None
    )
    if checked and not checked.known:
        raise ValueError(f"{arguments.audit}: too few windows are counted by hand to give an interval. Count some more.")
    print(f"The report is in {write_report(arguments.results, arguments.title, checked)}.")
