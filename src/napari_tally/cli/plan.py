"""``napari-tally plan``: what training would do with these images, and why."""

import argparse
import textwrap
from pathlib import Path

from napari_tally.cli._parts import Commands, add_settings, read_pairs, settings_from
from napari_tally.settings import TrainingSettings


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("plan", run, "Say in plain words what training would do with these images, without training.")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the images")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="their label images, matched by stem")
    parser.add_argument("--start", default="auto", metavar="auto|none|FILE|NAME", help="model to start from")
    parser.add_argument("--radius", type=float, default=0.0, metavar="PX", help="the labels are points: CSV files")
    add_settings(parser, TrainingSettings)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    settings = settings_from(TrainingSettings, arguments)
    pairs = read_pairs(arguments.images, arguments.labels, radius=arguments.radius)
    from napari_tally.core.explain import explain
    from napari_tally.core.plan import plan_training
    from napari_tally.core.start import choose_start, name_of

    start = choose_start(arguments.start, pairs, settings)
    for topic, text in explain(plan_training(pairs, settings, start), name_of(start)):
        print(textwrap.fill(text, 100, initial_indent=f"{topic + ':':14}", subsequent_indent=" " * 14))
