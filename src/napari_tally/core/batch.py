"""Many images, one after the other: what is written is complete or absent, and a run that was broken off goes on where it was.

::

    DIR/labels/STEM.tif (or .zarr)    label image
    DIR/done/STEM.json, STEM.csv      the image is done, with what, and its tables: for the next run
    DIR/counts.csv, cells.csv, ...    the tables of all images (core/results.py), written again every few seconds and at the end
    DIR/record.json                   how it came about (core/record.py)
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from napari_tally.core.counting import size_remark, write_table
from napari_tally.core.events import mapped
from napari_tally.core.files import file_state, whole_file
from napari_tally.core.find import find_cells
from napari_tally.core.images import Image, fingerprint_labels, read_image, write_labels
from napari_tally.core.lazy import LabelsZarr, write_tiff_in_pieces
from napari_tally.core.model_file import Model
from napari_tally.core.predict import TileDone
from napari_tally.core.range import range_remark
from napari_tally.core.record import RunRecord
from napari_tally.core.regions import Region
from napari_tally.core.results import Results
from napari_tally.settings import BatchSettings, CountingSettings, PredictionSettings, RuleSettings, to_dict

_SUFFIX = {"tiff": ".tif", "ome-zarr": ".zarr"}
_Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]
"""Of the cells, of the image, of its regions."""
_TABLES_EVERY = 5.0
"""Seconds."""
_KEPT = 2e7
"""Pixels of an image whose probabilities are kept in memory, at most."""


@dataclass(frozen=True)
class Working:
    """News: the batch is at image `number` of `total`, whose tiles are done as `tile` says (None: it is being read)."""

    number: int
    total: int
    path: Path
    tile: TileDone | None = None


@dataclass(frozen=True, eq=False)
class ImageDone:
    """News: an image is counted and written, or was so already (`again`).

    Attributes
    ----------
    counts : pandas.DataFrame
        One row a plane; see :func:`napari_tally.core.counting.summarise`.
    remark : str
        What is odd about it; "" = nothing.
    """

    number: int
    total: int
    path: Path
    counts: pd.DataFrame
    remark: str
    again: bool = False


@dataclass(frozen=True)
class PassedOver:
    """News: an image could not be counted; `reason` says why."""

    number: int
    total: int
    path: Path
    reason: str


Event = Working | ImageDone | PassedOver


@dataclass(frozen=True)
class Batch:
    """What to count, and how.

    Attributes
    ----------
    model : Model
    model_name : str
        Its file or name, for the record.
    out : Path
        A folder; made if it is not there.
    settings, counting, rules
        How to predict, what is a cell, which cells count.
    files : BatchSettings
    regions, group : callable
        Give the regions and the group of a file.
    runner : optional
        Computes the tiles elsewhere; see :mod:`napari_tally.core.cluster`.
    """

    model: Model
    model_name: str
    out: Path
    settings: PredictionSettings
    counting: CountingSettings
    rules: RuleSettings = RuleSettings()
    files: BatchSettings = BatchSettings()
    regions: Callable[[Path], list[Region] | None] = lambda path: None
    group: Callable[[Path], str] = lambda path: ""
    runner: Any = None

    def run(self, paths: Sequence[Path]) -> Generator[Event, None, Results]:
        """Count the cells of files.

        Parameters
        ----------
        paths : sequence of Path
            Each with a stem of its own.

        Yields
        ------
        Working, ImageDone or PassedOver
            Walking away after any of them leaves the folder whole; the next run goes on.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        for folder in ("labels", "done"):
            (self.out / folder).mkdir(parents=True, exist_ok=True)
        results, record = Results(self.rules), RunRecord.begin(self.model, self.model_name, self.settings, self.counting, self.rules)
        written = time.monotonic()
        try:
            for number, path in enumerate(paths, start=1):
                yield Working(number, len(paths), path)
                try:
                    known = self._restore(path, record)
                    if known is None:
                        counting = mapped(self._count(path, record), partial(Working, number, len(paths), path))
                        (cells, counts, parts), remark = yield from counting
                    else:
                        (cells, counts, parts), remark = known
                except ValueError as error:
                    yield PassedOver(number, len(paths), path, str(error))
                    continue
                results.take(cells, counts, parts)
                if time.monotonic() - written > _TABLES_EVERY:
                    results.write(self.out)
                    written = time.monotonic()
                yield ImageDone(number, len(paths), path, counts, remark, again=known is not None)
        finally:  # what is counted is kept, whatever happens to the next image
            if len(results):
                results.write(self.out)
                record.write(self.out)
        return results

    def _count(self, path: Path, record: RunRecord) -> Generator[TileDone, None, tuple[_Tables, str]]:
        """Predict, measure and write one image; give its tables and what is odd about it."""
        state, image = file_state(path), read_image(path)
        target = self.out / "labels" / (path.stem + _SUFFIX[self.files.format])
        labels = None
        if image.is_lazy or self.files.format == "ome-zarr" or self.runner:
            labels = LabelsZarr(target.with_suffix(".zarr"), len(image.planes), (image.shape[-2], image.shape[-1]))
        try:
            return (yield from self._fill(path, state, image, target, labels, record))
        finally:
            if labels:
                labels.discard()  # nothing is left to discard of what has gone to its place

    def _fill(
        self, path: Path, state: list[int], image: Image, target: Path, labels: LabelsZarr | None, record: RunRecord
    ) -> Generator[TileDone, None, tuple[_Tables, str]]:
        regions, group = self.regions(path), self.group(path)
        runner = self.runner and replace(self.runner, path=path, state=tuple(state))
        keep = labels is None and image.planes.size < _KEPT  # else the middle is looked at once more, for what is odd about it
        found = yield from find_cells(self.model, image, self.settings, self.counting, out=labels, keep=keep, runner=runner)
        cells, counts, parts = Results(self.rules).measure(
            found.labels, image, regions, group, found.types, found.n_types, found.are_bodies
        )
        remarks = size_remark(cells["area_px"], self.model.diameter * found.zoom), range_remark(self.model, image, found)
        marks = fingerprint_labels(found.labels, image.shape)  # before the labels go to their place
        note_file = self.out / "done" / f"{path.stem}.json"
        note_file.unlink(missing_ok=True)  # what it speaks of is replaced now
        self._write_labels(found.labels, labels, target, image, found.cells)
        note = record.add(image, path, found, f"labels/{target.name}", remarks, marks)
        write_table(self.out / "done" / f"{path.stem}.csv", cells)
        remark = " ".join(filter(None, remarks))
        tables = {"counts": counts.to_csv(index=False), "regions": None if parts is None else parts.to_csv(index=False)}
        _write(note_file, {"way": self._way(path), "file": state, "remark": remark, "record": note, **tables})
        return (cells, counts, parts), remark

    def _write_labels(self, found: Any, streamed: LabelsZarr | None, target: Path, image: Image, cells: int) -> None:
        if streamed is None:
            write_labels(target, found, image.pixel_size)
        elif self.files.format == "ome-zarr":
            streamed.finish(image.pixel_size)
        else:
            write_tiff_in_pieces(target, streamed, image.shape, "uint16" if cells < 2**16 else "uint32", image.pixel_size)

    def _restore(self, path: Path, record: RunRecord) -> tuple[_Tables, str] | None:
        """Give what an earlier run found in the same file in the same way, if it is all still there."""
        if self.files.anew:
            return None
        try:
            note = json.loads((self.out / "done" / f"{path.stem}.json").read_text(encoding="utf-8"))
            if note["way"] != self._way(path) or note["file"] != file_state(path) or not (self.out / note["record"]["labels"]).exists():
                return None
            cells = _read_table(self.out / "done" / f"{path.stem}.csv")
            counts, parts = (_read_table(io.StringIO(text)) if text else None for text in (note["counts"], note["regions"]))
            assert counts is not None
            remark = str(note["remark"])
        except (OSError, ValueError, LookupError, TypeError):
            return None  # no such note, or not a whole one
        record.content["images"].append(note["record"])
        return (cells, counts, parts), remark

    def _way(self, path: Path) -> str:
        """Give digits that stand for all that decides what is found in a file, but for the file."""
        how = [to_dict(part) for part in (self.settings, self.counting, self.rules)]
        where = [[region.name, *map(repr, region.__dict__.values())] for region in self.regions(path) or []]
        text = json.dumps([self.model.fingerprint, how, self.files.format, where, self.group(path)], default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_table(source: Any) -> pd.DataFrame:
    """Read a table as it was written; names may look like numbers."""
    return pd.read_csv(source, dtype={"image": str, "group": str, "region": str}, keep_default_na=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as partial_file:
        partial_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
