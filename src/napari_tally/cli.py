"""The command line: the same engine and settings as the window. Only this file prints.

Exit codes: 0 = done, 2 = bad input (one line on stderr says what, and what to do), 130 = interrupted.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from napari_tally import __version__
from napari_tally.core.events import OUT_OF_MEMORY, is_out_of_memory
from napari_tally.settings import CountingSettings, NormalisationSettings, PredictionSettings, TrainingSettings, fields_of, from_dict

if TYPE_CHECKING:
    from napari_tally.core.metrics import Evaluation
    from napari_tally.core.model_file import Model
    from napari_tally.core.predict import TileDone
    from napari_tally.core.samples import TrainingPair
    from napari_tally.core.validation import Comparison


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``napari-tally``; give the exit code."""
    arguments = _parser().parse_args(argv)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, in one line
    warnings.filterwarnings("ignore", module="PIL")
    try:
        return int(arguments.run(arguments) or 0)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"napari-tally: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:  # what a user did: bad input, a full or read-only disk
        print(f"napari-tally: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("napari-tally: interrupted.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="napari-tally", description="Count cells with a U-Net that learns from a handful of annotated images.")
    parser.add_argument("--version", action="version", version=f"napari-tally {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "Train on sample data for about a minute, then count cells in images the model has not seen.")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where the results go")
    demo.add_argument("--minutes", type=float, default=0.75, help="training time")
    demo.add_argument("--data", type=Path, metavar="DIR", help="real images: DIR/images and DIR/labels, matched by stem")

    train = command("train", _train, "Train a model on annotated images.")
    train.add_argument("--images", type=Path, required=True, metavar="DIR", help="the images")
    train.add_argument("--labels", type=Path, required=True, metavar="DIR", help="their label images, matched by stem")
    train.add_argument("--out", type=Path, required=True, metavar="MODEL.safetensors", help="the model file to write")
    text = "model to start from; auto: the one that comes with napari-tally and knows such cells best"
    train.add_argument("--start", default="auto", metavar="auto|none|FILE|NAME", help=text)
    train.add_argument(
        "--split", action="store_true", help="give every separate object of a label image its own id: for black-and-white masks"
    )
    train.add_argument("--val-images", type=Path, metavar="DIR", help="images to validate on (default: a part is held out)")
    train.add_argument("--val-labels", type=Path, metavar="DIR", help="their label images")
    _add_settings(train, TrainingSettings)
    kind, meta = fields_of(NormalisationSettings)["statistics"]
    train.add_argument("--statistics", choices=get_args(kind), default="image", help=meta["tooltip"])

    predict = command("predict", _predict, "Find and count the cells of images.")
    predict.add_argument("--model", required=True, metavar="FILE|NAME", help="the model")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets labels/STEM.tif, counts.csv and cells.csv")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    _add_settings(predict, PredictionSettings)
    _add_settings(predict, CountingSettings, default="that of the model")

    evaluate = command("evaluate", _evaluate, "Compare predicted with true label images.")
    evaluate.add_argument("--predicted", type=Path, required=True, metavar="DIR", help="predicted label images")
    evaluate.add_argument("--truth", type=Path, required=True, metavar="DIR", help="true label images, matched by stem")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")

    info = command("info", _info, "Show what a model is and how it was trained.")
    info.add_argument("model", metavar="MODEL")
    return parser


def _add_settings(parser: argparse.ArgumentParser, cls: type, default: str | None = None) -> None:
    """Add an option for every field of a settings class."""
    for name, (kind, meta) in fields_of(cls).items():
        option = "--" + name.replace("_", "-")
        chosen = None if default else getattr(cls(), name)
        text = meta["tooltip"].replace("%", "%%") + (f" (default: {default})" if default else "")
        if get_origin(kind) is Literal:
            parser.add_argument(option, choices=get_args(kind), default=chosen, help=text)
        elif kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=chosen, help=text)
        else:
            parser.add_argument(
                option, type=kind, default=argparse.SUPPRESS if default else chosen, help=text, metavar=kind.__name__.upper()
            )


def _settings(cls: type, arguments: argparse.Namespace, base: Any = None) -> Any:
    """Build settings from the options given; what was not given comes from `base`."""
    values = {name: getattr(base, name) for name in fields_of(cls)} if base else {}
    values |= {name: getattr(arguments, name) for name in fields_of(cls) if getattr(arguments, name, None) is not None}
    return from_dict(cls, values)


