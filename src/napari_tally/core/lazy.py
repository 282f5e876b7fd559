"""Large images stay in their files: OME-Zarr and TIFF as dask arrays, label images written piece by piece.

OME-Zarr is read in versions 0.4 and 0.5 and written in 0.5 (https://ngff.openmicroscopy.org).
"""

import math
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_tally.core.events import beside, mapped
from napari_tally.core.files import folder_done, partial_folder, whole_file

CHUNK = 512
"""Side of the chunks and TIFF tiles of label images, in pixels."""
_SMALLEST = 512
"""The pyramid of a label image ends where both sides are at most this."""
_MOST_CHUNKS = 10**6
"""More pieces than that of one image are not opened: each costs memory and time though nothing is read."""
_LARGEST_CHUNK = 2**30
"""Bytes: whoever wants one pixel of a chunk has to unfold all of it."""
_MOST_LISTED = 10**5
"""Of so many chunks it is looked up whether they are there."""
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "angstrom": 1e-4, "meter": 1e6}
_SECONDS = {"millisecond": 1e-3, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}

_RGB = ["FF0000", "00FF00", "0000FF"]
"""Colours in which an OME-Zarr has its channels shown: of bytes, these are the samples of a picture in colour."""


def open_tiff(path: Path, series: int = 0) -> Any:
    """Open the largest level of a series of a TIFF file as a dask array; tiles or strips are read when they are asked for."""
    import dask.array as da

    with tifffile.TiffFile(path, _multifile=False) as tif:  # as core/image_files.py opens it
        whole = tif.series[series].levels[0]
        if whole.dataoffset is not None:  # one strip, uncompressed: it can be read anywhere
            mapped = np.memmap(path, whole.dtype.newbyteorder(tif.byteorder), "r", whole.dataoffset, whole.shape)
            return da.from_array(mapped, chunks=tuple(min(n, 4 * CHUNK) for n in whole.shape), name=False)
    pixels = _TiffPixels(path, series)
    return da.from_array(pixels, chunks=pixels.chunks, name=False)


class _TiffPixels:
    """The pixels of a TIFF file, which is open as long as somebody may read them."""

    def __init__(self, path: Path, series: int) -> None:
        import zarr

        self._store: Any = tifffile.imread(path, series=series, level=0, aszarr=True, _multifile=False)
        self._array: Any = zarr.open_array(self._store, mode="r")
        self.shape, self.dtype, self.ndim, self.chunks = self._array.shape, self._array.dtype, self._array.ndim, self._array.chunks

    def __getitem__(self, where: Any) -> Any:
        return self._array[where]

    def __del__(self) -> None:
        self._store.close()


@dataclass(frozen=True, eq=False)
class Opened:
    """What a file holds.

    Attributes
    ----------
    pixels : array
        In memory, or a dask array.
    axes : str or None
        A letter an axis, like "TCZYX".
    pixel_size : tuple of float, or None
        Height and width of a pixel in um where they are stated.
    steps : dict
        Where they are stated: "Z", from plane to plane in um; "T", from time to time in s.
    note : str
        What is odd about the file; "" = nothing.
    """

    pixels: Any
    axes: str | None
    pixel_size: tuple[float, float] | None = None
    steps: dict[str, float] = field(default_factory=dict)
    note: str = ""


def open_ome_zarr(path: Path) -> Opened:
    """Open the largest level of an OME-Zarr image.

    Raises
    ------
    ValueError
        If there is no image in the folder.
    """
    import dask.array as da

    try:
        array, letters, multiscale, level = _largest_level(path)
        steps = _steps(letters, multiscale, level)
        height, width = steps.pop("Y", 0.0), steps.pop("X", 0.0)
        size = (height, width) if 1e-4 < height < 1e4 and 1e-4 < width < 1e4 else None
        return Opened(da.from_zarr(array, chunks=_chunks(array, letters)), letters, size, steps, missing_chunks(array))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: this folder cannot be read as an OME-Zarr image ({str(error) or type(error).__name__}).") from error


