"""What outlives a crash of the window: where it lies, and whether the napari that wrote it still runs.

::

    state folder /  trainings / 4711-0 / about.json, state.safetensors, data.safetensors     one folder a training
                    drawings  / 4711-<layer>.journal                                          one file a drawing
                    models    / see `_unsaved.py`

Only what nobody works on any more is offered. What is older than a month goes.
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from napari.layers import Labels, Shapes
from psygnal import Signal
from qtpy.QtCore import QObject, QTimer

from napari_tally.core.files import owner, state_folder, whole_file
from napari_tally.core.journal import Journal, Region, read_about
from napari_tally.widgets._garbage import hold

MONTH = 30 * 24 * 3600.0
_CLOCK = 60.0
"""Seconds by which the clock may have been set since; no number of a process is given out again so soon."""
_DELAY = 500
"""Milliseconds from a stroke to the journal: long enough to take several strokes together."""

_number = count()
at_work: set[Path] = set()
"""Folders of the trainings of this process that are under way."""
_writer = ThreadPoolExecutor(1, "journal")


def is_alone(about: dict[str, Any]) -> bool:
    """Whether the process that wrote something runs no more; one on another machine may."""
    try:
        if about.get("host", platform.node()) != platform.node():
            return False
        return abs(psutil.Process(int(about["pid"])).create_time() - float(about["began"])) > _CLOCK
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return True
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError):
        return False


# ------------------------------------------------------------------ trainings


@dataclass(frozen=True)
class Unfinished:
    """A training that was interrupted: where it is kept, on which images, how far it was, and when."""

    folder: Path
    images: tuple[str, ...]
    step: int
    fraction: float
    when: datetime

    def __str__(self) -> str:
        names = ", ".join(self.images[:2]) + (f" and {len(self.images) - 2} more" if len(self.images) > 2 else "")
        return f"{names}, {self.when:%d %b %H:%M}, step {self.step}, {self.fraction:.0%} done"


def new_training() -> Path:
    """Give a folder for a training; it does not exist yet."""
    return state_folder() / "trainings" / f"{os.getpid()}-{next(_number)}-{time.time_ns() % 10**9}"


def note_training(folder: Path, images: list[str], step: int, fraction: float) -> None:
    """Write beside a training what can be told of it without reading it."""
    with whole_file(folder / "about.json") as partial:
        partial.write_text(json.dumps({**owner(), "images": images, "step": step, "fraction": fraction}), encoding="utf-8")


def unfinished_trainings() -> list[Unfinished]:
    """Find the trainings that nobody works on any more, the newest first."""
    found = []
    for folder in (state_folder() / "trainings").glob("*/"):
        path = folder / "about.json"
        try:
            if not path.is_file():  # killed in its first seconds, or one that begins just now
                if time.time() - folder.stat().st_mtime > MONTH:
                    discard(folder)
                continue
            about = json.loads(path.read_text(encoding="utf-8"))
            when = path.stat().st_mtime
            if folder in at_work or not (is_alone(about) or about["pid"] == os.getpid()):
                continue
            if time.time() - when > MONTH:
                discard(folder)
            elif (folder / "state.safetensors").is_file():
                images, stood = tuple(map(str, about["images"])), (int(about["step"]), float(about["fraction"]))
                found.append(Unfinished(folder, images, *stood, datetime.fromtimestamp(when)))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # half written by a crash, or no file of ours
    return sorted(found, key=lambda one: one.when, reverse=True)


def discard(folder: Path) -> None:
    """Remove a training."""
    shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------ drawings


def left_drawings(image: str, shape: tuple[int, ...]) -> list[Path]:
    """Find the journals of drawings on an image of this name and shape that nobody works on any more, the newest first."""
    return sorted((path for path in _alone() if _is_of(path, image, shape)), key=lambda path: path.stat().st_mtime, reverse=True)


def _alone() -> Iterator[Path]:
    for path in (state_folder() / "drawings").glob("*.journal"):
        try:
            age = time.time() - path.stat().st_mtime
            if path.name.startswith("."):
                if age > 3600:  # half written by a crash
                    path.unlink()
            elif is_alone(read_about(path)):
                if age > MONTH:
                    path.unlink()
                else:
                    yield path
        except (OSError, ValueError):
            continue


def _is_of(path: Path, image: str, shape: tuple[int, ...]) -> bool:
    about = read_about(path)
    return about.get("image") == image and about.get("shape") == list(shape)


class Keeper:
    """Writes down the drawing that is worked on, a moment after each stroke and on a thread of its own.

    Parameters
    ----------
    parent : QObject
        The widget; when it goes, so does the keeper.

    Attributes
    ----------
    trouble : psygnal signal (str)
        The drawing cannot be kept, and why. Once for each reason.
    """

    trouble = Signal(str)

    def __init__(self, parent: QObject) -> None:
        self._labels: Labels | None = None
        self._region: Shapes | None = None
        self._image = ""
        self._journals: dict[Any, Journal] = {}
        self._writing: Future[bool] | None = None
        self._said = ""
        self._timer = QTimer(parent)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DELAY)
        self._timer.timeout.connect(self._due)

    def watch(self, image: str, labels: Labels | None, region: Shapes | None) -> None:
        """Keep this drawing from now on; that of before is written to its end."""
        if self._labels is not None and labels is not self._labels:
            self.flush()
        self._image, self._labels, self._region = image, labels, region
        if labels is not None:
            self.stroke()

    def stroke(self) -> None:
        """Something was drawn."""
        if not self._timer.isActive():
            self._timer.start()

    def flush(self) -> None:
        """Write down everything now, and wait for it."""
        self._timer.stop()
        self._look(wait=True)
        self._submit()
        self._look(wait=True)

    def _due(self) -> None:
        if self._writing and not self._writing.done():
            self._timer.start()  # the one before is long
            return
        self._look()
        self._submit()

    def _submit(self) -> None:
        labels = self._labels
        if labels is None:
            return
        region = _shapes(self._region)
        journal = self._journals.get(labels.unique_id)
        if journal is None:
            if not region and not labels.data.any():
                return  # nothing is drawn yet
            path = state_folder() / "drawings" / f"{os.getpid()}-{labels.unique_id}.journal"
            about = {**owner(), "image": self._image, "shape": list(labels.data.shape), "layer": labels.name}
            journal = self._journals[labels.unique_id] = Journal(path, about)
        let_go = hold()
        self._writing = _writer.submit(journal.write, labels.data, region)
        self._writing.add_done_callback(lambda _: let_go())

    def _look(self, wait: bool = False) -> None:
        """See how the last writing ended."""
        if self._writing and (wait or self._writing.done()):
            error, self._writing = self._writing.exception(), None
            if error and str(error) != self._said:
                self._said = str(error)
                self.trouble.emit(f"The drawing cannot be kept against a crash ({error}). Save the layer now and then.")


def _shapes(region: Shapes | None) -> Region:
    if region is None:
        return []
    return [{"type": str(kind), "points": points.tolist()} for kind, points in zip(region.shape_type, region.data, strict=True)]
