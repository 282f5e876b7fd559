"""Pictures as they come from microscopes, and as the network wants them.

Whatever the file or array looks like, it becomes an :class:`Image` of planes::

    (Y, X)                 one plane, one channel
    (Y, X, RGB[A])         one plane, three channels; alpha is dropped; one channel where R = G = B
    (C, Y, X)              one plane, C channels
    (T, Z, ..., [C,] Y, X) T * Z * ... planes; each is predicted and counted by itself

and `Image.leading` remembers (T, Z, ...) so that labels come back in the shape of the image. A model for volumes sees the planes
of the last of these axes, its slices, as one; unless the file says that this axis is time.
"""

import hashlib
import html
import logging
import math
import os
import re
import struct
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import ArrayLike, NDArray

from napari_tally.core.events import run_to_end
from napari_tally.core.lazy import Opened, axes_of_ome_zarr, open_ome_zarr, open_tiff
from napari_tally.core.words import number

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg")

_DECODER_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,  # imagecodecs
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    SyntaxError,  # Pillow, on broken PNG chunks
    EOFError,
    BufferError,
    AssertionError,  # tifffile, on odd headers
    struct.error,
    zlib.error,
    tifffile.TiffFileError,
    PIL.Image.DecompressionBombError,
)
_MOST_PLANES = 10**6
"""Of an OME-TIFF: each costs memory before it is known whether the file holds it."""
LAZY_BYTES = 2**28
"""Images with more pixels than this stay in their files."""
BAND = 2**23
"""Pixels that are looked at in one go: a fraction of a second."""
_BOMBS = ((2**26, 1100), (2**30, 300))
"""What unfolds to so many bytes, and so many times the file, is no image. Deflate holds at most 1030 bytes in one, so a larger size is
claimed, not held; and a gigabyte of camera noise packs to a third, at best. Empty label images do pack so well."""
_UNITS_IN_UM = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "mm": 1e3, "cm": 1e4}
_UNITS_IN_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Image:
    """An image as planes.

    Attributes
    ----------
    planes : (P, C, Y, X) array
        Pixel values as in the file: integers or floats, finite.
    name : str
        What messages and tables call it (the stem of the file, the name of the layer).
    leading : tuple of int
        Shape of the axes before (Y, X), without the channels; () for a single plane.
    colour : bool
        True where the channels are red, green and blue.
    pixel_size : tuple of float, or None
        Height and width of a pixel in micrometres.
    axes : str
        What the leading axes are, where that is known: "T", "Z", "TZ" or "ZT"; else "".
    steps : dict
        See :class:`napari_tally.core.lazy.Opened`.
    note : str
        What is odd about the file; "" = nothing.
    """

    planes: NDArray[Any]
    name: str = "image"
    leading: tuple[int, ...] = ()
    colour: bool = False
    pixel_size: tuple[float, float] | None = None
    axes: str = ""
    steps: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def z_size(self) -> float | None:
        """How far the slices of a volume are apart in micrometres; None = the file does not say, or nothing that can be."""
        z = self.steps.get("Z", 0.0)
        return z if 1e-4 < z < 1e4 else None

    @property
    def is_series(self) -> bool:
        """Whether the last of the leading axes is time."""
        return self.axes.endswith("T")

    @property
    def slices(self) -> int:
        """Planes that are the slices of one volume; 1 where there are no volumes."""
        return 1 if self.is_series or not self.leading else self.leading[-1]

    @property
    def slice_distance(self) -> float:
        """How far slices are apart, in widths of a pixel; 0 = the file does not say."""
        if not (self.z_size and self.pixel_size):
            return 0.0
        distance = self.z_size / float(np.sqrt(np.prod(self.pixel_size)))
        return distance if 0.05 <= distance <= 100 else 0.0  # beyond that, somebody's metadata are wrong

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a label image for this image: leading axes, Y, X."""
        return (*self.leading, *self.planes.shape[2:])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.planes.shape[1])

    @property
    def is_lazy(self) -> bool:
        """Whether the pixels stay in their file until they are read."""
        return is_lazy(self.planes)

    @property
    def fingerprint(self) -> str:
        """Tells images apart, whatever they are called: 16 hexadecimal digits that depend on the pixels alone."""
        return run_to_end(fingerprinting(self))

    def read(self, plane: int, region: tuple[slice, slice]) -> NDArray[Any]:
        """Give rows and columns of a plane, (C, *size of region).

        Raises
        ------
        ValueError
            If the file cannot be read there, or holds values that are not finite.
        """
        return self._pixels((plane, slice(None), *region), region)

    def sample(self, channel: int, planes: slice, rows: slice) -> NDArray[Any]:
        """Give some rows of a channel of some planes, (planes, rows, X).

        Raises
        ------
        ValueError
            If the file cannot be read there, or holds values that are not finite.
        """
        return self._pixels((planes, channel, rows), (rows, slice(0, self.shape[-1])))

    def _pixels(self, part: tuple[int | slice, ...], region: tuple[slice, slice]) -> NDArray[Any]:
        """Read a part of the planes; `region` is what messages say of where it lies."""
        try:
            pixels = np.asarray(self.planes[part])
        except _DECODER_ERRORS as error:
            what = f"the pixels {_where(region)} cannot be read"
            raise ValueError(f"{self.name}: {what} ({str(error) or type(error).__name__}).") from error
        if self.is_lazy and pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            where = _where(region)
            raise ValueError(
                f"{self.name}: there are values that are not finite (NaN or infinite) {where}. Replace them, for example by 0."
            )
        return pixels

    def with_channels(self, order: Sequence[int]) -> "Image":
        """Give the image with these of its channels, counted from 0, in this order. Pixels that stay in their file are read as before."""
        steps = np.unique(np.diff(order))
        if len(order) == 1 or (len(steps) == 1 and steps[0] != 0):  # evenly spaced, as any two are: a view
            step = int(steps[0]) if len(steps) else 1
            last = order[-1] + step
            planes = self.planes[:, order[0] : None if last < 0 else last : step]
        else:
            planes = self.planes[:, list(order)]
        return replace(self, planes=planes, colour=False)

    def loaded(self) -> "Image":
        """Give the image with its pixels in memory."""
        if not self.is_lazy:
            return self
        whole = slice(0, self.shape[-2]), slice(0, self.shape[-1])
        return replace(self, planes=np.stack([self.read(p, whole) for p in range(len(self.planes))]))


def fingerprinting(image: Image) -> Generator[float, None, str]:
    """Compute :attr:`Image.fingerprint`; yield the fraction that is done."""
    digest, parts = hashlib.sha256(), bands(image.planes)
    for p, c, n in product(*map(range, image.planes.shape[:2]), range(len(parts))):
        digest.update(np.ascontiguousarray(image.planes[p, c, parts[n]]).data)  # the same bytes as all at once
        yield (p * image.channels * len(parts) + c * len(parts) + n + 1) / (len(image.planes) * image.channels * len(parts))
    return digest.hexdigest()[:16]


def bands(planes: Any) -> list[slice]:
    """Cut the rows of a plane into bands of about 8 million pixels that split no chunk of the file: each is read once."""
    height, width = planes.shape[2:]
    chunk = planes.chunks[2][0] if is_lazy(planes) else 1
    rows = max(1, BAND // (width * chunk)) * chunk
    return [slice(row, min(row + rows, height)) for row in range(0, height, rows)]


def is_lazy(array: object) -> bool:
    """Whether an array is a dask array: its pixels are read when they are asked for."""
    return type(array).__module__.startswith("dask.")


def _where(region: tuple[slice, slice]) -> str:
    return f"in rows {region[0].start} to {region[0].stop - 1}, columns {region[1].start} to {region[1].stop - 1}"


def as_image(
    array: ArrayLike,
    axes: str | None = None,
    rgb: bool | None = None,
    name: str = "image",
    pixel_size: tuple[float, float] | None = None,
    steps: Mapping[str, float] | None = None,
) -> Image:
    """Sort the axes of an array into an :class:`Image`.

    Parameters
    ----------
    array : array
        Integers, booleans or real floats.
    axes : str, optional
        A letter an axis, as tifffile writes them: Y, X, C (channel), S (colour sample); every other
        letter is an axis of planes. Left out: the last two are Y and X (before colour samples).
    rgb : bool, optional
        Whether the last axis holds colour samples. Left out: it does if it has 3 or 4 entries
        and the two axes before it have more.
    name, pixel_size, steps
        See :class:`Image`.

    Raises
    ------
    ValueError
        For values that are no numbers, NaN or infinite, fewer than two axes, or an empty image.
    """
    a: Any = array if is_lazy(array) else np.asarray(array)
    if a.dtype == bool:
        a = a.astype(np.uint8)
    if a.dtype.kind not in "uif":
        raise ValueError(f"{name}: the values are of type {a.dtype}; integers or real numbers are wanted.")
    if a.dtype == np.float64:
        with np.errstate(over="ignore"):
            a = a.astype(np.float32)  # as the network takes it; what is too large becomes infinite, and is refused below
    if a.ndim < 2 or 0 in a.shape:
        raise ValueError(f"{name}: the array has the shape {a.shape}; an image with at least a height and a width is wanted.")
    if axes is None:
        if rgb is None:
            rgb = a.ndim >= 3 and a.shape[-1] in (3, 4) and min(a.shape[-3:-1]) > 4
        axes = ("Q" * (a.ndim - 3) + "YXS") if rgb else "Q" * (a.ndim - 2) + "YX"
    if len(axes) != a.ndim or "Y" not in axes or "X" not in axes:
        raise ValueError(f"{name}: the axes {axes!r} do not fit an array of shape {a.shape}.")
    sample, channel = axes.find("S"), axes.find("C")
    colour = sample >= 0 and a.shape[sample] in (3, 4)
    if sample >= 0 and a.shape[sample] in (2, 4):  # grey + alpha, RGB + alpha
        a = a[tuple(slice(-1 if i == sample else None) for i in range(a.ndim))]
    others = [i for i, letter in enumerate(axes) if letter not in "YXCS"]
    leading = tuple(a.shape[i] for i in others)
    order = [*others, *(i for i in (channel, sample) if i >= 0), axes.index("Y"), axes.index("X")]
    height, width = a.shape[axes.index("Y")], a.shape[axes.index("X")]
    planes = a.transpose(order).reshape(int(np.prod(leading, dtype=int)), -1, height, width)  # (P, C, Y, X)
    if not is_lazy(planes) and colour and planes.shape[1] == 3 and all(np.array_equal(planes[:, 0], planes[:, c]) for c in (1, 2)):
        planes, colour = planes[:, :1], False  # grey, saved as colour
    if not is_lazy(planes) and planes.dtype.kind == "f" and not np.isfinite(planes).all():
        bad = planes.size - int(np.isfinite(planes).sum())
        raise ValueError(
            f"{name}: {bad} of {planes.size} values are not finite (NaN or infinite). Replace them, for example by 0, and try again."
        )
    letters = "".join(axes[i] for i in others)
    while leading and leading[0] == 1:
        leading, letters = leading[1:], letters[1:]
    known = letters if letters in ("T", "Z", "TZ", "ZT") else ""
    return Image(planes, name, leading, colour and planes.shape[1] == 3, pixel_size, known, dict(steps or {}))


def read_image(path: str | Path) -> Image:
    """Read a TIFF (any compression, ImageJ, OME), PNG, JPEG or OME-Zarr.

    Large TIFF files and OME-Zarr stay in their files, and are read piece by piece.

    Parameters
    ----------
    path : str or Path
        The file. Of a TIFF with several series or pyramid levels the first, largest is read.

    Returns
    -------
    Image
        With the pixel size where the file states one in a length unit.

    Raises
    ------
    ValueError
        If the file cannot be read as an image; the message says which file and why.
    """
    path = Path(path)
    found = decode(path)
    image = as_image(found.pixels, axes=found.axes, name=path.stem, pixel_size=found.pixel_size, steps=found.steps)
    return replace(image, note=found.note)


def decode(path: Path, palette: bool = True) -> Opened:
    """Read the pixels and what is stated of them; turn what decoders raise into one sentence.

    With `palette`, numbers that stand for colours become the colours; of labels the numbers are wanted.
    """
    if path.is_dir() and path.suffix.lower() == ".zarr":
        return open_ome_zarr(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: files ending in {', '.join(SUFFIXES)} are read, not {path.suffix or 'files without an ending'}.")
    colours = ("CMYK", "YCbCr", "LAB", "HSV", *(["P"] if palette else []))
    try:
        if path.suffix.lower() in TIFF_SUFFIXES:
            # Of a data set in many files each is read by itself; else every one would give all the planes.
            with tifffile.TiffFile(path, _multifile=False) as tif:
                _require_few_planes(tif.ome_metadata or "")
                if not tif.series:
                    raise ValueError("it holds no image")
                series = _main_series(tif)
                _require_plausible(series.nbytes, path.stat().st_size, labels=not palette)
                pixels = open_tiff(path, tif.series.index(series)) if series.nbytes > LAZY_BYTES else series.asarray()
                return Opened(pixels, _axes_of(series), *_tiff_sizes(tif))
        with PIL.Image.open(path) as picture:
            array = np.asarray(picture.convert("RGB") if picture.mode in colours else picture)
            return Opened(array, "YX" if array.ndim == 2 else "YXS")
    except _DECODER_ERRORS as error:
        raise ValueError(f"{path}: the file cannot be read as an image ({str(error).strip() or type(error).__name__}).") from error


def _main_series(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Give the image of a file, not its thumbnail."""
    return max(tif.series, key=lambda series: series.size)


