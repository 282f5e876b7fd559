"""Many images, one after the other: what is written is complete or absent, and a run that was broken off goes on where it was.

::

    DIR/labels/STEM.tif (or .zarr)    label image
    DIR/done/STEM.json, STEM.csv      the image is done, with what, and its tables: for the next run
    DIR/counts.csv, cells.csv, ...    the tables of all images (core/results.py), written again every few seconds and at the end
    DIR/record.json                   how it came about (core/record.py)
    DIR/.running.json                 which run writes here now: there is one at a time (core/files.py)
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from napari_tally.core.counting import pixel_remark, planes_remark, size_remark
from napari_tally.core.devices import choose_device
from napari_tally.core.events import OUT_OF_MEMORY, beside, is_out_of_memory, mapped, saying
from napari_tally.core.files import LOCK, alone_in, file_state, fitting_name, remove_all_leftovers, remove_leftovers, whole_file
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import read_image
from napari_tally.core.images import Image, fingerprinting
from napari_tally.core.label_files import fingerprinting_labels, writing_labels
from napari_tally.core.lazy import LabelsZarr, write_tiff_in_pieces
from napari_tally.core.model_file import Model
from napari_tally.core.predict import TileDone, aside
from napari_tally.core.range import judging
from napari_tally.core.record import NAME, RunRecord, read_record, versions
from napari_tally.core.regions import Region, fitted
from napari_tally.core.results import TABLES, Results
from napari_tally.core.tables import read_table, writing_table
from napari_tally.settings import BatchSettings, CountingSettings, PredictionSettings, RuleSettings, to_dict

_SUFFIX = {"tiff": ".tif", "ome-zarr": ".zarr"}
_Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]
"""Of the cells, of the image, of its regions."""
_Done = tuple[_Tables, str, dict[str, Any]]
"""The tables of an image, what is odd about it, and the note for the record."""
_TABLES_EVERY, _SHARE = 5.0, 20
"""Seconds between two times that the tables are written; and how much longer than writing them that must be."""
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
        ValueError
            If another process writes into the folder, it is a file, or the images lie where the labels go.
        OSError
            If the folder cannot be written. What is counted by then stays. A table that cannot be replaced, as it is open in another
            program, is a remark until the end.
        """
        for path in paths:
            if path.parent.resolve() == (self.out / "labels").resolve():
                raise ValueError(f"{path}: the labels would be written over the images. Choose another folder for the results.")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file; a folder for the results is wanted.")
        with alone_in(self.out) as alive:
            return (yield from self._run(paths, alive))

    def _run(self, paths: Sequence[Path], alive: Callable[[], None]) -> Generator[Event, None, Results]:
        self._clear()
        results, record = Results(self.rules), RunRecord.begin(self.model, self.model_name, self.settings, self.counting, self.rules)
        again_at, is_written = time.monotonic() + _TABLES_EVERY, True
        try:
            for number, path in enumerate(paths, start=1):
                working = partial(Working, number, len(paths), path)
                yield working()
                try:
                    known = yield from saying(beside(self._restore, path), working())
                    if known is None:
                        (cells, counts, parts), remark, note = yield from mapped(self._count(path), working)
                    else:
                        (cells, counts, parts), remark, note = known
                except (ValueError, MemoryError, RuntimeError) as error:
                    if not isinstance(error, ValueError) and not is_out_of_memory(error):
                        raise
                    reason = OUT_OF_MEMORY if is_out_of_memory(error) else str(error)
                    results.pass_over(path, reason)
                    record.pass_over(path, reason)
                    is_written = False
                    yield PassedOver(number, len(paths), path, reason)
                    continue
                record.content["images"].append(note)
                results.take(cells, counts, parts)
                is_written = False
                if time.monotonic() > again_at:
                    with suppress(OSError):
                        alive()
                    began = time.monotonic()
                    trouble = yield from mapped(self._trying_tables(results), working)
                    again_at, is_written = time.monotonic() + max(_TABLES_EVERY, _SHARE * (time.monotonic() - began)), not trouble
                    remark = " ".join(filter(None, (remark, trouble)))
                yield ImageDone(number, len(paths), path, counts, remark, again=known is not None)
        finally:  # what is counted is kept, whatever happens to the next image
            try:
                if len(results) or (record.content["failed"] and not (self.out / NAME).exists()):
                    record.write(self.out)
            finally:  # last: a table may be open in another program, and that must not cost the record
                if not is_written:
                    results.write(self.out)
        return results

    def _clear(self) -> None:
        """Make the folders, and remove what an earlier run left half-written. The folder itself may hold files of the user too."""
        for folder in (self.out / "labels", self.out / "done"):
            folder.mkdir(parents=True, exist_ok=True)
            remove_all_leftovers(folder)
        for name in (LOCK, NAME, "report.html", *(f"{table}{suffix}" for table in TABLES for suffix in (".csv", ".parquet"))):
            remove_leftovers(self.out / name)

    def _trying_tables(self, results: Results) -> Generator[TileDone, None, str]:
        """Write the tables; say what was in the way, "" = nothing. Later there is another try, so it is no end yet."""
        try:
            yield from aside(1, "writing the tables", results.writing(self.out))
        except OSError as error:
            name = Path(error.filename2 or error.filename or self.out).name
            return f"{name} could not be written ({error.strerror}) and is tried again; if another program has it open, close it there."
        return ""

    def _count(self, path: Path) -> Generator[TileDone, None, _Done]:
        """Predict, measure and write one image; give its tables, what is odd about it, and the note for the record."""
        state = yield from aside(0, "reading", beside(file_state, path))
        image = yield from aside(0, "reading", beside(read_image, path))
        target = self.out / "labels" / fitting_name(path.stem, _SUFFIX[self.files.format])
        labels = None
        if image.is_lazy or self.files.format == "ome-zarr":
            labels = LabelsZarr(target.with_suffix(".zarr"), image.shape, image.axes, image.steps)
        try:
            return (yield from self._fill(path, state, image, target, labels))
        finally:
            if labels:
                labels.discard()  # nothing is left to discard of what has gone to its place

    def _fill(
        self, path: Path, state: list[int], image: Image, target: Path, labels: LabelsZarr | None
    ) -> Generator[TileDone, None, _Done]:
        regions, group = fitted(self.regions(path) or (), image), self.group(path)
        runner = self.runner and replace(self.runner, path=path, state=tuple(state), out=target.parent)
        keep = labels is None and image.planes.size < _KEPT  # else the middle is looked at once more, for what is odd about it
        stated = image.calibrated(self.rules.pixel_size)
        found = yield from find_cells(self.model, stated, self.settings, self.counting, out=labels, keep=keep, runner=runner)
        measuring = Results(self.rules).measuring(found.labels, stated, regions, group, *found.kinds)
        cells, counts, parts = yield from aside(1, "measuring cells", measuring)
        comparing = judging(self.model, stated, found, self.settings, self.counting)
        remarks = (
            image.note,
            pixel_remark(image, self.rules),
            planes_remark(image, found.are_bodies),
            size_remark(cells["area_px"], self.model.diameter * found.zoom),
            (yield from saying(comparing, TileDone(1, 1, "comparing with the training images"))),
        )
        # before the labels go to their place
        marks = yield from aside(1, "taking fingerprints", fingerprinting_labels(found.labels, image.shape))
        pixels = yield from aside(1, "taking fingerprints", fingerprinting(image))
        note_file = self._done(path, ".json")
        note_file.unlink(missing_ok=True)  # what it speaks of is replaced now
        yield from aside(1, "writing labels", self._writing_labels(found.labels, labels, target, stated, found.cells))
        note = RunRecord.note(stated, path, found, f"labels/{target.name}", remarks, marks, pixels)
        yield from aside(1, "writing the tables", writing_table(self._done(path, ".csv"), cells))
        remark = " ".join(filter(None, remarks))
        tables = {"counts": counts.to_csv(index=False), "regions": None if parts is None else parts.to_csv(index=False)}
        _write(note_file, {"way": self._way(path), "file": state, "remark": remark, "record": note, **tables})
        return self._read(path)  # as another run would: so it makes no difference to the tables whether there were several

    def _writing_labels(
        self, found: Any, streamed: LabelsZarr | None, target: Path, image: Image, cells: int
    ) -> Generator[float | None, None, None]:
        if streamed is None:
            yield from writing_labels(target, found, image.pixel_size)
        elif self.files.format == "ome-zarr":
            yield from streamed.finish(image.pixel_size)
        else:
            dtype = "uint16" if cells < 2**16 else "uint32"
            yield from write_tiff_in_pieces(target, streamed, image.shape, dtype, image.pixel_size)

    def _restore(self, path: Path) -> _Done | None:
        """Give what an earlier run found in the same file in the same way, if it is all still there."""
        if self.files.anew:
            return None
        try:
            note = json.loads(self._done(path, ".json").read_text(encoding="utf-8"))
            if note["way"] != self._way(path) or note["file"] != file_state(path) or not (self.out / note["record"]["labels"]).exists():
                return None
            if note["record"]["path"] != str(path.resolve()):  # the folder was moved, or this is another image of that name
                if read_image(path).fingerprint != note["record"]["fingerprint"]:
                    return None
                note["record"]["path"] = str(path.resolve())
                _write(self._done(path, ".json"), note)
            return self._read(path)
        except (OSError, ValueError, LookupError, TypeError):
            return None  # no such note, or not a whole one

    def _read(self, path: Path) -> _Done:
        """Read what was noted of a file."""
        note = json.loads(self._done(path, ".json").read_text(encoding="utf-8"))
        cells = read_table(self._done(path, ".csv"))
        parts = read_table(io.StringIO(note["regions"])) if note["regions"] else None
        return (cells, read_table(io.StringIO(note["counts"])), parts), str(note["remark"]), note["record"]

    def _done(self, path: Path, suffix: str) -> Path:
        return self.out / "done" / fitting_name(path.stem, suffix)

    def _way(self, path: Path) -> str:
        """Give digits that stand for all that decides what is found in a file, but for the file."""
        how = [to_dict(part) for part in (self.settings, self.counting, self.rules)]
        regions = self.regions(path) or []
        where = [
            [region.name, region.plane, region.time_and_slice, [[ring.tolist() for ring in piece] for piece in region.pieces]]
            for region in regions
        ]
        here = versions(), choose_device(self.settings.device).type  # the record states them once for all images
        text = json.dumps([self.model.fingerprint, here, how, self.files.format, where, self.group(path)], default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def others_in(out: Path, paths: Sequence[Path]) -> list[str]:
    """Name the images that an earlier run has counted into a folder and that are not among these; a new run leaves them out."""
    try:
        noted = read_record(out).content["images"]
    except (OSError, ValueError):
        return []
    mine = {str(path.resolve()) for path in paths}
    return [str(entry["name"]) for entry in noted if entry.get("path") not in mine]


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as partial_file:
        partial_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