# ------------------------------------------------------------------ commands


def _train(arguments: argparse.Namespace) -> None:
    settings = _settings(TrainingSettings, arguments)
    if bool(arguments.val_images) != bool(arguments.val_labels):
        raise ValueError("--val-images and --val-labels belong together; give both or none.")
    if arguments.out.is_dir():
        raise ValueError(f"{arguments.out} is a folder; --out wants a file name such as model.safetensors.")
    pairs = _read_pairs(arguments.images, arguments.labels, arguments.split)
    validation = _read_pairs(arguments.val_images, arguments.val_labels, arguments.split) if arguments.val_images else []
    from napari_tally.core.start import choose_start

    start = choose_start(arguments.start, pairs, settings)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    probe = arguments.out.with_name(arguments.out.name + ".part")  # fail now rather than after the training
    probe.touch()
    probe.unlink()
    normalisation = replace(start.normalisation if start else NormalisationSettings(), statistics=arguments.statistics)
    _fit(pairs, settings, arguments.out, start, validation, normalisation)
    print(f"The model is in {arguments.out}.")


def _fit(
    pairs: "list[TrainingPair]",
    settings: TrainingSettings,
    out: Path,
    start: "Model | None" = None,
    validation: Sequence[Any] = (),
    normalisation: NormalisationSettings | None = None,
) -> "Model":
    """Train and save; an interrupt saves what there is."""
    from napari_tally.core.model_file import save_model
    from napari_tally.core.plan import new_model, plan_training
    from napari_tally.core.train import Comparison, Finished, Step, Trouble, Validation, train

    plan = plan_training(pairs, settings, start, normalisation)
    print(f"Training on {plan.n_images} images with {plan.n_cells} cells, {plan.diameter:.0f} px wide, on the {plan.device_name}.")
    name = start.record.get("name") or "a trained model" if start else "random weights"
    print(f"Starts from {name}; takes about {settings.minutes:g} min and {plan.memory / 1e9:.1f} GB.")
    for note in plan.notes:
        print(f"Note: {note}")
    model = new_model(plan, start)
    learned = False
    with _Progress("training") as progress:
        try:
            for event in train(model, pairs, plan, validation=validation):
                if isinstance(event, Step):
                    learned = True
                    progress.show(event.fraction, f"loss {event.loss:.3f}, {event.seconds_left:.0f} s left")
                elif isinstance(event, Trouble):
                    progress.say(f"Step {event.step}: {event.message}")
                elif isinstance(event, Validation):
                    held = event.score
                    progress.say(
                        f"Step {event.step}: on held-out cells F1 {held.f1:.2f}, counted {held.predicted_count}, true {held.true_count}",
                        only_terminal=True,
                    )
                elif isinstance(event, Comparison):
                    progress.say(_comparison(event))
                elif isinstance(event, Finished):
                    if event.start_kept:
                        progress.say("The start model is kept as it was (--insist keeps the trained one).")
                    progress.say(f"{event.step} steps in {event.seconds:.0f} s.")
        except (KeyboardInterrupt, ValueError, RuntimeError):
            if learned:
                save_model(model, out)
                progress.say(f"Stopped; the model as it was then is in {out}.")
            raise
    save_model(model, out)
    return model


def _comparison(event: "Comparison") -> str:
    """Lay out the start and the trained model side by side."""
    lines = [f"{'On cells that neither has seen':36} {'start':>14} {'trained':>14}"]
    lines += [f"{what:36} {before:>14} {after:>14}" for what, before, after in event.rows()]
    return "\n".join([*lines, event.verdict])


def _predict(arguments: argparse.Namespace) -> int:
    from napari_tally.core.devices import choose_device, describe_device
    from napari_tally.core.model_file import find_model

    paths = _expand(arguments.images)
    model = find_model(arguments.model)
    settings = _settings(PredictionSettings, arguments)
    counting = _settings(CountingSettings, arguments, model.counting)
    print(f"Predicting {len(paths)} image{'s' * (len(paths) != 1)} on the {describe_device(choose_device(settings.device))}.")
    (arguments.out / "labels").mkdir(parents=True, exist_ok=True)
    failed = _predict_files(paths, model, arguments.out, settings, counting)
    return 2 if failed else 0


