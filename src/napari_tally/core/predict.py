"""The one way from an image and a model to probabilities.

Window, command line, Python API, training preview and benchmarks all come here.

::

    image pixels      a tile to write, and the ring that telling cells apart asks for
         │            the piece of the image that this needs
         ▼
    network pixels    rescaled so that cells have the size the network knows; mirrored beyond the plane;
         │            the halo that the network looks at
         ▼            strips.py
    probabilities     rescaled back
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_tally.core.blend import blended
from napari_tally.core.devices import choose_device
from napari_tally.core.events import is_out_of_memory, mapped, paced, part_of, run_to_end
from napari_tally.core.images import Image, describe_channels, measuring_window, normalise
from napari_tally.core.model_file import Model
from napari_tally.core.rescale import needed, rescale_piece
from napari_tally.core.samples import scaled_shape
from napari_tally.core.strips import bytes_per_pixel, classify, folded
from napari_tally.core.tiles import Region, best_stride, mirror, plan_tiles, reading
from napari_tally.core.unet import UNet
from napari_tally.settings import PredictionSettings

Result = TypeVar("Result")

_BORDER = 32
"""Mirrored pixels around the image. More cost time and bring nothing: training patches have borders too."""
_MEMORY = 1.5e9
"""Bytes that a tile may take, at most; more would not make the halo much cheaper."""
_NEWS = 0.1
"""Seconds between news, at least."""
_VIEWS = 8


@dataclass(frozen=True)
class TileDone:
    """News: `done` of `total` tiles of the image are computed; a part of a tile is a fraction. `doing` = what else is done now."""

    done: float
    total: int
    doing: str = ""


def predict(model: Model, image: Image, settings: PredictionSettings | None = None) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Compute the probability maps of an image, tile by tile.

    Parameters
    ----------
    model : Model
    image : Image
    settings : PredictionSettings, optional
        Cell diameter, tile size and device. The tile size does not change the result.

    Yields
    ------
    TileDone
        At most about ten a second. Walking away after any of them is safe.

    Returns
    -------
    (P, classes, Y, X) float32
        Probabilities of each class, in the pixels of the image; they sum to 1 over the classes.

    Raises
    ------
    ValueError
        If the model was trained on other channels, or a tile does not fit the network.
    MemoryError
        If the memory does not suffice even for small tiles.

    References
    ----------
    Ronneberger et al., MICCAI 2015, figure 2 (overlap-tile, missing context mirrored).
    """
    window = yield from looking(model, image)
    predictor = Predictor(model, image, settings or PredictionSettings(), window)
    tiles = predictor.tiles()
    planes = len(image.planes)
    result = np.empty((planes, model.settings.classes, *image.planes.shape[2:]), np.float32)
    for n in range(planes * len(tiles)):
        p, tile = n // len(tiles), tiles[n % len(tiles)]
        result[p][:, *tile] = yield from mapped(predictor.tile(p, tile), partial(part_done, n, planes * len(tiles)))
        yield TileDone(n + 1, planes * len(tiles))
    return result


