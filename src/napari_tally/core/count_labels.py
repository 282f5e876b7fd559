"""Label images that are there already, counted as they are: those of ``napari-tally count``.

What is odd about them is said as it is of predicted ones. The labels are copied into the folder of results, so that it is whole.
:func:`measuring_labels` serves predicted ones that were corrected, too.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.annotations import known_and_odd, split_drawn
from napari_tally.core.counting import pixel_remark, planes_remark
from napari_tally.core.done import Done, Event, Gathered, ImageDone, PassedOver, Working
from napari_tally.core.events import beside, mapped, reason_of
from napari_tally.core.files import alone_in
from napari_tally.core.image_files import read_image
from napari_tally.core.images import Image
from napari_tally.core.label_files import read_labels, writing_labels
from napari_tally.core.predict import TileDone, aside
from napari_tally.core.prediction import Prediction
from napari_tally.core.record import RunRecord
from napari_tally.core.regions import Region
from napari_tally.core.results import Results, Tables
from napari_tally.settings import RuleSettings


@dataclass(frozen=True)
class LabelBatch:
    """What to count, and how.

    Attributes
    ----------
    out : Path
        A folder; made if it is not there.
    rules : RuleSettings
        Which cells count.
    regions, group : callable
        Give the regions and the group of an image file.
    split : bool
        Give every separate object an id of its own.
    """

    out: Path
    rules: RuleSettings = RuleSettings()
    regions: Callable[[Path], list[Region] | None] = lambda path: None
    group: Callable[[Path], str] = lambda path: ""
    split: bool = False

    def run(self, pairs: Sequence[tuple[Path, Path]]) -> Generator[Event, None, Results]:
        """Count label images.

        Parameters
        ----------
        pairs : sequence of (labels, image)
            Files.

        Yields
        ------
        Working, ImageDone or PassedOver
            Who walks away after any of them leaves the tables and the record as they were.

        Raises
        ------
        ValueError
            If another process writes into the folder, or it is a file.
        OSError
            If the folder cannot be written.
        """
        with alone_in(self.out):
            run = Gathered([image for _, image in pairs], self.rules, RunRecord.of_labels(self.rules))
            for number, (labels, image) in enumerate(pairs, start=1):
                working = partial(Working, number, len(pairs), image)
                yield working()
                try:
                    run.done[image] = done = yield from mapped(self._count(labels, image), working)
                except (ValueError, MemoryError, RuntimeError) as error:
                    run.failed[image] = reason = reason_of(error)
                    yield PassedOver(number, len(pairs), image, reason)
                    continue
                yield ImageDone(number, len(pairs), image, done.tables[1], done.remark)
            run.results().write(self.out)
            if run.done:
                run.write_record(self.out)
        return run.results()

    def _count(self, labels_path: Path, path: Path) -> Generator[TileDone, None, Done]:
        image = yield from aside(0, "reading", beside(read_image, path))
        drawn = yield from aside(0, "reading labels", beside(read_labels, labels_path))
        if self.split and drawn.shape == image.shape:
            drawn = yield from aside(0, "splitting labels", beside(split_drawn, drawn, image))
        measuring = measuring_labels(drawn, image, self.rules, self.regions(path), self.group(path))
        tables, labels, remarks = yield from aside(1, "measuring cells", measuring)
        stated = image.calibrated(self.rules.pixel_size)
        keeping = self._keep(labels_path, labels, stated, anew=self.split or bool((drawn < 0).any()))
        kept = yield from aside(1, "writing labels", keeping)
        found = Prediction(None, labels, 1.0, int(tables[1]["found"].sum()))
        return Done(tables, " ".join(remarks), RunRecord.note(stated, path, found, kept, remarks))

    def _keep(self, path: Path, labels: NDArray[np.integer], image: Image, anew: bool) -> Generator[None, None, str]:
        """Copy labels into the folder of results, unless they lie there already; give their place in it."""
        place = self.out / "labels" / path.name
        if anew or path.resolve() != place.resolve():
            if path.resolve() == place.with_suffix(".tif").resolve():
                raise ValueError(f"{path}: these labels would be replaced by what counts of them. Choose another folder for --out.")
            place = place.with_suffix(".tif")
            yield from writing_labels(place, labels, image.pixel_size)
        return f"labels/{place.name}"


def measuring_labels(
    drawn: NDArray[Any],
    image: Image,
    rules: RuleSettings,
    regions: Sequence[Region] | None = None,
    group: str = "",
    types: NDArray[np.integer] | None = None,
    n_types: int = 1,
    are_bodies: bool | None = None,
) -> Generator[float | None, None, tuple[Tables, NDArray[np.int32], tuple[str, ...]]]:
    """Count the cells of labels as somebody drew them.

    Parameters
    ----------
    drawn : array
        As read from a file. What is not annotated is no cell.
    image : Image
        As read from its file.
    rules, regions, group, types, n_types, are_bodies
        As for :meth:`napari_tally.core.results.Results.measuring`.

    Yields
    ------
    float or None
        The fraction that is done, where it is known.

    Returns
    -------
    tables : (cells, counts, regions)
    labels : int32 array of `image.shape`
        0 = no cell.
    remarks : tuple of str
        What is odd about them.

    Raises
    ------
    ValueError
        If these are no labels of this image, or many objects have one id; or as :func:`measure_cells`.
    """
    known, problems = yield from beside(known_and_odd, drawn, image)
    labels = np.maximum(known, 0)
    stated = image.calibrated(rules.pixel_size)
    tables = yield from Results(rules).measuring(labels, stated, regions, group, types, n_types, are_bodies)
    remarks = (
        image.note,
        pixel_remark(image, rules),
        planes_remark(image, "volume_vx" in tables[0], by_labels=are_bodies is None),
        *(problem.message.removeprefix(f"{image.name}: ") for problem in problems if problem.kind == "pieces"),  # others are of training
    )
    return tables, labels, tuple(filter(None, remarks))
