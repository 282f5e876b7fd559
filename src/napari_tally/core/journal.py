r"""The journal of a drawing: every stroke is on the disk a moment later, so that a crash takes none.

::

    napari-tally drawing 1\n                                a file grows by records; nothing in it is ever changed
    ┌────────┬───────┬──────────────────────────────┐
    │ length │ crc32 │ shape, type, what it is of    │     the first record
    ├────────┼───────┼──────────────────────────────┤
    │ length │ crc32 │ tiles that differ, the region │     a record for each moment in which something was drawn
    ├────────┼───────┼──────────────────────────────┤
    │ length │ crc3                                        torn off by a crash: what stands before it counts

A tile is a square of 128 pixels of one plane. Of each only a checksum is remembered, so a journal takes next to no memory, and
writes only the tiles that changed. When the file has grown to many times its size it is written anew, whole or not at all.
"""

import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.files import require_file, whole_file

_MAGIC = b"napari-tally drawing 1\n"
_TILE = 128
_HEAD = struct.Struct("<II")
_FEW_BYTES = 2**20
_GROWTH = 8
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, RecursionError, SyntaxError)
"""What reading a damaged file raises; the last is NumPy's, on a type of pixels that is none."""
_MOST_BYTES = 2**32
"""Of a drawing in memory: a file that claims more is damaged."""

Region = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Drawing:
    """What a journal holds.

    Attributes
    ----------
    labels : (..., Y, X) int array
    region : list of dict
        Shapes of the annotated region: ``{"type": "rectangle", "points": [[y, x], ...]}``.
    about : dict
        What the journal was begun with: JSON values.
    """

    labels: NDArray[Any]
    region: Region = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


