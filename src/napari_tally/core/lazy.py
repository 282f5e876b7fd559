"""Large images stay in their files: OME-Zarr and TIFF as dask arrays, label images written piece by piece.

OME-Zarr is read in versions 0.4 and 0.5 and written in 0.5 (https://ngff.openmicroscopy.org).
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_tally.core.files import whole_file

CHUNK = 512
"""Side of the chunks and TIFF tiles of label images, in pixels."""
_SMALLEST = 512
"""The pyramid of a label image ends where both sides are at most this."""
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "angstrom": 1e-4, "meter": 1e6}


def open_tiff(path: Path, series: int = 0) -> Any:
    """Open the largest level of a series of a TIFF file as a dask array; tiles or strips are read when they are asked for."""
    import dask.array as da

    with tifffile.TiffFile(path) as tif:
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

        self._store: Any = tifffile.imread(path, series=series, level=0, aszarr=True)
        self._array: Any = zarr.open_array(self._store, mode="r")
        self.shape, self.dtype, self.ndim, self.chunks = self._array.shape, self._array.dtype, self._array.ndim, self._array.chunks

    def __getitem__(self, where: Any) -> Any:
        return self._array[where]

    def __del__(self) -> None:
        self._store.close()


def open_ome_zarr(path: Path) -> tuple[Any, str, tuple[float | None, float, float] | None]:
    """Open the largest level of an OME-Zarr image.

    Returns
    -------
    dask array, axes ("TCZYX" or some of them), and the distance of slices, height and width of a pixel in um where they are stated

    Raises
    ------
    ValueError
        If there is no image in the folder.
    """
    import dask.array as da
    import zarr

    try:
        group: Any = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        multiscale = attributes.get("ome", attributes)["multiscales"][0]
        level = multiscale["datasets"][0]
        axes = [axis if isinstance(axis, str) else axis["name"] for axis in multiscale["axes"]]
        array = group[level["path"]]
        if not isinstance(array, zarr.Array) or array.ndim != len(axes):
            raise ValueError("the axes do not fit the pixels")
        return da.from_zarr(array), "".join(axis[0].upper() for axis in axes), _pixel_size(multiscale, level)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: this folder cannot be read as an OME-Zarr image ({str(error) or type(error).__name__}).") from error


def _pixel_size(multiscale: dict[str, Any], level: dict[str, Any]) -> tuple[float | None, float, float] | None:
    scale = next((t["scale"] for t in level.get("coordinateTransformations", []) if t.get("type") == "scale"), None)
    units = [_UM.get(axis.get("unit", "")) if isinstance(axis, dict) else None for axis in multiscale["axes"]]
    if not scale or None in units[-2:]:
        return None
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in multiscale["axes"]]
    of = {name: float(number) * unit for name, number, unit in zip(names, scale, units, strict=True) if unit}
    height, width = (of[name] for name in names[-2:])
    z = of.get("z", 0.0)
    return (z if 1e-4 < z < 1e4 else None, height, width) if 1e-4 < height < 1e4 and 1e-4 < width < 1e4 else None


class LabelsZarr:
    """A label image that is written piece by piece, as OME-Zarr; complete or absent.

    ``labels[plane, rows, columns]`` reads and writes; all is 0 at first.

    Parameters
    ----------
    path : Path
        Folder ending in .zarr. What is there already is replaced when the new one is complete.
    planes : int
    shape : (Y, X)
        Of a plane.

    Attributes
    ----------
    partial : Path
        Where the pixels are until :meth:`finish`.
    """

    dtype = np.dtype(np.uint32)

    def __init__(self, path: Path, planes: int, shape: tuple[int, int]) -> None:
        import zarr

        self.path, self.shape = path, (planes, *shape)
        self.partial = path.with_name(path.name + ".part")
        shutil.rmtree(self.partial, ignore_errors=True)
        self._group: Any = zarr.open_group(self.partial, mode="w")
        self._levels = [self._add(self.shape)]

    @classmethod
    def reopen(cls, partial: Path, planes: int, shape: tuple[int, int]) -> "LabelsZarr":
        """Open what another process is writing, to write more of it."""
        import zarr

        labels = cls.__new__(cls)
        labels.path, labels.partial, labels.shape = partial.with_suffix(""), partial, (planes, *shape)
        labels._group = zarr.open_group(partial, mode="r+")
        labels._levels = [labels._group["0"]]
        return labels

    @property
    def array(self) -> Any:
        """The zarr array: (Y, X) of a single plane, else (P, Y, X)."""
        return self._levels[0]

    def __getitem__(self, where: tuple[int, slice, slice]) -> NDArray[np.uint32]:
        return self._levels[0][self._at(where)]

    def __setitem__(self, where: tuple[int, slice, slice], labels: NDArray[np.integer]) -> None:
        self._levels[0][self._at(where)] = labels

    def _at(self, where: tuple[int, slice, slice]) -> Any:
        return where if self.shape[0] > 1 else where[1:]  # a single plane is stored without an axis of planes

    def _add(self, shape: tuple[int, int, int]) -> Any:
        chunks = (1, *(min(CHUNK, n) for n in shape[1:]))
        first = 0 if shape[0] > 1 else 1
        return self._group.create_array(
            str(len(list(self._group.array_keys()))), shape=shape[first:], chunks=chunks[first:], dtype=self.dtype
        )

    def finish(self, pixel_size: tuple[float, float] | None = None) -> None:
        """Add the pyramid and the metadata, and put the folder in its place."""
        shape = self.shape
        while max(shape[1:]) > _SMALLEST:
            large, shape = shape, (shape[0], math.ceil(shape[1] / 2), math.ceil(shape[2] / 2))
            half = self._add(shape)
            for p, rows, columns in pieces(large, 4 * CHUNK):
                small = self._levels[-1][self._at((p, rows, columns))][::2, ::2]  # ids are never mixed
                top, left = rows.start // 2, columns.start // 2
                half[self._at((p, slice(top, top + small.shape[0]), slice(left, left + small.shape[1])))] = small
            self._levels.append(half)
        unit = {"unit": "micrometer"} if pixel_size else {}
        axes: list[dict[str, str]] = [{"name": "z", "type": "space"}] if self.shape[0] > 1 else []
        axes += [{"name": name, "type": "space", **unit} for name in "yx"]
        size = pixel_size or (1.0, 1.0)
        datasets = []
        for n in range(len(self._levels)):
            scale = [1.0] * (len(axes) - 2) + [size[0] * 2**n, size[1] * 2**n]
            datasets.append({"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        attributes: Any = {
            "version": "0.5",
            "multiscales": [{"name": self.path.name.removesuffix(".zarr"), "axes": axes, "datasets": datasets, "type": "nearest"}],
            "image-label": {"version": "0.5"},
        }
        self._group.attrs["ome"] = attributes
        old = self.path.with_name(self.path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            self.path.rename(old)  # a folder cannot be replaced in one step; it is whole or not there
        self.partial.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Remove what is written, where it is not finished."""
        shutil.rmtree(self.partial, ignore_errors=True)


