"""One scale for the intensities of all images: which of them become 0 and 1.

Measured over the whole image, or over all images of an experiment, never over a tile: else the same cell would look different to the
network in each.
"""

import math
from collections.abc import Generator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tally.core.events import run_to_end
from napari_tally.core.images import BAND, Image, bands
from napari_tally.settings import NormalisationSettings


def experiment_window(images: Sequence[Image], settings: NormalisationSettings) -> NDArray[np.float32]:
    """Measure one window for all images of an experiment: the medians of the windows of each.

    Parameters
    ----------
    images : sequence of Image
        At least one. Grey images among colour images count for every channel.
    settings : NormalisationSettings

    Returns
    -------
    (C, 2) float32
    """
    channels = max(image.channels for image in images)
    windows = [np.broadcast_to(intensity_window(image, settings), (channels, 2)) for image in images]
    return np.median(windows, axis=0).astype(np.float32)


def intensity_window(image: Image, settings: NormalisationSettings) -> NDArray[np.float32]:
    """Measure which intensities become 0 and 1, for each channel over all planes.

    Robust to hot pixels (percentiles) and to images without signal: the window is never narrower
    than a multiple of the camera noise, so that the noise of an empty well is not stretched into cells.

    Parameters
    ----------
    image : Image
    settings : NormalisationSettings

    Returns
    -------
    (C, 2) float32
        Low and high intensity of each channel; high > low.
    """
    return run_to_end(measuring_window(image, settings))


def measuring_window(image: Image, settings: NormalisationSettings) -> Generator[float, None, NDArray[np.float32]]:
    """Compute :func:`intensity_window` band by band; yield the fraction that is done, of a small image nothing."""
    step = max(1, int(np.sqrt(image.planes[:, 0].size / 4e6)))  # a strided view of about 4 million pixels is enough
    window = np.empty((image.channels, 2), np.float32)
    at_once = max(1, BAND // math.prod(image.shape[-2:]))  # planes
    blocks = list(product((slice(p, p + at_once) for p in range(0, len(image.planes), at_once)), bands(image.planes)))
    for c in range(image.channels):
        picked, steps = [], []
        for n, (planes, rows) in enumerate(blocks):
            if n:
                yield (c + n / len(blocks)) / image.channels
            first = -(-rows.start // step)
            lines = image.sample(c, planes, slice(first * step, rows.stop, step)).astype(np.float32)
            picked.append(lines[..., ::step].ravel())
            steps.append(np.abs(np.diff(lines[:, first % 2 :: 2], axis=-1)).ravel())  # neighbours must stay neighbours
        values, apart = np.concatenate(picked), np.concatenate(steps)
        low, high = np.percentile(values, (settings.low, settings.high))
        noise = np.median(apart) / 0.954 if apart.size else 0.0
        smallest = 1.0 if image.planes.dtype.kind in "ui" else 1e-6 * max(abs(float(low)), abs(float(high))) or 1.0
        window[c] = low, max(high, low + settings.noise * noise, low + smallest)
        window[c, 1] = max(window[c, 1], np.nextafter(window[c, 0], np.float32(np.inf)))  # from 2^24 on, float32 has no low + 1
    return window


def normalise(planes: NDArray[Any], window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map intensities so that the window becomes 0 to 1; beyond it they go on, up to -1 and 4.

    Parameters
    ----------
    planes : (..., C, Y, X) array
    window : (C, 2) float32
        From :func:`intensity_window` of the whole image, never of a tile.
    """
    low, high = window[:, 0, None, None], window[:, 1, None, None]
    return np.clip((planes.astype(np.float32) - low) / (high - low), -1.0, 4.0)
