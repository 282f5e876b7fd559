"""``napari-tally compare``: which network and loss suit these images?"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from napari_tally.cli._parts import Commands, Progress, add_data, read_data, settings_from
from napari_tally.settings import Loss, TrainingSettings, fields_of

if TYPE_CHECKING:
    from napari_tally.core.compare import Row, Run

_ARCHITECTURES = [name for name in get_args(fields_of(TrainingSettings)["architecture"][0]) if name != "auto"]
_LOSSES = get_args(Loss)


def register(command: Commands) -> None:
    """Add the command."""
    parser = command("compare", run, "Train several networks and losses for the same time on the same images, and test each on the others.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets runs.json, table.md and plot.svg; finished runs stay")
    parser.add_argument("--architectures", nargs="+", choices=_ARCHITECTURES, default=["unet"], help="networks to train")
    parser.add_argument("--losses", nargs="+", choices=_LOSSES, default=["cross-entropy"], help="losses to train with")
    parser.add_argument("--folds", type=int, default=2, help="parts that the images are dealt into; each is the test once")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions with other random draws, from --seed on")
    add_data(parser, compares=True)
    parser.set_defaults(minutes=2.0)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if not (2 <= arguments.folds <= 20 and 1 <= arguments.seeds <= 100):
        raise ValueError(f"--folds {arguments.folds} --seeds {arguments.seeds}: 2 to 20 folds and 1 to 100 seeds are wanted.")
    settings = settings_from(TrainingSettings, arguments)
    pairs, _ = read_data(arguments)
    from napari_tally.core.compare import Note, Run, compare, done_so_far
    from napari_tally.core.events import run_to_end

    out, asked = arguments.out, (arguments.architectures, arguments.losses)
    wanted = len(set(asked[0])) * len(set(asked[1])) * arguments.folds * arguments.seeds
    out.mkdir(parents=True, exist_ok=True)
    written = False
    with Progress("comparing") as progress:

        def show(news: object) -> None:
            nonlocal written
            if isinstance(news, Run):
                what = f"{news.architecture}, {news.loss}, fold {news.fold + 1}, seed {news.seed}"
                progress.say(f"{what}: {news.steps} steps, {news.seconds:.0f} s.")
                done = done_so_far(out / "runs.json", *asked, range(settings.seed, settings.seed + arguments.seeds))
                _write(out, done, wanted)
                written = True
            elif isinstance(news, Note):
                progress.say(f"Note: {news.text}")
            else:
                progress.show(news.fraction, f"run {news.number} of {news.total}: {news.architecture}, {news.loss}")  # type: ignore[attr-defined]

        given = (pairs, *asked, settings, out / "runs.json", arguments.folds, arguments.seeds)
        try:
            runs = run_to_end(compare(*given), show)
        except (KeyboardInterrupt, ValueError, RuntimeError, MemoryError, OSError):
            if written:
                progress.say(f"Stopped; the table, the plot and the runs that are done are in {out}. The same command goes on.")
            raise
    print(f"{_write(out, runs, wanted)}\nThe table, a plot and the runs are in {out}.")


def _write(out: Path, runs: "Sequence[Run]", wanted: int) -> str:
    """Write the table and the plot of these runs, whole or not at all; give the table."""
    from napari_tally.core.compare import plot, rows
    from napari_tally.core.files import whole_file

    table = rows(runs)
    text = as_markdown(table)
    if len(runs) < wanted:
        text += f"\n{len(runs)} of {wanted} runs are done; a row stands on the seeds of which most folds are.\n"
    for name, content in (("table.md", text), ("plot.svg", plot(table))):
        with whole_file(out / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return text


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
