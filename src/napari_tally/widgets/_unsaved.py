"""Models that are not saved: each is kept in a file of its own until it is saved or discarded, and offered by the next napari if it is not.

::

    state folder / models / 4711-0 / model.safetensors, about.json       one folder a model

What nobody works with any more is offered. What is older than a month goes.
"""

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from napari_tally.core.files import owner, state_folder, whole_file
from napari_tally.widgets._garbage import hold
from napari_tally.widgets._kept import MONTH, discard, is_alone

if TYPE_CHECKING:
    from napari_tally.core.model_file import Model

log = logging.getLogger(__name__)

_number = count()
_writer = ThreadPoolExecutor(1, "models")
"""Writes and removes one after the other, and to the end when napari is closed."""
_in_use: set[Path] = set()
"""Folders of the models that viewers of this process have."""


@dataclass(frozen=True)
class UnsavedModel:
    """A model that nobody has saved: where it is kept, what it was called, and when it was made."""

    folder: Path
    name: str
    when: datetime

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / "model.safetensors"

    def __str__(self) -> str:
        return f"{self.name.removesuffix(', not saved')}, {self.when:%d %b %H:%M}"


def keep_model(model: "Model", name: str) -> Path:
    """Write a model, which must not change any more, beside the window; give the folder that it will be in."""
    folder = state_folder() / "models" / f"{os.getpid()}-{next(_number)}-{time.time_ns() % 10**9}"
    _in_use.add(folder)
    let_go = hold()
    _writer.submit(_write, folder, model, name).add_done_callback(lambda _: let_go())
    return folder


def let_model_go(folder: Path) -> None:
    """Remove a model: it is saved now, or unwanted."""
    _in_use.discard(folder)
    _writer.submit(discard, folder)


def leave_model(folder: Path) -> None:
    """No viewer has this model any more, and nobody has saved it."""
    _in_use.discard(folder)


def unsaved_models() -> list[UnsavedModel]:
    """Find the models that nobody has saved and no viewer has, the newest first."""
    found = []
    for path in (state_folder() / "models").glob("*/about.json"):
        try:
            about, when = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
            if path.parent in _in_use or not (is_alone(about) or about["pid"] == os.getpid()):
                continue
            if time.time() - when > MONTH:
                discard(path.parent)
            else:
                found.append(UnsavedModel(path.parent, str(about["name"]), datetime.fromtimestamp(when)))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # half written by a crash, or no file of ours
    return sorted(found, key=lambda one: one.when, reverse=True)


def _write(folder: Path, model: "Model", name: str) -> None:
    from napari_tally.core.model_file import save_model

    try:
        save_model(model, folder / "model.safetensors")
        with whole_file(folder / "about.json") as partial:  # last: with it, the model is whole
            partial.write_text(json.dumps({**owner(), "name": name}), encoding="utf-8")
    except OSError as error:  # a full disk: the model is still in the window
        log.warning("The model cannot be kept until it is saved", exc_info=error)
