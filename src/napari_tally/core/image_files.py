"""Image files of microscopes: TIFF, PNG, JPEG and OME-Zarr become an :class:`~napari_tally.core.images.Image`.

What they state of axes and of sizes is believed where it can be, and a damaged file is one sentence.
"""

import html
import logging
import math
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

from napari_tally.core.images import DECODER_ERRORS, Image, as_image
from napari_tally.core.lazy import Opened, axes_of_ome_zarr, open_ome_zarr, open_tiff
from napari_tally.core.words import as_text, number

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (*TIFF_SUFFIXES, ".png", ".jpg", ".jpeg")

_MOST_PLANES = 10**6
"""Of an OME-TIFF: each costs memory before it is known whether the file holds it."""
LAZY_BYTES = 2**28
"""Images with more pixels than this stay in their files."""
_PACKS = {"ZSTD": 33_000, "LZMA": 7_500, "LZW": 2_600}
_CLAIMED, _DEFLATE = 2**26, 1100
"""What unfolds to so many bytes, and more of them for each in the file than its compression can hold, is claimed, not held: deflate packs
at most 1030 to 1, zstd a block of 128 kB of one value into 4 bytes, LZW the longest of 4096 strings, 3839 bytes, into a code of 12 bits."""
_NO_IMAGE = 2**30, 300
"""And a gigabyte of camera noise packs to a third, at best; so many bytes, and times the file, are no image. Empty labels do so well."""
_UNITS_IN_UM = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "mm": 1e3, "cm": 1e4}
_UNITS_IN_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

log = logging.getLogger(__name__)


def read_image(path: str | Path) -> Image:
    """Read a TIFF (any compression, ImageJ, OME), PNG, JPEG or OME-Zarr.

    Large TIFF files and OME-Zarr stay in their files, and are read piece by piece.

    Parameters
    ----------
    path : str or Path
        The file. Of a TIFF with several series or pyramid levels the first, largest is read; the note of the image says how many
        others of about its size there are.

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
    image = as_image(found.pixels, axes=found.axes, name=as_text(path.stem), pixel_size=found.pixel_size, steps=found.steps)
    return replace(image, note=found.note)


def decode(path: Path, palette: bool = True) -> Opened:
    """Read the pixels and what is stated of them; turn what decoders raise into one sentence.

    With `palette`, numbers that stand for colours become the colours (but of TIFF); of labels the numbers are wanted.
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
                if series.keyframe.photometric == tifffile.PHOTOMETRIC.SEPARATED:
                    raise ValueError("its colours are those of inks, CMYK; save it as RGB")
                packs = _PACKS.get(tifffile.COMPRESSION(series.keyframe.compression).name, _DEFLATE)
                _require_plausible(series.nbytes, path.stat().st_size, [(_CLAIMED, packs), *([_NO_IMAGE] if palette else [])])
                pixels = open_tiff(path, tif.series.index(series)) if series.nbytes > LAZY_BYTES else series.asarray()
                return Opened(pixels, _axes_of(series), *_tiff_sizes(tif, series), _left_out(tif, series))
        with PIL.Image.open(path) as picture:
            array = _deep_png(path) if picture.format == "PNG" else None
            if array is None:
                array = np.asarray(picture.convert("RGB") if picture.mode in colours else picture)
            return Opened(array, "YX" if array.ndim == 2 else "YXS")
    except DECODER_ERRORS as error:
        raise ValueError(f"{path}: the file cannot be read as an image ({str(error).strip() or type(error).__name__}).") from error


def _deep_png(path: Path) -> NDArray[Any] | None:
    """Give the samples of a PNG of 16 bits and several channels, of which Pillow reads the upper 8 bits; None of any other PNG."""
    with path.open("rb") as file:
        *_, bits, kind = file.read(26)  # of the header, which comes first
        if bits != 16 or kind not in (2, 4, 6):  # RGB, grey and alpha, RGB and alpha
            return None
        file.seek(0)
        from imagecodecs import png_decode

        return np.asarray(png_decode(file.read()))


def _main_series(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Give the image of a file, not its thumbnail."""
    return max(tif.series, key=lambda series: series.size)


def _left_out(tif: tifffile.TiffFile, main: tifffile.TiffPageSeries) -> str:
    """Say so where there are other images than the one that is read; levels of a pyramid and thumbnails are half its size at most."""

    def sides(series: tifffile.TiffPageSeries) -> NDArray[np.int64]:
        return np.array([series.keyframe.imagelength, series.keyframe.imagewidth])

    further = sum(series is not main and bool((2 * sides(series) > sides(main)).all()) for series in tif.series)
    if not further:
        return ""
    return f"{number(further, 'further image')} in the file {'is' if further == 1 else 'are'} not read; save each as a file."


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
    except DECODER_ERRORS:
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


def _require_plausible(unfolded: int, size: int, bounds: Iterable[tuple[int, int]]) -> None:
    """Raise a ``ValueError`` where a small file would fill the memory: a decompression bomb, or a size that is damaged."""
    if any(unfolded > least and unfolded > ratio * size for least, ratio in bounds):
        raise ValueError(
            f"its {size} bytes would unfold to {unfolded / 1e9:.1f} GB, which no microscope image does; if it is one, save it uncompressed"
        )


def stated_sizes(path: str | Path, shape: tuple[int, int]) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """Read only what a file states of sizes: (height, width) of a pixel in um, and the steps between planes, as in :class:`Image`.

    For whoever has the pixels from elsewhere. None and {} of what is no TIFF, or holds planes of another height and width.
    """
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            _require_few_planes(tif.ome_metadata or "")
            series = _main_series(tif)
            page = series.keyframe
            return _tiff_sizes(tif, series) if (page.imagelength, page.imagewidth) == shape else (None, {})
    except DECODER_ERRORS:
        return None, {}


def _tiff_sizes(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """Give (height, width) of a pixel in um, and the steps between planes, where the metadata state what can be.

    Odd metadata do not spoil an image.
    """
    try:
        steps = _stated_steps(tif, series)
    except (ValueError, LookupError, TypeError, AttributeError, SyntaxError, ArithmeticError) as error:
        log.info("%s: the metadata cannot be understood (%s)", tif.filename, error)
        return None, {}
    height, width = (steps.pop(axis, 0.0) for axis in "YX")
    size = (height, width) if all(1e-4 < s < 1e4 for s in (height, width)) else None  # false for NaN too
    return size, {axis: step for axis, step in steps.items() if 0 < step < float("inf")}


def _stated_steps(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, float]:
    """Read OME metadata, ImageJ metadata or centimetre resolution tags: axis -> um, of T seconds."""
    if tif.ome_metadata:
        image = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", {})
        images = image if isinstance(image, list) else [image]
        pixels = images[tif.series.index(series) if len(images) == len(tif.series) else 0].get("Pixels", {})
        found = [(a, pixels.get(f"PhysicalSize{a}"), _UNITS_IN_UM.get(pixels.get(f"PhysicalSize{a}Unit", "µm"))) for a in "ZYX"]
        found.append(("T", pixels.get("TimeIncrement"), _UNITS_IN_S.get(pixels.get("TimeIncrementUnit", "s"))))
        return {axis: float(number) * unit for axis, number, unit in found if number and unit}
    tags = series.keyframe.tags
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
