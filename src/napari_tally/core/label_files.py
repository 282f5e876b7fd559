"""Label images on disk: read as they are, written whole or not at all, and known again by a fingerprint."""

import hashlib
import threading
import zlib
from collections.abc import Generator, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_tally.core.events import beside, run_to_end
from napari_tally.core.files import whole_file
from napari_tally.core.image_files import decode
from napari_tally.core.images import BAND, is_lazy
from napari_tally.core.lazy import CHUNK, require_fits, tiff_options

_STRIP = 2**18
"""Bytes of a strip of a label file."""


def read_labels(path: str | Path) -> NDArray[Any]:
    """Read a label image as it is: (Y, X) or (planes, Y, X); see `annotations.check_labels` for what may be wrong.

    Axes of one step are left out before the others, as of images, and one of a single channel wherever it is.
    """
    found = decode(Path(path), palette=False)
    array, channel = found.pixels, (found.axes or "").find("C")
    if channel >= 0 and array.shape[channel] == 1:
        array = array[(slice(None),) * channel + (0,)]
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    return array.compute() if is_lazy(array) else array


def write_labels(path: str | Path, labels: NDArray[np.integer], pixel_size: tuple[float, float] | None = None) -> None:
    """Write a label image as a deflate-compressed TIFF, whole or not at all.

    Parameters
    ----------
    path : str or Path
    labels : (..., Y, X) int
        Stored as uint16 where the ids fit, else as uint32; what is below 0 as 0.
    pixel_size : tuple of float, optional
        Height and width of a pixel in micrometres, stored as resolution in pixels per centimetre.

    Raises
    ------
    ValueError
        If there is an id that does not fit.
    OSError
        If the file cannot be written.
    """
    run_to_end(writing_labels(path, labels, pixel_size))


def writing_labels(
    path: str | Path, labels: NDArray[np.integer], pixel_size: tuple[float, float] | None = None
) -> Generator[None, None, None]:
    """Do :func:`write_labels`; who walks away after a yield leaves nothing behind."""
    options = tiff_options(pixel_size)
    highest = int(labels.max(initial=0))
    require_fits(path, highest, np.uint32)
    dtype = np.dtype(np.uint16 if highest < 2**16 else np.uint32)
    rows, stop = max(1, _STRIP // (labels.shape[-1] * dtype.itemsize)), threading.Event()

    def strips() -> Iterator[bytes]:
        for plane in labels.reshape(-1, *labels.shape[-2:]):
            for row in range(0, len(plane), rows):
                if stop.is_set():
                    raise InterruptedError
                yield zlib.compress(np.ascontiguousarray(np.maximum(plane[row : row + rows], 0), dtype).data)

    def write(partial: Path) -> None:
        tifffile.imwrite(partial, strips(), shape=labels.shape, dtype=dtype, rowsperstrip=rows, **options)

    with whole_file(path) as partial:
        yield from beside(write, partial, stop=stop)


def fingerprint_labels(labels: Any, shape: Sequence[int] | None = None) -> str:
    """Give 16 hexadecimal digits that depend on the shape and the ids alone.

    Parameters
    ----------
    labels : (..., Y, X) int array; or (P, Y, X), read in pieces, where a shape is given
    shape : sequence of int, optional
        (..., Y, X), as it is written.
    """
    return run_to_end(fingerprinting_labels(labels, shape))


def fingerprinting_labels(labels: Any, shape: Sequence[int] | None = None) -> Generator[float, None, str]:
    """Compute :func:`fingerprint_labels`; yield the fraction that is done."""
    shape = tuple(labels.shape if shape is None else shape)
    digest = hashlib.sha256(repr(shape).encode())
    stack = labels.reshape(-1, *shape[-2:]) if isinstance(labels, np.ndarray) else labels
    rows = max(1, BAND // (shape[-1] * CHUNK)) * CHUNK
    for p, row in product(range(stack.shape[0]), range(0, shape[-2], rows)):  # the same bytes as all at once
        part = stack[p, row : min(row + rows, shape[-2]), 0 : shape[-1]]
        digest.update(np.ascontiguousarray(part, np.int32).data)
        yield (p + min(row + rows, shape[-2]) / shape[-2]) / stack.shape[0]
    return digest.hexdigest()[:16]
