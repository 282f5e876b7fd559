"""``napari-tally compare``: which network and loss suit these images?"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from napari_tally.cli._parts import Commands, Progress, read_pairs
from napari_tally.settings import Loss, TrainingSettings, fields_of, from_dict

if TYPE_CHECKING:
    from napari_tally.core.compare import Row

_ARCHITECTURES = [name for name in get_args(fields_of(TrainingSettings)["architecture"][0]) if name != "auto"]
_LOSSES = get_args(Loss)


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("compare", run, "Train several networks and losses for the same time on the same images, and test each on the others.")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the images")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="their label images, matched by stem")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets runs.json, table.md and plot.svg; finished runs stay")
    parser.add_argument("--architectures", nargs="+", choices=_ARCHITECTURES, default=["unet"], help="networks to train")
    parser.add_argument("--losses", nargs="+", choices=_LOSSES, default=["cross-entropy"], help="losses to train with")
    parser.add_argument("--minutes", type=float, default=2.0, help="time of each training")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps instead")
    parser.add_argument("--folds", type=int, default=2, help="parts that the images are dealt into; each is the test once")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions with other random draws")
    parser.add_argument("--patch", type=int, default=0, help="side of a training patch; 0 = by preset")
    parser.add_argument("--device", choices=get_args(fields_of(TrainingSettings)["device"][0]), default="auto", help="where to compute")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if not (2 <= arguments.folds <= 20 and 1 <= arguments.seeds <= 100):
        raise ValueError(f"--folds {arguments.folds} --seeds {arguments.seeds}: 2 to 20 folds and 1 to 100 seeds are wanted.")
    chosen = {name: getattr(arguments, name) for name in ("minutes", "steps", "patch", "device")}
    settings = from_dict(TrainingSettings, chosen)
    pairs = read_pairs(arguments.images, arguments.labels)
    from napari_tally.core.compare import Run, compare, plot, rows
    from napari_tally.core.events import run_to_end

    with Progress("comparing") as progress:

        def show(news: object) -> None:
            if isinstance(news, Run):
                what = f"{news.architecture}, {news.loss}, fold {news.fold + 1}, seed {news.seed}"
                progress.say(f"{what}: {news.steps} steps, {news.seconds:.0f} s.")
            else:
                progress.show(news.fraction, f"run {news.number} of {news.total}: {news.architecture}, {news.loss}")  # type: ignore[attr-defined]

        given = (pairs, arguments.architectures, arguments.losses, settings, arguments.out / "runs.json", arguments.folds, arguments.seeds)
        table = rows(run_to_end(compare(*given), show))
    text = as_markdown(table)
    (arguments.out / "table.md").write_text(text)
    (arguments.out / "plot.svg").write_text(plot(table))
    print(f"{text}\nThe table, a plot and the runs are in {arguments.out}.")


def as_markdown(table: "Sequence[Row]") -> str:
    """Lay out the table."""
    head = ["architecture", "loss", "runs", "AP", "AP@0.5", "AP@0.7", "F1", "count bias", "steps", "train s", "parameters", "s/MP"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in table:
        mean = sum(row.ap) / len(row.ap)
        cells = [row.architecture, row.loss, str(row.runs), f"{mean:.3f}" + (f" ± {row.spread / 2:.3f}" if row.spread else "")]
        cells += [f"{row.ap[0]:.3f}", f"{row.ap[2]:.3f}", f"{row.f1:.3f}", f"{row.bias:+.1%}", f"{row.steps:.0f}", f"{row.seconds:.0f}"]
        cells += [f"{row.parameters / 1e6:.2f} M", f"{row.seconds_per_megapixel:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