class Journal:
    """Writes down a drawing as it grows. One thread at a time.

    Parameters
    ----------
    path : Path
        The file to begin; an existing one is replaced.
    about : dict
        What the drawing is of: JSON values, given back by :func:`read_journal`.

    Examples
    --------
    >>> journal = Journal(folder / "a.journal", {"image": "wells"})  # doctest: +SKIP
    >>> journal.write(labels, region)  # after a stroke: the tiles that changed; True if there were any  # doctest: +SKIP
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self._shape: tuple[int, ...] = ()
        self._dtype = ""
        self._marks: dict[tuple[int, int, int], bytes] = {}
        self._region: Region | None = None
        self._small = 0

    def write(self, labels: NDArray[Any], region: Region | None = None) -> bool:
        """Write down what has changed since the last time.

        Parameters
        ----------
        labels : (..., Y, X) int array
            May be drawn in meanwhile: what comes too late is in the next record.
        region : list of dict, optional

        Returns
        -------
        bool
            Whether anything had.

        Raises
        ------
        OSError
            If there is no room. What was written before stays readable.
        """
        region = region or []
        known = (labels.shape, labels.dtype.str) == (self._shape, self._dtype)
        marks = self._marks if known else {}
        tiles = []
        new = {}
        for place, tile in _tiles(labels):
            pixels = tile.tobytes()  # once: somebody may be drawing
            mark = _mark(pixels)
            if mark != marks.get(place, b""):
                new[place] = mark
                tiles.append((place, zlib.compress(pixels, 1)))
        if known and not tiles and region == self._region:
            return False
        self._shape, self._dtype, self._region = labels.shape, labels.dtype.str, region
        record = _pack({"tiles": [[*place, len(packed)] for place, packed in tiles], "region": region}, *(packed for _, packed in tiles))
        try:
            if known and self.path.exists() and self.path.stat().st_size + len(record) < max(_FEW_BYTES, _GROWTH * self._small):
                with self.path.open("ab") as file:
                    file.write(record)
                    file.flush()
                    os.fsync(file.fileno())
                self._marks |= new
            else:
                self._write_anew(labels, region)
        except OSError:
            self._shape = ()  # a torn record may stand at the end: the next time everything is written anew
            raise
        return True

    def _write_anew(self, labels: NDArray[Any], region: Region) -> None:
        first = {"shape": labels.shape, "dtype": labels.dtype.str, "about": self.about}
        tiles = [(place, tile.tobytes()) for place, tile in _tiles(labels) if tile.any()]
        packed = [zlib.compress(pixels, 1) for _, pixels in tiles]
        second = {"tiles": [[*place, len(some)] for (place, _), some in zip(tiles, packed, strict=True)], "region": region}
        with whole_file(self.path) as partial:
            partial.write_bytes(_MAGIC + _pack(first) + _pack(second, *packed))
        self._small = self.path.stat().st_size
        self._marks = {place: _mark(pixels) for place, pixels in tiles}


def read_about(path: str | Path) -> dict[str, Any]:
    """Read only what a journal was begun with.

    Raises
    ------
    ValueError
        If the file is no journal.
    """
    try:
        first, _ = next(_records(Path(path)))
        return dict(first["about"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, StopIteration) as error:
        raise ValueError(f"{path}: this is no journal of a drawing.") from error


def read_journal(path: str | Path) -> Drawing:
    """Read the drawing of a journal: up to the last record that is whole.

    Raises
    ------
    ValueError
        If the file is no journal, or damaged from the start.
    """
    path = Path(path)
    try:
        records = _records(path)
        first, _ = next(records)
        shape, dtype, about = first["shape"], np.dtype(first["dtype"]), dict(first["about"])
        if dtype.kind not in "iu" or len(shape) < 2 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"a drawing of shape {str(shape)[:60]} and type {str(dtype)[:20]}")
        if math.prod(shape) * dtype.itemsize > _MOST_BYTES:
            raise ValueError(f"a drawing of shape {str(shape)[:60]}")
        labels, region = np.zeros(shape, dtype), []
        views = labels.reshape(-1, *labels.shape[-2:])
        for head, body in records:
            region = [{"type": str(one["type"]), "points": np.array(one["points"], float).tolist()} for one in head["region"]]
            at = 0
            for p, y, x, size in head["tiles"]:
                if min(p, y, x, size) < 0:
                    raise ValueError("a tile outside of the drawing")
                tile = views[p, y * _TILE : (y + 1) * _TILE, x * _TILE : (x + 1) * _TILE]
                pixels = zlib.decompressobj().decompress(body[at : at + size], tile.size * dtype.itemsize + 1)
                tile[...] = np.frombuffer(pixels, dtype).reshape(tile.shape)
                at += size
    except _DAMAGED as error:
        raise ValueError(f"{path}: no drawing can be read from this file ({str(error)[:200]}).") from error
    except (StopIteration, zlib.error) as error:
        raise ValueError(f"{path}: no drawing can be read from this file (it is damaged).") from error
    return Drawing(labels, region, about)


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Read record by record, to the first that is torn."""
    require_file(path)
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is no journal")
        rest = path.stat().st_size - len(_MAGIC)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, check = _HEAD.unpack(head)
            rest -= _HEAD.size + length
            if rest < 0:
                return
            content = file.read(length)
            if len(content) < length or zlib.crc32(content) != check:
                return
            text, _, body = content.partition(b"\n")
            yield json.loads(text), body


def _pack(head: dict[str, Any], *parts: bytes) -> bytes:
    content = json.dumps(head).encode() + b"\n" + b"".join(parts)
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _mark(pixels: bytes) -> bytes:
    """Give the checksum of a tile; that of an empty one is empty."""
    return b"" if pixels.count(0) == len(pixels) else hashlib.blake2b(pixels, digest_size=8).digest()


def _tiles(labels: NDArray[Any]) -> Iterator[tuple[tuple[int, int, int], NDArray[Any]]]:
    for p, plane in enumerate(labels.reshape(-1, *labels.shape[-2:])):
        for y in range(0, plane.shape[0], _TILE):
            for x in range(0, plane.shape[1], _TILE):
                yield (p, y // _TILE, x // _TILE), plane[y : y + _TILE, x : x + _TILE]