class Predictor:
    """A model at work on an image.

    Parameters
    ----------
    model : Model
        A copy of its network is used; it may be trained meanwhile.
    image : Image
    settings : PredictionSettings
    window : (C, 2) float32, optional
        Intensities that become 0 and 1; left out: measured, or those of the model.
    """

    def __init__(self, model: Model, image: Image, settings: PredictionSettings, window: NDArray[np.float32] | None = None) -> None:
        require_channels(model, image)
        self.image, self.settings, self.model_scale = image, settings, model.scale
        self._device = choose_device(settings.device)
        self._network = folded(model.network).to(self._device)
        self._channels, self.types = model.settings.channels, model.settings.types
        self.window = window_for(model, image) if window is None else window
        self.scale = working_scale(model, image, settings)
        self._shape = image.shape[-2], image.shape[-1]
        self._grid = scaled_shape(self._shape, self.scale)  # size of a plane in network pixels

    def tiles(self) -> list[Region]:
        """Give the tiles of a plane, in pixels of the image."""
        stride = (self.settings.tile, self.settings.tile)
        if not self.settings.tile:
            halo = round(_halo(self._network) / self.scale)
            pixels = _affordable(self._device) / bytes_per_pixel(self._network) / self.scale**2
            stride = best_stride(self._shape, halo, pixels)
        return plan_tiles(self._shape, stride)

    def tile(self, plane: int, region: Region) -> Generator[float, None, NDArray[np.float32]]:
        """Compute the probabilities of a region of a plane.

        Parameters
        ----------
        plane : int
        region : (slice, slice)
            Rows and columns in pixels of the image.

        Yields
        ------
        float
            The fraction that is done.

        Returns
        -------
        (classes, *size of region) float32

        Raises
        ------
        MemoryError
            If the memory does not suffice even for a small piece.
        """
        try:
            return (yield from self._whole(plane, region))
        except (MemoryError, RuntimeError) as error:
            longer = int(region[1].stop - region[1].start > region[0].stop - region[0].start)
            if not is_out_of_memory(error) or region[longer].stop - region[longer].start < 2 * self._network.step:
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        middle = (region[longer].start + region[longer].stop) // 2  # the halves of a tile are what the tile would have been
        halves = []
        for n, part in enumerate((slice(region[longer].start, middle), slice(middle, region[longer].stop))):
            half = (part, region[1]) if longer == 0 else (region[0], part)
            halves.append((yield from mapped(self.tile(plane, half), part_of(2, n))))
        return np.concatenate(halves, axis=1 + longer)

    def _whole(self, plane: int, region: Region) -> Generator[float, None, NDArray[np.float32]]:
        wanted = needed(self._grid, self._shape, region)  # in network pixels
        probabilities = yield from _classify(self._network, self._grid, wanted, partial(self._read, plane), self.settings.average)
        return rescale_piece(probabilities, self._grid, self._shape, region)

    def _read(self, plane: int, piece: Region) -> NDArray[np.float32]:
        """Give a piece of a plane as the network sees it: (C, *size of piece) in network pixels."""
        raw = self.image.read(plane, needed(self._shape, self._grid, piece))
        return to_channels(rescale_piece(normalise(raw, self.window), self._shape, self._grid, piece), self._channels)


def predict_plane(network: UNet, picture: NDArray[np.float32], stride: int = 0) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Run the network over one normalised plane in network pixels, by overlap-tile.

    Parameters
    ----------
    network : UNet
        On the device that shall compute.
    picture : (C, Y, X) float32
    stride : int
        Side of what a tile writes in pixels; 0 = chosen.

    Returns
    -------
    (classes, Y, X) float32
        What the network gives for the whole plane with its mirrored border, whatever the stride.
    """
    shape = picture.shape[1], picture.shape[2]
    network, device = folded(network), next(network.parameters()).device
    chosen = (stride, stride) if stride else best_stride(shape, _halo(network), _affordable(device) / bytes_per_pixel(network))
    tiles = plan_tiles(shape, chosen)
    result = np.empty((network.classes, *shape), np.float32)
    for n, tile in enumerate(tiles):
        work = _classify(network, shape, tile, lambda piece: picture[:, *piece])
        result[:, *tile] = yield from mapped(work, partial(part_done, n, len(tiles)))
        yield TileDone(n + 1, len(tiles))
    return result


def _classify(
    network: UNet, shape: tuple[int, int], region: Region, read: Callable[[Region], NDArray[np.float32]], average: bool = False
) -> Generator[float, None, NDArray[np.float32]]:
    """Give the probabilities (classes, *size of region) of a region of a plane of `shape` network pixels."""
    look = partial(_classify_at_once, network, shape, read, average)
    return (yield from look(region) if network.exact else blended(shape, region, look))


def _classify_at_once(
    network: UNet, shape: tuple[int, int], read: Callable[[Region], NDArray[np.float32]], average: bool, region: Region
) -> Generator[float, None, NDArray[np.float32]]:
    step, halo, lost = network.step, _halo(network), network.lost
    spans = []
    for part, n in zip(region, shape, strict=True):
        if network.padding == "same":
            spans.append(reading(part, n, halo, step, min(halo, _up_to(_BORDER, step))))
        else:  # it needs all the border that it eats, and takes certain sizes only
            first = part.start // step * step - halo
            spans.append((first, first + network.input_size(part.stop - first - halo + 2 * (halo - lost))))
    rows, columns = (mirror(np.arange(*span), n) for span, n in zip(spans, shape, strict=True))
    piece = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
    picture = read(piece)[:, (rows - piece[0].start)[:, None], (columns - piece[1].start)[None, :]]
    inner = tuple(slice(p.start - first - lost, p.stop - first - lost) for p, (first, _) in zip(region, spans, strict=True))
    seen = torch.from_numpy(picture)[None].to(next(network.parameters()).device)  # (1, C, as the spans say)
    total: Tensor | None = None
    views = _VIEWS if average else 1
    last_news = monotonic()
    for view in range(views):
        work = classify(network, _turned(seen, view) if view else seen)
        while True:
            try:
                done = next(work)
            except StopIteration as end:
                found = _turned_back(end.value, view)[:, *inner]  # (classes, *size of region)
                break
            if monotonic() - last_news > _NEWS:
                last_news = monotonic()
                yield (view + done) / views
        total = found if total is None else total + found
    assert total is not None
    return (total / views).cpu().numpy()


def _turned(picture: Tensor, view: int) -> Tensor:
    """Give one of the 8 views of a square: turned by quarters, the last four mirrored too."""
    return torch.rot90(picture.flip(-1) if view >= 4 else picture, view % 4, (-2, -1)).contiguous()


def _turned_back(picture: Tensor, view: int) -> Tensor:
    back = torch.rot90(picture, -(view % 4), (-2, -1))
    return back.flip(-1) if view >= 4 else back


def _affordable(device: torch.device) -> float:
    """Give the bytes that a tile may take."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return min(_MEMORY, free / 4)


