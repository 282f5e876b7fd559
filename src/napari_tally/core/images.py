"""Pictures as they come from microscopes, and as the network wants them.

Whatever the file or array looks like, it becomes an :class:`Image` of planes::

    (Y, X)                 one plane, one channel
    (Y, X, RGB[A])         one plane, three channels; alpha is dropped; one channel where R = G = B, of pixels in memory: whether
                           it is so of pixels that stay in their file, only reading all of them would say, and they stay three
    (C, Y, X)              one plane, C channels, where the file or the caller names the axes; else C planes
    (T, Z, ..., [C,] Y, X) T * Z * ... planes; each is predicted and counted by itself

and `Image.leading` remembers (T, Z, ...) so that labels come back in the shape of the image. A model for volumes sees the planes
of the last of these axes, its slices, as one; unless the file says that this axis is time.
"""

import hashlib
import struct
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import PIL.Image
import tifffile
from numpy.typing import ArrayLike, NDArray

from napari_tally.core.events import run_to_end
from napari_tally.core.words import number

DECODER_ERRORS = (
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
"""What libraries raise on damaged files; of pixels that stay in their file only when they are read."""
BAND = 2**23
"""Pixels that are looked at in one go: a fraction of a second."""


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

    def plane_name(self, plane: int) -> str:
        """Say which of the planes one is, as sliders count: "t 0, z 3", or "plane 3" where nobody says what they are."""
        places = [str(i) for i in np.unravel_index(plane, self.leading or (1,))]
        return ", ".join(map(" ".join, zip(self.axes.lower(), places, strict=True))) if self.axes else f"plane {'/'.join(places)}"

    def calibrated(self, side: float) -> "Image":
        """Give the image with square pixels of this side in micrometres, where somebody states one; 0 = as it is."""
        return replace(self, pixel_size=(side, side)) if side else self

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
        except DECODER_ERRORS as error:
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
        rows = np.ascontiguousarray(image.planes[p, c, parts[n]])
        digest.update(rows.astype(rows.dtype.newbyteorder("="), copy=False).data)  # the same bytes as all at once, and as in memory
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
        if np.isfinite(array).all():
            raise ValueError(f"{name}: {bad} of {planes.size} values are beyond 3.4e38, too large to compute with. Scale them.")
        raise ValueError(
            f"{name}: {bad} of {planes.size} values are not finite (NaN or infinite). Replace them, for example by 0, and try again."
        )
    letters = "".join(axes[i] for i in others)
    while leading and leading[0] == 1:
        leading, letters = leading[1:], letters[1:]
    known = letters if letters in ("T", "Z", "TZ", "ZT") else ""
    return Image(planes, name, leading, colour and planes.shape[1] == 3, pixel_size, known, dict(steps or {}))


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