def stated_axes(path: str | Path) -> tuple[str, tuple[int, ...]]:
    """Read only which axes the pixels of a file have, as :func:`read_image` takes them, and how long these are; no pixel is read.

    For whoever has the pixels from elsewhere. ("", ()) where the file does not say, or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir() and path.suffix.lower() == ".zarr":
            return axes_of_ome_zarr(path)
        if path.suffix.lower() not in TIFF_SUFFIXES or not path.is_file():
            return "", ()
        with tifffile.TiffFile(path, _multifile=False) as tif:
            _require_few_planes(tif.ome_metadata or "")
            series = _main_series(tif)
            return _axes_of(series), tuple(int(n) for n in series.shape)
    except _DECODER_ERRORS:
        return "", ()


def _axes_of(series: tifffile.TiffPageSeries) -> str:
    """Give the letters of the axes. Samples of which the file does not say that they are colours, or transparency, are channels."""
    page = series.keyframe
    told = page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
    told |= any(sample != tifffile.EXTRASAMPLE.UNSPECIFIED for sample in page.extrasamples)
    return series.axes if told else series.axes.replace("S", "C")


def _require_few_planes(metadata: str) -> None:
    """Raise a ``ValueError`` where OME metadata claim more planes than any file has; looked up before anything is made of them."""
    for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*", metadata):
        stated = re.findall(r"\bSize[ZCT]\s*=\s*[\"']([^\"']*)", pixels)
        planes = math.prod(int(number) for number in map(html.unescape, stated) if number.strip().isdecimal() and len(number) < 20)
        if planes > _MOST_PLANES:
            raise ValueError(f"its metadata state {planes} planes, and {_MOST_PLANES} are the most; save it as several images")


def _require_plausible(unfolded: int, size: int, labels: bool) -> None:
    """Raise a ``ValueError`` where a small file would fill the memory: a decompression bomb, or a size that is damaged."""
    if any(unfolded > least and unfolded > ratio * size for least, ratio in _BOMBS[: 1 if labels else 2]):
        raise ValueError(
            f"its {size} bytes would unfold to {unfolded / 1e9:.1f} GB, which no microscope image does; if it is one, save it uncompressed"
        )


def stated_sizes(path: str | Path, shape: tuple[int, int]) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """Read only what a file states of sizes: (height, width) of a pixel in um, and the steps between planes, as in :class:`Image`.

    For whoever has the pixels from elsewhere. None and {} of what is no TIFF, or holds planes of another height and width.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            first = tif.pages.first
            return _tiff_sizes(tif) if (first.imagelength, first.imagewidth) == shape else (None, {})
    except _DECODER_ERRORS:
        return None, {}