def axes_of_ome_zarr(path: Path) -> tuple[str, tuple[int, ...]]:
    """Read only which axes an OME-Zarr image has, a letter an axis, and how long these are; ("", ()) where there is none."""
    try:
        array, letters, *_ = _largest_level(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "", ()
    return letters, tuple(int(n) for n in array.shape)


def _largest_level(path: Path) -> tuple[Any, str, dict[str, Any], dict[str, Any]]:
    """Open the largest level of an OME-Zarr image: its zarr array, letters, and the metadata of the image and of the level."""
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    multiscale = attributes.get("ome", attributes)["multiscales"][0]
    level = multiscale["datasets"][0]
    axes = [axis if isinstance(axis, str) else axis["name"] for axis in multiscale["axes"]]
    array = group[level["path"]]
    if not isinstance(array, zarr.Array) or array.ndim != len(axes):
        raise ValueError("the axes do not fit the pixels")
    letters = "".join(axis[0].upper() for axis in axes)
    if array.dtype == np.uint8 and _colours(attributes.get("ome", attributes)) == _RGB:
        letters = letters.replace("C", "S")
    return array, letters, multiscale, level


def _colours(attributes: dict[str, Any]) -> list[str]:
    """Give the colours in which the channels of an OME-Zarr are to be shown; [] where that is not said as it should be."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    return [str(channel.get("color", "")).upper() for channel in channels or () if isinstance(channel, dict)]


def _chunks(array: Any, letters: str) -> tuple[int, ...]:
    """Give the sides of the pieces to read a zarr array in: whole stored chunks, several where these are small.

    How many chunks there are is only a claim of the file, and one of a kilobyte may claim ten million of them.
    """
    if (unfolded := math.prod(array.chunks) * array.dtype.itemsize) > _LARGEST_CHUNK:
        raise ValueError(
            f"a chunk of {' x '.join(map(str, array.chunks))} would unfold to {unfolded / 1e9:.1f} GB; save the image in chunks of "
            f"{CHUNK} x {CHUNK}, for example"
        )
    small = (math.ceil(CHUNK / max(1, chunk)) if letter in "YX" else 1 for letter, chunk in zip(letters, array.chunks, strict=True))
    chunks = tuple(chunk * times for chunk, times in zip(array.chunks, small, strict=True))
    pieces = math.prod(math.ceil(n / chunk) for n, chunk in zip(array.shape, chunks, strict=True))
    if pieces > _MOST_CHUNKS:
        raise ValueError(
            f"an image of {' x '.join(map(str, array.shape))} in chunks of {' x '.join(map(str, array.chunks))} would be read in {pieces} "
            f"pieces, and {_MOST_CHUNKS} are the most; save it in larger chunks or as several images"
        )
    return chunks


def missing_chunks(array: Any) -> str:
    """Say so where chunks of a zarr array are not there; "" = all are, or there are too many to look.

    It is no error: what holds nothing but the fill value need not be written. But a copy that was broken off looks the same.
    """
    if array.nchunks > _MOST_LISTED:
        return ""
    there, all_of_them = array.nchunks_initialized, array.nchunks
    if there >= all_of_them:
        return ""
    return (
        f"{all_of_them - there} of the {all_of_them} chunks of the file are missing and were read as {array.fill_value}. "
        "If the image is not empty there, the file is not complete: copy it anew."
    )


def _steps(letters: str, multiscale: dict[str, Any], level: dict[str, Any]) -> dict[str, float]:
    """Give axis -> step in um, of time in s, where a scale and a unit are stated.

    A scale may stand at the level and, for what all levels share, at the image; both hold.
    """
    parts = [t for part in (level, multiscale) for t in part.get("coordinateTransformations") or []]
    scales = [t["scale"] for t in parts if t.get("type") == "scale"]
    steps = {}
    for letter, axis, *numbers in zip(letters, multiscale["axes"], *scales, strict=False):
        unit = (_SECONDS if letter == "T" else _UM).get(axis.get("unit", "") if isinstance(axis, dict) else "")
        if numbers and unit and letter in "TZYX":
            steps[letter] = math.prod(map(float, numbers)) * unit
    return steps


class LabelsZarr:
    """A label image that is written piece by piece, as OME-Zarr; complete or absent.

    ``labels[plane, rows, columns]`` reads and writes; all is 0 at first.

    Parameters
    ----------
    path : Path
        Folder ending in .zarr. What is there already is replaced when the new one is complete.
    shape : (..., Y, X)
        Of the label image.
    axes : str
        Of "T" and "Z" those that are before Y and X; "" = not known, then all planes are one axis z.
    steps : dict, optional
        See :class:`Opened`.

    Attributes
    ----------
    shape : (P, Y, X)
        All planes in a row.
    partial : Path
        Where the pixels are until :meth:`finish`, under a name that no other run has.
    """

    dtype = np.dtype(np.uint32)

    def __init__(self, path: Path, shape: Sequence[int], axes: str = "", steps: Mapping[str, float] | None = None) -> None:
        import zarr

        self.path, self.shape = path, (math.prod(shape[:-2]), int(shape[-2]), int(shape[-1]))
        is_known = len(axes) == len(shape) - 2 and axes in ("T", "Z", "TZ")  # times come first in an OME-Zarr
        self._leading = tuple(shape[:-2]) if is_known else self.shape[:1] if self.shape[0] > 1 else ()
        self._axes, self._steps = axes if is_known else "Z" * len(self._leading), dict(steps or {})
        self.partial = partial_folder(path)
        self._group: Any = zarr.open_group(self.partial, mode="w")
        self._levels = [self._add(self.shape)]

    @property
    def array(self) -> Any:
        """The zarr array: (Y, X) of a single plane, else (T, Z, Y, X) or (P, Y, X)."""
        return self._levels[0]

    def __getitem__(self, where: tuple[int, slice, slice]) -> NDArray[np.uint32]:
        return self._levels[0][self._at(where)]

    def __setitem__(self, where: tuple[int, slice, slice], labels: NDArray[np.integer]) -> None:
        self._levels[0][self._at(where)] = labels

    def _at(self, where: Any) -> Any:
        """Turn the number of a plane into its place in the array."""
        plane = np.unravel_index(where[0], self._leading) if self._leading else ()
        return (*(int(i) for i in plane), *where[1:])

    def _add(self, shape: tuple[int, int, int]) -> Any:
        chunks = (*(1 for _ in self._leading), *(min(CHUNK, n) for n in shape[1:]))
        name = str(len(list(self._group.array_keys())))
        return self._group.create_array(name, shape=(*self._leading, *shape[1:]), chunks=chunks, dtype=self.dtype)

    def finish(self, pixel_size: tuple[float, float] | None = None) -> Generator[float, None, None]:
        """Add the pyramid and the metadata, and put the folder in its place.

        Yields
        ------
        float
            The fraction that is done. Who walks away has to :meth:`discard` what is there.
        """
        shape = self.shape
        while max(shape[1:]) > _SMALLEST:
            large, shape = shape, (shape[0], math.ceil(shape[1] / 2), math.ceil(shape[2] / 2))
            half = self._add(shape)
            for n, (p, rows, columns) in enumerate(pieces(large, 4 * CHUNK), start=1):
                small = self._levels[-1][self._at((p, rows, columns))][::2, ::2]  # ids are never mixed
                top, left = rows.start // 2, columns.start // 2
                half[self._at((p, slice(top, top + small.shape[0]), slice(left, left + small.shape[1])))] = small
                yield n / math.prod(-(-side // (4 * CHUNK)) for side in large[1:]) / large[0]
            self._levels.append(half)
        self._group.attrs["ome"] = self._describe(pixel_size)
        folder_done(self.partial, self.path)

    def _describe(self, pixel_size: tuple[float, float] | None) -> Any:
        """Give the metadata of an OME-Zarr label image."""
        steps = self._steps | (dict(zip("YX", pixel_size, strict=True)) if pixel_size else {})
        axes: list[dict[str, str]] = []
        for letter in f"{self._axes}YX":
            unit = {"unit": "second" if letter == "T" else "micrometer"} if letter in steps else {}
            axes.append({"name": letter.lower(), "type": "time" if letter == "T" else "space", **unit})
        datasets = []
        for n in range(len(self._levels)):
            scale = [steps.get(letter, 1.0) * (2**n if letter in "YX" else 1) for letter in f"{self._axes}YX"]
            datasets.append({"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        return {
            "version": "0.5",
            "multiscales": [{"name": self.path.name.removesuffix(".zarr"), "axes": axes, "datasets": datasets, "type": "nearest"}],
            "image-label": {"version": "0.5"},
        }

    def discard(self) -> None:
        """Remove what is written, where it is not finished."""
        for _ in range(20):  # where a chunk could not be written, zarr's threads still write its neighbours for a moment
            if not self.partial.exists():
                return
            shutil.rmtree(self.partial, ignore_errors=True)
            time.sleep(0.05)


def pieces(shape: Sequence[int], side: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut (P, Y, X) into pieces: plane, rows, columns."""
    for p in range(shape[0]):
        for y in range(0, shape[1], side):
            for x in range(0, shape[2], side):
                yield p, slice(y, min(y + side, shape[1])), slice(x, min(x + side, shape[2]))


def require_fits(path: str | Path, highest: int, dtype: Any) -> None:
    """Raise a ``ValueError`` if an id does not fit into a file of this type: written all the same it would become that of another cell."""
    most = np.iinfo(dtype).max
    if highest > most:
        raise ValueError(
            f"{path}: the labels hold the id {highest}, and ids up to {most} fit into the file. "
            "Number them anew from 1, for example by skimage.segmentation.relabel_sequential."
        )


def tiff_options(pixel_size: tuple[float, float] | None) -> dict[str, Any]:
    """Give how label images are written as TIFF; pixel size in um."""
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib"}
    if pixel_size:
        options |= {"resolution": (1e4 / pixel_size[1], 1e4 / pixel_size[0]), "resolutionunit": "CENTIMETER"}
    return options


def write_tiff_in_pieces(
    path: Path, labels: Any, shape: Sequence[int], dtype: Any, pixel_size: tuple[float, float] | None = None
) -> Generator[float, None, None]:
    """Write (P, Y, X) labels that are read in pieces as a tiled BigTIFF of `shape`, whole or not at all; pixel size in um.

    Yields
    ------
    float
        The fraction that is done. Who walks away leaves nothing behind.

    Raises
    ------
    ValueError
        If there is an id that does not fit.
    """
    stop, done = threading.Event(), 0
    all_of_them = math.prod(-(-n // side) for n, side in zip(labels.shape, (1, CHUNK, CHUNK), strict=True))
    options = tiff_options(pixel_size) | {"bigtiff": True}

    def tiles() -> Iterator[Any]:
        nonlocal done
        rows = cached = None
        for p, y, x in pieces(labels.shape, CHUNK):
            if stop.is_set():
                raise InterruptedError
            done += 1
            if rows != (p, y):
                rows, cached = (p, y), np.asarray(labels[p, y])  # a row of tiles at once
                require_fits(path, int(cached.max(initial=0)), dtype)
            assert cached is not None
            tile = np.zeros((CHUNK, CHUNK), dtype)
            tile[: y.stop - y.start, : x.stop - x.start] = cached[:, x]
            yield tile

    def write(partial: Path) -> None:
        tifffile.imwrite(partial, tiles(), shape=tuple(shape), dtype=dtype, tile=(CHUNK, CHUNK), **options)

    with whole_file(path) as partial:
        yield from mapped(beside(write, partial, stop=stop), lambda _: done / all_of_them)