def _predict_files(paths: list[Path], model: "Model", out: Path, settings: PredictionSettings, counting: CountingSettings) -> int:
    """Predict files one by one, write labels and tables; a bad file is reported and passed over. Gives how many were bad."""
    import pandas as pd

    from napari_tally.core.counting import measure_cells, size_remark, summarise, write_table
    from napari_tally.core.events import run_to_end
    from napari_tally.core.find import find_cells
    from napari_tally.core.images import read_image, write_labels

    cells, counts, failed = [], [], 0
    try:
        for i, path in enumerate(paths):
            try:
                image = read_image(path)
                with _Progress(f"{i + 1}/{len(paths)} {path.name}") as progress:
                    found = run_to_end(find_cells(model, image, settings, counting), progress.tile)
                if remark := size_remark(found.labels, model.diameter * found.zoom):
                    print(f"Note: {path.name}: {remark}")
            except ValueError as error:
                if len(paths) == 1:
                    raise
                print(f"napari-tally: passed over: {error}", file=sys.stderr)
                failed += 1
                continue
            write_labels(out / "labels" / f"{path.stem}.tif", found.labels, image.pixel_size)
            cells.append(measure_cells(found.labels, image))
            counts.append(summarise(cells[-1], image))
    finally:  # what is counted is kept, whatever happens to the next image
        if counts:
            write_table(out / "counts.csv", pd.concat(counts, ignore_index=True))
            write_table(out / "cells.csv", pd.concat(cells, ignore_index=True))
    if not counts:
        raise ValueError("None of the images could be predicted.")
    n = sum(len(table) for table in cells)
    print(f"{n} cells in {len(counts)} image{'s' * (len(counts) != 1)}; labels and tables are in {out}.")
    if failed:
        print(f"napari-tally: {failed} of {len(paths)} images could not be predicted.", file=sys.stderr)
    return failed


def _evaluate(arguments: argparse.Namespace) -> None:
    from napari_tally.core.annotations import require_ids
    from napari_tally.core.images import match_by_stem, read_labels
    from napari_tally.core.metrics import evaluate

    pairs = match_by_stem(arguments.truth, arguments.predicted)
    result = evaluate(
        (truth.stem, require_ids(read_labels(truth), truth), require_ids(read_labels(found), found)) for truth, found in pairs
    )
    _print_evaluation(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result.as_dict(), indent=1) + "\n")


def _print_evaluation(result: "Evaluation") -> None:
    """Print the table of matching scores and the counts."""
    print(f"{'IoU':>6} {'AP':>7} {'F1':>7} {'precision':>10} {'recall':>7} {'found':>6} {'false':>6} {'missed':>7}")
    for m in result.matchings:
        print(f"{m.threshold:6.1f} {m.ap:7.3f} {m.f1:7.3f} {m.precision:10.3f} {m.recall:7.3f} {m.tp:6d} {m.fp:6d} {m.fn:7d}")
    true, predicted = sum(result.true_counts), sum(result.predicted_counts)
    print(
        f"Counted {predicted} cells, true {true} ({100 * result.bias:+.1f} %), in {len(result.names)} images; "
        f"mean absolute error {result.mae:.2f} cells an image."
    )


def _info(arguments: argparse.Namespace) -> None:
    from napari_tally.core.model_file import find_model

    model = find_model(arguments.model)
    n = model.settings
    record = model.record
    images = record.get("images", [])
    made_of = images[0] if record.get("name") and images else f"{len(images)} images"  # a shipped model, or one of the user's
    parameters = sum(p.numel() for p in model.network.parameters())
    rows = {
        "Network": f"U-Net, depth {n.depth}, base width {n.base_width}, padding {n.padding}, {parameters / 1e6:.1f} M parameters",
        "Images": "colour (RGB)" if model.colour else f"{n.channels} channel(s)",
        "Classes": "background, inside of a cell, rim of a cell" if n.classes == 3 else "background, cell",
        "Cell diameter": f"{model.diameter:.0f} px, seen by the network at {model.scale:.2f} of the size",
        "Receptive margin": f"{model.network.margin} px",
        "Thresholds": f"seed {model.counting.seed_threshold}, valley {model.counting.valley}, edge {model.counting.edge_threshold}, "
        f"smallest {model.counting.min_area:.0f} px",
        "Trained": f"{record.get('trained', 'never')}, {record.get('steps', 0)} steps in {record.get('seconds', 0)} s "
        f"on {made_of} with {record.get('cells', 0)} cells",
        "Started from": record.get("start", "unknown"),
        "Licence": record.get("licence") or "that of the images it was trained on",
        "Device": record.get("device", "unknown"),
        "Versions": ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()) or "unknown",
    }
    for name, text in rows.items():
        print(f"{name + ':':18}{text}")


