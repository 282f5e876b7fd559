"""``napari-tally predict``: find and count the cells of images."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from napari_tally.cli._parts import Commands, add_settings, expand, require_other_stems, settings_from
from napari_tally.cli._results import add_rules, rules_from, say_others, tell
from napari_tally.core.words import number
from napari_tally.settings import BatchSettings, CountingSettings, PredictionSettings

if TYPE_CHECKING:
    from napari_tally.core.batch import Batch


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("predict", run, "Find and count the cells of images. A run that was broken off goes on where it was.")
    parser.add_argument("--model", required=True, metavar="FILE|NAME", help="the model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets labels/STEM.tif, counts.csv and cells.csv")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    add_settings(parser, PredictionSettings)
    add_settings(parser, CountingSettings, default="that of the model")
    add_settings(parser, BatchSettings)
    add_rules(parser)
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="compute on N processes of this machine (0 = on this one)")
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="compute on the dask workers of this scheduler: tcp://...")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from napari_tally.core.batch import Batch
    from napari_tally.core.devices import choose_device, describe_device
    from napari_tally.core.model_file import find_model

    if arguments.workers < 0:
        raise ValueError(f"--workers is {arguments.workers}; it must be 0 (compute in this process) or more.")
    paths = expand(arguments.images)
    require_other_stems(paths)
    model = find_model(arguments.model)
    settings = settings_from(PredictionSettings, arguments)
    counting = settings_from(CountingSettings, arguments, model.counting)
    files = settings_from(BatchSettings, arguments)
    choice = rules_from(arguments)
    device = describe_device(choose_device(settings.device))
    with ExitStack() as stack:
        runner = None
        if arguments.workers or arguments.scheduler:
            from napari_tally.core.cluster import Cluster, connect, share_of_threads

            client = stack.enter_context(connect(arguments.scheduler, arguments.workers))
            name = arguments.model if not Path(arguments.model).is_file() else str(Path(arguments.model).resolve())
            runner = Cluster(client, name, model.fingerprint, share_of_threads(arguments.workers))
            device = f"workers of {arguments.scheduler}" if arguments.scheduler else f"{arguments.workers} processes"
        print(f"Predicting {number(len(paths), 'image')} on the {device}.")
        batch = Batch(model, arguments.model, arguments.out, settings, counting, choice.rules, files, choice.regions, choice.group, runner)
        return 2 if predict_files(paths, batch) else 0


def predict_files(paths: list[Path], batch: "Batch") -> int:
    """Run a batch and tell how it goes; gives how many files were bad."""
    from napari_tally.core.export import Format
    from napari_tally.core.record import recorded_labels
    from napari_tally.core.results import few

    try:
        told = tell(batch.run(paths), "predicting")
    except KeyboardInterrupt:
        print("napari-tally: what is counted by now is kept; the same command goes on from there.", file=sys.stderr, flush=True)
        raise
    if not len(told.results):
        raise ValueError(f"None of the images could be predicted; {batch.out / 'failed.csv'} says why.")
    counts = told.results.tables()["counts"]
    n, rule = int(counts["count"].sum()), counts["rule"].iloc[0]
    print(f"{number(n, 'cell')} in {number(len(told.results), 'image')} ({rule}); labels and tables are in {batch.out}.")
    if outdated := [name for name in ("report.html", *get_args(Format)) if name != "labels" and (batch.out / name).exists()]:
        print(f"Note: {few(outdated)} in that folder may be of an earlier run; 'napari-tally report' and 'export' write them anew.")
    say_others(recorded_labels(batch.out)[1])
    if again := sum(event.again for event in told.done):
        print(f"{again} of them had been counted by an earlier run (--anew counts them again).")
    if told.bad:
        print(f"napari-tally: {len(told.bad)} of {len(paths)} images could not be predicted; failed.csv says why.", file=sys.stderr)
    return len(told.bad)
