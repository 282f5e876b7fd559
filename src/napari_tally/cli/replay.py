"""``napari-tally replay``: get the labels of a record again, or hear why they differ."""

import argparse
from pathlib import Path

from napari_tally.cli._parts import Commands, Progress


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("replay", run, "Predict again what a record says, and compare to the pixel; a difference is explained.")
    parser.add_argument("record", type=Path, metavar="RECORD", help="record.json, or the folder of results that it lies in")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are now, if they were moved")
    parser.add_argument("--model", metavar="FILE|NAME", help="where the model is now, if it was moved")


def run(arguments: argparse.Namespace) -> int:
    """Run the command: 0 = the same to the pixel, 1 = not."""
    from napari_tally.core.events import run_to_end
    from napari_tally.core.record import Replayed, replay

    with Progress("replay") as progress:

        def tell(event: object) -> None:
            if not isinstance(event, Replayed):
                progress.tile(event)  # type: ignore[arg-type]
            elif event.same:
                progress.say(f"{event.name}: the same labels, to the pixel" + "".join(f"; yet {reason}" for reason in event.why) + ".")
            elif event.cells is None:
                progress.say(f"{event.name}: could not be compared.\n  Why: " + "\n       ".join(event.why))
            else:
                pixels = "" if event.pixels is None else f", {event.pixels} pixels differ"
                cells = f"{event.cells[0]} cells then, {event.cells[1]} now{pixels}"
                progress.say(f"{event.name}: NOT the same. {cells}.\n  Why: " + "\n       ".join(event.why))

        same = run_to_end(replay(arguments.record, arguments.images, arguments.model), tell)
    print("All labels are those of the record." if same else "Not all labels are those of the record; the reasons are above.")
    return 0 if same else 1
