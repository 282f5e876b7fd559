"""What several commands share: options from settings classes, files, and the line of progress."""

import argparse
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin

from napari_tally.settings import TrainingSettings, fields_of, from_dict

if TYPE_CHECKING:
    from napari_tally.core.predict import TileDone
    from napari_tally.core.samples import TrainingPair


class Commands(Protocol):
    """Adds a command: its name, the function that runs it (giving an exit code or None) and what it does."""

    def __call__(self, name: str, run: Any, text: str) -> argparse.ArgumentParser: ...


def add_settings(parser: argparse.ArgumentParser, cls: type, default: str | None = None, but: Collection[str] = ()) -> None:
    """Add an option for every field of a settings class, `but` for some."""
    for name, (kind, meta) in fields_of(cls).items():
        if name in but:
            continue
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


def settings_from(cls: type, arguments: argparse.Namespace, base: Any = None) -> Any:
    """Build settings from the options given; what was not given comes from `base`."""
    values = {name: getattr(base, name) for name in fields_of(cls)} if base else {}
    values |= {name: getattr(arguments, name) for name in fields_of(cls) if getattr(arguments, name, None) is not None}
    return from_dict(cls, values)


def add_data(parser: argparse.ArgumentParser, compares: bool = False) -> None:
    """Add the options of what to train on and how, which `train`, `plan` and `compare` share.

    What `compares` has networks and losses of its own, starts from random weights, and validates on its folds.
    """
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the images")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="their label images, matched by stem")
    if compares:
        parser.set_defaults(start="none", val_images=None, val_labels=None)
    else:
        text = "model to start from; auto: the one that comes with napari-tally and knows such cells best"
        parser.add_argument("--start", default="auto", metavar="auto|none|FILE|NAME", help=text)
    add_split(parser)
    text = "the labels are points: CSV files (axis-0, axis-1 or y, x), each a disc of so many pixels"
    parser.add_argument("--radius", type=float, default=0.0, metavar="PX", help=text)
    if not compares:
        parser.add_argument("--val-images", type=Path, metavar="DIR", help="images to validate on (default: a part is held out)")
        parser.add_argument("--val-labels", type=Path, metavar="DIR", help="their label images")
    add_settings(parser, TrainingSettings, but=("architecture", "loss", "insist") if compares else ())


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the option for labels that are masks."""
    text = "give every separate object of a label image its own id: for black-and-white masks"
    parser.add_argument("--split", action="store_true", help=text)


def read_data(arguments: argparse.Namespace) -> "tuple[list[TrainingPair], list[TrainingPair]]":
    """Read the pairs to train on and those to validate on."""
    if bool(arguments.val_images) != bool(arguments.val_labels):
        raise ValueError("--val-images and --val-labels belong together; give both or none.")
    if not 0 <= arguments.radius < 1000:
        raise ValueError(f"--radius is {arguments.radius:g}; a number of pixels below 1000 is wanted.")
    volumes = arguments.dimensions == "3-D"
    if arguments.split and arguments.dimensions == "auto" and arguments.start not in ("auto", "none"):
        from napari_tally.core.model_file import find_model

        volumes = find_model(arguments.start).settings.dimensions == 3
    pairs = read_pairs(arguments.images, arguments.labels, arguments.split, arguments.radius, volumes)
    if not arguments.val_images:
        return pairs, []
    return pairs, read_pairs(arguments.val_images, arguments.val_labels, arguments.split, arguments.radius, volumes)


def read_pairs(images: Path, labels: Path, split: bool = False, radius: float = 0.0, volumes: bool = False) -> "list[TrainingPair]":
    """Read two folders of images and labels into training pairs; say what is odd about the labels.

    With a `radius`, the labels are CSV files of points, which become discs. With `volumes`, objects of masks are split as bodies.
    """
    if radius:
        return _read_points(images, labels, radius)
    from napari_tally.core.annotations import check_labels, require_labels, split_pieces
    from napari_tally.core.image_files import match_by_stem, read_image
    from napari_tally.core.label_files import read_labels
    from napari_tally.core.samples import TrainingPair

    pairs, odd = [], []
    for image_path, labels_path in match_by_stem(images, labels):
        image, drawn = read_image(image_path), read_labels(labels_path)
        if split and drawn.shape == image.shape:
            drawn = split_pieces(drawn, image.slices, volumes)
        pairs.append(TrainingPair(image, require_labels(drawn, image)))
        odd += [problem.message for problem in check_labels(drawn, image)]
    for message in odd[:3]:
        print(f"Note: {message}")
    if len(odd) > 3:
        print(f"Note: the same or similar in {len(odd) - 3} more images.")
    return pairs


def _read_points(images: Path, points: Path, radius: float) -> "list[TrainingPair]":
    from napari_tally.core.image_files import list_images, read_image
    from napari_tally.core.points import discs, read_points
    from napari_tally.core.samples import TrainingPair

    pairs = []
    for stem, path in list_images(images).items():
        image = read_image(path)
        try:
            labels = discs(read_points(points / f"{stem}.csv"), image.shape, radius)
        except ValueError as error:
            raise ValueError(f"{image.name}: {error}") from error
        pairs.append(TrainingPair(image, labels))
    return pairs


def expand(given: Iterable[Path]) -> list[Path]:
    """Replace folders by their images; what is named twice comes once."""
    from napari_tally.core.image_files import list_images

    found = (list_images(path).values() if path.is_dir() and path.suffix != ".zarr" else [path] for path in given)
    return list(dict.fromkeys(path for paths in found for path in paths))


def require_other_stems(paths: Iterable[Path]) -> None:
    """Raise a ``ValueError`` if a stem comes twice, where it names the output."""
    known: dict[str, Path] = {}
    for path in paths:
        if path.stem in known:
            raise ValueError(f"{known[path.stem]} and {path} have the same stem, so their labels would overwrite each other; rename one.")
        known[path.stem] = path


def require_another_file(source: str | Path, out: Path) -> None:
    """Raise a ``ValueError`` if what is to be written is what was read."""
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the file that is read; --out wants another name.")


def plain(text: object) -> str:
    """Make one line of a text that came with a file: line breaks and codes that a terminal would obey become blanks."""
    return "".join(c if c.isprintable() else " " for c in str(text))


class Progress:
    """One line on a terminal that is written over; nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self.what, self._live = what, sys.stderr.isatty()
        self.restart()

    def restart(self) -> None:
        """Count the time from now on."""
        self._began = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def show(self, fraction: float, text: str = "") -> None:
        if self._live:
            bar = "#" * int(30 * fraction)
            print(f"\r\033[K{self.what} [{bar:30}] {100 * fraction:3.0f} % {text}", end="", file=sys.stderr, flush=True)

    def say(self, text: str, only_terminal: bool = False) -> None:
        """Print a line above the bar."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if self._live or not only_terminal:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print a line about something that went wrong."""
        if self._live:
            print("\r\033[K", end="", file=sys.stderr)
        print(text, file=sys.stderr, flush=True)

    def tile(self, news: "TileDone") -> None:
        """Show tiles done and the time left, or what else is done."""
        if news.doing:
            self.show(news.done / news.total, news.doing)
            return
        left = (time.perf_counter() - self._began) * (news.total - news.done) / max(0.01, news.done)
        self.show(news.done / news.total, f"tile {int(news.done)} of {news.total}, {left:.0f} s left")