def _demo(arguments: argparse.Namespace) -> None:
    from napari_tally.core.images import read_labels
    from napari_tally.core.metrics import evaluate
    from napari_tally.core.overlay import contact_sheet
    from napari_tally.core.start import choose_start
    from napari_tally.demo_data import real_split, simulated_split

    began = time.perf_counter()
    out: Path = arguments.out
    settings = from_dict(TrainingSettings, {"minutes": arguments.minutes})
    (out / "labels").mkdir(parents=True, exist_ok=True)
    training, test = real_split(arguments.data) if arguments.data else simulated_split(out / "data")
    model = _fit(training, settings, out / "model.safetensors", choose_start("auto", training, settings))
    _predict_files([path for path, _ in test], model, out, PredictionSettings(), model.counting)
    triples = [(path.stem, truth, read_labels(out / "labels" / f"{path.stem}.tif")) for path, truth in test]
    result = evaluate(triples)
    contact_sheet([(path, t, p) for (path, _), (_, t, p) in zip(test, triples, strict=True)], out / "overlay.png")
    print()
    print(f"{'image':32} {'true':>6} {'counted':>8}")
    for name, true, predicted in list(zip(result.names, result.true_counts, result.predicted_counts, strict=True))[:12]:
        print(f"{name[:32]:32} {true:6d} {predicted:8d}")
    if len(test) > 12:
        print(f"... and {len(test) - 12} more, see counts.csv")
    print()
    _print_evaluation(result)
    seconds = time.perf_counter() - began
    print(f"\nDone in {seconds:.0f} s. Look at {out / 'overlay.png'}; beside it are the model, labels, counts.csv and cells.csv.")


# ------------------------------------------------------------------ helpers


def _read_pairs(images: Path, labels: Path, split: bool = False) -> "list[TrainingPair]":
    """Read two folders of images and labels into training pairs; say what is odd about the labels."""
    from napari_tally.core.annotations import check_labels, require_labels, split_pieces
    from napari_tally.core.images import match_by_stem, read_image, read_labels
    from napari_tally.core.samples import TrainingPair

    pairs, odd = [], []
    for image_path, labels_path in match_by_stem(images, labels):
        image, drawn = read_image(image_path), read_labels(labels_path)
        if split and drawn.shape == image.shape:
            drawn = split_pieces(drawn)
        pairs.append(TrainingPair(image, require_labels(drawn, image)))
        odd += [problem.message for problem in check_labels(drawn, image)]
    for message in odd[:3]:
        print(f"Note: {message}")
    if len(odd) > 3:
        print(f"Note: the same or similar in {len(odd) - 3} more images.")
    return pairs


def _expand(given: Iterable[Path]) -> list[Path]:
    """Replace folders by their images; every stem may come once, for it names the output."""
    from napari_tally.core.images import list_images

    paths: dict[str, Path] = {}
    for path in given:
        for found in list_images(path).values() if path.is_dir() else [path]:
            if found.stem in paths:
                raise ValueError(
                    f"{paths[found.stem]} and {found} have the same stem, so their labels would overwrite each other; rename one."
                )
            paths[found.stem] = found
    return list(paths.values())


class _Progress:
    """One line on a terminal that is written over; nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._what, self._live = what, sys.stderr.isatty()
        self._began = time.perf_counter()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def show(self, fraction: float, text: str = "") -> None:
        if self._live:
            bar = "#" * int(30 * fraction)
            print(f"\r\033[K{self._what} [{bar:30}] {100 * fraction:3.0f} % {text}", end="", file=sys.stderr, flush=True)

    def say(self, text: str, only_terminal: bool = False) -> None:
        """Print a line above the bar."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if self._live or not only_terminal:
            print(text, flush=True)

    def tile(self, news: "TileDone") -> None:
        """Show tiles done and the time left."""
        left = (time.perf_counter() - self._began) * (news.total - news.done) / max(1, news.done)
        self.show(news.done / news.total, f"tile {news.done} of {news.total}, {left:.0f} s left")


if __name__ == "__main__":
    sys.exit(main())
