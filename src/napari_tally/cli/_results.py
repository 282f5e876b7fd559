"""What `predict` and `count` share: the options for rules, regions and groups, where they lead, and how a run is told."""

import argparse
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tally.cli._parts import Progress, add_settings, settings_from
from napari_tally.settings import RuleSettings

if TYPE_CHECKING:
    from napari_tally.core.done import Event, ImageDone, PassedOver
    from napari_tally.core.regions import Region
    from napari_tally.core.results import Results


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which cells count, where, and of which images."""
    add_settings(parser, RuleSettings)
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="FILE|DIR",
        help="count in regions too: GeoJSON or label image, for all images or STEM.geojson in DIR",
    )
    parser.add_argument(
        "--groups",
        metavar="folder|FILE.csv",
        help="compare groups: 'folder' = by the folder of an image, or a table with the columns image,group",
    )


@dataclass(frozen=True)
class Choice:
    """What these options said."""

    rules: RuleSettings = field(default_factory=RuleSettings)
    places: Path | None = None
    groups: dict[str, str] | str | None = None

    def regions(self, path: Path) -> "list[Region] | None":
        """Read the regions of an image."""
        from napari_tally.core.regions import regions_for

        return regions_for(self.places, path.stem) if self.places else None

    def group(self, path: Path) -> str:
        """Find the group of an image."""
        from napari_tally.core.results import group_of

        return "" if self.groups is None else group_of(path, None if isinstance(self.groups, str) else self.groups)


def rules_from(arguments: argparse.Namespace) -> Choice:
    """Read the options; a table of groups is read now, so that a mistake is told before the work."""
    from napari_tally.core.results import read_groups

    groups = arguments.groups if arguments.groups in (None, "folder") else read_groups(arguments.groups)
    if arguments.regions and not arguments.regions.exists():
        raise ValueError(f"{arguments.regions}: there is no such file or folder of regions.")
    return Choice(settings_from(RuleSettings, arguments), arguments.regions, groups)


@dataclass
class Told:
    """A run that was told: its results, the images that it counted and those that it passed over."""

    results: "Results"
    done: "list[ImageDone]"
    bad: "list[PassedOver]"


def tell(work: "Generator[Event, None, Results]", doing: str) -> Told:
    """Run over many images to the end and tell how it goes; a bad file is reported and passed over.

    Raises
    ------
    ValueError
        If there is but one image and it is bad.
    """
    from napari_tally.core.done import ImageDone, PassedOver, Working
    from napari_tally.core.events import run_to_end

    done: list[ImageDone] = []
    bad: list[PassedOver] = []
    with Progress(doing) as progress:

        def show(event: object) -> None:
            if isinstance(event, Working):
                progress.what = f"{event.number}/{event.total} {event.path.name}"
                if event.tile:
                    progress.tile(event.tile)
                else:
                    progress.restart()
            elif isinstance(event, PassedOver):
                bad.append(event)
                if event.total > 1:
                    progress.warn(f"napari-tally: passed over: {event.reason}")
            elif isinstance(event, ImageDone):
                done.append(event)
                if event.remark:
                    progress.say(f"Note: {event.path.name}: {event.remark}")

        results = run_to_end(work, show)
    if bad and bad[0].total == 1:
        raise ValueError(bad[0].reason)
    return Told(results, done, bad)


def say_others(names: "list[str]") -> None:
    """Say which label images of a folder are left out, for they are of another run."""
    from napari_tally.core.results import few

    if names:
        print(f"Note: left out, for they are of another run than the tables and the record: {len(names)} label images ({few(names, 3)}).")
