"""Many images, one after the other: what is written is complete or absent, and a run that was broken off goes on where it was.

::

    DIR/labels/STEM.tif (or .zarr)    label image
    DIR/done/STEM.json, STEM.csv      the image is done, with what, and its tables: for the next run (core/done.py)
    DIR/counts.csv, cells.csv, ...    the tables of all images (core/results.py), written again every few seconds and at the end
    DIR/record.json                   how it came about (core/record.py)
    DIR/.running.json                 which run writes here now: there is one at a time (core/files.py)

What the next run does with an image that is noted::

    labels corrected by hand since? ──yes──▶ count them as they are, and say so
      │ no
    found in another way, or gone? ──yes──▶ predict
      │ no
    other rules, regions, group? ──yes──▶ decide anew which of its cells count
      │ no
    nothing: its tables are as they were
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from napari_tally.core.cell_types import types_by_number
from napari_tally.core.count_labels import measuring_labels
from napari_tally.core.counting import pixel_remark, planes_remark, size_remark
from napari_tally.core.devices import choose_device
from napari_tally.core.done import Done, Event, Gathered, ImageDone, Notes, PassedOver, Working
from napari_tally.core.events import beside, mapped, reason_of, saying
from napari_tally.core.files import LOCK, alone_in, file_state, fitting_name, remove_all_leftovers, remove_leftovers
from napari_tally.core.find import find_cells
from napari_tally.core.image_files import read_image
from napari_tally.core.images import Image, fingerprinting
from napari_tally.core.label_files import fingerprinting_labels, read_labels, writing_labels
from napari_tally.core.lazy import LabelsZarr, write_tiff_in_pieces
from napari_tally.core.model_file import Model
from napari_tally.core.predict import TileDone, aside
from napari_tally.core.prediction import Prediction
from napari_tally.core.range import judging
from napari_tally.core.record import BY_HAND, NAME, RunRecord, read_record, versions
from napari_tally.core.regions import Region, fitted
from napari_tally.core.results import TABLES, Results, Tables
from napari_tally.settings import BatchSettings, CountingSettings, PredictionSettings, RuleSettings, to_dict

_SUFFIX = {"tiff": ".tif", "ome-zarr": ".zarr"}
_TABLES_EVERY, _SHARE = 5.0, 20
"""Seconds between two times that the tables are written; and how much longer than writing them that must be."""
_KEPT = 2e7
"""Pixels of an image whose probabilities are kept in memory, at most."""


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
        with alone_in(self.out) as alive:
            return (yield from self._run(paths, alive))

    def _run(self, paths: Sequence[Path], alive: Callable[[], None]) -> Generator[Event, None, Results]:
        self._clear()
        record = RunRecord.begin(self.model, self.model_name, self.settings, self.counting, self.rules)
        run, again_at, is_written, has_news = Gathered(paths, self.rules, record), time.monotonic() + _TABLES_EVERY, True, False
        for path in paths:  # all before the first: the tables of a run that is broken off shall have them too
            looking = aside(0, "looking up what is counted", beside(self._restore, path))
            if known := (yield from mapped(looking, partial(Working, 1, len(paths), path))):
                run.done[path] = known
        again = set() if self.files.anew else set(run.done)
        try:
            for number, path in enumerate(paths, start=1):
                working = partial(Working, number, len(paths), path)
                yield working()
                try:
                    if path not in again:
                        run.done[path] = yield from mapped(self._count(path), working)
                except (ValueError, MemoryError, RuntimeError) as error:
                    reason = reason_of(error)
                    run.done.pop(path, None)
                    run.failed[path] = reason
                    is_written, has_news = False, True
                    yield PassedOver(number, len(paths), path, reason)
                    continue
                remark = run.done[path].remark
                is_written, has_news = False, True
                if time.monotonic() > again_at:
                    with suppress(OSError):
                        alive()
                    began = time.monotonic()
                    trouble = yield from mapped(self._trying_tables(run.results()), working)
                    again_at, is_written = time.monotonic() + max(_TABLES_EVERY, _SHARE * (time.monotonic() - began)), not trouble
                    remark = " ".join(filter(None, (remark, trouble)))
                yield ImageDone(number, len(paths), path, run.done[path].tables[1], remark, again=path in again)
        finally:  # what is counted is kept, whatever happens to the next image
            try:
                if has_news and (run.done or not (self.out / NAME).exists()):
                    run.write_record(self.out)
            finally:  # last: a table may be open in another program, and that must not cost the record
                if not is_written:
                    run.results().write(self.out)
        return run.results()

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

    def _count(self, path: Path) -> Generator[TileDone, None, Done]:
        """Count one image in the way that is left of those drawn above."""
        noted = None if self.files.anew else self._notes.read(path)
        if noted and self._notes.labels_of(noted).exists():
            same = yield from aside(0, "looking at its labels", beside(self._notes.are_as_noted, path, noted))
            if noted.is_mended or not same:
                return (yield from self._count_as_they_are(path, noted))
            if noted.about["way"] == self._way and (yield from aside(0, "reading", beside(self._is_noted_image, path, noted))):
                return (yield from self._count_by_rules(path, noted))
        return (yield from self._predict(path))

    def _predict(self, path: Path) -> Generator[TileDone, None, Done]:
        """Predict, measure and write one image."""
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

    def _fill(self, path: Path, state: list[int], image: Image, target: Path, labels: LabelsZarr | None) -> Generator[TileDone, None, Done]:
        regions, group = fitted(self.regions(path) or (), image), self.group(path)  # refused now, not after the network's work
        runner = self.runner and replace(self.runner, path=path, state=tuple(state), out=target.parent)
        keep = labels is None and image.planes.size < _KEPT  # else the middle is looked at once more, for what is odd about it
        stated = image.calibrated(self.rules.pixel_size)
        found = yield from find_cells(self.model, stated, self.settings, self.counting, out=labels, keep=keep, runner=runner)
        measuring = Results(self.rules).measuring(found.labels, stated, regions, group, *found.kinds)
        tables = yield from aside(1, "measuring cells", measuring)
        comparing = judging(self.model, stated, found, self.settings, self.counting)
        remarks = (
            image.note,
            pixel_remark(image, self.rules),
            planes_remark(image, found.are_bodies),
            size_remark(tables[0]["area_px"], self.model.diameter * found.zoom),
            (yield from saying(comparing, TileDone(1, 1, "comparing with the training images"))),
        )
        # before the labels go to their place
        marks = yield from aside(1, "taking fingerprints", fingerprinting_labels(found.labels, image.shape))
        pixels = yield from aside(1, "taking fingerprints", fingerprinting(image))
        self._notes.forget(path)  # what it speaks of is replaced now
        yield from aside(1, "writing labels", self._writing_labels(found.labels, labels, target, stated, found.cells))
        record = RunRecord.note(stated, path, found, f"labels/{target.name}", remarks, marks, pixels)
        return (yield from self._note(path, tables, record, {"way": self._way, "file": state, "types": found.n_types, "mended": False}))

    def _count_as_they_are(self, path: Path, noted: Done) -> Generator[TileDone, None, Done]:
        """Count the labels of an image that were corrected after they were predicted: they are work that nobody may overwrite unasked."""
        state = yield from aside(0, "reading", beside(file_state, path))
        image = yield from aside(0, "reading", beside(read_image, path))
        pixels = yield from aside(0, "taking fingerprints", fingerprinting(image))
        place = self._notes.labels_of(noted)
        if pixels != noted.record["fingerprint"]:
            raise ValueError(
                f"{place} was {BY_HAND}, and {path} is no longer the image that its cells were found in. To keep the labels, choose "
                "another folder for the results; --anew ('Count all anew' in the window) replaces them."
            )
        drawn = yield from aside(0, "reading labels", beside(read_labels, place))
        drawn = drawn.reshape(image.shape) if drawn.size == math.prod(image.shape) else drawn
        marks = yield from aside(0, "taking fingerprints", fingerprinting_labels(drawn))
        known, n_types = noted.tables[0], noted.about["types"]
        kinds = types_by_number(known, int(drawn.max(initial=0))), n_types, "volume_vx" in known
        measuring = measuring_labels(drawn, image, self.rules, self.regions(path), self.group(path), *kinds)
        tables, labels, remarks = yield from aside(1, "measuring cells", measuring)
        said = (
            f"The cells of {noted.record['labels']} were {BY_HAND} after they were predicted, so they are counted as they are; "
            "--anew ('Count all anew' in the window) predicts them again."
        )
        found = Prediction(None, labels, noted.record["zoom"], int(tables[1]["found"].sum()))
        stated = image.calibrated(self.rules.pixel_size)
        record = RunRecord.note(stated, path, found, noted.record["labels"], (*remarks, said), marks, pixels)
        return (yield from self._note(path, tables, record, noted.about | {"file": state, "mended": True}))

    def _count_by_rules(self, path: Path, noted: Done) -> Generator[TileDone, None, Done]:
        """Decide anew which of the cells of an image count: they were found in the same way."""
        image = yield from aside(0, "reading", beside(read_image, path))
        stated, n_types = image.calibrated(self.rules.pixel_size), noted.about["types"]
        tables = Results(self.rules).by_rules(noted.tables[0], stated, self.regions(path), self.group(path), n_types)
        return (yield from self._note(path, tables, noted.record | {"path": str(path.resolve())}, noted.about))

    def _note(self, path: Path, tables: Tables, record: dict[str, Any], about: dict[str, Any]) -> Generator[TileDone, None, Done]:
        """Note what was counted, and give it as another run would: so it makes no difference to the tables whether there were several."""
        about = about | {"rule": self._rule(path), "labels": file_state(self.out / record["labels"])}
        done = Done(tables, " ".join(record["remarks"]), record, about)
        yield from aside(1, "writing the tables", self._notes.writing(path, done))
        written = self._notes.read(path)
        assert written
        return written

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

    def _restore(self, path: Path) -> Done | None:
        """Give what an earlier run counted in the same file in the same way by the same rules, if it is all still there."""
        try:
            noted = self._notes.read(path)
            if noted is None or not self._notes.labels_of(noted).exists() or noted.about["rule"] != self._rule(path):
                return None
            if not (noted.is_mended or noted.about["way"] == self._way) or not self._is_noted_image(path, noted):
                return None
            if not self._notes.are_as_noted(path, noted):
                return None
            if noted.record["path"] != str(path.resolve()):  # the folder was moved
                noted.record["path"] = str(path.resolve())
                self._notes.amend(path, record=noted.record)
        except (OSError, ValueError, LookupError, TypeError):
            return None  # no such note, or not a whole one
        return noted

    def _is_noted_image(self, path: Path, noted: Done) -> bool:
        """Whether a file is as it was; at another place, where there may be another image of that name, its pixels tell."""
        if noted.about["file"] != file_state(path):
            return False
        return noted.record["path"] == str(path.resolve()) or read_image(path).fingerprint == noted.record["fingerprint"]

    @property
    def _notes(self) -> Notes:
        return Notes(self.out)

    @cached_property
    def _way(self) -> str:
        """Give digits that stand for all that decides which cells are found in a file, but for the file.

        The size of pixels is of it: volumes are looked at by it, and it is written into the labels.
        """
        how = [to_dict(self.settings), to_dict(self.counting), self.rules.pixel_size]
        here = versions(), choose_device(self.settings.device).type  # the record states them once for all images
        return _digits([self.model.fingerprint, here, how, self.files.format])

    def _rule(self, path: Path) -> str:
        """Give digits that stand for all that decides which of the cells of a file count, where, and of which group."""
        regions = self.regions(path) or []
        where = [
            [region.name, region.plane, region.time_and_slice, [[ring.tolist() for ring in piece] for piece in region.pieces]]
            for region in regions
        ]
        return _digits([to_dict(self.rules), where, self.group(path)])


def _digits(of: object) -> str:
    return hashlib.sha256(json.dumps(of, default=repr).encode()).hexdigest()[:16]


def others_in(out: Path, paths: Sequence[Path]) -> list[str]:
    """Name the images that an earlier run has counted into a folder and that are not among these; a new run leaves them out."""
    try:
        noted = read_record(out).content["images"]
    except (OSError, ValueError):
        return []
    mine = {str(path.resolve()) for path in paths}
    return [str(entry["name"]) for entry in noted if entry.get("path") not in mine]