def part_done(tiles: int, total: int, fraction: float) -> TileDone:
    """Turn news of a tile, or of one plane's tiles, into news of all."""
    return TileDone(tiles + (fraction.done / fraction.total if isinstance(fraction, TileDone) else fraction), total)


def to_channels(picture: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Give (C, Y, X) as many channels as the network takes: grey is repeated."""
    return np.repeat(picture, channels, axis=0) if len(picture) < channels else picture


def window_for(model: Model, image: Image) -> NDArray[np.float32]:
    """Give the intensities that become 0 and 1, (C, 2): those of the experiment where the model has them, else those of the image."""
    return run_to_end(looking(model, image))


def looking(model: Model, image: Image) -> Generator[TileDone, None, NDArray[np.float32]]:
    """Find :func:`window_for` an image; of a large one its pixels are read once for that."""
    if model.window is not None:
        return model.window[: image.channels]
    return (yield from aside(0, "looking at the brightness", measuring_window(image, model.normalisation)))


def aside(done: float, doing: str, work: Generator[float | None, None, Result]) -> Generator[TileDone, None, Result]:
    """Tell of work that is no tile, before (0) or after (1) the tiles: what it is, and how far; give its result."""
    return mapped(paced(work), partial(_tell, done, doing))


def _tell(done: float, doing: str, fraction: float | None) -> TileDone:
    return TileDone(done, 1, doing if fraction is None else f"{doing}, {100 * fraction:.0f} %")


def working_scale(model: Model, image: Image, settings: PredictionSettings | None = None) -> float:
    """Give the network pixels per pixel of this image.

    The cell diameter that the user states decides; else the pixel sizes of the image and of the training
    images, where both are known; else the image is taken as the training images were.
    """
    if settings and settings.diameter and model.diameter > 0:
        return model.scale * model.diameter / settings.diameter
    if image.pixel_size and model.pixel_size:
        ratio = float(np.sqrt(np.prod(image.pixel_size))) / model.pixel_size
        if 0.95 <= ratio <= 1.05:
            return model.scale  # rounded metadata must not move pixels
        if 0.1 <= ratio <= 10:  # beyond that, somebody's metadata are wrong
            return model.scale * ratio
    return model.scale


def _halo(network: UNet) -> int:
    return _up_to(network.margin, network.step)


def _up_to(n: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-n // step) * step


def require_channels(model: Model, image: Image) -> None:
    """Raise a ``ValueError`` if the model cannot take the channels of the image."""
    if image.channels == model.settings.channels or (model.colour and image.channels == 1):
        return
    wanted = "3 channels (RGB colour)" if model.colour else f"{model.settings.channels} channel{'s' * (model.settings.channels != 1)}"
    raise ValueError(
        f"{image.name} has {describe_channels(image)}, but this model was trained on images with {wanted}. "
        "Choose a model for such images, or convert the image."
    )
