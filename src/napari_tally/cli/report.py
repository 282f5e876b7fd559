"""``napari-tally report``: one page of a folder of results."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("report", run, "Write one HTML page: counts, outlines on the images, plots, settings, and a paragraph for the paper.")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a folder that 'predict' wrote")
    parser.add_argument("--title", default="", help="heading of the page (default: the name of the folder)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from napari_tally.core.report import write_report

    print(f"The report is in {write_report(arguments.results, arguments.title)}.")
