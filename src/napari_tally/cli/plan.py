"""``napari-tally plan``: what training would do with these images, and why."""

import argparse
import textwrap

from napari_tally.cli._parts import Commands, add_data, read_data, settings_from
from napari_tally.settings import TrainingSettings


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("plan", run, "Say in plain words what training would do with these images, without training.")
    add_data(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    settings = settings_from(TrainingSettings, arguments)
    pairs, validation = read_data(arguments)
    from napari_tally.core.explain import explain
    from napari_tally.core.plan import plan_training
    from napari_tally.core.start import choose_start, name_of

    start = choose_start(arguments.start, pairs, settings)
    plan = plan_training(pairs, settings, start)
    for topic, text in explain(plan, name_of(start), len(validation)):
        print(textwrap.fill(text, 100, initial_indent=f"{topic + ':':14}", subsequent_indent=" " * 14))