def pieces(shape: Sequence[int], side: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut (P, Y, X) into pieces: plane, rows, columns."""
    for p in range(shape[0]):
        for y in range(0, shape[1], side):
            for x in range(0, shape[2], side):
                yield p, slice(y, min(y + side, shape[1])), slice(x, min(x + side, shape[2]))


def write_tiff_in_pieces(path: Path, labels: Any, shape: Sequence[int], dtype: Any, pixel_size: tuple[float, float] | None = None) -> None:
    """Write (P, Y, X) labels that are read in pieces as a tiled BigTIFF of `shape`, whole or not at all; pixel size in um."""
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "bigtiff": True}
    if pixel_size:
        options |= {"resolution": (1e4 / pixel_size[1], 1e4 / pixel_size[0]), "resolutionunit": "CENTIMETER"}

    def tiles() -> Iterator[Any]:
        rows = cached = None
        for p, y, x in pieces(labels.shape, CHUNK):
            if rows != (p, y):
                rows, cached = (p, y), np.asarray(labels[p, y])  # a row of tiles at once
            assert cached is not None
            tile = np.zeros((CHUNK, CHUNK), dtype)
            tile[: y.stop - y.start, : x.stop - x.start] = cached[:, x]
            yield tile

    with whole_file(path) as partial:
        tifffile.imwrite(partial, tiles(), shape=tuple(shape), dtype=dtype, tile=(CHUNK, CHUNK), **options)
