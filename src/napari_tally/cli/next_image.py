"""``napari-tally next``: which image to annotate next, and why."""

import argparse
from collections import Counter
from pathlib import Path

from napari_tally.cli._parts import Commands, Progress, expand


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("next", run, "Say which of the images to annotate next: those that would teach the model most, with the reason.")
    parser.add_argument("--model", required=True, metavar="FILE|NAME", help="the model, trained on what is annotated so far")
    parser.add_argument("--number", type=int, default=5, metavar="N", help="how many to suggest")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="those that it was trained on are passed over")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from napari_tally.core.events import run_to_end
    from napari_tally.core.image_files import read_image
    from napari_tally.core.model_file import find_model
    from napari_tally.core.suggest import look_at, suggest

    model, paths = find_model(arguments.model), expand(arguments.images)
    annotated = {*model.record.get("seen", []), *model.record.get("annotated", [])}
    stems, points, names, known, bad = Counter(path.stem for path in paths), [], [], 0, 0
    for i, path in enumerate(paths):
        with Progress(f"{i + 1}/{len(paths)} {path.name}") as progress:
            try:
                image = read_image(path)
                if image.fingerprint in annotated:
                    known += 1
                    continue
                points.append(run_to_end(look_at(model, image), progress.tile))
            except ValueError as error:
                if len(paths) == 1:
                    raise
                progress.warn(f"napari-tally: passed over: {error}")
                bad += 1
            else:
                names.append(path.name if stems[path.stem] == 1 else str(path))
    if not names and bad:
        raise ValueError("None of the images that are not annotated yet could be looked at.")
    if not names:
        raise ValueError("All of these images are annotated already: the model was trained on them, or judged by them.")
    if known:
        print(f"Passed over, for they are annotated already: {known}.")
    for number, suggestion in enumerate(suggest(model, names, points, arguments.number), start=1):
        print(f"{number}. {suggestion.name}: {suggestion.reason}.")
    return 2 if bad else 0
