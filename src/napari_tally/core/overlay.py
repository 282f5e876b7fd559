"""A picture that a person can look at: images with the outlines of predicted and true cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw
from skimage.segmentation import find_boundaries

from napari_tally.core.audit import Window
from napari_tally.core.image_files import read_image
from napari_tally.core.images import Image

_PREDICTED, _TRUE = (255, 80, 220), (70, 230, 90)
_INCLUDED, _EXCLUDED = (60, 220, 90), (255, 70, 60)
_SIDE, _CAPTION, _COLUMNS = 420, 22, 3
_LONGEST = 1024
"""Pixels along the longer side that are enough for a small picture, or to see how bright an image is."""
_PIECES, _PIECE = 8, 128
"""Pieces along a side, and their side in pixels, that say how bright a plane is that stays in its file."""


def overlay(image: Image, predicted: Any, truth: Any = None, plane: int = 0) -> NDArray[np.uint8]:
    """Draw outlines on a plane of an image: predicted in magenta, true (if given) in green.

    Parameters
    ----------
    image : Image
    predicted, truth : (..., Y, X) int array
        Labels; of a dask array only that plane is computed.
    plane : int
        Its number.

    Returns
    -------
    (Y, X, 3) uint8
        Of an image with 2048 pixels or more along a side every n-th pixel, so that the longer side has 1024 to 2047: slides stay in
        their files.
    """
    step = max(1, max(image.shape[-2:]) // _LONGEST)
    rows, columns = slice(0, image.shape[-2], step), slice(0, image.shape[-1], step)
    pixels = image.read(plane, (rows, columns))
    picture = _shown(image, pixels, _range_of(pixels))
    for labels, colour in ((truth, _TRUE), (predicted, _PREDICTED)):
        if labels is not None:
            here = np.asarray(labels.reshape(-1, *labels.shape[-2:])[plane, rows, columns])
            picture[find_boundaries(here, mode="inner")] = colour
    return picture


def frame_picture(image: Image, window: Window) -> NDArray[np.uint8]:
    """Draw a counting window with its surroundings: included edges green, excluded edges red and dashed.

    Of the plane only these and a sample for the range of intensities are read.

    Returns
    -------
    (Y, X, 3) uint8
        At least 400 pixels on the longer side.
    """
    margin = max(window.bottom - window.top, window.right - window.left) // 4 + 1
    left, top = max(0, window.left - margin), max(0, window.top - margin)
    right, bottom = min(image.shape[-1], window.right + margin), min(image.shape[-2], window.bottom + margin)
    plane = image.read(window.plane, (slice(top, bottom), slice(left, right)))
    picture = Pillow.fromarray(_shown(image, plane, _range_of(_sample(image, window.plane))))
    factor = max(1, -(-_SIDE // max(right - left, bottom - top)))
    picture = picture.resize(((right - left) * factor, (bottom - top) * factor), Pillow.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = (factor * n for n in (window.left - left, window.top - top, window.right - left, window.bottom - top))
    x1, y1 = x1 - 1, y1 - 1
    for a in range(0, max(x1 - x0, y1 - y0), 12):
        draw.line((x0 + a, y1, min(x0 + a + 6, x1), y1), fill=_EXCLUDED, width=2)
        draw.line((x1, y0 + a, x1, min(y0 + a + 6, y1)), fill=_EXCLUDED, width=2)
    draw.line((x0, y1, x0, y0, x1, y0), fill=_INCLUDED, width=2)
    return np.asarray(picture)


def _shown(image: Image, plane: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Turn a part (C, Y, X) of a plane into what is seen, (Y, X, 3): the colours, or the first channel in grey."""
    low, high = window
    pixels = plane[: 3 if image.colour else 1].astype(np.float32)
    grey = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) ** (1 if image.colour else 0.6)  # dim cells become visible
    return np.repeat((255 * grey).astype(np.uint8).transpose(1, 2, 0), 1 if image.colour else 3, axis=2)


def _range_of(pixels: NDArray[Any]) -> tuple[float, float]:
    """Give what is shown as black and as white of pixels (C, ...)."""
    low, high = np.percentile(pixels[:3].astype(np.float32), (0.5, 99.8))
    return float(low), float(high)


def _sample(image: Image, p: int) -> NDArray[Any]:
    """Read every n-th pixel of a plane, about a million, from the file: (C, Y, X).

    Of a plane that stays in its file pieces that lie spread over it, for every n-th pixel would unpack all of it.
    """
    height, width = image.shape[-2:]
    if not image.is_lazy:
        step = max(1, max(height, width) // _LONGEST)
        return image.read(p, (slice(0, height, step), slice(0, width, step)))
    rows, columns = (
        [slice(int(first), int(first) + _PIECE) for first in np.linspace(0, max(0, n - _PIECE), _PIECES)] for n in (height, width)
    )
    return np.concatenate([image.read(p, (down, right)).reshape(image.channels, -1) for down in rows for right in columns], axis=1)


def contact_sheet(items: Sequence[tuple[Path, NDArray[np.integer], NDArray[np.integer]]], path: str | Path) -> None:
    """Write a PNG with up to nine images: outlines on each, name and counts below.

    Parameters
    ----------
    items : sequence of (path of the image, true labels, predicted labels)
    path : str or Path
        The PNG to write.
    """
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, 9).astype(int))]
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = Pillow.new("RGB", (columns * _SIDE, rows * (_SIDE + _CAPTION) + _CAPTION), (24, 26, 30))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 5), "outlines:  predicted", fill=_PREDICTED)
    draw.text((150, 5), "true (hidden where both agree)", fill=_TRUE)
    for i, (source, truth, predicted) in enumerate(chosen):
        x, y = (i % columns) * _SIDE, _CAPTION + (i // columns) * (_SIDE + _CAPTION)
        picture = Pillow.fromarray(overlay(read_image(source), predicted, truth))
        factor = (_SIDE - 6) / max(picture.size)
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        sheet.paste(picture.resize(size, Pillow.Resampling.LANCZOS if factor < 1 else Pillow.Resampling.NEAREST), (x, y))
        n_true, n_predicted = (len(np.unique(labels[labels > 0])) for labels in (truth, predicted))
        draw.text((x + 4, y + _SIDE - 2), f"{source.stem[:28]}: counted {n_predicted}, true {n_true}", fill=(235, 235, 235))
    sheet.save(path)
