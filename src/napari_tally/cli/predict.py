"""``napari-tally predict``: find and count the cells of images."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tally.cli._parts import Commands, Progress, add_settings, expand, settings_from
from napari_tally.cli._results import Choice, add_rules, rules_from
from napari_tally.settings import CountingSettings, PredictionSettings

if TYPE_CHECKING:
    from napari_tally.core.model_file import Model


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("predict", run, "Find and count the cells of images.")
    parser.add_argument("--model", required=True, metavar="FILE|NAME", help="the model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets labels/STEM.tif, counts.csv and cells.csv")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    add_settings(parser, PredictionSettings)
    add_settings(parser, CountingSettings, default="that of the model")
    add_rules(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from napari_tally.core.devices import choose_device, describe_device
    from napari_tally.core.model_file import find_model

    paths = expand(arguments.images)
    model = find_model(arguments.model)
    settings = settings_from(PredictionSettings, arguments)
    counting = settings_from(CountingSettings, arguments, model.counting)
    choice = rules_from(arguments)
    print(f"Predicting {len(paths)} image{'s' * (len(paths) != 1)} on the {describe_device(choose_device(settings.device))}.")
    (arguments.out / "labels").mkdir(parents=True, exist_ok=True)
    failed = predict_files(paths, model, arguments.out, settings, counting, choice, arguments.model)
    return 2 if failed else 0


def predict_files(
    paths: list[Path],
    model: "Model",
    out: Path,
    settings: PredictionSettings,
    counting: CountingSettings,
    choice: Choice | None = None,
    name: str = "",
) -> int:
    """Predict files one by one, write labels, tables and the record; a bad file is reported and passed over. Gives how many were bad."""
    from napari_tally.core.counting import size_remark
    from napari_tally.core.events import run_to_end
    from napari_tally.core.find import find_cells
    from napari_tally.core.images import read_image, write_labels
    from napari_tally.core.range import range_remark
    from napari_tally.core.record import RunRecord
    from napari_tally.core.results import Results

    choice = choice or Choice()
    results, failed = Results(choice.rules), 0
    record = RunRecord.begin(model, name, settings, counting, choice.rules)
    try:
        for i, path in enumerate(paths):
            try:
                image, regions, group = read_image(path), choice.regions(path), choice.group(path)
                with Progress(f"{i + 1}/{len(paths)} {path.name}") as progress:
                    found = run_to_end(find_cells(model, image, settings, counting), progress.tile)
                remarks = size_remark(found.labels, model.diameter * found.zoom), range_remark(model, image, found)
                for remark in filter(None, remarks):
                    print(f"Note: {path.name}: {remark}")
                results.add(found.labels, image, regions, group)
            except ValueError as error:
                if len(paths) == 1:
                    raise
                print(f"napari-tally: passed over: {error}", file=sys.stderr)
                failed += 1
                continue
            write_labels(out / "labels" / f"{path.stem}.tif", found.labels, image.pixel_size)
            record.add(image, path, found, f"labels/{path.stem}.tif", remarks)
    finally:  # what is counted is kept, whatever happens to the next image
        if len(results):
            results.write(out)
            record.write(out)
    if not len(results):
        raise ValueError("None of the images could be predicted.")
    n = int(results.tables()["counts"]["count"].sum())
    print(f"{n} cells in {len(results)} image{'s' * (len(results) != 1)}; labels and tables are in {out}.")
    if failed:
        print(f"napari-tally: {failed} of {len(paths)} images could not be predicted.", file=sys.stderr)
    return failed
