"""Images that are counted, one after the other: the news of it, what is noted of each for the next run, tables and record of them all.

::

    DIR/done/STEM.csv     its cells
    DIR/done/STEM.json    way     digits that stand for how its cells were found
                          rule    digits that stand for which of them count, where, and of which group; "" = its tables are not whole
                          file    the state of the image, and
                          labels  that of its labels, as they were then: what differs is looked at
                          types   how many types of cells its table knows
                          mended  its labels are no longer those that were predicted
                          ...     the other tables, what is odd about it, and what the record says of it
"""

import io
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from napari_tally.core.files import file_state, fitting_name, whole_file
from napari_tally.core.predict import TileDone
from napari_tally.core.record import RunRecord, print_of
from napari_tally.core.results import Results, Tables
from napari_tally.core.tables import read_table, writing_table
from napari_tally.settings import RuleSettings

_UNKNOWN = {"way": "", "rule": "", "file": [], "labels": [], "types": 1, "mended": False}
"""What is taken of a note that does not say it; of files and labels, that they may be others."""


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


@dataclass(frozen=True, eq=False)
class Done:
    """An image that is counted.

    Attributes
    ----------
    tables : (cells, counts, regions)
        As :meth:`napari_tally.core.results.Results.measuring` gives them.
    remark : str
        What is odd about it; "" = nothing.
    record : dict
        What the record says of it: see :meth:`napari_tally.core.record.RunRecord.note`.
    about : dict
        What else is noted of it for the next run.
    """

    tables: Tables
    remark: str
    record: dict[str, Any]
    about: dict[str, Any] = field(default_factory=lambda: dict(_UNKNOWN))

    @property
    def is_mended(self) -> bool:
        """Whether its labels were counted as they were, no longer as they were predicted."""
        return bool(self.about["mended"])


class Notes:
    """What is noted of the images in a folder of results.

    Parameters
    ----------
    out : Path
        The folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def read(self, path: Path) -> Done | None:
        """Give what is noted of an image of this name; None = nothing, or nothing whole."""
        try:
            about = json.loads(self._place(path, ".json").read_text(encoding="utf-8"))
            counts, parts, remark, record = (about.pop(key) for key in ("counts", "regions", "remark", "record"))
            cells = read_table(self._place(path, ".csv"))
            if "type" in cells:
                cells["type"] = cells["type"].astype("Int64")  # one that was drawn by hand is of none
            tables = cells, read_table(io.StringIO(counts)), read_table(io.StringIO(parts)) if parts else None
            if not all(record[key] for key in ("labels", "labels_fingerprint", "shape", "fingerprint", "zoom")):
                return None
            about = _UNKNOWN | about
            return Done(tables, str(remark), record, about | {"types": int(about["types"])})
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def writing(self, path: Path, done: Done) -> Generator[float, None, None]:
        """Note an image; yield the fraction that is done. Of an earlier note it stays known that its labels were corrected."""
        cells, counts, parts = done.tables
        self.amend(path, rule="")
        yield from writing_table(self._place(path, ".csv"), cells)
        texts = {"counts": counts.to_csv(index=False), "regions": None if parts is None else parts.to_csv(index=False)}
        _write(self._place(path, ".json"), done.about | {"remark": done.remark, "record": done.record} | texts)

    def amend(self, path: Path, **changes: Any) -> None:
        """Change a part of the note on an image, if there is one."""
        place = self._place(path, ".json")
        if place.exists():
            _write(place, json.loads(place.read_text(encoding="utf-8")) | changes)

    def forget(self, path: Path) -> None:
        """Take the note on an image away: its labels are about to be replaced."""
        self._place(path, ".json").unlink(missing_ok=True)

    def labels_of(self, done: Done) -> Path:
        """Give the place of the labels of an image."""
        return self._out / str(done.record["labels"])

    def are_as_noted(self, path: Path, done: Done) -> bool:
        """Whether the labels of an image are those that were counted. What is the same in another state is noted, not looked at again.

        Raises
        ------
        ValueError
            If they cannot be read.
        """
        place = self.labels_of(done)
        state = file_state(place)
        if state == done.about["labels"]:
            return True
        try:
            if print_of(place, done.record["shape"]) != done.record["labels_fingerprint"]:
                return False
        except ValueError as error:
            raise ValueError(f"{error} These are the labels of an earlier run; delete them, or predict --anew.") from error
        self.amend(path, labels=state)
        return True

    def _place(self, path: Path, suffix: str) -> Path:
        return self._out / "done" / fitting_name(path.stem, suffix)


@dataclass
class Gathered:
    """What a run has counted by now, in the order of its files; and what an earlier run has counted of them, where that still holds.

    So the tables of a run that is broken off lack nothing that is known.
    """

    paths: Sequence[Path]
    rules: RuleSettings
    record: RunRecord
    done: dict[Path, Done] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)

    def results(self) -> Results:
        """Give the tables."""
        results = Results(self.rules)
        for path in self.paths:
            if path in self.done:
                results.take(*self.done[path].tables)
            elif path in self.failed:
                results.pass_over(path, self.failed[path])
        return results

    def write_record(self, folder: Path) -> None:
        """Write record.json into a folder."""
        self.record.content |= {"images": [self.done[path].record for path in self.paths if path in self.done], "failed": []}
        for path in self.paths:
            if path in self.failed:
                self.record.pass_over(path, self.failed[path])
        self.record.write(folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as partial_file:
        partial_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
