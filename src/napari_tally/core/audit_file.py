"""An audit on disk: JSON that is written whole, and of which nothing is believed when it is read, for it may have been changed by hand."""

import json
import math
import reprlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_tally.core.audit import COLUMNS, Audit, ImageRecord
from napari_tally.core.files import whole_file
from napari_tally.core.stated import require
from napari_tally.settings import AuditSettings, from_dict, to_dict

FORMAT = 1
_RECORD = {
    **{"origin": dict, "settings": dict, "images": list, "windows": list},
    **{"order": list, "wanted": int, "counts": dict, "clicks": dict},
}
_IMAGE = {
    **{"name": str, "group": str, "shape": list, "predicted": int, "left_out": int},
    **{"image_fingerprint": str, "labels_fingerprint": str},
}
"""Fields of an audit's file and of an image in it, and of what kind they are."""
_LARGEST = 2**53
"""Whole numbers below it are the same as decimals."""


def write_audit(path: str | Path, audit: Audit) -> None:
    """Write an audit as JSON, whole or not at all."""
    record = {
        "napari_tally_audit": FORMAT,
        "origin": audit.origin,
        "settings": to_dict(audit.settings),
        "images": [asdict(image) for image in audit.images],
        "columns": COLUMNS,
        "windows": audit.windows[COLUMNS].to_numpy().tolist(),
        "order": audit.order,
        "wanted": audit.wanted,
        "counts": {str(number): count for number, count in sorted(audit.counts.items())},
        "clicks": {str(number): places for number, places in sorted(audit.clicks.items())},
    }
    with whole_file(path) as partial:
        partial.write_text(json.dumps(record) + "\n", encoding="utf-8")


def read_audit(path: str | Path) -> Audit:
    """Read an audit.

    Raises
    ------
    ValueError
        If the file is absent, no audit of this program, or does not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such audit.")
    try:
        return _audit_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is not an audit of napari-tally ({error}).") from error


def _audit_of(record: Any) -> Audit:
    """Build an audit from what stands in its file, which may have been changed by hand: everything is checked."""
    require(record, {"napari_tally_audit": int}, "a file")
    if record["napari_tally_audit"] > FORMAT:
        raise ValueError("it was written by a newer napari-tally; update this one")
    require(record, _RECORD, "an audit")
    images = [_image_of(entry) for entry in record["images"]]
    if len({image.name for image in images}) < len(images):
        raise ValueError("two of its images have one name")
    for number, row in enumerate(record["windows"]):
        if not (_are_whole(row) and len(row) == len(COLUMNS) and _lies_in(images, *row[:-1])):
            raise ValueError(f"row {number} of its windows is {reprlib.repr(row)}, which is no part of an image")
    windows = pd.DataFrame(record["windows"], columns=COLUMNS, dtype=np.int64)
    order, wanted = record["order"], record["wanted"]
    if not (_are_whole(order) and sorted(order) == list(range(len(windows))) and 1 <= wanted <= len(order)):
        raise ValueError("the order of its windows does not name each once, or more are wanted than there are")
    strata = windows["stratum"].unique()
    if strata.max() != len(strata) - 1:
        raise ValueError(f"the strata of its windows are {reprlib.repr(sorted(strata.tolist()))}, not 0, 1, 2 and so on")
    audit = Audit(tuple(images), windows, order, wanted, from_dict(AuditSettings, record["settings"]), origin=record["origin"])
    numbers = {str(number): number for number in range(len(order))}
    for key, places in record["clicks"].items():
        if key not in numbers or type(places) is not list or not all(map(_is_place, places)):
            raise ValueError(f"the clicks {reprlib.repr(places)} of window {key[:20]} are no places in a window of it")
        audit.clicks[numbers[key]] = [(float(y), float(x)) for y, x in places]
    for key, count in record["counts"].items():
        if key not in numbers or not _are_whole([count]) or count > _room(audit, numbers[key]):
            raise ValueError(f"the hand count {reprlib.repr(count)} of window {key[:20]} is no number of cells in a window of it")
        audit.counts[numbers[key]] = count
    return audit


def _image_of(entry: Any) -> ImageRecord:
    """Build the record of an image."""
    require(entry, _IMAGE, "an image")
    image = ImageRecord(**{name: entry[name] for name in _IMAGE} | {"shape": tuple(entry["shape"])})
    pixels = math.prod(image.shape) if _are_whole(entry["shape"]) and len(image.shape) > 1 else 0
    if not 0 < pixels < _LARGEST:
        raise ValueError(f"an image whose shape is {reprlib.repr(entry['shape'])}")
    if not 0 <= image.left_out <= image.predicted <= pixels:
        raise ValueError(f"an image of {pixels} pixels with {image.predicted} predicted cells, {image.left_out} of them left out")
    return image


def _are_whole(values: Any) -> bool:
    """Whether these are whole numbers from 0 on, of a size that arrays can hold."""
    return type(values) is list and all(type(value) is int and 0 <= value < _LARGEST for value in values)


def _lies_in(images: Sequence[ImageRecord], image: int, plane: int, top: int, left: int, bottom: int, right: int, predicted: int) -> bool:
    """Whether a window is a part of its image."""
    if image >= len(images):
        return False
    *planes, height, width = images[image].shape
    inside = plane < math.prod(planes) and top < bottom <= height and left < right <= width
    return inside and predicted <= images[image].predicted


def _is_place(place: Any) -> bool:
    return type(place) is list and len(place) == 2 and all(type(value) in (int, float) and abs(value) < _LARGEST for value in place)


def _room(audit: Audit, number: int) -> int:
    """Give how many cells a window can hold: one a pixel, unless more were clicked."""
    return max(audit.window(number).pixels, len(audit.clicks.get(number, [])))