def _tiff_sizes(tif: tifffile.TiffFile) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """Give (height, width) of a pixel in um, and the steps between planes, where the metadata state what can be.

    Odd metadata do not spoil an image.
    """
    try:
        steps = _stated_steps(tif)
    except (ValueError, LookupError, TypeError, AttributeError, SyntaxError, ArithmeticError) as error:
        log.info("%s: the metadata cannot be understood (%s)", tif.filename, error)
        return None, {}
    height, width = (steps.pop(axis, 0.0) for axis in "YX")
    size = (height, width) if all(1e-4 < s < 1e4 for s in (height, width)) else None  # false for NaN too
    return size, {axis: step for axis, step in steps.items() if 0 < step < float("inf")}


def _stated_steps(tif: tifffile.TiffFile) -> dict[str, float]:
    """Read OME metadata, ImageJ metadata or centimetre resolution tags: axis -> um, of T seconds."""
    if tif.ome_metadata:
        image = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
        pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
        found = [(a, pixels.get(f"PhysicalSize{a}"), _UNITS_IN_UM.get(pixels.get(f"PhysicalSize{a}Unit", "µm"))) for a in "ZYX"]
        found.append(("T", pixels.get("TimeIncrement"), _UNITS_IN_S.get(pixels.get("TimeIncrementUnit", "s"))))
        return {axis: float(number) * unit for axis, number, unit in found if number and unit}
    tags = tif.pages.first.tags
    resolution = [tags[n].value if n in tags else (0, 0) for n in ("YResolution", "XResolution")]
    steps: dict[str, float] = {}
    if tif.imagej_metadata:
        unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), str(tif.imagej_metadata.get("unit", "")))
        size = _UNITS_IN_UM.get(unit)
        spacing, interval = (float(tif.imagej_metadata.get(key, 0)) for key in ("spacing", "finterval"))
        steps = ({"Z": abs(spacing) * size} if spacing and size else {}) | ({"T": interval} if interval else {})
    else:  # inches are printing resolutions that cameras write; centimetres are meant
        size = 1e4 if "ResolutionUnit" in tags and int(tags["ResolutionUnit"].value) == 3 else None
    if size is None or not all(r and r[0] and r[1] for r in resolution):
        return steps
    (y_top, y_bottom), (x_top, x_bottom) = resolution  # pixels a unit, as fractions
    return steps | {"Y": size * y_bottom / y_top, "X": size * x_bottom / x_top}


def list_images(folder: str | Path) -> dict[str, Path]:
    """Find the images of a folder (not below it), stem -> path, sorted.

    Raises
    ------
    ValueError
        If the folder is absent, holds no image, or two images with one stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder.")
    found: dict[str, Path] = {}
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith((*SUFFIXES, ".zarr")) and not name.startswith("."))
    for path in (folder / name for name in names):
        if path.suffix.lower() in (*SUFFIXES, ".zarr"):
            if path.stem in found:
                raise ValueError(f"{folder}: {found[path.stem].name} and {path.name} have the same stem; rename one of them.")
            found[path.stem] = path
    if not found:
        raise ValueError(f"{folder}: there is no image in this folder ({', '.join((*SUFFIXES, '.zarr'))}).")
    return found


def match_by_stem(first: str | Path, second: str | Path) -> list[tuple[Path, Path]]:
    """Pair the files of two folders that have the same stem; every file of `first` needs its partner.

    Raises
    ------
    ValueError
        If a file of `first` has no partner in `second`; the message names them.
    """
    a, b = list_images(first), list_images(second)
    missing = [stem for stem in a if stem not in b]
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{len(missing)} of {len(a)} files in {first} have no partner of the same stem in {second}: {shown}. "
            "Name image and labels alike, for example a.tif and a.tif."
        )
    return [(a[stem], b[stem]) for stem in a]


def require_same_channels(images: Iterable[Image]) -> tuple[int, bool]:
    """Give the channels and the colour flag that all images share; grey images may join colour images.

    Raises
    ------
    ValueError
        If two images have different channels; the message names them.
    """
    images = list(images)
    first = max(images, key=lambda image: image.colour)
    for image in images:
        if image.channels != first.channels and not (first.colour and image.channels == 1):
            raise ValueError(
                f"{image.name} has {describe_channels(image)} and {first.name} has {describe_channels(first)}; "
                "the images that train one model need the same channels."
            )
    return first.channels, first.colour


def describe_channels(image: Image) -> str:
    """Say how many channels an image has, for messages."""
    return "3 channels (RGB colour)" if image.colour else number(image.channels, "channel")
